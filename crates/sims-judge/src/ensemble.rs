//! Several judges that decide together.

use crate::JudgeError;
use crate::comparison::{Comparison, Judged, PairJudge, Progress};
use crate::verdict::Preference;

sims_stage::choice! {
    /// How the judges of an ensemble decide
    pub enum Pooling {
        /// By the mean of their log-odds
        Mean = "mean",
        /// By the share of them that prefers each answer
        Majority = "majority",
    }
}

/// A judge made of judges.
///
/// Under [`Mean`](Pooling::Mean) the log-odds are the mean of the members', each divided by its
/// temperature. Under [`Majority`](Pooling::Majority) they are `ln((for + 1/2) / (against + 1/2))` of the
/// votes, so that a unanimous ensemble is sure, but not infinitely. The coverage is the smallest of the
/// members': a comparison that one of them does not answer is invalid.
pub struct Ensemble<'a> {
    members: Vec<Box<dyn PairJudge + 'a>>,
    temperatures: Vec<f64>,
    pooling: Pooling,
    id: String,
}

impl<'a> Ensemble<'a> {
    /// Makes a judge of at least two; without `temperatures` each is 1.
    ///
    /// # Errors
    /// [`JudgeError::Setting`] for fewer than two members, and for temperatures that are not one a member and
    /// above zero.
    pub fn new(
        members: Vec<Box<dyn PairJudge + 'a>>,
        temperatures: &[f64],
        pooling: Pooling,
    ) -> Result<Self, JudgeError> {
        let refuse = |message: String| Err(JudgeError::Setting(message));
        if members.len() < 2 {
            return refuse(format!(
                "judge `ensemble` has {} members; name at least two, such as --members self,rating",
                members.len()
            ));
        }
        let temperatures = match temperatures {
            [] => vec![1.0; members.len()],
            given => given.to_vec(),
        };
        let is_legal = |temperature: &f64| temperature.is_finite() && *temperature > 0.0;
        if temperatures.len() != members.len() || !temperatures.iter().all(is_legal) {
            return refuse(format!(
                "member-temperatures are {temperatures:?}, but there must be one for each of the {} members, above 0",
                members.len()
            ));
        }
        let parts: Vec<String> = members
            .iter()
            .zip(&temperatures)
            .map(|(member, temperature)| format!("{}/{temperature}", member.id()))
            .collect();
        Ok(Self {
            id: format!("ensemble/{pooling}({})", parts.join("+")),
            members,
            temperatures,
            pooling,
        })
    }

    fn pool(&self, opinions: &[Preference]) -> Preference {
        let coverage = opinions.iter().map(|opinion| opinion.coverage);
        let logit = match self.pooling {
            Pooling::Mean => {
                let tempered = opinions.iter().zip(&self.temperatures);
                let sum: f64 = tempered
                    .map(|(opinion, temperature)| opinion.logit / temperature)
                    .sum();
                sum / opinions.len() as f64
            }
            Pooling::Majority => {
                let votes = |sign: f64| {
                    let voted = opinions.iter().filter(|opinion| opinion.logit * sign > 0.0);
                    voted.count() as f64 + 0.5
                };
                votes(1.0).ln() - votes(-1.0).ln()
            }
        };
        Preference {
            logit,
            coverage: coverage.fold(1.0, f64::min),
        }
    }
}

impl Ensemble<'_> {
    /// Asks every member by `ask` and pools what they say.
    fn ask(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
        ask: impl Fn(&dyn PairJudge, Progress<'_>) -> Result<Judged, JudgeError>,
    ) -> Result<Judged, JudgeError> {
        let mut judged = Judged::default();
        for (place, member) in self.members.iter().enumerate() {
            let before = place * comparisons.len();
            let mut report = |done: usize| progress((before + done) / self.members.len());
            let by_member = ask(member.as_ref(), &mut report)?;
            judged.add_cost(&by_member);
            judged
                .members
                .push((member.id().to_owned(), by_member.preferences));
        }
        judged.preferences = (0..comparisons.len())
            .map(|index| {
                let opinions: Vec<Preference> = judged
                    .members
                    .iter()
                    .map(|(_, preferences)| preferences[index])
                    .collect();
                self.pool(&opinions)
            })
            .collect();
        Ok(judged)
    }
}

impl PairJudge for Ensemble<'_> {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        self.ask(comparisons, progress, |member, progress| {
            member.compare(comparisons, progress)
        })
    }

    fn compare_again(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        self.ask(comparisons, progress, |member, progress| {
            member.compare_again(comparisons, progress)
        })
    }

    fn reads_texts(&self) -> bool {
        self.members.iter().all(|member| member.reads_texts())
    }

    fn knows(&self, comparison: &Comparison<'_>) -> bool {
        self.members.iter().all(|member| member.knows(comparison))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::comparison::Answer;
    use crate::planted::{PlantedFirst, PlantedLength};

    fn members() -> Vec<Box<dyn PairJudge>> {
        vec![
            Box::new(PlantedLength::new(1.0)),
            Box::new(PlantedLength::new(-4.0)),
            Box::new(PlantedFirst),
        ]
    }

    fn judged(temperatures: &[f64], pooling: Pooling) -> Judged {
        let ensemble = Ensemble::new(members(), temperatures, pooling).expect("three members");
        let comparison = Comparison {
            prompt_id: "p",
            request: "",
            first: Answer::made("a", "w w w"),
            second: Answer::made("b", "w"),
        };
        ensemble
            .compare(&[comparison], &mut |_| ControlFlow::Continue(()))
            .expect("nothing can fail")
    }

    #[test]
    fn the_mean_is_of_tempered_log_odds() {
        // 2, -8 and 5.
        assert!((judged(&[], Pooling::Mean).preferences[0].logit + 1.0 / 3.0).abs() < 1e-12);
        let tempered = judged(&[1.0, 8.0, 5.0], Pooling::Mean);
        assert!((tempered.preferences[0].logit - 2.0 / 3.0).abs() < 1e-12);
        let ids: Vec<&str> = tempered.members.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(
            ids,
            ["planted-length/1", "planted-length/-4", "planted-first"]
        );
    }

    #[test]
    fn a_majority_counts_heads() {
        let logit = judged(&[], Pooling::Majority).preferences[0].logit;
        assert!((logit - (2.5_f64 / 1.5).ln()).abs() < 1e-12);
    }

    #[test]
    fn an_ensemble_needs_two_and_a_temperature_each() {
        let one = vec![Box::new(PlantedFirst) as Box<dyn PairJudge>];
        assert!(Ensemble::new(one, &[], Pooling::Mean).is_err());
        for wrong in [&[1.0][..], &[1.0, 1.0, 0.0], &[1.0, f64::NAN, 1.0]] {
            assert!(Ensemble::new(members(), wrong, Pooling::Mean).is_err());
        }
    }
}
