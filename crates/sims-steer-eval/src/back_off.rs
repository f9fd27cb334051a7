//! The search over layers and strengths: try, back off, accept or roll back.
//!
//! A candidate is tried at each strength of a descending grid, at each set of layers, on the first part
//! of the prompts, where the hard gates decide which settings survive. The survivor with the best lower
//! bound of its win rate is confirmed on the other part, which no choice has seen. When that fails, the
//! next smaller survivor at the same layers gets a second and last confirmation; when nothing passes,
//! the incumbent stays.
//! The search knows gates by their readings only, so that tests can drive it with a stub.

use sims_artifact::tables::DecisionRow;

/// What a candidate is tried with.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The layers that this round steers, in ascending order
    pub layers: Vec<usize>,
    /// The factor on what the candidate adds to the incumbent
    pub strength: f64,
}

/// Returns every strength at every set of layers, the largest strength of the first set first.
pub fn grid(layer_sets: &[Vec<usize>], strengths: &[f64]) -> Vec<Setting> {
    let mut descending = strengths.to_vec();
    descending.sort_by(|a, b| b.total_cmp(a));
    let at = |layers: &Vec<usize>| {
        let layers = layers.clone();
        descending.iter().map(move |&strength| Setting {
            layers: layers.clone(),
            strength,
        })
    };
    layer_sets.iter().flat_map(at).collect()
}

/// Returns every run of neighbours among `layers`: all of them first, single ones last.
pub fn runs(layers: &[usize]) -> Vec<Vec<usize>> {
    let lengths = (1..=layers.len()).rev();
    lengths
        .flat_map(|length| layers.windows(length).map(<[usize]>::to_vec))
        .collect()
}

/// How many settings may be confirmed, so that the confirmation stays a fair test.
///
/// Each reads the lower end of a two-sided 95 % interval, a one-sided 97.5 % bound, so that two
/// together err with probability 5 % at most (Bonferroni).
pub const MAX_CONFIRMATIONS: usize = 2;

/// The part of the prompts that a trial runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The part on which the strength is chosen
    Selection,
    /// The part on which the chosen strength is confirmed
    Confirmation,
}

impl Part {
    /// Returns the part as the decision table writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Selection => "selection",
            Self::Confirmation => "confirmation",
        }
    }
}

/// What failing a gate means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The strength is unsafe; counts in both parts
    Hard,
    /// The candidate is no gain; counts in the confirmation alone
    Accept,
}

/// One gate, read for one strength on one part of the prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct GateReading {
    /// The gate's name, such as `length`
    pub gate: &'static str,
    /// What failing means
    pub kind: Kind,
    /// The figure that the gate looks at
    pub value: f64,
    /// Interval of `value`, where one exists
    pub interval: Option<(f64, f64)>,
    /// The limit that `value`, or the end of its interval, is held against
    pub limit: f64,
    /// Whether the gate is passed
    pub passed: bool,
}

impl GateReading {
    /// Returns the reading as a row of the decision table.
    pub fn into_row(
        self,
        attempt: u32,
        part: &str,
        setting: &Setting,
        action: &str,
    ) -> DecisionRow {
        DecisionRow {
            attempt,
            part: part.to_owned(),
            layers: setting.layers.iter().map(|&layer| layer as u32).collect(),
            strength: setting.strength,
            gate: self.gate.to_owned(),
            value: self.value,
            ci_low: self.interval.map(|(low, _)| low),
            ci_high: self.interval.map(|(_, high)| high),
            limit: self.limit,
            passed: self.passed,
            action: action.to_owned(),
        }
    }
}

/// All gates of one strength on one part, and the figure by which strengths are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The readings, in the order in which they are reported
    pub gates: Vec<GateReading>,
    /// Lower bound of the win rate against the base; unread when a hard gate failed
    pub win_lower_bound: f64,
}

impl Trial {
    fn is_safe(&self) -> bool {
        self.gates
            .iter()
            .all(|gate| gate.passed || gate.kind == Kind::Accept)
    }

    fn is_passed(&self) -> bool {
        self.gates.iter().all(|gate| gate.passed)
    }
}

/// What was decided, and every reading that led there.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The setting that passed; `None` when the incumbent stays
    pub accepted: Option<Setting>,
    /// One row a gate and attempt
    pub decisions: Vec<DecisionRow>,
}

/// Looks for a setting that passes, calling `trial` once for each setting and part it needs.
///
/// `settings` are tried in order, as [`grid`] gives them. The action of an attempt says what followed
/// it: `continue` (safe, the search goes on), `back-off`, `accept`, or `roll-back` for the last one
/// when nothing passed.
///
/// # Errors
/// Returns the first error of `trial`.
pub fn search<E>(
    settings: &[Setting],
    mut trial: impl FnMut(Part, &Setting) -> Result<Trial, E>,
) -> Result<Outcome, E> {
    let mut attempts = Vec::new();
    for setting in settings {
        let read = trial(Part::Selection, setting)?;
        let action = if read.is_safe() {
            "continue"
        } else {
            "back-off"
        };
        attempts.push(Attempt {
            part: Part::Selection,
            setting: setting.clone(),
            read,
            action,
        });
    }

    let mut survivors: Vec<usize> = (0..attempts.len())
        .filter(|&i| attempts[i].read.is_safe())
        .collect();
    if let Some(best) = best_of(&survivors, &attempts) {
        let best = attempts[best].setting.clone();
        survivors.retain(|&i| {
            let setting = &attempts[i].setting;
            setting.layers == best.layers && setting.strength <= best.strength
        });
    }
    let mut accepted = None;
    for chosen in survivors.into_iter().take(MAX_CONFIRMATIONS) {
        let setting = attempts[chosen].setting.clone();
        let read = trial(Part::Confirmation, &setting)?;
        let passed = read.is_passed();
        let action = if passed { "accept" } else { "back-off" };
        attempts.push(Attempt {
            part: Part::Confirmation,
            setting: setting.clone(),
            read,
            action,
        });
        if passed {
            accepted = Some(setting);
            break;
        }
    }
    if accepted.is_none()
        && let Some(last) = attempts.last_mut()
    {
        last.action = "roll-back";
    }
    Ok(Outcome {
        accepted,
        decisions: decision_rows(attempts),
    })
}

struct Attempt {
    part: Part,
    setting: Setting,
    read: Trial,
    action: &'static str,
}

/// Returns the survivor with the best lower bound, the first one where bounds are equal.
fn best_of(survivors: &[usize], attempts: &[Attempt]) -> Option<usize> {
    let bound = |i: usize| attempts[i].read.win_lower_bound;
    survivors
        .iter()
        .copied()
        .reduce(|best, i| if bound(i) > bound(best) { i } else { best })
}

fn decision_rows(attempts: Vec<Attempt>) -> Vec<DecisionRow> {
    let mut rows = Vec::new();
    for (number, attempt) in (1..).zip(attempts) {
        let Attempt {
            part,
            setting,
            read,
            action,
        } = attempt;
        rows.extend(
            read.gates
                .into_iter()
                .map(|gate| gate.into_row(number, part.name(), &setting, action)),
        );
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn gate(gate: &'static str, kind: Kind, passed: bool) -> GateReading {
        GateReading {
            gate,
            kind,
            value: 0.0,
            interval: None,
            limit: 0.0,
            passed,
        }
    }

    /// A stub in which gain grows with the strength and harm starts above `safe_up_to`.
    fn stub(
        safe_up_to: f64,
        gain: bool,
    ) -> impl FnMut(Part, &Setting) -> Result<Trial, Infallible> {
        move |_, &Setting { strength, .. }| {
            Ok(Trial {
                gates: vec![
                    gate("loops", Kind::Hard, strength <= safe_up_to),
                    gate("gain", Kind::Accept, gain),
                ],
                win_lower_bound: 0.5 + strength / 10.0,
            })
        }
    }

    fn at_layer_3(strengths: &[f64]) -> Vec<Setting> {
        grid(&[vec![3]], strengths)
    }

    fn accepted(outcome: &Outcome) -> Option<f64> {
        outcome.accepted.as_ref().map(|setting| setting.strength)
    }

    fn actions(outcome: &Outcome) -> Vec<(u32, f64, &str)> {
        let mut actions: Vec<(u32, f64, &str)> = Vec::new();
        for row in &outcome.decisions {
            if actions.last().is_none_or(|last| last.0 != row.attempt) {
                actions.push((row.attempt, row.strength, &row.action));
            }
        }
        actions
    }

    #[test]
    fn a_safe_candidate_is_accepted_at_full_strength() {
        let outcome = search(&at_layer_3(&[1.0, 0.5, 0.25]), stub(9.0, true)).unwrap();
        assert_eq!(accepted(&outcome), Some(1.0));
        assert_eq!(
            actions(&outcome),
            [
                (1, 1.0, "continue"),
                (2, 0.5, "continue"),
                (3, 0.25, "continue"),
                (4, 1.0, "accept")
            ]
        );
        assert_eq!(outcome.decisions.len(), 8);
    }

    #[test]
    fn the_largest_safe_strength_is_taken_when_harm_starts_above_a_half() {
        let outcome = search(&at_layer_3(&[0.25, 1.0, 0.5]), stub(0.5, true)).unwrap();
        assert_eq!(accepted(&outcome), Some(0.5));
        assert_eq!(
            actions(&outcome),
            [
                (1, 1.0, "back-off"),
                (2, 0.5, "continue"),
                (3, 0.25, "continue"),
                (4, 0.5, "accept")
            ]
        );
    }

    #[test]
    fn a_candidate_that_is_never_safe_is_rejected_without_confirmation() {
        let outcome = search(&at_layer_3(&[1.0, 0.5]), stub(0.0, true)).unwrap();
        assert_eq!(accepted(&outcome), None);
        assert_eq!(
            actions(&outcome),
            [(1, 1.0, "back-off"), (2, 0.5, "roll-back")]
        );
    }

    #[test]
    fn two_failed_confirmations_roll_back() {
        let outcome = search(&at_layer_3(&[1.0, 0.5, 0.25]), stub(9.0, false)).unwrap();
        assert_eq!(accepted(&outcome), None);
        assert_eq!(
            actions(&outcome),
            [
                (1, 1.0, "continue"),
                (2, 0.5, "continue"),
                (3, 0.25, "continue"),
                (4, 1.0, "back-off"),
                (5, 0.5, "roll-back"),
            ]
        );
    }

    #[test]
    fn a_failed_confirmation_falls_to_a_smaller_strength_never_a_larger() {
        let trial = |part, &Setting { strength, .. }: &Setting| {
            let passed = part == Part::Selection || strength < 0.5;
            let best_at_half = 0.6 - (strength - 0.5).abs();
            Ok::<_, Infallible>(Trial {
                gates: vec![gate("length", Kind::Hard, passed)],
                win_lower_bound: best_at_half,
            })
        };
        let outcome = search(&at_layer_3(&[1.0, 0.5, 0.25]), trial).unwrap();
        assert_eq!(accepted(&outcome), Some(0.25));
        assert_eq!(
            actions(&outcome),
            [
                (1, 1.0, "continue"),
                (2, 0.5, "continue"),
                (3, 0.25, "continue"),
                (4, 0.5, "back-off"),
                (5, 0.25, "accept"),
            ]
        );
    }

    #[test]
    fn no_strength_means_no_candidate() {
        let outcome = search(&at_layer_3(&[]), stub(9.0, true)).unwrap();
        assert_eq!(
            outcome,
            Outcome {
                accepted: None,
                decisions: vec![]
            }
        );
    }

    #[test]
    fn layers_are_tried_in_runs_of_neighbours() {
        assert_eq!(
            runs(&[2, 3, 5]),
            [
                vec![2, 3, 5],
                vec![2, 3],
                vec![3, 5],
                vec![2],
                vec![3],
                vec![5]
            ]
        );
        let settings = grid(&runs(&[2, 3]), &[0.5, 1.0]);
        assert_eq!(settings.len(), 6);
        assert_eq!((settings[0].layers.len(), settings[0].strength), (2, 1.0));
    }

    #[test]
    fn the_best_safe_setting_wins_and_falls_back_at_its_own_layers() {
        // Layer 4 is best at 0.5, but that is not confirmed; layer 3 has no part in what follows.
        let settings = grid(&[vec![3], vec![4]], &[1.0, 0.5, 0.25]);
        let trial = |part, setting: &Setting| {
            let safe = setting.layers == [3] || setting.strength < 1.0;
            let confirmed = part == Part::Selection || setting.strength < 0.5;
            Ok::<_, Infallible>(Trial {
                gates: vec![
                    gate("neutral-kl", Kind::Hard, safe),
                    gate("gain", Kind::Accept, confirmed),
                ],
                win_lower_bound: 0.1 * setting.layers[0] as f64 - (setting.strength - 0.5).abs(),
            })
        };
        let outcome = search(&settings, trial).unwrap();
        let expected = Setting {
            layers: vec![4],
            strength: 0.25,
        };
        assert_eq!(outcome.accepted, Some(expected));
        let parts: Vec<&str> = outcome
            .decisions
            .iter()
            .map(|row| row.part.as_str())
            .collect();
        assert_eq!(
            parts.iter().filter(|part| **part == "confirmation").count(),
            4
        );
    }
}
