//! Small charts as SVG: marks with intervals, lines, bars, guides.
//!
//! A panel is drawn in placeholder colours, one a role, at twice its size, since plotters rounds to whole
//! pixels. [`inline`] turns them into the page's CSS variables, [`standalone`] into fixed colours.

use std::ops::Range;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// User units a pixel.
const SCALE: u32 = 2;
/// Height of the letters. Unit: pixels.
const LETTERS: f64 = 12.0;
/// plotters divides the height of letters by this.
const PLOTTERS_LETTERS: f64 = 1.24;
/// How many series have a colour and a shape of their own; the next begin again.
pub const SERIES: usize = 5;

/// What a line, a mark or a letter is, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Paper,
    Ink,
    Muted,
    Grid,
    Limit,
    Series(usize),
}

/// Every role with its variable on the page and its colour in a file.
///
/// Series: Okabe and Ito's colours, darker where they are faint on white.
const PALETTE: [(Role, &str, &str); 5 + SERIES] = [
    (Role::Paper, "var(--paper)", "#FFFFFF"),
    (Role::Ink, "var(--ink)", "#1B1D20"),
    (Role::Muted, "var(--muted)", "#5A6068"),
    (Role::Grid, "var(--line)", "#E2E3E1"),
    (Role::Limit, "var(--bad)", "#A3261B"),
    (Role::Series(0), "var(--s0)", "#0067A3"),
    (Role::Series(1), "var(--s1)", "#C04F00"),
    (Role::Series(2), "var(--s2)", "#007A58"),
    (Role::Series(3), "var(--s3)", "#A04A83"),
    (Role::Series(4), "var(--s4)", "#5A6068"),
];

impl Role {
    /// The placeholder: a colour that nothing else has.
    fn color(self) -> RGBColor {
        let place = PALETTE.iter().position(|(role, ..)| *role == self);
        // Every role is in the palette; there are ten.
        RGBColor(1, 2, place.unwrap_or(0) as u8)
    }

    fn series(number: usize) -> Self {
        Self::Series(number % SERIES)
    }
}

/// A mark with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// Across.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// The ends of the interval of `y`.
    pub interval: Option<(f64, f64)>,
    /// Filled, or an outline.
    pub solid: bool,
    /// Whether a ring stands out around it.
    pub ringed: bool,
}

/// Marks of one colour and shape, joined in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name.
    pub label: String,
    /// Its place in the palette.
    pub style: usize,
    /// The marks.
    pub marks: Vec<Mark>,
}

/// A bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// From where to where across.
    pub x: (f64, f64),
    /// From where to where up.
    pub y: (f64, f64),
    /// Its place in the palette.
    pub style: usize,
}

/// A line across the panel.
#[derive(Debug, Clone, PartialEq)]
pub enum Guide {
    /// What no effect reads: a level line.
    Neutral(f64),
    /// A limit: a dashed level line with its name.
    Limit(f64),
    /// A limit of what is drawn across: a dashed upright line with its name.
    LimitAcross(f64),
}

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What it shows; empty for nothing.
    pub label: String,
    /// From where to where.
    pub range: Range<f64>,
    /// Whether only whole numbers have labels.
    pub whole: bool,
}

/// A chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Width and height. Unit: pixels.
    pub size: (u32, u32),
    /// The title within the chart; empty for none.
    pub title: String,
    /// Whether the series' names stand within the chart.
    pub legend: bool,
    /// Across.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// Marks and lines.
    pub series: Vec<Series>,
    /// Bars, behind everything.
    pub bars: Vec<Bar>,
    /// Lines across.
    pub guides: Vec<Guide>,
}

/// Returns a range that holds all `values`, with room on both sides; around a single value as well.
pub fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    const ROOM: f64 = 0.1;
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return 0.0..1.0;
    }
    let span = if high > low {
        high - low
    } else {
        low.abs().max(1.0)
    };
    low - ROOM * span..high + ROOM * span
}

/// The corners of the shape of a series, around the origin; none for a circle.
pub fn shape(style: usize, radius: i32) -> Option<Vec<(i32, i32)>> {
    let r = radius;
    match style % SERIES {
        0 => None,
        1 => Some(vec![(-r, -r), (r, -r), (r, r), (-r, r)]),
        2 => Some(vec![(0, -r - r / 3), (r + r / 4, r), (-r - r / 4, r)]),
        3 => Some(vec![
            (0, -r - r / 2),
            (r + r / 2, 0),
            (0, r + r / 2),
            (-r - r / 2, 0),
        ]),
        _ => Some(vec![(-r - r / 4, -r), (r + r / 4, -r), (0, r + r / 3)]),
    }
}

/// Draws a panel for the page.
///
/// # Errors
/// What plotters finds wrong.
pub fn inline(panel: &Panel) -> Result<String, String> {
    let svg = draw(panel).map_err(|error| error.to_string())?;
    let (_, body) = svg.split_once('>').unwrap_or_default();
    let (width, height) = panel.size;
    let body =
        recolor(body, |(_, variable, _)| variable).replace(" font-family=\"sans-serif\"", "");
    let (width, height) = (width * SCALE, height * SCALE);
    Ok(format!("<svg viewBox=\"0 0 {width} {height}\">{body}"))
}

/// Draws a panel for a file of its own, on white.
///
/// # Errors
/// What plotters finds wrong.
pub fn standalone(panel: &Panel) -> Result<String, String> {
    let svg = draw(panel).map_err(|error| error.to_string())?;
    let (head, body) = svg.split_once('>').unwrap_or_default();
    let (width, height) = panel.size;
    let (full_width, full_height) = (width * SCALE, height * SCALE);
    let head = head
        .replace(
            &format!("width=\"{full_width}\""),
            &format!("width=\"{width}\""),
        )
        .replace(
            &format!("height=\"{full_height}\""),
            &format!("height=\"{height}\""),
        );
    let paper = "<rect width=\"100%\" height=\"100%\" fill=\"#FFFFFF\"/>";
    Ok(format!(
        "{head}>\n{paper}{}",
        recolor(body, |(_, _, color)| color)
    ))
}

fn recolor(
    svg: &str,
    color: impl Fn((Role, &'static str, &'static str)) -> &'static str,
) -> String {
    let mut svg = svg.to_owned();
    for entry in PALETTE {
        let RGBColor(r, g, b) = entry.0.color();
        svg = svg.replace(&format!("#{r:02X}{g:02X}{b:02X}"), color(entry));
    }
    svg
}

/// A length in pixels as plotters takes it.
fn pixels(length: u32) -> u32 {
    length * SCALE
}

fn letters(role: Role) -> TextStyle<'static> {
    let height = LETTERS * f64::from(SCALE) * PLOTTERS_LETTERS;
    ("sans-serif", height).into_font().color(&role.color())
}

fn label(value: f64, axis: &Axis) -> String {
    if axis.whole {
        let near = (value - value.round()).abs() < 1e-6;
        return if near {
            format!("{value:.0}")
        } else {
            String::new()
        };
    }
    let span = axis.range.end - axis.range.start;
    let decimals = match span {
        _ if span >= 20.0 => 0,
        _ if span >= 2.0 => 1,
        _ if span >= 0.08 => 2,
        _ => 3,
    };
    // No minus before a zero.
    format!("{:.decimals$}", value + 0.0).replace("-0.00", "0.00")
}

fn draw(panel: &Panel) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    let (width, height) = panel.size;
    let area =
        SVGBackend::with_string(&mut svg, (pixels(width), pixels(height))).into_drawing_area();
    let (x, y) = (panel.x.range.clone(), panel.y.range.clone());
    let mut builder = ChartBuilder::on(&area);
    builder
        .margin_top(pixels(10))
        .margin_right(pixels(14))
        .x_label_area_size(pixels(if panel.x.label.is_empty() { 24 } else { 42 }))
        .y_label_area_size(pixels(if panel.y.label.is_empty() { 42 } else { 60 }));
    if !panel.title.is_empty() {
        builder.caption(&panel.title, letters(Role::Ink));
    }
    let mut chart = builder.build_cartesian_2d(x.clone(), y.clone())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(Role::Grid.color().stroke_width(SCALE))
        .axis_style(Role::Grid.color().stroke_width(SCALE))
        .set_all_tick_mark_size(pixels(4))
        .x_labels(7)
        .y_labels(5)
        .x_label_formatter(&|value| label(*value, &panel.x))
        .y_label_formatter(&|value| label(*value, &panel.y))
        .label_style(letters(Role::Muted))
        .axis_desc_style(letters(Role::Muted))
        .x_desc(&panel.x.label)
        .y_desc(&panel.y.label)
        .draw()?;
    chart.draw_series(panel.bars.iter().map(|bar| {
        Rectangle::new(
            [(bar.x.0, bar.y.0), (bar.x.1, bar.y.1)],
            Role::series(bar.style).color().mix(0.85).filled(),
        )
    }))?;
    for guide in &panel.guides {
        let dashed = |from, to| {
            let style = Role::Limit.color().stroke_width(SCALE);
            DashedLineSeries::new([from, to], pixels(4), pixels(3), style)
        };
        match *guide {
            Guide::Neutral(at) => {
                let style = Role::Muted.color().mix(0.7).stroke_width(SCALE);
                chart.draw_series(LineSeries::new([(x.start, at), (x.end, at)], style))?;
            }
            Guide::Limit(at) => {
                chart.draw_series(dashed((x.start, at), (x.end, at)))?;
                // Within the panel: below a line in its upper half, above one in its lower half.
                let upper = at > (y.start + y.end) / 2.0;
                let (shift, side) = if upper {
                    (4, VPos::Top)
                } else {
                    (-4, VPos::Bottom)
                };
                let style = letters(Role::Limit).pos(Pos::new(HPos::Left, side));
                let text = Text::new("limit", (pixels(4) as i32, shift), style);
                chart.draw_series([EmptyElement::at((x.start, at)) + text])?;
            }
            Guide::LimitAcross(at) => {
                chart.draw_series(dashed((at, y.start), (at, y.end)))?;
                let left = at > (x.start + x.end) / 2.0;
                let (shift, side) = if left {
                    (-8, HPos::Right)
                } else {
                    (8, HPos::Left)
                };
                let style = letters(Role::Limit).pos(Pos::new(side, VPos::Bottom));
                let text = Text::new("limit", (shift, -8), style);
                chart.draw_series([EmptyElement::at((at, y.start)) + text])?;
            }
        }
    }
    for series in &panel.series {
        let color = Role::series(series.style).color();
        let line = LineSeries::new(
            series.marks.iter().map(|mark| (mark.x, mark.y)),
            color.stroke_width(pixels(2)),
        );
        let drawn = chart.draw_series(line)?;
        if panel.legend {
            drawn.label(&series.label).legend(move |at| key(at, color));
        }
        chart.draw_series(series.marks.iter().filter_map(|mark| {
            let (low, high) = mark.interval?;
            let ends = [(mark.x, low), (mark.x, high)];
            Some(PathElement::new(
                ends,
                color.mix(0.6).stroke_width(pixels(1)),
            ))
        }))?;
        for mark in &series.marks {
            let at = (mark.x, mark.y);
            let inside = if mark.solid {
                color
            } else {
                Role::Paper.color()
            };
            let edge = color.stroke_width(pixels(2));
            if let Some(corners) = shape(series.style, pixels(4) as i32) {
                let mut outline = corners.clone();
                outline.extend(corners.first());
                chart.draw_series([EmptyElement::at(at)
                    + Polygon::new(corners, inside.filled())
                    + PathElement::new(outline, edge)])?;
            } else {
                chart.draw_series([EmptyElement::at(at)
                    + Circle::new((0, 0), pixels(4), inside.filled())
                    + Circle::new((0, 0), pixels(4), edge)])?;
            }
            if mark.ringed {
                let ring = Role::Ink.color().stroke_width(pixels(2));
                chart.draw_series([Circle::new(at, pixels(9), ring)])?;
            }
        }
    }
    if panel.legend {
        chart
            .configure_series_labels()
            .label_font(letters(Role::Ink))
            .background_style(Role::Paper.color().mix(0.85))
            .border_style(Role::Grid.color())
            .position(SeriesLabelPosition::LowerRight)
            .draw()?;
    }
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}

/// The line before a name in a legend.
fn key(at: (i32, i32), color: RGBColor) -> PathElement<(i32, i32)> {
    let (x, y) = at;
    PathElement::new(
        [(x, y), (x + pixels(10) as i32, y)],
        color.stroke_width(pixels(2)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel() -> Panel {
        Panel {
            size: (360, 220),
            title: String::new(),
            legend: false,
            x: Axis {
                label: "<round>".into(),
                range: 0.5..2.5,
                whole: true,
            },
            y: Axis {
                label: String::new(),
                range: range([0.5, 0.7].into_iter()),
                whole: false,
            },
            series: vec![Series {
                label: "gold".into(),
                style: 1,
                marks: vec![
                    Mark {
                        x: 1.0,
                        y: 0.6,
                        interval: Some((0.55, 0.65)),
                        solid: true,
                        ringed: true,
                    },
                    Mark {
                        x: 2.0,
                        y: 0.7,
                        interval: None,
                        solid: false,
                        ringed: false,
                    },
                ],
            }],
            bars: Vec::new(),
            guides: vec![Guide::Neutral(0.5), Guide::Limit(0.7)],
        }
    }

    #[test]
    fn no_placeholder_is_left_and_text_is_escaped() {
        let svg = inline(&panel()).unwrap();
        assert!(svg.starts_with("<svg viewBox=\"0 0 720 440\">"), "{svg}");
        assert!(svg.contains("var(--s1)") && svg.contains("var(--bad)"));
        assert!(!svg.contains("#0102"), "{svg}");
        assert!(svg.contains("&lt;round&gt;") && !svg.contains("<round>"));
        let file = standalone(&panel()).unwrap();
        assert!(file.contains("#C04F00") && !file.contains("var("));
        assert!(file.contains("width=\"360\" height=\"220\""), "{file}");
    }

    #[test]
    fn ranges_have_room_even_around_one_value() {
        assert_eq!(range([1.0, 2.0].into_iter()), 0.9..2.1);
        assert_eq!(range([f64::NAN, 3.0].into_iter()), 2.7..3.3);
        assert_eq!(range(std::iter::empty()), 0.0..1.0);
    }
}
