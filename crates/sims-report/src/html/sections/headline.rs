//! Name, verdict, sentences, tiles, warnings.

use maud::{Markup, html};

use crate::html::table::round_name;
use crate::parts::Parts;
use crate::run::Run;

pub(in crate::html) fn header(run: &Run, parts: &Parts) -> Markup {
    let headline = &parts.headline;
    let unfinished: Vec<String> = run
        .rounds
        .iter()
        .filter(|round| round.accepted().is_none())
        .map(|round| round.number.to_string())
        .collect();
    html! {
        p.kicker { "sims report · run " strong { (run.name) } }
        h1 { (headline.verdict) }
        @for (place, sentence) in headline.sentences.iter().enumerate() {
            p class=(if place == 0 { "claim" } else { "claim more" }) { (sentence) }
        }
        @if !headline.tiles.is_empty() {
            dl.tiles {
                @for tile in &headline.tiles {
                    div {
                        dt { (tile.name) }
                        dd {
                            span.figure { (tile.value) }
                            " "
                            span.detail { (tile.detail) }
                        }
                    }
                }
            }
        }
        @if !unfinished.is_empty() {
            p.note { "Without a decision so far: round " (crate::parts::headline::join(&unfinished)) "." }
        }
        @if !parts.warnings.is_empty() {
            details.warnings {
                summary { (warning_count(parts.warnings.len())) }
                ul {
                    @for warning in &parts.warnings {
                        li {
                            strong { (round_name(warning.round)) " · " (warning.node) }
                            " " (warning.text)
                        }
                    }
                }
            }
        }
    }
}

fn warning_count(count: usize) -> String {
    match count {
        1 => "1 warning of the stages".to_owned(),
        n => format!("{n} warnings of the stages"),
    }
}
