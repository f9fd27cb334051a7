//! Side effects with their limits, the log of decisions, the guard's signals.

use maud::{Markup, html};
use sims_artifact::tables::SignalRow;

use crate::html::page::{Section, note};
use crate::html::table::scroll;
use crate::number::{number, with_interval};
use crate::parts::Parts;
use crate::parts::gates::{Decision, Effect, Verdict, describe, layers};
use crate::run::Run;

pub(in crate::html) fn effects(parts: &Parts) -> Section {
    let effects = &parts.effects;
    let mut rounds: Vec<u32> = effects.iter().map(|effect| effect.round).collect();
    rounds.dedup();
    let mut gates: Vec<&str> = Vec::new();
    for effect in effects {
        if !gates.contains(&effect.row.gate.as_str()) {
            gates.push(&effect.row.gate);
        }
    }
    Section {
        id: "effects",
        short: "Side effects",
        title: "What steering did besides",
        lead: "Every gate at the setting that the round ended with: what was measured, the limit, and how much of the \
               way from no effect to the limit is used up.",
        body: html! {
            @if effects.is_empty() {
                (note("No gate was read in this run."))
            } @else {
                (scroll("Side effects and limits", &html! {
                    table {
                        caption.quiet { "Side effects by round, with the limits of the gates" }
                        thead {
                            tr {
                                th scope="col" { "Gate" }
                                th.limit scope="col" { "Limit" }
                                @for round in &rounds { th scope="col" { "Round " (round) } }
                            }
                        }
                        tbody {
                            @for gate in gates {
                                @let of_gate: Vec<&Effect> = effects.iter().filter(|effect| effect.row.gate == gate).collect();
                                tr {
                                    th scope="row" { (gate) " " span.muted { (describe(gate).0) } }
                                    td.limit { (limits(&of_gate)) }
                                    @for round in &rounds {
                                        td {
                                            @if let Some(effect) = of_gate.iter().find(|effect| effect.round == *round) {
                                                (cell(effect))
                                            }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }))
            }
        },
        files: &["side_effects"],
    }
}

/// The limits of a gate: one where rounds agree, else that of every round.
fn limits(effects: &[&Effect]) -> String {
    let mut limits: Vec<String> = effects
        .iter()
        .map(|effect| describe(&effect.row.gate).1.limit(effect.row.limit))
        .collect();
    limits.dedup();
    limits.join(" · ")
}

fn cell(effect: &Effect) -> Markup {
    let row = &effect.row;
    html! {
        span.value { (with_interval(row.value, row.ci_low, row.ci_high)) }
        " "
        (verdict(effect))
    }
}

fn verdict(effect: &Effect) -> Markup {
    let used = effect.used.map(|used| format!(" · {:.0} %", 100.0 * used));
    let used = used.unwrap_or_default();
    match effect.verdict {
        Verdict::Within => html! { span.good.verdict { "✓ within" (used) } },
        Verdict::Near => html! { span.near.verdict { "△ near" (used) } },
        Verdict::Failed => html! { span.bad.verdict { "✗ failed" (used) } },
    }
}

pub(in crate::html) fn decisions(run: &Run, parts: &Parts) -> Section {
    Section {
        id: "decisions",
        short: "Decisions",
        title: "Decisions",
        lead: "What was tried, what every gate said, and what followed.",
        body: html! {
            @if parts.decisions.is_empty() {
                (note("No decision was taken in this run."))
            }
            @for round in &run.rounds {
                @let of_round: Vec<&Decision> = parts.decisions.iter().filter(|decision| decision.round == round.number).collect();
                @if of_round.is_empty() {
                    (note(&format!("Round {}: no decision so far.", round.number)))
                } @else {
                    (log(round.number, round.accepted() == Some(true), &of_round))
                }
            }
            h3 { "The guard" }
            (guard(parts))
        },
        files: &["decisions", "signals"],
    }
}

fn log(round: u32, accepted: bool, decisions: &[&Decision]) -> Markup {
    let attempts = decisions.iter().map(|decision| decision.row.attempt).max();
    let failed = decisions
        .iter()
        .filter(|decision| !decision.row.passed)
        .count();
    let caption = format!("Decisions of round {round}");
    html! {
        details {
            summary {
                "Round " (round) " · "
                @if accepted { span.good { "✓ accepted" } } @else { span.bad { "✗ refused" } }
                " · " (attempts.unwrap_or(0)) " attempts, " (failed) " of " (decisions.len()) " readings failed"
            }
            (scroll(&caption, &html! {
                table {
                    caption.quiet { (caption) }
                    thead {
                        tr {
                            th.n scope="col" { "Attempt" }
                            th scope="col" { "Part" }
                            th scope="col" { "Layers" }
                            th.n scope="col" { "Strength" }
                            th scope="col" { "Gate" }
                            th.n scope="col" { "Measured" }
                            th.n scope="col" { "Limit" }
                            th scope="col" { "Passed" }
                            th scope="col" { "Then" }
                        }
                    }
                    tbody {
                        @for (place, decision) in decisions.iter().enumerate() {
                            @let row = &decision.row;
                            @let first = place == 0 || decisions[place - 1].row.attempt != row.attempt;
                            tr class=[first.then_some("first")] {
                                td.n { (row.attempt) }
                                td { (row.part) }
                                td { (layers(&row.layers)) }
                                td.n { (row.strength) }
                                th scope="row" { (row.gate) }
                                td.n { (with_interval(row.value, row.ci_low, row.ci_high)) }
                                td.n { (describe(&row.gate).1.limit(row.limit)) }
                                td {
                                    @if row.passed { span.good { "✓ passed" } } @else { span.bad { "✗ failed" } }
                                }
                                td { (row.action) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

fn guard(parts: &Parts) -> Markup {
    let signals: Vec<&SignalRow> = parts.signals.iter().collect();
    let fired: Vec<&SignalRow> = parts.signals.iter().filter(|signal| signal.fired).collect();
    if signals.is_empty() {
        return note("No guard watched this run.");
    }
    html! {
        p {
            @if fired.is_empty() {
                "None of its " (signals.len()) " readings fired."
            } @else {
                (fired.len()) " of its " (signals.len()) " readings fired."
            }
        }
        @if !fired.is_empty() {
            (scroll("Signals that fired", &readings(&fired, "Signals that fired")))
        }
        details {
            summary { "All " (signals.len()) " readings" }
            (scroll("All readings of the guard", &readings(&signals, "All readings of the guard")))
        }
    }
}

fn readings(signals: &[&SignalRow], caption: &str) -> Markup {
    html! {
        table {
            caption.quiet { (caption) }
            thead {
                tr {
                    th scope="col" { "Detector" }
                    th.n scope="col" { "Round" }
                    th.n scope="col" { "Measured" }
                    th.n scope="col" { "Round 1" }
                    th.n scope="col" { "Limit" }
                    th scope="col" { "Fired" }
                    th scope="col" { "Then" }
                }
            }
            tbody {
                @for signal in signals {
                    tr {
                        th scope="row" { (signal.detector.replace('_', " ")) " " span.muted { (signal.signature) } }
                        td.n { (signal.round) }
                        td.n { (with_interval(signal.value, signal.ci_low, signal.ci_high)) }
                        td.n { @if let Some(reference) = signal.reference { (number(reference)) } }
                        td.n { (number(signal.limit)) }
                        td {
                            @if signal.fired { span.bad { "✗ fired" } } @else { span.muted { "quiet" } }
                        }
                        td { (signal.action) }
                    }
                }
            }
        }
    }
}
