//! The frame of the page.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("answers.js");
/// Nothing is loaded from anywhere; the page's own style and script are all that works.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";

/// A part of the page that the contents name.
pub(super) struct Section {
    /// Its anchor.
    pub(super) id: &'static str,
    /// Its name in the contents.
    pub(super) short: &'static str,
    /// Its heading.
    pub(super) title: &'static str,
    /// One sentence about what is to be seen.
    pub(super) lead: &'static str,
    /// The rest.
    pub(super) body: Markup,
    /// The Parquet files that hold its figures.
    pub(super) files: &'static [&'static str],
}

pub(super) fn page(name: &str, header: &Markup, sections: &[Section]) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                title { (name) " · sims report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the figures" }
                header.top { (header) }
                nav aria-label="Contents" {
                    ol {
                        @for section in sections {
                            li { a href=(format!("#{}", section.id)) { (section.short) } }
                        }
                    }
                }
                main id="main" tabindex="-1" {
                    @for section in sections {
                        section id=(section.id) aria-labelledby=(format!("{}-title", section.id)) {
                            h2 id=(format!("{}-title", section.id)) { (section.title) }
                            p.lead { (section.lead) }
                            (section.body)
                            @if !section.files.is_empty() {
                                p.files {
                                    "Data: "
                                    @for (place, file) in section.files.iter().enumerate() {
                                        @if place > 0 { ", " }
                                        code { (file) ".parquet" }
                                    }
                                }
                            }
                        }
                    }
                }
                footer {
                    p {
                        "Intervals are 95 % bootstraps over prompts where nothing else is said. "
                        "Every table here is written as Parquet by " code { "sims report --tables DIR" }
                        "; headline and warnings are " code { "headline.parquet" } " and " code { "warnings.parquet" } "."
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// A short note in the place of what a run does not have.
pub(super) fn note(text: &str) -> Markup {
    html! { p.note { (text) } }
}
