//! A chart with its title, its legend and its figures in words.

use maud::{Markup, PreEscaped, html};

use crate::ReportError;
use crate::number::{number, with_interval};
use crate::plot::{self, Panel, Series};

/// Lays a chart out; `id` must be the only one of its kind on the page.
pub(super) fn figure(
    id: &str,
    title: &str,
    panel: &Panel,
    words: &str,
) -> Result<Markup, ReportError> {
    let svg = plot::inline(panel).map_err(ReportError::Drawing)?;
    let (view_box, body) = svg
        .strip_prefix("<svg")
        .and_then(|rest| rest.split_once('>'))
        .unwrap_or_default();
    let attributes = html! {
        title id=(format!("{id}-title")) { (title) }
        desc id=(format!("{id}-words")) { (words) }
    };
    let svg = format!(
        "<svg{view_box} role=\"img\" aria-labelledby=\"{id}-title\" aria-describedby=\"{id}-words\">{}{body}",
        attributes.into_string()
    );
    Ok(html! {
        figure {
            figcaption { (title) }
            (PreEscaped(svg))
        }
    })
}

/// Names the series once for a group of charts: by colour, by shape and in words.
pub(super) fn legend<'a>(entries: impl Iterator<Item = (usize, &'a str)>) -> Markup {
    html! {
        ul.legend {
            @for (style, label) in entries {
                li { (symbol(style)) (label) }
            }
        }
    }
}

fn symbol(style: usize) -> Markup {
    let color = format!("var(--s{})", style % plot::SERIES);
    let corners = plot::shape(style, 4).map(|corners| {
        let corner = |(x, y): &(i32, i32)| format!("{},{}", x + 12, y + 7);
        corners.iter().map(corner).collect::<Vec<_>>().join(" ")
    });
    html! {
        svg.key viewBox="0 0 24 14" width="24" height="14" aria-hidden="true" {
            line x1="0" y1="7" x2="24" y2="7" stroke=(color) stroke-width="2" {}
            @if let Some(corners) = corners {
                polygon points=(corners) fill=(color) {}
            } @else {
                circle cx="12" cy="7" r="4" fill=(color) {}
            }
        }
    }
}

/// Says what the marks of series over rounds show.
pub(super) fn words_of_rounds(series: &[Series]) -> String {
    words(series, |x| format!("round {x:.0}"))
}

/// Says what marks show, each by where it stands.
pub(super) fn words(series: &[Series], place: impl Fn(f64) -> String) -> String {
    let one = |series: &Series| {
        let marks = series.marks.iter().map(|mark| {
            let (low, high) = mark.interval.unzip();
            format!("{} {}", place(mark.x), with_interval(mark.y, low, high))
        });
        format!("{}: {}", series.label, marks.collect::<Vec<_>>().join("; "))
    };
    series.iter().map(one).collect::<Vec<_>>().join(". ")
}

/// Says where a figure across stands.
pub(super) fn at(name: &'static str) -> impl Fn(f64) -> String {
    move |x| format!("at {name} {}", number(x))
}
