//! The curve of gain against drift as a picture.

use std::path::Path;

use crate::ReportError;
use crate::curve::Point;
use crate::plot::{self, Axis, Guide, Mark, Panel, Series};

/// Width and height of the picture in a file. Unit: pixels.
const SIZE: (u32, u32) = (820, 520);

/// Lays every setting out whose gain was measured: the win rate against the divergence on neutral text.
///
/// Settings at the same layers are joined; full marks pass every gate against harm, outlines do not; the
/// accepted one has a ring around it, and the dashed line is the limit of the gate. None where no setting
/// has both figures.
pub fn panel(points: &[Point], size: (u32, u32)) -> Option<Panel> {
    let mut series: Vec<Series> = Vec::new();
    let mut limit = None;
    let mut sorted: Vec<&Point> = points.iter().collect();
    sorted.sort_by(|a, b| a.strength.total_cmp(&b.strength));
    // The sets of layers keep the order in which they were tried.
    for point in points {
        let label = format!("layers {}", point.layers_in_words());
        if series.iter().any(|series| series.label == label) {
            continue;
        }
        let mut marks = Vec::new();
        for point in sorted.iter().filter(|other| other.layers == point.layers) {
            let (Some(gain), Some(drift)) = (point.reading("gain"), point.reading("neutral-kl"))
            else {
                continue;
            };
            limit = Some(drift.limit);
            marks.push(Mark {
                x: drift.value,
                y: gain.value,
                interval: Some((gain.low, gain.high)),
                solid: point.failed.is_empty(),
                ringed: point.accepted,
            });
        }
        if !marks.is_empty() {
            let style = series.len();
            series.push(Series {
                label,
                style,
                marks,
            });
        }
    }
    let limit = limit?;
    let marks = || series.iter().flat_map(|series| &series.marks);
    let right = marks().map(|mark| mark.x).fold(limit, f64::max);
    let rates = marks().filter_map(|mark| mark.interval);
    let rates = rates.flat_map(|(low, high)| [low, high]).chain([0.5]);
    let y = plot::range(rates);
    Some(Panel {
        size,
        title: String::new(),
        legend: false,
        x: Axis {
            label: "KL to the base on neutral text, nats a token".to_owned(),
            range: 0.0..right * 1.08,
            whole: false,
        },
        y: Axis {
            label: String::new(),
            range: y,
            whole: false,
        },
        series,
        bars: Vec::new(),
        guides: vec![Guide::Neutral(0.5), Guide::LimitAcross(limit)],
    })
}

/// Draws the settings into an SVG file.
///
/// # Errors
/// [`ReportError::Chart`] if the file cannot be written or nothing can be drawn.
pub fn write(points: &[Point], title: &str, path: &Path) -> Result<(), ReportError> {
    let failed = |message: String| ReportError::Chart {
        path: path.to_owned(),
        message,
    };
    let Some(mut panel) = panel(points, SIZE) else {
        return Err(failed(
            "no setting has both a win rate and a divergence on neutral text; run steer-eval with neutral texts, \
             and with curve: whole to see the unsafe ones too"
                .to_owned(),
        ));
    };
    title.clone_into(&mut panel.title);
    panel.legend = true;
    "win rate against the base model, as judged".clone_into(&mut panel.y.label);
    let svg = plot::standalone(&panel).map_err(failed)?;
    std::fs::write(path, svg).map_err(|source| ReportError::Io {
        path: path.to_owned(),
        source,
    })
}
