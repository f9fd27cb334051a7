//! The metrics of all rounds as one polars frame.

use polars::prelude::*;
use serde::Serialize;
use sims_artifact::read_table;
use sims_artifact::tables::MetricRow;

use crate::ReportError;
use crate::run_folder::MetricsFile;

/// A figure of the report: a row of `metrics` with the round and node that it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// The round, from 1; 0 for figures outside any round.
    pub round: u32,
    /// The pipeline node that measured it.
    pub node: String,
    /// What was measured.
    pub metric: String,
    /// The figure.
    pub value: f64,
    /// Lower end of its 95 % interval.
    pub ci_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub ci_high: Option<f64>,
    /// How many prompts it rests on.
    pub n: u64,
    /// How the figure and its interval were computed.
    pub method: String,
    /// The policy it is compared with.
    pub baseline: String,
}

/// Joins the tables of `files`, and keeps the metric named `filter`, or else those whose name contains it.
///
/// # Errors
/// If a table is damaged or lacks a column.
pub fn query(files: &[MetricsFile], filter: Option<&str>) -> Result<DataFrame, ReportError> {
    let mut frames = Vec::with_capacity(files.len());
    for file in files {
        // Polars reads later and all at once: what is wrong with a file is said here, by its name.
        read_table::<MetricRow>(&file.path)?;
        let path = PlRefPath::try_from_path(&file.path)?;
        let frame = LazyFrame::scan_parquet(path, ScanArgsParquet::default())?.with_columns([
            lit(file.round).alias("round"),
            lit(file.node.as_str()).alias("node"),
        ]);
        frames.push(frame);
    }
    let mut all = concat(frames, UnionArgs::default())?
        .select([
            col("round"),
            col("node"),
            col("metric"),
            col("value"),
            col("ci_low"),
            col("ci_high"),
            col("n"),
            col("method"),
            col("baseline"),
        ])
        .collect()?;
    if let Some(filter) = filter {
        let names: Vec<&str> = all.column("metric")?.str()?.iter().flatten().collect();
        let keep: BooleanChunked = names
            .iter()
            .map(|name| Some(is_meant(name, filter, &names)))
            .collect();
        all = all.filter(&keep)?;
    }
    Ok(all)
}

/// Tells whether `filter` means the metric `name`: it is its name, or else, when none of `names` is that, a part of it.
pub fn is_meant(name: &str, filter: &str, names: &[&str]) -> bool {
    match names.contains(&filter) {
        true => name == filter,
        false => name.contains(filter),
    }
}

/// Turns the frame into rows, in its order.
///
/// # Errors
/// If a column has an unexpected type.
pub fn figures(frame: &DataFrame) -> Result<Vec<Figure>, ReportError> {
    let round = frame.column("round")?.cast(&DataType::UInt32)?;
    let round = round.u32()?;
    let text = |name: &str| -> PolarsResult<Vec<String>> {
        let column = frame.column(name)?;
        Ok(column
            .str()?
            .iter()
            .map(|v| v.unwrap_or_default().to_owned())
            .collect())
    };
    let number = |name: &str| -> PolarsResult<Vec<Option<f64>>> {
        Ok(frame.column(name)?.f64()?.iter().collect())
    };
    let (node, metric, method, baseline) = (
        text("node")?,
        text("metric")?,
        text("method")?,
        text("baseline")?,
    );
    let (value, low, high) = (number("value")?, number("ci_low")?, number("ci_high")?);
    let n = frame.column("n")?.u64()?;
    Ok((0..frame.height())
        .map(|i| Figure {
            round: round.get(i).unwrap_or(0),
            node: node[i].clone(),
            metric: metric[i].clone(),
            value: value[i].unwrap_or(f64::NAN),
            ci_low: low[i],
            ci_high: high[i],
            n: n.get(i).unwrap_or(0),
            method: method[i].clone(),
            baseline: baseline[i].clone(),
        })
        .collect())
}
