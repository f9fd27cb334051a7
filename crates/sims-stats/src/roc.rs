//! Area under the ROC curve.

use crate::{Interval, StatsError, finite, normal::bisect, proportion::two_sided_z};

/// Returns the probability that a positive's score exceeds a negative's, ties half, with its
/// interval.
///
/// The interval inverts the variance of Hanley and McNeil with equal-sample correction (Newcombe
/// 2006, method 5): unlike the plain normal interval it keeps a width at an area of 1 and never
/// leaves `[0, 1]`. It takes the scores as independent; rows that share a prompt are not.
///
/// # Errors
/// An empty or non-finite side, `confidence` outside `(0, 1)`.
pub fn auroc(
    positives: &[f64],
    negatives: &[f64],
    confidence: f64,
) -> Result<Interval, StatsError> {
    finite("scores of positives", positives)?;
    finite("scores of negatives", negatives)?;
    let z = two_sided_z(confidence)?;
    let (m, n) = (positives.len() as f64, negatives.len() as f64);
    let area = area(positives, negatives);

    let deviates = |theta: f64| (area - theta).abs() > z * variance(theta, m, n).sqrt();
    Ok(Interval {
        estimate: area,
        low: bisect(0.0, area, deviates),
        high: bisect(area, 1.0, |theta| !deviates(theta)),
    })
}

/// Mann–Whitney count of wins, ties half, over all pairs.
fn area(positives: &[f64], negatives: &[f64]) -> f64 {
    let mut sorted = negatives.to_vec();
    sorted.sort_by(f64::total_cmp);
    // `partition_point` compares numerically, so 0.0 and -0.0 tie.
    let wins: f64 = positives
        .iter()
        .map(|&score| {
            let below = sorted.partition_point(|&other| other < score);
            let not_above = sorted.partition_point(|&other| other <= score);
            0.5 * (below + not_above) as f64
        })
        .sum();
    wins / (positives.len() as f64 * negatives.len() as f64)
}

/// Variance of the area when its true value is `theta`.
fn variance(theta: f64, m: f64, n: f64) -> f64 {
    let others = 0.5 * (m + n) - 1.0;
    let spread = 1.0 + others * ((1.0 - theta) / (2.0 - theta) + theta / (1.0 + theta));
    (theta * (1.0 - theta) * spread / (m * n)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn perfect_separation_has_a_width() {
        let interval = auroc(&[2.0, 3.0, 4.0], &[0.0, 1.0], 0.95).expect("valid input");
        assert_eq!((interval.estimate, interval.high), (1.0, 1.0));
        assert!(interval.low > 0.2 && interval.low < 0.9, "{interval:?}");
    }

    #[test]
    fn equal_scores_are_chance() {
        let interval = auroc(&[1.0; 10], &[1.0; 10], 0.95).expect("valid input");
        assert_eq!(interval.estimate, 0.5);
        assert!(interval.low < 0.5 && interval.high > 0.5);
    }

    #[test]
    fn exchanging_the_classes_mirrors_the_interval() {
        let (left, right) = ([0.1, 0.7, 0.4, 0.9], [0.3, 0.2, 0.8]);
        let one = auroc(&left, &right, 0.9).expect("valid input");
        let other = auroc(&right, &left, 0.9).expect("valid input");
        assert!((one.estimate + other.estimate - 1.0).abs() < 1e-12);
        assert!((one.low + other.high - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_interval_covers_the_truth() {
        // Exponential scores with rates 1 and 3: P(positive > negative) = 3 / 4.
        let covered = (0..400)
            .filter(|&repeat| {
                let mut stream = Stream::new(31, repeat);
                let mut exponential = |rate: f64| -(1.0 - stream.next_f64()).ln() / rate;
                let positives: Vec<f64> = (0..40).map(|_| exponential(1.0)).collect();
                let negatives: Vec<f64> = (0..40).map(|_| exponential(3.0)).collect();
                let interval = auroc(&positives, &negatives, 0.95).expect("valid input");
                interval.low <= 0.75 && 0.75 <= interval.high
            })
            .count();
        assert!((368..=396).contains(&covered), "{covered} of 400");
    }
}
