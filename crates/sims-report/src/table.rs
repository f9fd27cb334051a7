//! Figures as a table for the terminal: a row a metric, a column a round.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::metrics::Figure;
use crate::number::with_interval;

/// Lays `figures` out: nodes in order, metrics in the order in which they appear, rounds side by side.
pub fn render(title: &str, figures: &[Figure]) -> String {
    let rounds: Vec<u32> = figures
        .iter()
        .map(|f| f.round)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut out = format!("{title}\n");
    for node in distinct(figures.iter().map(|f| f.node.as_str())) {
        let of_node: Vec<&Figure> = figures.iter().filter(|f| f.node == node).collect();
        let keys = distinct(
            of_node
                .iter()
                .map(|f| (f.metric.as_str(), f.baseline.as_str())),
        );
        let mut lines = vec![header(&rounds)];
        for (metric, baseline) in keys {
            let name = match baseline {
                "" => metric.to_owned(),
                baseline => format!("{metric} (against {baseline})"),
            };
            let cells = rounds.iter().map(|round| {
                of_node
                    .iter()
                    .find(|f| f.round == *round && f.metric == metric && f.baseline == baseline)
                    .map_or_else(String::new, |f| cell(f))
            });
            lines.push(std::iter::once(name).chain(cells).collect());
        }
        let _ = writeln!(out, "\n{node}");
        write_aligned(&mut out, &lines);
    }
    out
}

/// Lays one metric of several runs out: a row a run and node, a column a round.
pub fn render_comparison(metric: &str, runs: &[(String, Vec<Figure>)]) -> String {
    let figures = || runs.iter().flat_map(|(_, figures)| figures);
    let rounds: Vec<u32> = figures()
        .map(|f| f.round)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut lines = vec![header(&rounds)];
    for (title, figures) in runs {
        for node in distinct(figures.iter().map(|f| f.node.as_str())) {
            let cells = rounds.iter().map(|round| {
                let found = figures.iter().find(|f| f.node == node && f.round == *round);
                found.map_or_else(String::new, cell)
            });
            lines.push(
                std::iter::once(format!("{title} · {node}"))
                    .chain(cells)
                    .collect(),
            );
        }
    }
    let mut out = format!("{metric}\n");
    write_aligned(&mut out, &lines);
    out
}

fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

fn header(rounds: &[u32]) -> Vec<String> {
    let round = |round: &u32| match round {
        0 => "once".to_owned(),
        n => format!("round {n}"),
    };
    std::iter::once(String::new())
        .chain(rounds.iter().map(round))
        .collect()
}

fn cell(figure: &Figure) -> String {
    with_interval(figure.value, figure.ci_low, figure.ci_high)
}

pub(crate) fn write_aligned(out: &mut String, lines: &[Vec<String>]) {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        lines
            .iter()
            .filter_map(|l| l.get(c))
            .map(|t| t.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        let mut text = String::from(" ");
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, " {cell:<width$} ");
        }
        let _ = writeln!(out, "{}", text.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_stand_side_by_side() {
        let figure = |round, value| Figure {
            round,
            node: "gold".into(),
            metric: "gold_win_rate".into(),
            value,
            ci_low: Some(value - 0.02),
            ci_high: Some(value + 0.02),
            n: 805,
            method: String::new(),
            baseline: "base".into(),
        };
        let text = render("quickstart", &[figure(1, 0.58), figure(2, 0.63)]);
        let expected = "quickstart\n\ngold\n                                round 1               round 2\n  gold_win_rate (against base)  0.580 [0.560, 0.600]  0.630 [0.610, 0.650]\n";
        assert_eq!(text, expected);
    }
}
