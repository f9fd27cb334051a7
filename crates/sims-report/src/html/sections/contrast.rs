//! Contrast pairs: margins, scores, dropped reasons.

use maud::{Markup, html};

use crate::ReportError;
use crate::html::figure::{figure, legend};
use crate::html::page::{Section, note};
use crate::html::sections::last_rounds;
use crate::html::table::{bar, scroll};
use crate::number::number;
use crate::parts::Parts;
use crate::parts::contrast::{Bin, Contrast};
use crate::plot::{Axis, Bar, Panel};

const SIZE: (u32, u32) = (340, 190);
/// The colours of the first group and of the second.
const STYLES: [usize; 2] = [0, 1];

pub(in crate::html) fn section(parts: &Parts) -> Result<Section, ReportError> {
    let contrast = &parts.contrast;
    let rounds = last_rounds(contrast.kept.iter().map(|(round, ..)| *round));
    let scores = histograms(
        &contrast.scores,
        &rounds,
        "scores",
        ["chosen", "rejected"],
        false,
    )?;
    let margins = histograms(
        &contrast.margins,
        &rounds,
        "margins",
        ["kept", "dropped"],
        true,
    )?;
    Ok(Section {
        id: "contrast",
        short: "Contrast",
        title: "Contrast pairs",
        lead: "How far apart the judge puts the better and the worse answer to a prompt. Little overlap and wide \
               margins make a clear direction.",
        body: html! {
            @if contrast.kept.is_empty() {
                (note("No round has contrast pairs."))
            } @else {
                @if !scores.is_empty() {
                    h3 { "Scores of both sides" }
                    (legend([(STYLES[0], "chosen"), (STYLES[1], "rejected")].into_iter()))
                    div.grid { @for figure in &scores { (figure) } }
                }
                @if !margins.is_empty() {
                    h3 { "Margins" }
                    (legend([(STYLES[0], "kept"), (STYLES[1], "dropped, on top")].into_iter()))
                    div.grid { @for figure in &margins { (figure) } }
                }
                h3 { "Kept, and dropped by reason" }
                (scroll("Pairs kept and dropped", &reasons(contrast)))
            }
        },
        files: &["margins", "pair_scores", "dropped_pairs"],
    })
}

/// A histogram a round: the second group on top of the first, or in front of it.
fn histograms(
    bins: &[Bin],
    rounds: &[u32],
    id: &str,
    groups: [&str; 2],
    stacked: bool,
) -> Result<Vec<Markup>, ReportError> {
    let height = |bin: &Bin| match stacked {
        true => bin.first + bin.second,
        false => bin.first.max(bin.second),
    };
    let highest = bins.iter().map(height).max().unwrap_or(0) as f64;
    let mut figures = Vec::new();
    for round in rounds {
        let of_round: Vec<&Bin> = bins.iter().filter(|bin| bin.round == *round).collect();
        let (Some(first), Some(last)) = (of_round.first(), of_round.last()) else {
            continue;
        };
        let mut bars = Vec::new();
        for bin in &of_round {
            let (kept, other) = (bin.first as f64, bin.second as f64);
            let middle = (bin.low + bin.high) / 2.0;
            let (left, right) = match stacked {
                true => ((bin.low, bin.high), (bin.low, bin.high)),
                false => ((bin.low, middle), (middle, bin.high)),
            };
            let bottom = if stacked { kept } else { 0.0 };
            let group = [(left, (0.0, kept)), (right, (bottom, bottom + other))];
            let drawn = group
                .into_iter()
                .zip(STYLES)
                .filter(|((_, y), _)| y.1 > y.0);
            bars.extend(drawn.map(|((x, y), style)| Bar { x, y, style }));
        }
        let panel = Panel {
            size: SIZE,
            title: String::new(),
            legend: false,
            x: Axis {
                label: match id {
                    "margins" => "margin of the score",
                    _ => "score within the prompt",
                }
                .to_owned(),
                range: first.low..last.high,
                whole: false,
            },
            y: Axis {
                label: String::new(),
                range: 0.0..(highest * 1.08).max(1.0),
                whole: true,
            },
            series: Vec::new(),
            bars,
            guides: Vec::new(),
        };
        let title = format!("Round {round}");
        figures.push(figure(
            &format!("{id}-{round}"),
            &title,
            &panel,
            &words(&of_round, groups),
        )?);
    }
    Ok(figures)
}

/// Says where the two groups of a histogram lie.
fn words(bins: &[&Bin], groups: [&str; 2]) -> String {
    let group = |name: &str, of: &dyn Fn(&Bin) -> u64| {
        let all: u64 = bins.iter().map(|bin| of(bin)).sum();
        let most = bins.iter().max_by_key(|bin| of(bin));
        most.filter(|_| all > 0).map_or_else(
            || format!("{name}: none"),
            |bin| {
                let (low, high) = (number(bin.low), number(bin.high));
                format!(
                    "{name}: {all}, most of them, {}, from {low} to {high}",
                    of(bin)
                )
            },
        )
    };
    format!(
        "{}. {}",
        group(groups[0], &|bin| bin.first),
        group(groups[1], &|bin| bin.second)
    )
}

fn reasons(contrast: &Contrast) -> Markup {
    let mut names: Vec<&str> = contrast
        .reasons
        .iter()
        .map(|reason| reason.reason.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    let most = contrast
        .kept
        .iter()
        .map(|(_, kept, dropped)| kept + dropped)
        .max();
    let share = |pairs: u64| pairs as f64 / most.unwrap_or(1).max(1) as f64;
    let cell = |pairs: u64| html! { td.n { (pairs) (bar(share(pairs))) } };
    html! {
        table.bars {
            caption.quiet { "Pairs kept and dropped, by reason and round" }
            thead {
                tr {
                    th scope="col" { "Pairs" }
                    @for (round, ..) in &contrast.kept { th.n scope="col" { "round " (round) } }
                }
            }
            tbody {
                tr {
                    th scope="row" { "kept" }
                    @for (_, kept, _) in &contrast.kept { (cell(*kept)) }
                }
                @for name in &names {
                    tr {
                        th scope="row" { "dropped: " (name) }
                        @for (round, ..) in &contrast.kept {
                            @let found = contrast.reasons.iter().find(|reason| reason.round == *round && reason.reason == *name);
                            (cell(found.map_or(0, |reason| reason.pairs)))
                        }
                    }
                }
            }
        }
    }
}
