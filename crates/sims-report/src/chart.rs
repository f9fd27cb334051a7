//! The curve of gain against drift as a picture.

use std::path::Path;

use plotters::prelude::*;

use crate::ReportError;
use crate::curve::Point;

/// Width and height. Unit: pixels.
const SIZE: (u32, u32) = (820, 520);
/// The colours of Okabe and Ito that stand out on white: told apart by nearly everybody.
const COLORS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];
/// Room above and beside the outermost points, as a share of what they span.
const ROOM: f64 = 0.08;

/// Draws every setting whose gain was measured: the win rate against the divergence on neutral text.
///
/// Settings at the same layers are joined; full dots pass every gate against harm, rings do not; the
/// accepted one has a circle around it, and the dashed line is the limit of the gate.
///
/// # Errors
/// [`ReportError::Chart`] if the file cannot be written or nothing can be drawn.
pub fn write(points: &[Point], title: &str, path: &Path) -> Result<(), ReportError> {
    let failed = |message: String| ReportError::Chart {
        path: path.to_owned(),
        message,
    };
    let drawn: Vec<(&Point, f64, [f64; 3])> = points
        .iter()
        .filter_map(|point| {
            let gain = point.reading("gain")?;
            let drift = point.reading("neutral-kl")?;
            Some((point, drift.value, [gain.low, gain.value, gain.high]))
        })
        .collect();
    let Some(limit) = drawn
        .first()
        .and_then(|(point, ..)| point.reading("neutral-kl"))
        .map(|drift| drift.limit)
    else {
        return Err(failed(
            "no setting has both a win rate and a divergence on neutral text; run steer-eval with neutral texts, \
             and with curve: whole to see the unsafe ones too"
                .to_owned(),
        ));
    };
    let right = drawn
        .iter()
        .map(|(_, drift, _)| *drift)
        .fold(limit, f64::max);
    let low = drawn.iter().map(|(.., gain)| gain[0]).fold(0.5, f64::min);
    let high = drawn.iter().map(|(.., gain)| gain[2]).fold(0.5, f64::max);
    let room = ROOM * (high - low);
    let mut svg = String::new();
    draw(
        &drawn,
        title,
        limit,
        right * (1.0 + ROOM),
        low - room..high + room,
        &mut svg,
    )
    .map_err(|error| failed(error.to_string()))?;
    std::fs::write(path, svg).map_err(|source| ReportError::Io {
        path: path.to_owned(),
        source,
    })
}

fn draw(
    drawn: &[(&Point, f64, [f64; 3])],
    title: &str,
    limit: f64,
    right: f64,
    rates: std::ops::Range<f64>,
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..right, rates.clone())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("KL to the base model on neutral text, nats a token")
        .y_desc("win rate against the base model, as judged")
        .draw()?;
    chart.draw_series(DashedLineSeries::new(
        [(limit, rates.start), (limit, rates.end)],
        6,
        5,
        BLACK.stroke_width(1),
    ))?;
    chart.draw_series(LineSeries::new([(0.0, 0.5), (right, 0.5)], BLACK.mix(0.4)))?;
    let mut sets: Vec<&[u32]> = Vec::new();
    for (point, ..) in drawn {
        if !sets.contains(&point.layers.as_slice()) {
            sets.push(&point.layers);
        }
    }
    for (number, layers) in sets.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let mut of_set: Vec<&(&Point, f64, [f64; 3])> = drawn
            .iter()
            .filter(|(point, ..)| point.layers == *layers)
            .collect();
        of_set.sort_by(|a, b| a.0.strength.total_cmp(&b.0.strength));
        let words = of_set[0].0.layers_in_words();
        chart
            .draw_series(LineSeries::new(
                of_set.iter().map(|(_, drift, gain)| (*drift, gain[1])),
                color.stroke_width(2),
            ))?
            .label(format!("layers {words}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        for (point, drift, gain) in of_set {
            chart.draw_series([PathElement::new(
                [(*drift, gain[0]), (*drift, gain[2])],
                color.mix(0.5),
            )])?;
            let style = if point.failed.is_empty() {
                color.filled()
            } else {
                color.stroke_width(1)
            };
            chart.draw_series([Circle::new((*drift, gain[1]), 4, style)])?;
            if point.accepted {
                chart.draw_series([Circle::new((*drift, gain[1]), 9, BLACK.stroke_width(2))])?;
            }
        }
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .position(SeriesLabelPosition::LowerRight)
        .draw()?;
    area.present()?;
    Ok(())
}
