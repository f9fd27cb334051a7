//! The search over strengths: try, back off, accept or roll back.
//!
//! A candidate is tried at each strength of a descending grid on the first part of the prompts,
//! where the hard gates decide which strengths survive. The survivor with the best lower bound of
//! its win rate is confirmed on the other part, which no choice has seen. When that fails, the next
//! smaller survivor gets a second and last confirmation; when nothing passes, the incumbent stays.
//! The search knows gates by their readings only, so that tests can drive it with a stub.

use sims_artifact::tables::DecisionRow;

/// How many strengths may be confirmed, so that the confirmation stays a fair test.
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
    pub fn into_row(self, attempt: u32, strength: f64, action: &str) -> DecisionRow {
        DecisionRow {
            attempt,
            strength,
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
    /// The strength that passed; `None` when the incumbent stays
    pub accepted: Option<f64>,
    /// One row a gate and attempt
    pub decisions: Vec<DecisionRow>,
}

/// Looks for a strength that passes, calling `trial` once for each strength and part it needs.
///
/// `strengths` is tried from the largest to the smallest. The action of an attempt says what followed
/// it: `continue` (safe, the search goes on), `back-off`, `accept`, or `roll-back` for the last one
/// when nothing passed.
///
/// # Errors
/// Returns the first error of `trial`.
pub fn search<E>(
    strengths: &[f64],
    mut trial: impl FnMut(Part, f64) -> Result<Trial, E>,
) -> Result<Outcome, E> {
    let mut grid = strengths.to_vec();
    grid.sort_by(|a, b| b.total_cmp(a));

    let mut attempts = Vec::new();
    for &strength in &grid {
        let read = trial(Part::Selection, strength)?;
        let action = if read.is_safe() {
            "continue"
        } else {
            "back-off"
        };
        attempts.push(Attempt {
            strength,
            read,
            action,
        });
    }

    let mut survivors: Vec<usize> = (0..attempts.len())
        .filter(|&i| attempts[i].read.is_safe())
        .collect();
    if let Some(best) = best_of(&survivors, &attempts) {
        survivors.retain(|&i| attempts[i].strength <= attempts[best].strength);
    }
    let mut accepted = None;
    for chosen in survivors.into_iter().take(MAX_CONFIRMATIONS) {
        let strength = attempts[chosen].strength;
        let read = trial(Part::Confirmation, strength)?;
        let passed = read.is_passed();
        let action = if passed { "accept" } else { "back-off" };
        attempts.push(Attempt {
            strength,
            read,
            action,
        });
        if passed {
            accepted = Some(strength);
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
    strength: f64,
    read: Trial,
    action: &'static str,
}

/// Returns the survivor with the best lower bound, the largest strength where bounds are equal.
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
            strength,
            read,
            action,
        } = attempt;
        rows.extend(
            read.gates
                .into_iter()
                .map(|gate| gate.into_row(number, strength, action)),
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
    fn stub(safe_up_to: f64, gain: bool) -> impl FnMut(Part, f64) -> Result<Trial, Infallible> {
        move |_, strength| {
            Ok(Trial {
                gates: vec![
                    gate("loops", Kind::Hard, strength <= safe_up_to),
                    gate("gain", Kind::Accept, gain),
                ],
                win_lower_bound: 0.5 + strength / 10.0,
            })
        }
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
        let outcome = search(&[1.0, 0.5, 0.25], stub(9.0, true)).unwrap();
        assert_eq!(outcome.accepted, Some(1.0));
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
        let outcome = search(&[0.25, 1.0, 0.5], stub(0.5, true)).unwrap();
        assert_eq!(outcome.accepted, Some(0.5));
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
        let outcome = search(&[1.0, 0.5], stub(0.0, true)).unwrap();
        assert_eq!(outcome.accepted, None);
        assert_eq!(
            actions(&outcome),
            [(1, 1.0, "back-off"), (2, 0.5, "roll-back")]
        );
    }

    #[test]
    fn two_failed_confirmations_roll_back() {
        let outcome = search(&[1.0, 0.5, 0.25], stub(9.0, false)).unwrap();
        assert_eq!(outcome.accepted, None);
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
        let trial = |part, strength: f64| {
            let passed = part == Part::Selection || strength < 0.5;
            let best_at_half = 0.6 - (strength - 0.5).abs();
            Ok::<_, Infallible>(Trial {
                gates: vec![gate("length", Kind::Hard, passed)],
                win_lower_bound: best_at_half,
            })
        };
        let outcome = search(&[1.0, 0.5, 0.25], trial).unwrap();
        assert_eq!(outcome.accepted, Some(0.25));
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
        let outcome = search(&[], stub(9.0, true)).unwrap();
        assert_eq!(
            outcome,
            Outcome {
                accepted: None,
                decisions: vec![]
            }
        );
    }
}
