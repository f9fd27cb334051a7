//! A judge that errs at a known rate, for studies of how much error a loop bears.

use sims_stats::random::{Stream, key_of};

use crate::JudgeError;
use crate::comparison::{Comparison, Judged, PairJudge, Progress};

/// Asks another judge, the oracle, and now and then takes one answer for the other.
///
/// A pair is mistaken in both orders or in none, so a mistake turns the preference around and keeps
/// the oracle's position bias. Which pairs are mistaken is a function of the seed, the prompt and the
/// two responses.
pub struct Noisy<'a> {
    oracle: Box<dyn PairJudge + 'a>,
    error_rate: f64,
    seed: u64,
    id: String,
}

impl<'a> Noisy<'a> {
    /// Makes a judge that mistakes each pair with probability `error_rate`.
    ///
    /// # Errors
    /// [`JudgeError::Setting`] for a rate outside `[0, 0.5]`: beyond one half the oracle's opposite is nearer.
    pub fn new(
        oracle: Box<dyn PairJudge + 'a>,
        error_rate: f64,
        seed: u64,
    ) -> Result<Self, JudgeError> {
        if !(0.0..=0.5).contains(&error_rate) {
            return Err(JudgeError::Setting(format!(
                "error-rate is {error_rate}, but it is between 0 (the oracle itself) and 0.5 (pure chance)"
            )));
        }
        Ok(Self {
            id: format!("noisy/{error_rate}/{seed}/{}", oracle.id()),
            oracle,
            error_rate,
            seed,
        })
    }

    fn mistakes(&self, comparison: &Comparison<'_>) -> bool {
        let (first, second) = (comparison.first.response_id, comparison.second.response_id);
        // Ids are hashes or names, none with a line break.
        let pair = [
            "noisy judge",
            comparison.prompt_id,
            first.min(second),
            first.max(second),
        ];
        Stream::new(self.seed, key_of(&pair.join("\n"))).next_f64() < self.error_rate
    }

    /// Returns what the oracle is asked instead.
    fn mistaken<'c>(&self, comparisons: &[Comparison<'c>]) -> Vec<Comparison<'c>> {
        let asked = |comparison: &Comparison<'c>| match self.mistakes(comparison) {
            true => comparison.swapped(),
            false => *comparison,
        };
        comparisons.iter().map(asked).collect()
    }
}

impl PairJudge for Noisy<'_> {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        self.oracle.compare(&self.mistaken(comparisons), progress)
    }

    fn compare_again(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        self.oracle
            .compare_again(&self.mistaken(comparisons), progress)
    }

    fn reads_texts(&self) -> bool {
        self.oracle.reads_texts()
    }

    fn knows(&self, comparison: &Comparison<'_>) -> bool {
        self.oracle.knows(comparison)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::comparison::Answer;
    use crate::planted::{PlantedFirst, PlantedLength};

    fn logits(judge: &dyn PairJudge, comparisons: &[Comparison<'_>]) -> Vec<f64> {
        let judged = judge.compare(comparisons, &mut |_| ControlFlow::Continue(()));
        let preferences = judged.expect("nothing can fail").preferences;
        preferences
            .iter()
            .map(|preference| preference.logit)
            .collect()
    }

    /// The second answer is longer by one, in many prompts; both orders.
    fn comparisons(prompts: &[String]) -> Vec<Comparison<'_>> {
        let mut comparisons = Vec::new();
        for prompt_id in prompts {
            let forth = Comparison {
                prompt_id,
                request: "",
                first: Answer::made("a", "w"),
                second: Answer::made("b", "w w"),
            };
            comparisons.extend([forth, forth.swapped()]);
        }
        comparisons
    }

    fn noisy(error_rate: f64) -> Noisy<'static> {
        Noisy::new(Box::new(PlantedLength::new(1.0)), error_rate, 3).expect("a legal rate")
    }

    #[test]
    fn the_rate_of_errors_is_the_one_asked_for_and_both_orders_err_together() {
        let prompts: Vec<String> = (0..4000).map(|i| format!("p{i}")).collect();
        let judged = logits(&noisy(0.2), &comparisons(&prompts));
        assert!(judged.chunks(2).all(|orders| orders[0] == -orders[1]));
        let errors = judged.chunks(2).filter(|orders| orders[0] > 0.0).count();
        // Standard error 0.0063.
        assert!((errors as f64 / 4000.0 - 0.2).abs() < 0.02, "{errors}");
        let right = logits(&noisy(0.0), &comparisons(&prompts));
        assert!(right.chunks(2).all(|orders| orders[0] == -1.0));
    }

    #[test]
    fn an_error_depends_on_neither_company_nor_order() {
        let prompts: Vec<String> = (0..50).map(|i| format!("p{i}")).collect();
        let all = comparisons(&prompts);
        let judge = noisy(0.5);
        let together = logits(&judge, &all);
        for (comparison, logit) in all.iter().zip(together) {
            assert_eq!(logits(&judge, &[*comparison]), [logit]);
        }
    }

    #[test]
    fn a_mistake_keeps_the_position_bias() {
        let prompts: Vec<String> = (0..50).map(|i| format!("p{i}")).collect();
        let judge = Noisy::new(Box::new(PlantedFirst), 0.5, 1).expect("a legal rate");
        assert!(
            logits(&judge, &comparisons(&prompts))
                .iter()
                .all(|&logit| logit > 0.0)
        );
    }

    #[test]
    fn rates_beyond_chance_are_refused() {
        for rate in [-0.1, 0.6, f64::NAN] {
            let judge = Noisy::new(Box::new(PlantedFirst), rate, 1);
            let message = judge.err().expect("refused").to_string();
            assert!(message.contains("between 0"), "{message}");
        }
    }
}
