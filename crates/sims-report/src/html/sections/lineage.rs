//! Where everything comes from, and how to make it again.

use maud::{Markup, html};

use crate::html::page::{Section, note};
use crate::html::table::scroll;
use crate::parts::Parts;
use crate::parts::lineage::{Lineage, Parameter};
use crate::run::Run;

pub(in crate::html) fn section(run: &Run, parts: &Parts) -> Section {
    let lineage = &parts.lineage;
    Section {
        id: "lineage",
        short: "Lineage",
        title: "Lineage",
        lead: "The same inputs, parameters and seed give the same bytes, so a digest names a result for good.",
        body: html! {
            @match &lineage.command {
                Some(command) => {
                    p { "This makes the run again, or shows that it is there already:" }
                    pre tabindex="0" { code { (command) } }
                    @if let Some(pipeline) = &run.pipeline { p { "Root seed " (pipeline.seed) "." } }
                }
                None => (note("The report was made from the run’s folder: its pipeline file would show parameters and seed.")),
            }
            @if !lineage.parameters.is_empty() { (parameters(&lineage.parameters)) }
            @if lineage.files.is_empty() {
                (note("The run has no record of its files (run.json)."))
            } @else {
                (files(lineage))
            }
        },
        files: &["parameters", "files"],
    }
}

fn parameters(parameters: &[Parameter]) -> Markup {
    let caption = "Parameters as the pipeline sets them";
    html! {
        details {
            summary { (caption) " · " (parameters.len()) " rows" }
            (scroll(caption, &html! {
                table {
                    caption.quiet { (caption) }
                    thead {
                        tr {
                            th scope="col" { "Node" }
                            th scope="col" { "Stage" }
                            th scope="col" { "Parameter" }
                            th scope="col" { "Value" }
                        }
                    }
                    tbody {
                        @for parameter in parameters {
                            tr {
                                td { (parameter.node) }
                                td { (parameter.stage) }
                                th scope="row" { (parameter.name) }
                                td { code { (parameter.value) } }
                            }
                        }
                    }
                }
            }))
        }
    }
}

fn files(lineage: &Lineage) -> Markup {
    let caption = "Files with the action that made them and the digest of their bytes";
    html! {
        details {
            summary { (caption) " · " (lineage.files.len()) " rows" }
            (scroll(caption, &html! {
                table.digests {
                    caption.quiet { (caption) }
                    thead {
                        tr {
                            th scope="col" { "File" }
                            th scope="col" { "Action" }
                            th scope="col" { "BLAKE3 digest" }
                        }
                    }
                    tbody {
                        @for file in &lineage.files {
                            tr {
                                th scope="row" { (file.path) }
                                td { code { (file.action.get(..16).unwrap_or(&file.action)) } }
                                td { code { (file.digest) } }
                            }
                        }
                    }
                }
            }))
        }
    }
}
