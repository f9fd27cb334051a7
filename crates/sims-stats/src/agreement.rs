//! Agreement of two judges beyond chance.

use crate::StatsError;

/// Cohen's kappa with what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kappa {
    /// `(observed - expected) / (1 - expected)`.
    pub kappa: f64,
    /// Share of items on which both agree.
    pub observed: f64,
    /// Share expected if both labelled at random at their own rates.
    pub expected: f64,
    /// Large-sample standard error of `kappa` (Fleiss, Cohen and Everitt 1969, eq. 13).
    pub standard_error: f64,
    /// Number of items.
    pub n: u64,
}

/// Returns Cohen's kappa of two labellings of the same items; labels are `0..classes`.
///
/// # Errors
/// Different lengths, no items, a label out of range, or both sides always the same one label.
pub fn cohen_kappa(left: &[usize], right: &[usize], classes: usize) -> Result<Kappa, StatsError> {
    if left.len() != right.len() {
        return Err(StatsError::Lengths {
            what: "Cohen's kappa",
            left: left.len(),
            right: right.len(),
        });
    }
    let mut table = vec![vec![0u64; classes]; classes];
    for (&l, &r) in left.iter().zip(right) {
        if l.max(r) >= classes {
            return Err(StatsError::OutOfRange {
                what: "label",
                value: l.max(r) as f64,
                expected: "below the number of classes",
            });
        }
        table[l][r] += 1;
    }
    cohen_kappa_of_table(&table)
}

/// Returns Cohen's kappa of a square table of counts: row = first judge, column = second.
///
/// # Errors
/// A table that is not square, without items, or with all items in one diagonal cell.
pub fn cohen_kappa_of_table(table: &[Vec<u64>]) -> Result<Kappa, StatsError> {
    let classes = table.len();
    if let Some(row) = table.iter().find(|row| row.len() != classes) {
        return Err(StatsError::Lengths {
            what: "agreement table",
            left: classes,
            right: row.len(),
        });
    }
    let n: u64 = table.iter().flatten().sum();
    if n == 0 {
        return Err(StatsError::Empty {
            what: "Cohen's kappa",
        });
    }
    let share = |row: usize, column: usize| table[row][column] as f64 / n as f64;
    let each = || 0..classes;
    let rows: Vec<f64> = each().map(|i| each().map(|j| share(i, j)).sum()).collect();
    let columns: Vec<f64> = each().map(|j| each().map(|i| share(i, j)).sum()).collect();
    let observed: f64 = each().map(|i| share(i, i)).sum();
    let expected: f64 = each().map(|i| rows[i] * columns[i]).sum();
    if expected >= 1.0 {
        return Err(StatsError::Constant {
            what: "Cohen's kappa",
        });
    }
    let kappa = (observed - expected) / (1.0 - expected);

    let disagreement = 1.0 - kappa;
    let mut spread = 0.0;
    for i in each() {
        for j in each() {
            spread += share(i, j)
                * if i == j {
                    (1.0 - (rows[i] + columns[i]) * disagreement).powi(2)
                } else {
                    (disagreement * (columns[i] + rows[j])).powi(2)
                };
        }
    }
    spread -= (kappa - expected * disagreement).powi(2);
    let standard_error = (spread.max(0.0) / n as f64).sqrt() / (1.0 - expected);
    Ok(Kappa {
        kappa,
        observed,
        expected,
        standard_error,
        n,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perfect_agreement_is_one_and_chance_is_zero() {
        let same = cohen_kappa(&[0, 1, 0, 1], &[0, 1, 0, 1], 2).expect("valid input");
        assert_eq!((same.kappa, same.standard_error), (1.0, 0.0));
        let chance = cohen_kappa_of_table(&[vec![25, 25], vec![25, 25]]).expect("valid input");
        assert_eq!(chance.kappa, 0.0);
    }

    #[test]
    fn textbook_table() {
        // Two readers, 20 + 15 agreements of 50: kappa 0.4 (the encyclopaedia's example).
        let kappa = cohen_kappa_of_table(&[vec![20, 5], vec![10, 15]]).expect("valid input");
        assert!((kappa.kappa - 0.4).abs() < 1e-12);
        assert!((kappa.expected - 0.5).abs() < 1e-12);
    }

    #[test]
    fn undefined_cases_are_errors() {
        assert!(matches!(
            cohen_kappa(&[], &[], 2),
            Err(StatsError::Empty { .. })
        ));
        assert!(matches!(
            cohen_kappa(&[0, 0], &[0, 0], 2),
            Err(StatsError::Constant { .. })
        ));
        assert!(matches!(
            cohen_kappa(&[0, 3], &[0, 0], 2),
            Err(StatsError::OutOfRange { .. })
        ));
    }
}
