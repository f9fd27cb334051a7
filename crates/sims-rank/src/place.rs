//! Ranks from scores.

/// Scores count as equal within this much, relative to one plus their size.
const TIE_TOLERANCE: f64 = 1e-6;

/// A response's place among the responses to its prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// 1 for the best; every rank occurs once.
    pub rank: u32,
    /// Whether another response has the same score.
    pub tie: bool,
}

/// Ranks by descending score; equal scores by ascending index, flagged.
///
/// Responses without a score come last, flagged as ties of each other.
#[must_use]
pub fn places(scores: &[Option<f64>]) -> Vec<Place> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // `None` sorts below every score.
    order.sort_by(|&l, &r| {
        let key = |index: usize| scores[index].unwrap_or(f64::NEG_INFINITY);
        key(r).total_cmp(&key(l)).then(l.cmp(&r))
    });
    let mut places = vec![
        Place {
            rank: 0,
            tie: false
        };
        scores.len()
    ];
    let mut rank = 0;
    for group in order.chunk_by_mut(|&l, &r| equal(scores[l], scores[r])) {
        group.sort_unstable();
        for &index in group.iter() {
            rank += 1;
            places[index] = Place {
                rank,
                tie: group.len() > 1,
            };
        }
    }
    places
}

fn equal(left: Option<f64>, right: Option<f64>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => (left - right).abs() <= TIE_TOLERANCE * (1.0 + left.abs()),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(scores: &[Option<f64>]) -> Vec<(u32, bool)> {
        places(scores)
            .iter()
            .map(|place| (place.rank, place.tie))
            .collect()
    }

    #[test]
    fn highest_score_is_first() {
        assert_eq!(
            ranks(&[Some(0.1), Some(0.9), Some(-3.0)]),
            [(2, false), (1, false), (3, false)]
        );
    }

    #[test]
    fn ties_go_by_index_and_are_flagged() {
        // The third is higher by less than the tolerance, yet the first keeps its place.
        assert_eq!(
            ranks(&[Some(1.0), Some(5.0), Some(1.0 + 1e-7)]),
            [(2, true), (1, false), (3, true)]
        );
        assert_eq!(ranks(&[Some(0.0); 3]), [(1, true), (2, true), (3, true)]);
    }

    #[test]
    fn unscored_responses_come_last() {
        assert_eq!(
            ranks(&[None, Some(-9.0), None]),
            [(2, true), (1, false), (3, true)]
        );
        assert_eq!(ranks(&[None]), [(1, false)]);
    }
}
