//! What the judge says of itself, round by round.

use maud::{Markup, html};

use crate::ReportError;
use crate::html::figure::{figure, legend, words_of_rounds};
use crate::html::page::{Section, note};
use crate::html::sections::curves::over_rounds;
use crate::html::table::{round_name, scroll};
use crate::metrics::Figure;
use crate::number::with_interval;
use crate::parts::Parts;
use crate::plot::{Guide, Mark, Series};

/// A panel: its title, the line to hold it against, and its metrics with their names.
struct Panel {
    id: &'static str,
    title: &'static str,
    neutral: f64,
    metrics: &'static [(&'static str, &'static str)],
}

const PANELS: [Panel; 2] = [
    Panel {
        id: "controls",
        title: "Right on answers damaged on purpose",
        neutral: 0.5,
        metrics: &[
            ("control_other_prompt_accuracy", "another prompt’s answer"),
            ("control_half_accuracy", "half of the answer"),
            ("control_shuffled_accuracy", "shuffled words"),
            ("control_padded_accuracy", "padded"),
        ],
    },
    Panel {
        id: "order",
        title: "Verdicts that depend on the order",
        neutral: 0.0,
        metrics: &[
            ("flip_rate", "flipped by the order"),
            ("invalid_share", "invalid"),
            ("identical_share", "pairs of identical answers"),
        ],
    },
];

pub(in crate::html) fn section(parts: &Parts) -> Result<Section, ReportError> {
    let mut figures = Vec::new();
    let node = parts.reliability.first().map(|figure| figure.node.as_str());
    for panel in &PANELS {
        let mut series = Vec::new();
        for (style, (metric, label)) in panel.metrics.iter().enumerate() {
            let of_metric = parts
                .reliability
                .iter()
                .filter(|figure| figure.metric == *metric && Some(figure.node.as_str()) == node);
            let shift = (style as f64 - 1.5) * 0.07;
            let marks: Vec<Mark> = of_metric
                .map(|figure| Mark {
                    x: f64::from(figure.round) + shift,
                    y: figure.value,
                    interval: figure.ci_low.zip(figure.ci_high),
                    solid: true,
                    ringed: false,
                })
                .collect();
            if !marks.is_empty() {
                let label = (*label).to_owned();
                series.push(Series {
                    label,
                    style,
                    marks,
                });
            }
        }
        if series.is_empty() {
            continue;
        }
        let labels: Vec<(usize, String)> = series
            .iter()
            .map(|series| (series.style, series.label.clone()))
            .collect();
        let words = words_of_rounds(&series);
        let guides = vec![Guide::Neutral(panel.neutral)];
        let drawn = over_rounds(series, guides, std::iter::once(panel.neutral));
        let id = format!("judge-{}", panel.id);
        figures.push(html! {
            div {
                (figure(&id, panel.title, &drawn, &words)?)
                (legend(labels.iter().map(|(style, label)| (*style, label.as_str()))))
            }
        });
    }
    Ok(Section {
        id: "judge",
        short: "Judge",
        title: "How far the judge can be trusted",
        lead: "A judge that cannot tell a damaged answer from a whole one, or whose verdict follows the order of \
               presentation, makes a ranking that may mislead. One half is a coin.",
        body: html! {
            @if parts.reliability.is_empty() {
                (note("No judge of this run says anything of itself."))
            } @else {
                div.grid { @for figure in &figures { (figure) } }
                (scroll("What the judge says of itself", &table(&parts.reliability)))
            }
        },
        files: &["reliability"],
    })
}

/// A row a node and metric, a column a round.
fn table(figures: &[Figure]) -> Markup {
    let mut rounds: Vec<u32> = figures.iter().map(|figure| figure.round).collect();
    rounds.sort_unstable();
    rounds.dedup();
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for figure in figures {
        let row = (figure.node.as_str(), figure.metric.as_str());
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let several = rows.iter().any(|(node, _)| *node != rows[0].0);
    html! {
        table {
            caption.quiet { "What the judge says of itself, by round" }
            thead {
                tr {
                    th scope="col" { "Figure" }
                    @for round in &rounds { th.n scope="col" { (round_name(*round)) } }
                }
            }
            tbody {
                @for (node, metric) in &rows {
                    tr {
                        th scope="row" {
                            (metric.replace('_', " "))
                            @if several { " " span.muted { (node) } }
                        }
                        @for round in &rounds {
                            @let found = figures.iter().find(|figure| {
                                figure.round == *round && figure.node == *node && figure.metric == *metric
                            });
                            td.n {
                                @if let Some(figure) = found {
                                    (with_interval(figure.value, figure.ci_low, figure.ci_high))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
