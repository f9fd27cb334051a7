//! Gates and guard: side effects with their limits, the log of decisions, the search over settings.

use sims_artifact::tables::{DecisionRow, SignalRow};

use crate::curve::{self, Point};
use crate::data_table::DataTable;
use crate::run::Run;

/// From this share of the way to its limit on, a gate counts as near.
const NEAR: f64 = 0.8;

/// What a gate says of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Well within the limit.
    Within,
    /// Passed, with little room left.
    Near,
    /// Not passed.
    Failed,
}

impl Verdict {
    /// Returns the verdict in a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Near => "near",
            Self::Failed => "failed",
        }
    }
}

/// One gate of one round, at the setting that the round ended with.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// The round.
    pub round: u32,
    /// The gate as `decision` holds it.
    pub row: DecisionRow,
    /// Which share of the way from no effect to the limit is used up; none where that has no meaning.
    pub used: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
}

/// One gate at one attempt of one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The round.
    pub round: u32,
    /// The gate as `decision` holds it.
    pub row: DecisionRow,
}

/// One setting that the search of one round tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried {
    /// The round.
    pub round: u32,
    /// The setting.
    pub point: Point,
}

/// Says in words what a gate reads, and which side of the limit is safe.
pub fn describe(gate: &str) -> (&str, Side) {
    match gate {
        "gain" => ("win rate against the base", Side::Above),
        "no-regress" => ("win rate against the incumbent", Side::Above),
        "signal" => ("held-out AUROC of the fit", Side::Above),
        "loops" => ("rise of the share of loops", Side::AtMost),
        "loop-share" => ("share of loops", Side::AtMost),
        "repetition" => ("repeated 4-grams", Side::AtMost),
        "length" => ("length, ratio to the base", Side::Around),
        "truncation" => ("rise of truncated answers", Side::AtMost),
        "distinct-2" => ("distinct-2, ratio to the base", Side::AtLeast),
        "norm" => ("largest norm ratio of an edit", Side::AtMost),
        "norm-kept" => ("change of norms that are to be kept", Side::AtMost),
        "finite" => ("rows that are not finite", Side::AtMost),
        "perplexity" => ("perplexity on neutral text, ratio", Side::AtMost),
        "neutral-kl" => ("KL on neutral text, nats a token", Side::AtMost),
        "neutral-kl-p99" => ("the same, 99th percentile", Side::AtMost),
        other => (other, Side::AtMost),
    }
}

/// Which side of a limit is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The lower end of the interval must be above.
    Above,
    /// The figure must be as large at least.
    AtLeast,
    /// The figure must be as large at most.
    AtMost,
    /// A ratio must be as near to 1 at least, above or below.
    Around,
}

impl Side {
    /// Writes the limit with its side.
    pub fn limit(self, limit: f64) -> String {
        let number = crate::number::number(limit);
        match self {
            Self::Above => format!("> {number}"),
            Self::AtLeast => format!("≥ {number}"),
            Self::AtMost => format!("≤ {number}"),
            Self::Around if limit < 1.0 => format!("≥ {number}"),
            Self::Around => format!("≤ {number}"),
        }
    }
}

/// Returns which share of the way from no effect to the limit the gate's figure has gone.
fn used(row: &DecisionRow) -> Option<f64> {
    let (_, side) = describe(&row.gate);
    let neutral = match row.gate.as_str() {
        _ if side == Side::Above => return None,
        "length" | "distinct-2" | "norm" | "perplexity" => 1.0,
        _ => 0.0,
    };
    let way = row.limit - neutral;
    // A limit at the neutral point leaves no way to go.
    (way != 0.0).then(|| ((row.value - neutral) / way).max(0.0))
}

/// Returns the gates of every round at the setting that it ended with: the last attempt.
pub fn effects(run: &Run) -> Vec<Effect> {
    let mut effects = Vec::new();
    for round in &run.rounds {
        let rows = round.decision.as_deref().unwrap_or_default();
        let accepted = rows.iter().filter(|row| row.action == "accept");
        let Some(last) = accepted
            .map(|row| row.attempt)
            .max()
            .or_else(|| last_attempt(rows))
        else {
            continue;
        };
        for row in rows.iter().filter(|row| row.attempt == last) {
            let used = used(row);
            effects.push(Effect {
                round: round.number,
                row: row.clone(),
                used,
                verdict: match used {
                    _ if !row.passed => Verdict::Failed,
                    Some(used) if used >= NEAR => Verdict::Near,
                    _ => Verdict::Within,
                },
            });
        }
    }
    effects
}

/// The last attempt; one of a confirmation where there was any.
fn last_attempt(rows: &[DecisionRow]) -> Option<u32> {
    let confirmed = rows.iter().filter(|row| row.part == "confirmation");
    confirmed
        .map(|row| row.attempt)
        .max()
        .or_else(|| rows.iter().map(|row| row.attempt).max())
}

/// Returns every gate at every attempt.
pub fn decisions(run: &Run) -> Vec<Decision> {
    let rounds = run.rounds.iter();
    rounds
        .flat_map(|round| {
            let rows = round.decision.iter().flatten();
            rows.map(|row| Decision {
                round: round.number,
                row: row.clone(),
            })
        })
        .collect()
}

/// Returns every setting that a search tried.
pub fn tried(run: &Run) -> Vec<Tried> {
    let rounds = run.rounds.iter();
    rounds
        .flat_map(|round| {
            let rows = round.decision.clone().unwrap_or_default();
            curve::points_of(rows).into_iter().map(|point| Tried {
                round: round.number,
                point,
            })
        })
        .collect()
}

/// Returns the layers as people write them: `3+4`.
pub fn layers(layers: &[u32]) -> String {
    let layers: Vec<String> = layers.iter().map(u32::to_string).collect();
    layers.join("+")
}

pub(super) fn effects_table(effects: &[Effect]) -> DataTable {
    DataTable::of("side_effects", effects)
        .count("round", |effect| effect.round)
        .text("gate", |effect| effect.row.gate.as_str())
        .text("meaning", |effect| describe(&effect.row.gate).0)
        .number("value", |effect| effect.row.value)
        .number("ci_low", |effect| effect.row.ci_low)
        .number("ci_high", |effect| effect.row.ci_high)
        .number("limit", |effect| effect.row.limit)
        .number("share_of_limit_used", |effect| effect.used)
        .text("verdict", |effect| effect.verdict.word())
        .done()
}

pub(super) fn decisions_table(decisions: &[Decision]) -> DataTable {
    DataTable::of("decisions", decisions)
        .count("round", |decision| decision.round)
        .count("attempt", |decision| decision.row.attempt)
        .text("part", |decision| decision.row.part.as_str())
        .text("layers", |decision| layers(&decision.row.layers))
        .number("strength", |decision| decision.row.strength)
        .text("gate", |decision| decision.row.gate.as_str())
        .number("value", |decision| decision.row.value)
        .number("ci_low", |decision| decision.row.ci_low)
        .number("ci_high", |decision| decision.row.ci_high)
        .number("limit", |decision| decision.row.limit)
        .flag("passed", |decision| decision.row.passed)
        .text("action", |decision| decision.row.action.as_str())
        .done()
}

pub(super) fn tried_table(tried: &[Tried]) -> DataTable {
    let value = |gate: &'static str| {
        move |tried: &Tried| tried.point.reading(gate).map(|reading| reading.value)
    };
    DataTable::of("settings_tried", tried)
        .count("round", |tried| tried.round)
        .text("layers", |tried| tried.point.layers_in_words())
        .number("strength", |tried| tried.point.strength)
        .number("win_rate", value("gain"))
        .number("win_rate_ci_low", |tried| {
            tried.point.reading("gain").map(|gain| gain.low)
        })
        .number("win_rate_ci_high", |tried| {
            tried.point.reading("gain").map(|gain| gain.high)
        })
        .number("neutral_kl", value("neutral-kl"))
        .number("perplexity_ratio", value("perplexity"))
        .number("length_ratio", value("length"))
        .number("loop_rise", value("loops"))
        .text("failed_gates", |tried| tried.point.failed.join(", "))
        .flag("accepted", |tried| tried.point.accepted)
        .done()
}

pub(super) fn signals_table(signals: &[SignalRow]) -> DataTable {
    DataTable::of("signals", signals)
        .count("round", |signal| signal.round)
        .text("signature", |signal| signal.signature.as_str())
        .text("detector", |signal| signal.detector.as_str())
        .number("value", |signal| signal.value)
        .number("ci_low", |signal| signal.ci_low)
        .number("ci_high", |signal| signal.ci_high)
        .number("reference", |signal| signal.reference)
        .number("limit", |signal| signal.limit)
        .flag("fired", |signal| signal.fired)
        .text("action", |signal| signal.action.as_str())
        .done()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(gate: &str, value: f64, limit: f64) -> DecisionRow {
        DecisionRow {
            attempt: 1,
            part: "confirmation".into(),
            layers: vec![3],
            strength: 1.0,
            gate: gate.into(),
            value,
            ci_low: None,
            ci_high: None,
            limit,
            passed: true,
            action: "accept".into(),
        }
    }

    #[test]
    fn the_way_to_a_limit_starts_where_nothing_changed() {
        let close = |row: &DecisionRow, expected: f64| {
            let used = used(row).unwrap();
            assert!((used - expected).abs() < 1e-9, "{used} is not {expected}");
        };
        close(&row("length", 1.1, 1.2), 0.5);
        close(&row("length", 0.85, 0.8), 0.75);
        close(&row("distinct-2", 0.95, 0.9), 0.5);
        close(&row("distinct-2", 1.02, 0.9), 0.0);
        close(&row("neutral-kl", 0.08, 0.1), 0.8);
        close(&row("loops", -0.01, 0.02), 0.0);
        assert_eq!(used(&row("gain", 0.6, 0.5)), None);
        assert_eq!(used(&row("finite", 0.0, 0.0)), None);
    }
}
