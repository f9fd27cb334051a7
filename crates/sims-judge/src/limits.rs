//! When a judge is too unreliable to rank by.

use sims_artifact::tables::MetricRow;
use sims_stage::BadInput;

use crate::controls::OTHER_PROMPT_ACCURACY;
use crate::reliability::FLIP_RATE;

sims_stage::choice! {
    /// What follows when the judge misses a limit
    pub enum Unreliable {
        /// A warning
        Warn = "warn",
        /// The stage fails
        Refuse = "refuse",
    }
}

/// What a judge must reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Largest share of pairs in which the slot decides.
    pub max_flip_rate: f64,
    /// Least accuracy on controls against another prompt's response.
    pub min_control_accuracy: f64,
}

impl Limits {
    /// Checks that both limits are shares.
    ///
    /// # Errors
    /// [`BadInput`] that names the parameter.
    pub fn check(&self) -> Result<(), BadInput> {
        for (name, limit) in [
            ("max-flip-rate", self.max_flip_rate),
            ("min-control-accuracy", self.min_control_accuracy),
        ] {
            if !(0.0..=1.0).contains(&limit) {
                return Err(BadInput::new(format!(
                    "{name} is {limit}, but a share is between 0 and 1"
                )));
            }
        }
        Ok(())
    }

    /// Returns what the figures miss, in words; figures without a row are not held against the judge.
    pub fn missed(&self, rows: &[MetricRow]) -> Vec<String> {
        let figure = |metric: &str| rows.iter().find(|row| row.metric == metric);
        let mut missed = Vec::new();
        if let Some(row) = figure(FLIP_RATE).filter(|row| row.value > self.max_flip_rate) {
            missed.push(format!(
                "its {FLIP_RATE} is {:.3}, above max-flip-rate {} (the slot decides, not the response)",
                row.value, self.max_flip_rate
            ));
        }
        if let Some(row) =
            figure(OTHER_PROMPT_ACCURACY).filter(|row| row.value < self.min_control_accuracy)
        {
            missed.push(format!(
                "its {OTHER_PROMPT_ACCURACY} is {:.3} over {} controls, below min-control-accuracy {} \
                 (it hardly tells a response from another prompt's)",
                row.value, row.n, self.min_control_accuracy
            ));
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(metric: &str, value: f64) -> MetricRow {
        MetricRow {
            metric: metric.to_owned(),
            value,
            ci_low: None,
            ci_high: None,
            n: 64,
            method: String::new(),
            baseline: String::new(),
        }
    }

    const LIMITS: Limits = Limits {
        max_flip_rate: 0.4,
        min_control_accuracy: 0.9,
    };

    #[test]
    fn a_judge_at_both_limits_passes_and_one_beyond_them_is_told_which() {
        let at = [figure(FLIP_RATE, 0.4), figure(OTHER_PROMPT_ACCURACY, 0.9)];
        assert_eq!(LIMITS.missed(&at), Vec::<String>::new());
        let beyond = [figure(FLIP_RATE, 0.5), figure(OTHER_PROMPT_ACCURACY, 0.75)];
        assert_eq!(
            LIMITS.missed(&beyond),
            [
                "its flip_rate is 0.500, above max-flip-rate 0.4 (the slot decides, not the response)",
                "its control_other_prompt_accuracy is 0.750 over 64 controls, below \
                 min-control-accuracy 0.9 (it hardly tells a response from another prompt's)",
            ]
        );
        assert!(LIMITS.missed(&[]).is_empty());
    }

    #[test]
    fn a_limit_is_a_share() {
        let wrong = Limits {
            max_flip_rate: f64::NAN,
            ..LIMITS
        };
        assert!(
            wrong
                .check()
                .unwrap_err()
                .to_string()
                .contains("max-flip-rate is NaN")
        );
        assert!(LIMITS.check().is_ok());
    }
}
