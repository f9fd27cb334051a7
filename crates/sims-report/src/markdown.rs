//! The report in short as Markdown, for the summary of a CI job.

use std::fmt::Write;

use crate::number::{number, with_interval};
use crate::parts::Parts;
use crate::parts::cost::{rounds, total};
use crate::parts::curves::{CurvePoint, PANELS};
use crate::parts::gain::in_words;
use crate::parts::gates::{Effect, Verdict, describe};
use crate::parts::spent::{Shown, Spent};
use crate::run::Run;

/// Renders headline, figures by round, and gates that failed.
pub fn render(run: &Run, parts: &Parts) -> String {
    let mut out = format!("## {}: {}\n\n", escape(&run.name), parts.headline.verdict);
    for sentence in &parts.headline.sentences {
        let _ = writeln!(out, "{}", escape(sentence));
    }
    figures(&mut out, run, parts);
    gates(&mut out, parts);
    cost(&mut out, parts);
    if !parts.warnings.is_empty() {
        let _ = writeln!(out, "\n{} warnings of the stages.", parts.warnings.len());
    }
    out
}

/// A row a panel and series, a column a round.
fn figures(out: &mut String, run: &Run, parts: &Parts) {
    if parts.curves.is_empty() {
        let _ = writeln!(out, "\nNo round has figures against the base model yet.");
        return;
    }
    let rounds: Vec<u32> = run.rounds.iter().map(|round| round.number).collect();
    let header = rounds.iter().map(|round| format!(" round {round} |"));
    let _ = writeln!(out, "\n| figure | prompts |{}", header.collect::<String>());
    let _ = writeln!(out, "|---|---|{}", "---|".repeat(rounds.len()));
    for panel in &PANELS {
        let of_panel: Vec<&CurvePoint> = parts
            .curves
            .iter()
            .filter(|point| point.panel == panel.name)
            .collect();
        let mut series: Vec<&str> = of_panel.iter().map(|point| point.series).collect();
        series.sort_unstable();
        series.dedup();
        for name in series {
            let _ = write!(out, "| {} | {name} |", panel.title);
            for round in &rounds {
                let found = of_panel
                    .iter()
                    .find(|point| point.series == name && point.figure.round == *round);
                let cell = found.map(|point| {
                    let figure = &point.figure;
                    with_interval(figure.value, figure.ci_low, figure.ci_high)
                });
                let _ = write!(out, " {} |", cell.unwrap_or_default());
            }
            out.push('\n');
        }
    }
    let refused: Vec<String> = run
        .rounds
        .iter()
        .filter(|round| round.accepted() == Some(false))
        .map(|round| round.number.to_string())
        .collect();
    if !refused.is_empty() {
        let _ = writeln!(out, "\nRefused: round {}.", refused.join(", "));
    }
}

/// A row a round, and what the gains cost.
fn cost(out: &mut String, parts: &Parts) {
    if parts.cost.is_empty() {
        return;
    }
    let all = total(&parts.cost, |_| true);
    let shown = Shown::of(&all);
    let headings = shown.headings();
    let _ = writeln!(out, "\n| cost | {} |", headings.join(" | ").to_lowercase());
    let _ = writeln!(out, "|---|{}", "---|".repeat(headings.len()));
    let mut row = |name: &str, spent: &Spent| {
        let cells: Vec<String> = spent.cells(&shown, &parts.prices);
        let cells: Vec<String> = cells.iter().map(|cell| escape(cell)).collect();
        let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
    };
    for round in rounds(&parts.cost) {
        let name = match round {
            0 => "once".to_owned(),
            n => format!("round {n}"),
        };
        row(&name, &total(&parts.cost, |stage| stage.round == round));
    }
    row("all", &all);
    if parts.gains.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n| gain | points | made in | points an hour |\n|---|---|---|---|"
    );
    for gain in &parts.gains {
        let _ = writeln!(
            out,
            "| {}, round {} | {} | {} | {} a {} |",
            escape(&gain.figure.node),
            gain.figure.round,
            gain.points_in_words(),
            gain.making.hours_in_words(),
            gain.per_hour_in_words(),
            gain.unit()
        );
    }
    let _ = writeln!(out, "\n{}", in_words(parts.answers_served));
}

fn gates(out: &mut String, parts: &Parts) {
    let failed: Vec<&Effect> = parts
        .effects
        .iter()
        .filter(|effect| effect.verdict == Verdict::Failed)
        .collect();
    if parts.effects.is_empty() {
        let _ = writeln!(out, "\nNo gate was read.");
    } else if failed.is_empty() {
        let _ = writeln!(
            out,
            "\nNo gate failed at the setting that a round ended with."
        );
    } else {
        let _ = writeln!(
            out,
            "\n| failed gate | round | measured | limit |\n|---|---|---|---|"
        );
        for effect in failed {
            let row = &effect.row;
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} |",
                escape(&row.gate),
                effect.round,
                with_interval(row.value, row.ci_low, row.ci_high),
                describe(&row.gate).1.limit(row.limit)
            );
        }
    }
    let fired: Vec<String> = parts
        .signals
        .iter()
        .filter(|signal| signal.fired)
        .map(|signal| {
            format!(
                "- round {}: {} ({}, limit {})",
                signal.round,
                escape(&signal.detector),
                number(signal.value),
                number(signal.limit)
            )
        })
        .collect();
    if !fired.is_empty() {
        let _ = writeln!(out, "\nSignals of the guard:\n\n{}", fired.join("\n"));
    }
}

/// Keeps a text from being read as Markdown or HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' => out.push(' '),
            '|' | '*' | '_' | '`' | '\\' | '#' => {
                out.push('\\');
                out.push(letter);
            }
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_not_read_as_markup() {
        assert_eq!(super::escape("a_b|<script>\nc"), "a\\_b\\|&lt;script&gt; c");
    }
}
