//! Answers side by side, with filters that need the page's script; without it all rows are shown.

use maud::{Markup, html};

use crate::html::page::{Section, note};
use crate::html::table::scroll;
use crate::number::number;
use crate::parts::Parts;
use crate::parts::answers::{Answer, Change};
use crate::run::Run;

pub(in crate::html) fn section(run: &Run, parts: &Parts) -> Section {
    let answers = &parts.answers;
    let shown = answers.rows.iter().map(|row| row.prompt_id.as_str());
    let shown = shown.collect::<std::collections::BTreeSet<_>>().len();
    let gold = answers
        .rows
        .iter()
        .any(|row| row.base_gold.is_some() && row.steered_gold.is_some());
    Section {
        id: "answers",
        short: "Answers",
        title: "Answers side by side",
        lead: "The first draw of the base and of the steered model for the same prompts, chosen by the hash of the \
               prompt, not by how they look.",
        body: html! {
            @if answers.rows.is_empty() {
                (note("No round has answers of both the base and a steered model."))
            } @else {
                p {
                    (shown) " of " (answers.prompts) " prompts. "
                    @if gold {
                        "Better and worse are by the gold score."
                    } @else if answers.rows.iter().any(|row| row.judged.is_some()) {
                        "Better and worse are by the judge of the loop."
                    } @else {
                        "Nothing scored these answers."
                    }
                }
                @if run.prompts.is_empty() {
                    (note("Prompts are shown by id: their texts are known when the report is made from the pipeline file."))
                }
                (filters(parts))
                (scroll("Answers side by side", &table(&answers.rows)))
            }
        },
        files: &["answers"],
    }
}

fn filters(parts: &Parts) -> Markup {
    let rows = &parts.answers.rows;
    let mut rounds: Vec<u32> = rows.iter().map(|row| row.round).collect();
    rounds.dedup();
    let count = |change| rows.iter().filter(|row| row.change() == change).count();
    html! {
        form #filters hidden role="search" aria-label="Filter the answers" {
            label { "Search" input type="search" name="q" placeholder="words in prompt or answer" autocomplete="off"; }
            label {
                "Round"
                select name="round" {
                    @for (place, round) in rounds.iter().enumerate() {
                        option value=(round) selected[place == 0] { "round " (round) }
                    }
                    option value="" { "all rounds" }
                }
            }
            label {
                "Show"
                select name="change" {
                    option value="" { "all" }
                    @for (change, word) in [
                        (Change::Improved, "only improved"),
                        (Change::Worsened, "only worsened"),
                        (Change::Same, "only equally good"),
                    ] {
                        @if count(change) > 0 { option value=(change.word()) { (word) } }
                    }
                }
            }
            label {
                "Order"
                select name="sort" {
                    option value="" { "by prompt" }
                    option value="best" { "most improved first" }
                    option value="worst" { "most worsened first" }
                }
            }
            output name="count" aria-live="polite" {}
        }
    }
}

fn table(rows: &[Answer]) -> Markup {
    html! {
        table #answer-table role="table" {
            caption.quiet { "Answers of the base and of the steered model" }
            thead role="rowgroup" {
                tr role="row" {
                    th scope="col" role="columnheader" { "Prompt" }
                    th scope="col" role="columnheader" { "Base" }
                    th scope="col" role="columnheader" { "Steered" }
                    th scope="col" role="columnheader" { "Score" }
                }
            }
            tbody role="rowgroup" { @for answer in rows { (row(answer)) } }
        }
    }
}

fn row(answer: &Answer) -> Markup {
    let change = answer.change();
    let difference = answer
        .difference()
        .map(|difference| format!("{difference:.6}"));
    html! {
        tr role="row" data-round=(answer.round) data-change=(change.word()) data-difference=[difference] {
            th scope="row" role="rowheader" {
                @match &answer.prompt {
                    Some(prompt) => span.text { (prompt) },
                    None => code { (answer.prompt_id) },
                }
                span.muted { "round " (answer.round) }
            }
            td role="cell" data-label="Base" { (text(&answer.base)) }
            td role="cell" data-label="Steered" { (text(&answer.steered)) }
            td role="cell" data-label="Score" { (score(answer, change)) }
        }
    }
}

fn text(answer: &str) -> Markup {
    html! {
        @if answer.is_empty() { span.muted { "(empty)" } } @else { span.text { (answer) } }
    }
}

fn score(answer: &Answer, change: Change) -> Markup {
    html! {
        @match change {
            Change::Improved => span.good { "▲ improved" },
            Change::Worsened => span.bad { "▼ worsened" },
            Change::Same => span.muted { "= same" },
            Change::Unknown => {},
        }
        @if let (Some(base), Some(steered)) = (answer.base_gold, answer.steered_gold) {
            span.muted { "gold " (number(base)) " → " (number(steered)) }
        }
        @if let Some(judged) = answer.judged {
            span.muted { "judged " (number(judged)) }
        }
    }
}
