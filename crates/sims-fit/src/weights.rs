//! How much each contrast pair counts in the fit, as the pairs table says.

use crate::FitStageError;
use sims_artifact::tables::PairRow;
use std::collections::HashMap;

/// Returns the weights of the pairs named by `pair_ids`, in their order; none if all are equal.
///
/// # Errors
/// [`FitStageError::UnweightedPair`] for a pair that the table lacks, [`FitStageError::BadWeight`] for a weight that is
/// negative or no number, or if all are 0.
pub fn of_pairs(pairs: &[PairRow], pair_ids: &[String]) -> Result<Vec<f64>, FitStageError> {
    let by_id: HashMap<&str, f64> = pairs
        .iter()
        .map(|pair| (pair.pair_id.as_str(), pair.weight))
        .collect();
    let mut weights = Vec::with_capacity(pair_ids.len());
    for pair_id in pair_ids {
        let weight = *by_id
            .get(pair_id.as_str())
            .ok_or_else(|| FitStageError::UnweightedPair {
                pair_id: pair_id.clone(),
            })?;
        if !(weight >= 0.0 && weight.is_finite()) {
            return Err(FitStageError::BadWeight {
                pair_id: pair_id.clone(),
                weight,
            });
        }
        weights.push(weight);
    }
    if let (Some(&first), Some(pair_id)) = (weights.first(), pair_ids.first())
        && weights.iter().all(|&weight| weight == first)
    {
        if first == 0.0 {
            return Err(FitStageError::BadWeight {
                pair_id: pair_id.clone(),
                weight: first,
            });
        }
        return Ok(Vec::new());
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(weights: &[f64]) -> Vec<PairRow> {
        let pair = |(number, &weight): (usize, &f64)| PairRow {
            pair_id: format!("pair-{number}"),
            prompt_id: "p".to_owned(),
            chosen_id: String::new(),
            rejected_id: String::new(),
            chosen: String::new(),
            rejected: String::new(),
            chosen_token_ids: vec![1],
            rejected_token_ids: vec![2],
            margin: 1.0,
            z: 0.0,
            weight,
            origin_round: 1,
            judge: "test".to_owned(),
        };
        weights.iter().enumerate().map(pair).collect()
    }

    fn ids(numbers: &[usize]) -> Vec<String> {
        numbers
            .iter()
            .map(|number| format!("pair-{number}"))
            .collect()
    }

    #[test]
    fn weights_come_in_the_order_of_the_states() {
        let pairs = pairs(&[0.5, 0.25, 1.0]);
        assert_eq!(of_pairs(&pairs, &ids(&[2, 0])).unwrap(), [1.0, 0.5]);
        assert!(of_pairs(&pairs, &ids(&[1])).unwrap().is_empty());
    }

    #[test]
    fn equal_weights_are_none() {
        assert!(
            of_pairs(&pairs(&[0.25; 3]), &ids(&[0, 1, 2]))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn weights_that_mean_nothing_are_refused() {
        let message = |weights: &[f64], numbers: &[usize]| {
            of_pairs(&pairs(weights), &ids(numbers))
                .unwrap_err()
                .to_string()
        };
        assert!(message(&[1.0], &[0, 1]).contains("pair-1"));
        assert!(message(&[1.0, -0.5], &[0, 1]).contains("weighs -0.5"));
        assert!(message(&[1.0, f64::NAN], &[0, 1]).contains("weighs NaN"));
        assert!(message(&[0.0, 0.0], &[0, 1]).contains("weighs 0"));
    }
}
