//! The loop's figures over rounds.

use maud::html;

use crate::ReportError;
use crate::html::figure::{figure, legend, words_of_rounds};
use crate::html::page::{Section, note};
use crate::html::table::folded;
use crate::parts::Parts;
use crate::parts::curves::{self, CurvePoint, PANELS};
use crate::plot::{self, Axis, Guide, Mark, Panel, Series};
use crate::run::Run;

/// Width and height of a panel. Unit: pixels.
pub(super) const SIZE: (u32, u32) = (340, 220);
/// How far marks of one round stand apart.
const APART: f64 = 0.08;
/// The series in the order of their colours.
const SERIES: [&str; 3] = ["gold", "held-out prompts", "gate prompts"];

pub(in crate::html) fn section(run: &Run, parts: &Parts) -> Result<Section, ReportError> {
    let mut figures = Vec::new();
    for panel in &PANELS {
        let points = parts
            .curves
            .iter()
            .filter(|point| point.panel == panel.name);
        let points: Vec<&CurvePoint> = points.collect();
        if points.is_empty() {
            continue;
        }
        let drawn = panel_of(&points, panel.neutral, run.rounds.len());
        let words = words_of_rounds(&drawn.series);
        figures.push(figure(
            &format!("curve-{}", panel.name),
            panel.title,
            &drawn,
            &words,
        )?);
    }
    let used = SERIES.iter().enumerate().filter(|(_, name)| {
        let mut points = parts.curves.iter();
        points.any(|point| point.series == **name)
    });
    let named = used.map(|(style, name)| match *name {
        "gold" => (style, "gold score"),
        "held-out prompts" => (style, "judged, held-out prompts"),
        _ => (style, "judged, prompts of the gate"),
    });
    let has_gold = parts.curves.iter().any(|point| point.series == "gold");
    Ok(Section {
        id: "loop",
        short: "Loop",
        title: "The loop, round by round",
        lead: "Full marks: the round’s candidate was accepted. Outlines: it was refused, and the figure is of what \
               was kept or last tried. Dashed: the limit of the gate.",
        body: html! {
            @if figures.is_empty() {
                (note("No round has figures against the base model yet."))
            } @else {
                (legend(named))
                div.grid { @for figure in &figures { (figure) } }
                @if !has_gold {
                    (note("No gold score was measured in this run: the judge’s figures stand unchecked."))
                }
            }
            (folded(&curves::figures_table("figures", &run.figures), "Every figure of every node"))
        },
        files: &["curves", "figures"],
    })
}

fn panel_of(points: &[&CurvePoint], neutral: f64, rounds: usize) -> Panel {
    let mut series = Vec::new();
    let present: Vec<(usize, &str)> = SERIES
        .into_iter()
        .enumerate()
        .filter(|(_, name)| points.iter().any(|point| point.series == *name))
        .collect();
    let middle = (present.len() as f64 - 1.0) / 2.0;
    let apart = APART * (rounds as f64 / 3.0).max(1.0);
    for (place, (style, name)) in present.iter().enumerate() {
        let shift = (place as f64 - middle) * apart;
        let of_series = points.iter().filter(|point| point.series == *name);
        series.push(Series {
            label: (*name).to_owned(),
            style: *style,
            marks: of_series
                .map(|point| Mark {
                    x: f64::from(point.figure.round) + shift,
                    y: point.figure.value,
                    interval: point.figure.ci_low.zip(point.figure.ci_high),
                    solid: point.accepted != Some(false),
                    ringed: false,
                })
                .collect(),
        });
    }
    let mut guides = vec![Guide::Neutral(neutral)];
    let limit = points.iter().rev().find_map(|point| point.limit);
    // The limit of a gain is no effect: that line is there already.
    let limit = limit.filter(|limit| (limit - neutral).abs() > f64::EPSILON);
    guides.extend(limit.map(Guide::Limit));
    over_rounds(series, guides, limit.into_iter().chain([neutral]))
}

/// Lays series over rounds out; `also` is to be within the panel.
pub(super) fn over_rounds(
    series: Vec<Series>,
    guides: Vec<Guide>,
    also: impl Iterator<Item = f64>,
) -> Panel {
    let marks = || series.iter().flat_map(|series| &series.marks);
    let ends = marks().flat_map(|mark| {
        let (low, high) = mark.interval.unwrap_or((mark.y, mark.y));
        [low, high, mark.y]
    });
    let y = plot::range(ends.chain(also));
    let first = marks()
        .map(|mark| mark.x.round())
        .fold(f64::INFINITY, f64::min);
    let last = marks().map(|mark| mark.x.round()).fold(1.0, f64::max);
    Panel {
        size: SIZE,
        title: String::new(),
        legend: false,
        x: Axis {
            label: "round".to_owned(),
            range: first.min(last) - 0.5..last + 0.5,
            whole: true,
        },
        y: Axis {
            label: String::new(),
            range: y,
            whole: false,
        },
        series,
        bars: Vec::new(),
        guides,
    }
}
