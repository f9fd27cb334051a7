//! Costs of runs for the terminal: by node, by round, and what each gain cost.

use std::fmt::Write;

use crate::number::number;
use crate::parts::cost::{StageCost, nodes, rounds, total};
use crate::parts::gain::{Gain, in_words};
use crate::parts::spent::{Prices, Shown, Spent};
use crate::table::write_aligned;

/// Lays the costs of a run out: a row a node, a row a round, and the sum.
pub fn render(title: &str, stages: &[StageCost], prices: &Prices) -> String {
    let all = total(stages, |_| true);
    let shown = Shown::of(&all);
    let line = |name: &str, spent: &Spent| -> Vec<String> {
        let cells = spent.cells(&shown, prices);
        std::iter::once(name.to_owned()).chain(cells).collect()
    };
    let headings = shown.headings().into_iter().map(str::to_lowercase);
    let mut lines = vec![std::iter::once(String::new()).chain(headings).collect()];
    for node in nodes(stages) {
        lines.push(line(node, &total(stages, |stage| stage.node == node)));
    }
    lines.push(Vec::new());
    for round in rounds(stages) {
        let name = match round {
            0 => "once".to_owned(),
            n => format!("round {n}"),
        };
        lines.push(line(&name, &total(stages, |stage| stage.round == round)));
    }
    lines.push(line("all", &all));
    let mut out = format!("{title}\n");
    write_aligned(&mut out, &lines);
    out
}

/// Lays the gains of all runs out, a row a figure.
pub fn render_gains(gains: &[Gain], answers: u32, prices: &Prices) -> String {
    if gains.is_empty() {
        return "no win rate against the base model whose cost is known; run the pipeline once more to have it recorded\n"
            .to_owned();
    }
    let priced = gains.iter().any(|gain| gain.money.is_some());
    let mut heading = vec![
        "",
        "gain, points",
        "made in",
        "each answer beyond a plain one",
    ];
    heading.extend(["points an hour", ""]);
    heading.extend(priced.then_some("money"));
    let mut lines = vec![heading.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for gain in gains {
        let round = match gain.figure.round {
            0 => String::new(),
            n => format!(" · round {n}"),
        };
        let mut line = vec![
            format!("{}{round} · {}", gain.run, gain.figure.node),
            gain.points_in_words(),
            gain.making.hours_in_words(),
            if gain.per_answer > 0.0 {
                format!(
                    "{} {}-seconds",
                    number(3600.0 * gain.per_answer),
                    gain.device()
                )
            } else {
                String::new()
            },
            gain.per_hour_in_words(),
            format!("a {}", gain.unit()),
        ];
        if priced {
            line.push(
                gain.money
                    .map_or_else(String::new, |money| prices.amount(money)),
            );
        }
        lines.push(line);
    }
    let mut out = format!("gain and its cost, with {answers} answers\n");
    write_aligned(&mut out, &lines);
    let _ = writeln!(out, "\n{}", in_words(answers));
    out
}
