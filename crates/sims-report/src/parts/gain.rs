//! What a gain costs: points of win rate over the base model for each hour of a device.
//!
//! A way to better answers costs twice: once to make what it answers with (the loop up to a steering, the fine-tuning up
//! to an adapter), and with every answer, beyond what a plain answer costs (best of ten samples nine more and has all
//! compared). Both are traced through the run record from the figure back, so that what only measures counts nowhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sims_pipeline::FedBy;

use super::curves::{GOLD, JUDGED};
use super::spent::{Prices, Spent};
use crate::data_table::DataTable;
use crate::metrics::Figure;
use crate::number::with_interval;
use crate::run::{Run, StageSummary};

/// What was made before any answer comes in through these roles.
const MADE: [&str; 2] = ["steering", "adapter"];
/// What is read for comparison only.
const BESIDE: [&str; 3] = ["base-responses", "incumbent", "neutral"];
/// The stage that draws, judges and reads neutral text at once.
const STEER_EVAL: &str = "steer-eval";

/// A gain and its cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Gain {
    /// The run.
    pub run: String,
    /// The win rate against the base model.
    pub figure: Figure,
    /// What making it took, all rounds up to this one.
    pub making: Spent,
    /// What an answer takes beyond a plain one: hours of the device that `hours` counts.
    pub per_answer: f64,
    /// Whether hours are those of GPUs; else of CPU cores.
    pub on_gpu: bool,
    /// Making it and `answers` answers. Unit: hours.
    pub hours: f64,
    /// The same in money; none without a price.
    pub money: Option<f64>,
}

impl Gain {
    /// Writes the gain with its interval: `20.9 [19.6, 22.2]`.
    pub fn points_in_words(&self) -> String {
        match self.points() {
            [Some(points), Some(low), Some(high)] => format!("{points:.1} [{low:.1}, {high:.1}]"),
            [points, ..] => format!("{:.1}", points.unwrap_or(0.0)),
        }
    }

    /// Writes the points an hour with their interval; empty where nothing was spent.
    pub fn per_hour_in_words(&self) -> String {
        let [rate, low, high] = self.per_hour();
        rate.map_or_else(String::new, |rate| with_interval(rate, low, high))
    }

    /// Returns the gain and its interval in points: a win rate of 0.62 is a gain of 12.
    pub fn points(&self) -> [Option<f64>; 3] {
        let figure = &self.figure;
        [Some(figure.value), figure.ci_low, figure.ci_high]
            .map(|share| share.map(|share| 100.0 * (share - 0.5)))
    }

    /// Returns the points an hour with their interval; none where nothing was spent.
    ///
    /// The interval is that of the gain; hours are what they were.
    pub fn per_hour(&self) -> [Option<f64>; 3] {
        self.points().map(|points| {
            points
                .filter(|_| self.hours > 0.0)
                .map(|points| points / self.hours)
        })
    }

    /// Names what an hour is of.
    pub fn unit(&self) -> &'static str {
        if self.on_gpu { "GPU-hour" } else { "core-hour" }
    }

    /// Names the device whose hours count.
    pub fn device(&self) -> &'static str {
        if self.on_gpu { "GPU" } else { "core" }
    }
}

/// Says how hours are counted.
pub fn in_words(answers: u32) -> String {
    format!(
        "Hours are those of making it, once, and of {answers} answers beyond what plain ones take: none under a steering \
         or an adapter; for best of K, the further samples and all comparisons. What only measures is left out. \
         Intervals are those of the gain."
    )
}

/// Returns the win rate that gains are read from: by gold where there is gold, else as judged.
pub fn metric_of(run: &Run) -> &'static str {
    let has_gold = run.figures.iter().any(|figure| figure.metric == GOLD);
    if has_gold { GOLD } else { JUDGED }
}

/// Returns what each figure of `metric` against the base cost, counted over making it and `answers` answers.
///
/// Empty where the run's record does not say what fed what: a run made before it did, and run once more, does.
pub fn gains(run: &Run, metric: &str, answers: u32, prices: &Prices) -> Vec<Gain> {
    let figures = run.figures.iter();
    figures
        .filter(|figure| figure.metric == metric && figure.baseline == "base")
        .filter_map(|figure| Trace { run, prices }.gain(figure, answers))
        .collect()
}

/// Follows inputs back through the record of a run.
struct Trace<'a> {
    run: &'a Run,
    prices: &'a Prices,
}

impl Trace<'_> {
    fn gain(&self, figure: &Figure, answers: u32) -> Option<Gain> {
        let measured = instance(figure.round, &figure.node);
        let record = self.run.record.stages.get(&measured)?;
        let answered = match record.inputs.get("responses").and_then(|fed| fed.first()) {
            Some(fed) => fed.clone(),
            None => FedBy {
                stage: measured.clone(),
                output: "responses".to_owned(),
            },
        };
        let (mut answering, mut making) = (BTreeSet::new(), BTreeSet::new());
        self.walk(&answered.stage, &mut answering, &mut making);
        if making.is_empty() && self.is_base(&answering) {
            return None;
        }
        let making = Spent::sum(&self.spent(&making));
        let each = self.answer(&answered, &answering)?;
        let plain = record
            .inputs
            .get("base-responses")
            .and_then(|fed| fed.first());
        let plain = plain.and_then(|fed| self.answer(fed, &BTreeSet::from([fed.stage.clone()])));
        let plain = plain.unwrap_or_default();
        let on_gpu = making.gpu_hours + each.gpu_hours > 0.0;
        let of = |spent: &Spent| {
            if on_gpu {
                spent.gpu_hours
            } else {
                spent.core_hours
            }
        };
        let per_answer = (of(&each) - of(&plain)).max(0.0);
        let of_answers = f64::from(answers) * per_answer;
        let price = if on_gpu {
            self.prices.gpu_hour
        } else {
            self.prices.core_hour
        };
        let money = price.map(|price| of_answers * price + making.money.unwrap_or(0.0));
        Some(Gain {
            run: self.run.name.clone(),
            figure: figure.clone(),
            hours: of(&making) + of_answers,
            money: money.or(making.money),
            making,
            per_answer,
            on_gpu,
        })
    }

    /// Adds a stage that answers and all that it needs to: before any answer, and with each.
    fn walk(
        &self,
        stage: &Path,
        answering: &mut BTreeSet<PathBuf>,
        making: &mut BTreeSet<PathBuf>,
    ) {
        if !answering.insert(stage.to_owned()) {
            return;
        }
        for (role, fed) in self.inputs(stage) {
            for fed in fed {
                if MADE.contains(&role) {
                    self.ancestors(&fed.stage, making);
                } else if !BESIDE.contains(&role) {
                    self.walk(&fed.stage, answering, making);
                }
            }
        }
    }

    fn ancestors(&self, stage: &Path, found: &mut BTreeSet<PathBuf>) {
        if found.insert(stage.to_owned()) {
            for (_, fed) in self.inputs(stage) {
                fed.iter().for_each(|fed| self.ancestors(&fed.stage, found));
            }
        }
    }

    fn inputs(&self, stage: &Path) -> impl Iterator<Item = (&str, &[FedBy])> {
        let inputs = self
            .run
            .record
            .stages
            .get(stage)
            .map(|record| &record.inputs);
        let inputs = inputs.into_iter().flatten();
        inputs.map(|(role, fed)| (role.as_str(), fed.as_slice()))
    }

    /// Tells whether the answers are plain samples: base against base has no gain to pay for.
    fn is_base(&self, answering: &BTreeSet<PathBuf>) -> bool {
        let plain = |stage: &PathBuf| {
            let samples = self
                .summary(stage)
                .is_some_and(|summary| summary.stage == "sample");
            samples && !self.is_prompted(stage)
        };
        answering.len() == 1 && answering.iter().all(plain)
    }

    /// Tells whether a stage that samples puts something before every prompt.
    fn is_prompted(&self, stage: &Path) -> bool {
        let name = stage.file_name().and_then(|name| name.to_str());
        let nodes = self
            .run
            .pipeline
            .iter()
            .flat_map(|pipeline| &pipeline.nodes);
        nodes
            .filter(|node| Some(node.name.as_str()) == name)
            .any(|node| node.inputs.iter().any(|input| input.role == "examples"))
    }

    /// Returns what one answer takes, where that can be told from measuring it.
    fn answer(&self, answered: &FedBy, answering: &BTreeSet<PathBuf>) -> Option<Spent> {
        let summary = self.summary(&answered.stage)?;
        // It draws, judges and more: an answer under steering takes what a plain one takes.
        if summary.stage == STEER_EVAL {
            return Some(Spent::default());
        }
        let rows = *summary.counts.get(&format!("{}_rows", answered.output))?;
        let spent = Spent::sum(&self.spent(answering));
        (rows > 0.0).then(|| Spent {
            gpu_hours: spent.gpu_hours / rows,
            core_hours: spent.core_hours / rows,
            ..Spent::default()
        })
    }

    fn spent(&self, stages: &BTreeSet<PathBuf>) -> Vec<Spent> {
        let summaries = stages.iter().filter_map(|stage| self.summary(stage));
        summaries
            .map(|stage| Spent::of(stage, self.prices))
            .collect()
    }

    fn summary(&self, stage: &Path) -> Option<&StageSummary> {
        self.run
            .summaries()
            .find(|(round, summary)| instance(*round, &summary.node) == stage)
            .map(|(_, summary)| summary)
    }
}

/// Returns the path of an instance in the record: `round-3/sample`, `once/base-eval`.
fn instance(round: u32, node: &str) -> PathBuf {
    match round {
        0 => Path::new("once").join(node),
        n => Path::new(&format!("round-{n}")).join(node),
    }
}

/// Returns the gains as a table.
pub fn table(gains: &[Gain]) -> DataTable {
    DataTable::of("gain", gains)
        .text("run", |gain| gain.run.as_str())
        .count("round", |gain| gain.figure.round)
        .text("node", |gain| gain.figure.node.as_str())
        .text("metric", |gain| gain.figure.metric.as_str())
        .number("points", |gain| gain.points()[0])
        .number("points_low", |gain| gain.points()[1])
        .number("points_high", |gain| gain.points()[2])
        .text("hours_of", |gain| gain.unit())
        .number("making_gpu_hours", |gain| gain.making.gpu_hours)
        .number("making_core_hours", |gain| gain.making.core_hours)
        .number("hours_per_answer", |gain| gain.per_answer)
        .number("hours", |gain| gain.hours)
        .number("money", |gain| gain.money)
        .number("points_per_hour", |gain| gain.per_hour()[0])
        .number("points_per_hour_low", |gain| gain.per_hour()[1])
        .number("points_per_hour_high", |gain| gain.per_hour()[2])
        .done()
}
