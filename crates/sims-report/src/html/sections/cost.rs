//! Time, tokens, work and money of every stage, and what the gain cost.

use maud::{Markup, html};

use crate::html::page::{Section, note};
use crate::html::table::{bar, folded, round_name, scroll};
use crate::number::number;
use crate::parts::Parts;
use crate::parts::cost::{self, nodes, rounds, total};
use crate::parts::gain::{self, Gain};
use crate::parts::spent::{Shown, Spent};

pub(in crate::html) fn section(parts: &Parts) -> Section {
    Section {
        id: "cost",
        short: "Cost",
        title: "Cost",
        lead: "What computing took when it was done; a result from the store counts as what it took then.",
        body: html! {
            @if parts.cost.is_empty() {
                (note("The stages left no summaries."))
            } @else {
                (scroll("Cost by node", &by_node(parts)))
                (scroll("Cost by round", &by_round(parts)))
                (note("Device-hours are wall-clock hours times GPUs where a stage computed on GPUs, and times worker \
                       threads elsewhere."))
                @if !parts.gains.is_empty() {
                    (scroll("Gain and its cost", &gains(&parts.gains, parts.answers_served)))
                    (note(&gain::in_words(parts.answers_served)))
                }
                (folded(&cost::table(&parts.cost), "Cost by node and round"))
            }
        },
        files: &["cost", "gain"],
    }
}

/// A row a node, over all rounds.
fn by_node(parts: &Parts) -> Markup {
    let all = total(&parts.cost, |_| true);
    let of = |node: &str| total(&parts.cost, |stage| stage.node == node);
    let nodes = nodes(&parts.cost);
    let longest = nodes
        .iter()
        .map(|node| of(node).seconds)
        .fold(0.0, f64::max);
    let rows = nodes
        .iter()
        .map(|node| ((*node).to_owned(), of(node)))
        .collect::<Vec<_>>();
    table(
        parts,
        "Cost by node, the longest first",
        "Node",
        &rows,
        &all,
        Some(longest),
    )
}

/// A row a round, over all nodes.
fn by_round(parts: &Parts) -> Markup {
    let all = total(&parts.cost, |_| true);
    let row = |round: u32| {
        (
            round_name(round),
            total(&parts.cost, |stage| stage.round == round),
        )
    };
    let rows: Vec<(String, Spent)> = rounds(&parts.cost).into_iter().map(row).collect();
    table(parts, "Cost by round", "Round", &rows, &all, None)
}

fn table(
    parts: &Parts,
    caption: &str,
    first: &str,
    rows: &[(String, Spent)],
    all: &Spent,
    longest: Option<f64>,
) -> Markup {
    let shown = Shown::of(all);
    html! {
        table.bars {
            caption.quiet { (caption) }
            thead {
                tr {
                    th scope="col" { (first) }
                    @for heading in shown.headings() { th.n scope="col" { (heading) } }
                }
            }
            tbody {
                @for (name, spent) in rows {
                    tr {
                        th scope="row" { (name) }
                        @for (place, cell) in spent.cells(&shown, &parts.prices).iter().enumerate() {
                            td.n {
                                (cell)
                                @if let (0, Some(longest)) = (place, longest) { (bar(spent.seconds / longest)) }
                            }
                        }
                    }
                }
            }
            tfoot {
                tr {
                    th scope="row" { "all" }
                    @for cell in all.cells(&shown, &parts.prices) { td.n { (cell) } }
                }
            }
        }
    }
}

fn gains(gains: &[Gain], answers: u32) -> Markup {
    html! {
        table {
            caption.quiet { "Gain over the base model and what it cost, with " (answers) " answers" }
            thead {
                tr {
                    th scope="col" { "Figure" }
                    th.n scope="col" { "Gain, points" }
                    th.n scope="col" { "Made in" }
                    th.n scope="col" { "Hours with the answers" }
                    th.n scope="col" { "Points an hour" }
                }
            }
            tbody {
                @for gain in gains {
                    tr {
                        th scope="row" { (round_name(gain.figure.round)) " · " (gain.figure.node) }
                        td.n { (gain.points_in_words()) }
                        td.n { (gain.making.hours_in_words()) }
                        td.n { (number(gain.hours)) " " (gain.unit()) "s" }
                        td.n { (gain.per_hour_in_words()) }
                    }
                }
            }
        }
    }
}
