//! The loop's figures over rounds, and what the judge says of itself.

use crate::data_table::DataTable;
use crate::metrics::Figure;
use crate::parts::headline::{gold_node, judged_node};
use crate::run::Run;

/// The metric by which answers are compared with the base, as judged.
pub const JUDGED: &str = "self_judge_win_rate";
/// The same by the gold score.
pub const GOLD: &str = "gold_win_rate";

/// A panel of the loop's figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Panel {
    /// Its name in the table.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// The metric, but for win rates, of which there are several.
    metric: &'static str,
    /// The gate whose limit belongs to it.
    gate: &'static str,
    /// What no change reads.
    pub neutral: f64,
}

/// The panels, in the order of the page.
pub const PANELS: [Panel; 6] = [
    Panel {
        name: "win_rate",
        title: "Win rate against the base",
        metric: JUDGED,
        gate: "gain",
        neutral: 0.5,
    },
    Panel {
        name: "length_ratio",
        title: "Length, ratio to the base",
        metric: "length_ratio",
        gate: "length",
        neutral: 1.0,
    },
    Panel {
        name: "neutral_kl",
        title: "KL on neutral text, nats a token",
        metric: "neutral_kl_per_token",
        gate: "neutral-kl",
        neutral: 0.0,
    },
    Panel {
        name: "perplexity_ratio",
        title: "Perplexity on neutral text, ratio",
        metric: "neutral_perplexity_ratio",
        gate: "perplexity",
        neutral: 1.0,
    },
    Panel {
        name: "distinct_2_ratio",
        title: "Distinct-2, ratio to the base",
        metric: "distinct_2_ratio",
        gate: "distinct-2",
        neutral: 1.0,
    },
    Panel {
        name: "loop_rise",
        title: "Share of loops, rise",
        metric: "loop_rate_difference",
        gate: "loops",
        neutral: 0.0,
    },
];

/// One figure of one round in a panel.
#[derive(Debug, Clone, PartialEq)]
pub struct CurvePoint {
    /// The panel.
    pub panel: &'static str,
    /// The series: `gold`, `judged`, `judged, gate prompts`; in other panels the node's part alone.
    pub series: &'static str,
    /// The figure.
    pub figure: Figure,
    /// The limit of the gate in that round.
    pub limit: Option<f64>,
    /// Whether the round's candidate was accepted; none before the decision.
    pub accepted: Option<bool>,
}

/// Returns the points of all panels.
pub fn points(run: &Run) -> Vec<CurvePoint> {
    let mut points = Vec::new();
    for panel in &PANELS {
        for round in &run.rounds {
            let number = round.number;
            let mut add = |series, node: Option<&str>, metric: &str| {
                let found = node.and_then(|node| run.figure(number, node, metric, "base"));
                if let Some(figure) = found {
                    points.push(CurvePoint {
                        panel: panel.name,
                        series,
                        figure: figure.clone(),
                        limit: limit(round.decision.as_deref(), panel.gate),
                        accepted: round.accepted(),
                    });
                }
            };
            let gate = round.gate_node.as_str();
            let judged = judged_node(run, round).filter(|node| *node != gate);
            if panel.metric == JUDGED {
                add("gold", gold_node(run, number), GOLD);
            }
            add("held-out prompts", judged, panel.metric);
            add("gate prompts", Some(gate), panel.metric);
        }
    }
    points
}

fn limit(rows: Option<&[sims_artifact::tables::DecisionRow]>, gate: &str) -> Option<f64> {
    let of_gate = rows?.iter().rev().find(|row| row.gate == gate);
    of_gate.map(|row| row.limit)
}

/// Returns what judges say of themselves, round by round.
pub fn reliability(run: &Run) -> Vec<Figure> {
    const MARKS: [&str; 7] = [
        "position_bias",
        "position_bias_share",
        "flip_rate",
        "invalid_share",
        "mean_coverage",
        "identical_share",
        "order_split_reliability",
    ];
    let is_reliability = |figure: &&Figure| {
        let name = figure.metric.as_str();
        figure.baseline.is_empty() && (MARKS.contains(&name) || name.starts_with("control_"))
    };
    run.figures.iter().filter(is_reliability).cloned().collect()
}

/// Returns `figures` as a table.
pub fn figures_table(name: &'static str, figures: &[Figure]) -> DataTable {
    DataTable::of(name, figures)
        .count("round", |figure| figure.round)
        .text("node", |figure| figure.node.as_str())
        .text("metric", |figure| figure.metric.as_str())
        .text("baseline", |figure| figure.baseline.as_str())
        .number("value", |figure| figure.value)
        .number("ci_low", |figure| figure.ci_low)
        .number("ci_high", |figure| figure.ci_high)
        .count("n", |figure| figure.n)
        .text("method", |figure| figure.method.as_str())
        .done()
}

pub(super) fn table(points: &[CurvePoint]) -> DataTable {
    DataTable::of("curves", points)
        .text("panel", |point| point.panel)
        .text("series", |point| point.series)
        .count("round", |point| point.figure.round)
        .text("node", |point| point.figure.node.as_str())
        .text("metric", |point| point.figure.metric.as_str())
        .number("value", |point| point.figure.value)
        .number("ci_low", |point| point.figure.ci_low)
        .number("ci_high", |point| point.figure.ci_high)
        .number("limit", |point| point.limit)
        .text("candidate", |point| match point.accepted {
            Some(true) => "accepted",
            Some(false) => "refused",
            None => "",
        })
        .done()
}
