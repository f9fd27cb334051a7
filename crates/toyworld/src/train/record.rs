//! The loss curve of a run: rows of `loss.csv` and their drawing.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::batch::{Batch, Kind};
use super::checkpoint::write_atomically;

/// Rows at least this heavy belong to an answer.
const ANSWER: f32 = 1.0;

/// Sums of losses over answer tokens, by kind of document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Totals {
    loss: [f64; 3],
    tokens: [u64; 3],
}

impl Totals {
    /// Counts the answer tokens of a batch; `losses` are weighted, one a row.
    pub(super) fn add(&mut self, batch: &Batch, losses: &[f32]) {
        for (document, kind) in batch.documents.iter().zip(&batch.kinds) {
            for row in document.clone() {
                if batch.weights[row] >= ANSWER {
                    self.loss[kind.index()] += f64::from(losses[row] / batch.weights[row]);
                    self.tokens[kind.index()] += 1;
                }
            }
        }
    }

    /// Returns the mean loss of each kind in nats a token; not a number when none was seen.
    pub(super) fn means(&self) -> [f64; 3] {
        std::array::from_fn(|i| self.loss[i] / self.tokens[i] as f64)
    }
}

/// Losses and accuracies on documents that are never trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Validation {
    /// Mean loss of answer tokens by kind, nats.
    pub(super) loss: [f64; 3],
    /// Share of comparisons whose likeliest verdict is the (noisy) label.
    pub(super) verdict: f64,
    /// Share of checks whose likeliest first mark (right or wrong content) is the true one.
    pub(super) first_mark: f64,
}

/// Returns the row that predicts a document's first answer token.
pub(super) fn first_answer_row(batch: &Batch, document: usize) -> Option<usize> {
    batch.documents[document]
        .clone()
        .find(|&row| batch.weights[row] >= ANSWER)
}

/// One row of the log.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Steps done.
    pub(super) step: u64,
    /// Tokens seen.
    pub(super) tokens: u64,
    /// Learning rate of the last step.
    pub(super) learning_rate: f64,
    /// Mean training loss of answer tokens since the row before, by kind.
    pub(super) loss: [f64; 3],
    /// Present on some rows.
    pub(super) validation: Option<Validation>,
}

const HEADER: &str = "step,tokens,learning_rate,chat_loss,comparison_loss,check_loss,\
validation_chat_loss,validation_comparison_loss,validation_check_loss,\
validation_verdict_accuracy,validation_first_mark_accuracy";

/// All rows of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LossLog {
    pub(super) rows: Vec<Row>,
}

impl LossLog {
    /// Reads the log of an interrupted run up to `step`; empty when there is none.
    pub(super) fn read(path: &Path, step: u64) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let rows = text
            .lines()
            .skip(1)
            .filter_map(parse)
            .filter(|r| r.step <= step)
            .collect();
        Self { rows }
    }

    /// Writes the log as CSV.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let mut text = format!("{HEADER}\n");
        for row in &self.rows {
            let [chat, comparison, check] = row.loss;
            let _ = write!(
                text,
                "{},{},{:.3e},{chat:.4},{comparison:.4},{check:.4}",
                row.step, row.tokens, row.learning_rate
            );
            match &row.validation {
                Some(v) => {
                    let [chat, comparison, check] = v.loss;
                    let _ = writeln!(
                        text,
                        ",{chat:.4},{comparison:.4},{check:.4},{:.4},{:.4}",
                        v.verdict, v.first_mark
                    );
                }
                None => text.push_str(",,,,,\n"),
            }
        }
        write_atomically(path, text.as_bytes())
    }

    /// Draws the losses against tokens as SVG: training thin, validation dotted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn draw(&self, path: &Path) -> Result<(), TrainError> {
        write_atomically(path, self.svg().as_bytes())
    }

    fn svg(&self) -> String {
        const WIDTH: f64 = 720.0;
        const HEIGHT: f64 = 360.0;
        const LEFT: f64 = 48.0;
        const BOTTOM: f64 = 40.0;
        const COLOURS: [&str; 3] = ["#1f77b4", "#d62728", "#2ca02c"];
        const NAMES: [&str; 3] = ["chat", "comparison", "check"];
        let tokens = self.rows.last().map_or(1.0, |r| r.tokens as f64).max(1.0);
        let top = 3.0;
        let x = |t: u64| LEFT + (WIDTH - LEFT - 12.0) * t as f64 / tokens;
        let y = |loss: f64| 12.0 + (HEIGHT - BOTTOM - 12.0) * (1.0 - loss.clamp(0.0, top) / top);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for i in 0..=6 {
            let loss = top * f64::from(i) / 6.0;
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"8\" y=\"{2:.1}\">{loss:.1}</text>",
                WIDTH - 12.0,
                y(loss),
                y(loss) + 4.0
            );
        }
        for i in 0..=4u64 {
            let at = (tokens * i as f64 / 4.0) as u64;
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.1}</text>",
                x(at).min(WIDTH - 24.0),
                HEIGHT - 22.0,
                at as f64 / 1e6
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">million tokens; nats an answer \
             token (dots: validation)</text>",
            (WIDTH + LEFT) / 2.0,
            HEIGHT - 6.0
        );
        for kind in Kind::ALL {
            let i = kind.index();
            let points: Vec<String> = self
                .rows
                .iter()
                .filter(|r| r.loss[i].is_finite())
                .map(|r| format!("{:.1},{:.1}", x(r.tokens), y(r.loss[i])))
                .collect();
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{}\" stroke-opacity=\"0.5\" points=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" fill=\"{0}\">{}</text>",
                COLOURS[i],
                points.join(" "),
                WIDTH - 110.0,
                30 + 16 * i,
                NAMES[i]
            );
            for row in &self.rows {
                if let Some(v) = row.validation.filter(|v| v.loss[i].is_finite()) {
                    let _ = writeln!(
                        svg,
                        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\" fill=\"{}\"/>",
                        x(row.tokens),
                        y(v.loss[i]),
                        COLOURS[i]
                    );
                }
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn parse(line: &str) -> Option<Row> {
    let cells: Vec<&str> = line.split(',').collect();
    let number = |i: usize| cells.get(i)?.parse::<f64>().ok();
    let three = |i: usize| Some([number(i)?, number(i + 1)?, number(i + 2)?]);
    let validation = three(6).and_then(|loss| {
        Some(Validation {
            loss,
            verdict: number(9)?,
            first_mark: number(10)?,
        })
    });
    Some(Row {
        step: cells.first()?.parse().ok()?,
        tokens: cells.get(1)?.parse().ok()?,
        learning_rate: number(2)?,
        loss: three(3)?,
        validation,
    })
}

#[cfg(test)]
mod tests {
    use super::super::batch::Example;
    use super::*;

    #[test]
    fn totals_are_unweighted_means_over_answer_tokens() -> candle_core::Result<()> {
        let example = |weights: &[f32], kind| Example {
            tokens: vec![1; weights.len()],
            weights: weights.to_vec(),
            kind,
        };
        let batch = Batch::pack(&[
            example(&[0.0, 0.1, 3.0, 1.0], Kind::Chat),
            example(&[0.0, 4.0], Kind::Comparison),
        ])?;
        let mut totals = Totals::default();
        totals.add(&batch, &[0.5, 6.0, 1.0, 0.0, 2.0, 0.0]);
        let means = totals.means();
        assert_eq!(means[..2], [1.5, 0.5]);
        assert!(means[2].is_nan());
        assert_eq!(first_answer_row(&batch, 0), Some(1));
        assert_eq!(first_answer_row(&batch, 1), Some(4));
        Ok(())
    }

    #[test]
    fn log_survives_a_round_trip_and_is_cut_at_the_checkpoint() -> Result<(), TrainError> {
        let dir = std::env::temp_dir().join(format!("toyworld-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary directory");
        let path = dir.join("loss.csv");
        let row = |step, validation| Row {
            step,
            tokens: step * 2000,
            learning_rate: 0.0025,
            loss: [1.5, 0.25, 0.5],
            validation,
        };
        let v = Validation {
            loss: [1.25, 0.5, 0.75],
            verdict: 0.75,
            first_mark: 0.5,
        };
        let log = LossLog {
            rows: vec![row(50, None), row(100, Some(v)), row(150, None)],
        };
        log.write(&path)?;
        assert_eq!(LossLog::read(&path, 1000), log);
        assert_eq!(LossLog::read(&path, 100).rows.len(), 2);
        assert!(log.svg().ends_with("</svg>\n"));
        std::fs::remove_dir_all(&dir).expect("temporary directory");
        Ok(())
    }
}
