//! The search over layers and strengths: gain against divergence.

use maud::html;

use crate::ReportError;
use crate::chart;
use crate::curve::Point;
use crate::html::figure::{at, figure, legend, words};
use crate::html::page::{Section, note};
use crate::html::sections::last_rounds;
use crate::html::table::scroll;
use crate::number::{number, with_interval};
use crate::parts::Parts;

const SIZE: (u32, u32) = (340, 260);

pub(in crate::html) fn section(parts: &Parts) -> Result<Section, ReportError> {
    let mut figures = Vec::new();
    let mut labels: Vec<String> = Vec::new();
    for round in last_rounds(parts.tried.iter().map(|tried| tried.round)) {
        let of_round = parts.tried.iter().filter(|tried| tried.round == round);
        let points: Vec<Point> = of_round.map(|tried| tried.point.clone()).collect();
        let Some(mut panel) = chart::panel(&points, SIZE) else {
            continue;
        };
        for series in &mut panel.series {
            let known = labels.iter().position(|label| *label == series.label);
            series.style = known.unwrap_or_else(|| {
                labels.push(series.label.clone());
                labels.len() - 1
            });
        }
        let words = words(&panel.series, at("divergence"));
        let title = format!("Round {round}");
        figures.push(figure(
            &format!("settings-{round}"),
            &title,
            &panel,
            &words,
        )?);
    }
    Ok(Section {
        id: "settings",
        short: "Settings",
        title: "Strengths and layers",
        lead: "What the search of the gate tried: the win rate on its selection prompts against the divergence that it costs. Marks of one set of \
               layers are joined from the smallest strength to the largest; a ring is what was accepted, an outline \
               fails a gate against harm.",
        body: html! {
            @if parts.tried.is_empty() {
                (note("No search over strengths or layers took place."))
            } @else {
                @if figures.is_empty() {
                    (note("No setting has both a win rate and a divergence on neutral text."))
                } @else {
                    (legend(labels.iter().enumerate().map(|(style, label)| (style, label.as_str()))))
                    div.grid { @for figure in &figures { (figure) } }
                }
                (scroll("Settings that were tried", &table(parts)))
            }
        },
        files: &["settings_tried"],
    })
}

fn table(parts: &Parts) -> maud::Markup {
    let figure = |point: &Point, gate: &str| {
        let reading = point.reading(gate);
        reading.map_or_else(String::new, |reading| number(reading.value))
    };
    html! {
        table {
            caption.quiet { "Settings that were tried" }
            thead {
                tr {
                    th scope="col" { "Round" }
                    th scope="col" { "Layers" }
                    th.n scope="col" { "Strength α" }
                    th.n scope="col" { "Win rate" }
                    th.n scope="col" { "KL" }
                    th.n scope="col" { "Perplexity" }
                    th.n scope="col" { "Length" }
                    th.n scope="col" { "Loops" }
                    th scope="col" { "Outcome" }
                }
            }
            tbody {
                @for tried in &parts.tried {
                    @let point = &tried.point;
                    tr {
                        th scope="row" { (tried.round) }
                        td { (point.layers_in_words()) }
                        td.n { (point.strength) }
                        td.n {
                            @if let Some(gain) = point.reading("gain") {
                                (with_interval(gain.value, Some(gain.low), Some(gain.high)))
                            }
                        }
                        td.n { (figure(point, "neutral-kl")) }
                        td.n { (figure(point, "perplexity")) }
                        td.n { (figure(point, "length")) }
                        td.n { (figure(point, "loops")) }
                        td {
                            @if point.accepted {
                                span.good { "✓ accepted" }
                            } @else if !point.failed.is_empty() {
                                span.bad { "✗ fails " (point.failed.join(", ")) }
                            } @else {
                                span.muted { "safe, not chosen" }
                            }
                        }
                    }
                }
            }
        }
    }
}
