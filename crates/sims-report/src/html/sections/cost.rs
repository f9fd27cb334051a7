//! Seconds, tokens and work of every stage.

use maud::{Markup, html};

use crate::html::page::{Section, note};
use crate::html::table::{bar, folded, round_name, scroll};
use crate::number::{count, duration};
use crate::parts::Parts;
use crate::parts::cost::{self, StageCost};

pub(in crate::html) fn section(parts: &Parts) -> Section {
    let stages = &parts.cost;
    Section {
        id: "cost",
        short: "Cost",
        title: "Cost",
        lead: "What computing took when it was done; a result from the store costs nothing again.",
        body: html! {
            @if stages.is_empty() {
                (note("The stages left no summaries."))
            } @else {
                (scroll("Cost by node", &table(stages)))
                (folded(&cost::table(stages), "Cost by node and round"))
            }
        },
        files: &["cost"],
    }
}

/// A row a node, a column of seconds a round, and sums.
fn table(stages: &[StageCost]) -> Markup {
    let mut rounds: Vec<u32> = stages.iter().map(|stage| stage.round).collect();
    rounds.sort_unstable();
    rounds.dedup();
    let mut nodes: Vec<&str> = Vec::new();
    for stage in stages {
        if !nodes.contains(&stage.node.as_str()) {
            nodes.push(&stage.node);
        }
    }
    let sum = |of: &dyn Fn(&StageCost) -> bool, what: &dyn Fn(&StageCost) -> f64| {
        stages
            .iter()
            .filter(|stage| of(stage))
            .map(what)
            .sum::<f64>()
    };
    let seconds = |stage: &StageCost| stage.seconds;
    let total = |node: &str| sum(&|stage| stage.node == node, &seconds);
    nodes.sort_by(|a, b| total(b).total_cmp(&total(a)));
    let longest = nodes.iter().map(|node| total(node)).fold(0.0, f64::max);
    let work = |of: &dyn Fn(&StageCost) -> bool| {
        let flops = sum(of, &|stage| stage.flops.unwrap_or(0.0));
        if flops > 0.0 {
            count(flops)
        } else {
            String::new()
        }
    };
    let tokens = |of: &dyn Fn(&StageCost) -> bool, what: &dyn Fn(&StageCost) -> f64| {
        let tokens = sum(of, what);
        if tokens > 0.0 {
            count(tokens)
        } else {
            String::new()
        }
    };
    let everything = |_: &StageCost| true;
    html! {
        table.bars {
            caption.quiet { "Cost by node, the longest first" }
            thead {
                tr {
                    th scope="col" { "Node" }
                    @for round in &rounds { th.n scope="col" { (round_name(*round)) } }
                    th.n scope="col" { "All" }
                    th.n scope="col" { "Tokens sampled" }
                    th.n scope="col" { "Tokens read" }
                    th.n scope="col" { "FLOP" }
                }
            }
            tbody {
                @for node in &nodes {
                    @let of = |stage: &StageCost| stage.node == *node;
                    tr {
                        th scope="row" { (node) }
                        @for round in &rounds {
                            @let here = |stage: &StageCost| of(stage) && stage.round == *round;
                            td.n { @if stages.iter().any(here) { (duration(sum(&here, &seconds))) } }
                        }
                        td.n { (duration(total(node))) (bar(total(node) / longest)) }
                        td.n { (tokens(&of, &|stage| stage.generated)) }
                        td.n { (tokens(&of, &|stage| stage.read)) }
                        td.n { (work(&of)) }
                    }
                }
            }
            tfoot {
                tr {
                    th scope="row" { "all" }
                    @for round in &rounds {
                        td.n { (duration(sum(&|stage| stage.round == *round, &seconds))) }
                    }
                    td.n { (duration(sum(&everything, &seconds))) }
                    td.n { (tokens(&everything, &|stage| stage.generated)) }
                    td.n { (tokens(&everything, &|stage| stage.read)) }
                    td.n { (work(&everything)) }
                }
            }
        }
    }
}
