//! Gain against drift, over layers and strengths: what the search of `steer-eval` tried.
//!
//! `decision` has a row a gate and attempt; here an attempt of the selection becomes one point.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sims_artifact::read_table;
use sims_artifact::tables::DecisionRow;

use crate::ReportError;

/// A figure with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reading {
    /// The figure.
    pub value: f64,
    /// Lower end of its 95 % interval; the figure itself where it has none.
    pub low: f64,
    /// Upper end of its 95 % interval; the figure itself where it has none.
    pub high: f64,
    /// The limit of the gate.
    pub limit: f64,
}

/// What one setting of layers and strength did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// The layers steered.
    pub layers: Vec<u32>,
    /// The strength.
    pub strength: f64,
    /// What the gates read, by gate.
    pub gates: BTreeMap<String, Reading>,
    /// The gates against harm that it failed.
    pub failed: Vec<String>,
    /// Whether it was accepted in the end.
    pub accepted: bool,
}

impl Point {
    /// Returns what a gate read; none where it was not read.
    pub fn reading(&self, gate: &str) -> Option<Reading> {
        self.gates.get(gate).copied()
    }

    /// Returns the layers as people write them: `3`, `3+4`.
    pub fn layers_in_words(&self) -> String {
        let layers: Vec<String> = self.layers.iter().map(u32::to_string).collect();
        layers.join("+")
    }
}

/// Reads the points of a decision table, in the order in which they were tried.
///
/// # Errors
/// If the table is damaged or something else.
pub fn points(decision: &Path) -> Result<Vec<Point>, ReportError> {
    Ok(points_of(read_table(decision)?))
}

/// Returns the points of the rows of a decision table, in the order in which they were tried.
pub fn points_of(rows: Vec<DecisionRow>) -> Vec<Point> {
    let accepted = rows
        .iter()
        .find(|row| row.action == "accept" && row.part == "confirmation")
        .map(|row| (row.layers.clone(), row.strength));
    let mut points: Vec<(u32, Point)> = Vec::new();
    for row in rows.into_iter().filter(|row| row.part == "selection") {
        if points
            .last()
            .is_none_or(|(attempt, _)| *attempt != row.attempt)
        {
            let is_accepted = accepted.as_ref().is_some_and(|(layers, strength)| {
                *layers == row.layers && *strength == row.strength
            });
            points.push((
                row.attempt,
                Point {
                    layers: row.layers.clone(),
                    strength: row.strength,
                    gates: BTreeMap::new(),
                    failed: Vec::new(),
                    accepted: is_accepted,
                },
            ));
        }
        if let Some((_, point)) = points.last_mut() {
            if !row.passed && row.gate != "gain" {
                point.failed.push(row.gate.clone());
            }
            point.gates.insert(
                row.gate,
                Reading {
                    value: row.value,
                    low: row.ci_low.unwrap_or(row.value),
                    high: row.ci_high.unwrap_or(row.value),
                    limit: row.limit,
                },
            );
        }
    }
    points.into_iter().map(|(_, point)| point).collect()
}

/// Lays the points out for a terminal: a row a setting.
pub fn render(points: &[Point]) -> String {
    let header = [
        "layers",
        "strength",
        "win rate",
        "KL",
        "perplexity",
        "length",
        "loops",
        "fails",
        "",
    ];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for point in points {
        let figure = |gate: &str| {
            point
                .reading(gate)
                .map_or_else(String::new, |reading| format!("{:.3}", reading.value))
        };
        let gain = point.reading("gain").map_or_else(String::new, |gain| {
            format!("{:.3} [{:.3}, {:.3}]", gain.value, gain.low, gain.high)
        });
        lines.push(vec![
            point.layers_in_words(),
            point.strength.to_string(),
            gain,
            figure("neutral-kl"),
            figure("perplexity"),
            figure("length"),
            figure("loops"),
            point.failed.join(", "),
            if point.accepted { "accepted" } else { "" }.to_owned(),
        ]);
    }
    let mut out = String::new();
    crate::table::write_aligned(&mut out, &lines);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(
        attempt: u32,
        part: &str,
        gate: &str,
        value: f64,
        passed: bool,
        action: &str,
    ) -> DecisionRow {
        DecisionRow {
            attempt,
            part: part.into(),
            layers: vec![3, 4],
            strength: 1.0 / f64::from(attempt),
            gate: gate.into(),
            value,
            ci_low: Some(value - 0.02),
            ci_high: Some(value + 0.02),
            limit: 0.5,
            passed,
            action: action.into(),
        }
    }

    #[test]
    fn an_attempt_of_the_selection_is_a_point() {
        let folder = tempfile::tempdir().expect("temporary folders can be made");
        let path = folder.path().join("decision.parquet");
        let mut confirmed = row(3, "confirmation", "gain", 0.61, true, "accept");
        confirmed.strength = 0.5;
        sims_artifact::write_table(
            &path,
            &[
                row(1, "selection", "neutral-kl", 0.2, false, "back-off"),
                row(1, "selection", "gain", 0.7, true, "back-off"),
                row(2, "selection", "neutral-kl", 0.05, true, "continue"),
                row(2, "selection", "gain", 0.6, true, "continue"),
                confirmed,
            ],
        )
        .expect("the folder is writable");
        let points = points(&path).expect("a table");
        assert_eq!(points.len(), 2);
        assert_eq!(points[0].failed, ["neutral-kl"]);
        assert!(!points[0].accepted && points[1].accepted);
        assert_eq!(points[1].reading("gain").map(|gain| gain.value), Some(0.6));
        let text = render(&points);
        assert!(
            text.contains("3+4     0.5       0.600 [0.580, 0.620]  0.050"),
            "{text}"
        );
    }
}
