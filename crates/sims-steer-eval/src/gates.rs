//! The gates: what a candidate must show, and what it must not do.
//!
//! Hard gates guard against harm that the judge does not see: in the built-in world an over-steered
//! model keeps its self-judged win rate while its answers grow long and wrong, and only their length
//! gives it away. A limit is never tighter than what the base model against itself would exceed once in
//! twenty times ([`Noise`]).

use sims_stats::{Bootstrap, Interval, StatsError};
use sims_steering::Signal;

use crate::back_off::{GateReading, Kind};
use crate::text_figures::TextFigures;

/// What the gates hold figures against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The lower bound of the win rate against the base must be above this.
    pub gain: f64,
    /// The lower bound of the win rate against the incumbent must be above this.
    pub no_regress: f64,
    /// The share of loops may rise by this much.
    pub loop_rise: f64,
    /// The share of loops may reach this, whatever the base's; 1 is off.
    pub loop_share: f64,
    /// rep-4 may be this many times the base's, and 0.01 more.
    pub repetition_factor: f64,
    /// distinct-2, at equal amounts of text, may fall to this share of the base's.
    pub least_distinct_2: f64,
    /// The mean length may differ from the base's by this share of it.
    pub length_change: f64,
    /// The share of truncated responses may rise by this much.
    pub truncation_rise: f64,
    /// Perplexity on neutral text may be this many times the base's.
    pub perplexity_factor: f64,
    /// Mean KL(base ‖ steered) a token of neutral text. Unit: nats.
    pub neutral_kl: f64,
    /// 99th percentile of the same over tokens. Unit: nats.
    pub neutral_kl_p99: f64,
    /// No edit may lengthen a state to more than this many times its norm.
    pub norm_factor: f64,
}

/// Allowance of the repetition gate beside its factor, for bases that hardly repeat.
const REPETITION_ALLOWANCE: f64 = 0.01;

/// How far the norm ratio may be from 1 where every edit keeps norms.
///
/// Rounding to f32 is four orders of magnitude below; what is beyond it is a wrong edit.
const NORM_TOLERANCE: f64 = 1e-3;

/// How far figures of the base move by chance: the reach of their one-sided 95 % intervals.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Noise {
    /// Of the share of loops.
    pub loops: f64,
    /// Of mean rep-4.
    pub repetition: f64,
    /// Of the ratio of distinct-2.
    pub distinct_2: f64,
    /// Of the ratio of mean lengths.
    pub length: f64,
    /// Of the share of truncated responses.
    pub truncation: f64,
}

impl Noise {
    /// Reads the noise from two halves of the base's own draws.
    ///
    /// # Errors
    /// If there are no prompts.
    pub fn of(
        first: &TextFigures,
        second: &TextFigures,
        bootstrap: &Bootstrap,
    ) -> Result<Self, StatsError> {
        let bootstrap = bootstrap.one_sided(0.95);
        let reach = |interval: Interval| {
            (interval.high - interval.estimate).max(interval.estimate - interval.low)
        };
        let difference =
            |first: &[f64], second: &[f64]| bootstrap.mean_difference(first, second).map(reach);
        Ok(Self {
            loops: difference(&first.loops, &second.loops)?,
            repetition: difference(&first.repetition, &second.repetition)?,
            distinct_2: first
                .distinct_ratio(second, 2, &bootstrap)?
                .map_or(0.0, reach),
            length: reach(first.length_ratio(second, &bootstrap)?),
            truncation: difference(&first.truncated, &second.truncated)?,
        })
    }
}

/// How a policy's responses differ from the base's, on the same prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextChange {
    /// Rise of the share of loops.
    pub loops: Interval,
    /// Share of loops of the policy.
    pub loop_share: f64,
    /// Mean rep-4 of the policy.
    pub repetition: f64,
    /// Mean rep-4 of the base.
    pub base_repetition: f64,
    /// distinct-2 divided by the base's, both at one amount of text; none when the base has no two tokens in a row.
    pub distinct_2: Option<Interval>,
    /// Mean length divided by the base's.
    pub length: Interval,
    /// Rise of the share of truncated responses.
    pub truncation: Interval,
}

impl TextChange {
    /// Compares a policy with the base.
    ///
    /// # Errors
    /// If there are no prompts.
    pub fn of(
        policy: &TextFigures,
        base: &TextFigures,
        bootstrap: &Bootstrap,
    ) -> Result<Self, StatsError> {
        Ok(Self {
            loops: bootstrap.mean_difference(&policy.loops, &base.loops)?,
            loop_share: bootstrap.mean(&policy.loops)?.estimate,
            repetition: bootstrap.mean(&policy.repetition)?.estimate,
            base_repetition: bootstrap.mean(&base.repetition)?.estimate,
            distinct_2: policy.distinct_ratio(base, 2, bootstrap)?,
            length: policy.length_ratio(base, bootstrap)?,
            truncation: bootstrap.mean_difference(&policy.truncated, &base.truncated)?,
        })
    }
}

impl Limits {
    /// Reads the gates on the text itself.
    pub fn text_gates(&self, change: &TextChange, noise: &Noise) -> Vec<GateReading> {
        let repetition_limit = self.repetition_factor * change.base_repetition
            + REPETITION_ALLOWANCE.max(noise.repetition);
        let reach = self.length_change.max(noise.length);
        let longer = change.length.estimate >= 1.0;
        let mut gates = vec![
            at_most(
                "loops",
                change.loops.estimate,
                Some(change.loops),
                self.loop_rise.max(noise.loops),
            ),
            at_most("repetition", change.repetition, None, repetition_limit),
            GateReading {
                passed: (change.length.estimate - 1.0).abs() <= reach,
                ..at_most(
                    "length",
                    change.length.estimate,
                    Some(change.length),
                    if longer { 1.0 + reach } else { 1.0 - reach },
                )
            },
            at_most(
                "truncation",
                change.truncation.estimate,
                Some(change.truncation),
                self.truncation_rise.max(noise.truncation),
            ),
        ];
        if let Some(distinct) = change.distinct_2 {
            let limit = self.least_distinct_2.min(1.0 - noise.distinct_2);
            gates.push(GateReading {
                passed: distinct.estimate >= limit,
                ..at_most("distinct-2", distinct.estimate, Some(distinct), limit)
            });
        }
        if self.loop_share < 1.0 {
            gates.push(at_most(
                "loop-share",
                change.loop_share,
                None,
                self.loop_share,
            ));
        }
        gates
    }

    /// Reads the gates on neutral text; `kl` and its 99th percentile over tokens in nats.
    pub fn drift_gates(
        &self,
        perplexity_ratio: Interval,
        kl: Interval,
        kl_p99: f64,
    ) -> Vec<GateReading> {
        vec![
            at_most(
                "perplexity",
                perplexity_ratio.estimate,
                Some(perplexity_ratio),
                self.perplexity_factor,
            ),
            at_most("neutral-kl", kl.estimate, Some(kl), self.neutral_kl),
            at_most("neutral-kl-p99", kl_p99, None, self.neutral_kl_p99),
        ]
    }

    /// Reads the gates on the edits: `largest` norm ratio, and rows with a value that is not finite.
    pub fn norm_gates(&self, largest: f64, non_finite_rows: u64) -> Vec<GateReading> {
        vec![
            at_most("norm", largest, None, self.norm_factor),
            at_most("finite", non_finite_rows as f64, None, 0.0),
        ]
    }

    /// Reads the gate on the win rate against the base.
    pub fn gain_gate(&self, win_rate: Interval) -> GateReading {
        above("gain", win_rate, self.gain)
    }

    /// Reads the gate on the win rate against the incumbent.
    pub fn no_regress_gate(&self, win_rate: Interval) -> GateReading {
        above("no-regress", win_rate, self.no_regress)
    }
}

/// Reads the gate on the fit: held-out states must tell chosen from rejected, shuffled labels must not.
pub fn signal_gate(signal: &Signal) -> GateReading {
    let interval = Interval {
        estimate: signal.auroc,
        low: signal.ci_low,
        high: signal.ci_high,
    };
    GateReading {
        passed: !signal.is_low(),
        ..above("signal", interval, 0.5)
    }
}

/// Reads the gate on edits that keep norms: the norm ratio farthest from 1, `‖a′‖/‖a‖`.
pub fn norm_kept_gate(smallest: f64, largest: f64) -> GateReading {
    let (below, above) = ((smallest - 1.0).abs(), (largest - 1.0).abs());
    // In the total order what is no number comes last, so that it is never passed over.
    let change = if below.total_cmp(&above).is_gt() {
        below
    } else {
        above
    };
    at_most("norm-kept", change, None, NORM_TOLERANCE)
}

/// Returns the one reading of a candidate whose logits were no numbers.
pub fn not_finite() -> GateReading {
    at_most("finite", f64::from(u32::MAX), None, 0.0)
}

fn at_most(gate: &'static str, value: f64, interval: Option<Interval>, limit: f64) -> GateReading {
    GateReading {
        gate,
        kind: Kind::Hard,
        value,
        interval: interval.map(|interval| (interval.low, interval.high)),
        limit,
        // Not a number is not within the limit.
        passed: value <= limit,
    }
}

fn above(gate: &'static str, figure: Interval, limit: f64) -> GateReading {
    GateReading {
        gate,
        kind: Kind::Accept,
        value: figure.estimate,
        interval: Some((figure.low, figure.high)),
        limit,
        passed: figure.low > limit,
    }
}

#[cfg(test)]
mod calibration;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        gain: 0.5,
        no_regress: 0.45,
        loop_rise: 0.02,
        loop_share: 1.0,
        repetition_factor: 1.25,
        least_distinct_2: 0.9,
        length_change: 0.2,
        truncation_rise: 0.05,
        perplexity_factor: 1.15,
        neutral_kl: 0.1,
        neutral_kl_p99: 2.0,
        norm_factor: 1.5,
    };

    fn point(estimate: f64) -> Interval {
        Interval {
            estimate,
            low: estimate,
            high: estimate,
        }
    }

    fn change() -> TextChange {
        TextChange {
            loops: point(0.0),
            loop_share: 0.3,
            repetition: 0.1,
            base_repetition: 0.1,
            distinct_2: Some(point(1.0)),
            length: point(1.0),
            truncation: point(0.0),
        }
    }

    fn failed(change: &TextChange, noise: &Noise) -> Vec<&'static str> {
        let gates = LIMITS.text_gates(change, noise);
        gates
            .iter()
            .filter(|gate| !gate.passed)
            .map(|gate| gate.gate)
            .collect()
    }

    #[test]
    fn each_gate_has_its_own_side() {
        let none = Noise::default();
        assert!(failed(&change(), &none).is_empty());
        assert_eq!(
            failed(
                &TextChange {
                    loops: point(0.021),
                    ..change()
                },
                &none
            ),
            ["loops"]
        );
        assert!(
            failed(
                &TextChange {
                    loops: point(-0.5),
                    ..change()
                },
                &none
            )
            .is_empty()
        );
        assert_eq!(
            failed(
                &TextChange {
                    repetition: 0.136,
                    ..change()
                },
                &none
            ),
            ["repetition"]
        );
        assert_eq!(
            failed(
                &TextChange {
                    length: point(1.46),
                    ..change()
                },
                &none
            ),
            ["length"]
        );
        assert_eq!(
            failed(
                &TextChange {
                    length: point(0.79),
                    ..change()
                },
                &none
            ),
            ["length"]
        );
        assert_eq!(
            failed(
                &TextChange {
                    truncation: point(0.06),
                    ..change()
                },
                &none
            ),
            ["truncation"]
        );
        assert_eq!(
            failed(
                &TextChange {
                    distinct_2: Some(point(0.89)),
                    ..change()
                },
                &none
            ),
            ["distinct-2"]
        );
        assert!(
            failed(
                &TextChange {
                    distinct_2: None,
                    ..change()
                },
                &none
            )
            .is_empty()
        );
    }

    #[test]
    fn the_share_of_loops_has_a_limit_of_its_own_when_asked_for() {
        let read = |loop_share: f64, limit: f64| {
            let limits = Limits {
                loop_share: limit,
                ..LIMITS
            };
            let change = TextChange {
                loop_share,
                ..change()
            };
            let gates = limits.text_gates(&change, &Noise::default());
            gates
                .into_iter()
                .find(|gate| gate.gate == "loop-share")
                .map(|gate| (gate.value, gate.limit, gate.passed))
        };
        // No rise at all, and still too many.
        assert_eq!(read(0.06, 0.05), Some((0.06, 0.05, false)));
        assert_eq!(read(0.05, 0.05), Some((0.05, 0.05, true)));
        assert_eq!(read(1.0, 1.0), None);
    }

    #[test]
    fn drift_is_limited_in_perplexity_mean_and_tail() {
        let failed = |ratio: f64, kl: f64, kl_p99: f64| -> Vec<&'static str> {
            let gates = LIMITS.drift_gates(point(ratio), point(kl), kl_p99);
            assert!(gates.iter().all(|gate| gate.kind == Kind::Hard));
            gates
                .iter()
                .filter(|gate| !gate.passed)
                .map(|gate| gate.gate)
                .collect()
        };
        assert!(failed(1.15, 0.1, 2.0).is_empty());
        assert_eq!(failed(1.16, 0.0, 0.0), ["perplexity"]);
        // Each direction of drift can leave the others as they are.
        assert_eq!(failed(1.0, 0.11, 0.5), ["neutral-kl"]);
        assert_eq!(failed(1.0, 0.09, 2.1), ["neutral-kl-p99"]);
        assert_eq!(failed(1.0, 0.0, f64::NAN), ["neutral-kl-p99"]);
    }

    #[test]
    fn edits_that_keep_norms_must_keep_them() {
        let reading = norm_kept_gate(0.999, 1.0005);
        assert!((reading.value - 0.001).abs() < 1e-12);
        assert!(norm_kept_gate(0.9995, 1.0005).passed);
        assert!(!norm_kept_gate(0.998, 1.0).passed);
        assert!(!norm_kept_gate(1.0, 1.002).passed);
        assert!(!norm_kept_gate(f64::NAN, 1.0).passed);
        assert!(!norm_kept_gate(1.0, f64::NAN).passed);
        // Nothing was measured.
        assert!(!norm_kept_gate(f64::INFINITY, 0.0).passed);
    }

    #[test]
    fn a_limit_is_no_tighter_than_the_bases_own_noise() {
        let noise = Noise {
            loops: 0.05,
            length: 0.5,
            distinct_2: 0.3,
            ..Noise::default()
        };
        let noisy = TextChange {
            loops: point(0.04),
            length: point(1.46),
            distinct_2: Some(point(0.75)),
            ..change()
        };
        assert!(failed(&noisy, &noise).is_empty());
    }

    #[test]
    fn gain_and_regress_look_at_the_lower_end() {
        let rate = Interval {
            estimate: 0.55,
            low: 0.49,
            high: 0.61,
        };
        assert!(!LIMITS.gain_gate(rate).passed);
        assert!(LIMITS.no_regress_gate(rate).passed);
        // A judge without any preference is no gain.
        assert!(!LIMITS.gain_gate(point(0.5)).passed);
    }

    #[test]
    fn a_value_that_is_no_number_fails() {
        assert!(!LIMITS.norm_gates(f64::NAN, 0)[0].passed);
        assert!(!LIMITS.norm_gates(1.0, 1)[1].passed);
        assert!(LIMITS.norm_gates(1.5, 0).iter().all(|gate| gate.passed));
        assert!(!not_finite().passed);
    }

    #[test]
    fn a_fit_that_shuffled_labels_match_has_no_signal() {
        let signal = Signal {
            auroc: 0.9,
            ci_low: 0.8,
            ci_high: 1.0,
            shuffled: 0.5,
            beats_shuffled: true,
        };
        assert!(signal_gate(&signal).passed);
        assert!(
            !signal_gate(&Signal {
                beats_shuffled: false,
                ..signal
            })
            .passed
        );
        assert!(
            !signal_gate(&Signal {
                ci_low: 0.45,
                ..signal
            })
            .passed
        );
    }
}
