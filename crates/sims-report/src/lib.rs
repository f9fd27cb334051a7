//! Queries over the artifacts of a run, and the report in the terminal.
//!
//! A run is a folder of views, `runs/PIPELINE/round-N/[NODE/]ROLE.parquet`. [`run_folder`] finds
//! its metric tables, [`metrics`] joins them with polars, [`table`] lays them out for a terminal.
//! [`seeds`] averages what a pipeline found with several seeds.
//! [`gate`] holds a run against figures that were recorded before.
//! [`cost_table`] shows what runs cost, and what their gains did.
//! [`curve`] reads what a search over layers and strengths tried, and [`chart`] draws it.
//!
//! The report that people look at starts at [`run`], which reads a run; [`parts`] computes from it what is
//! shown, and [`html`], [`markdown`] and [`data_table`] show it.

pub mod chart;
pub mod cost_table;
pub mod curve;
pub mod data_table;
pub mod gate;
pub mod html;
pub mod markdown;
pub mod metrics;
mod number;
pub mod parts;
pub mod plot;
pub mod run;
pub mod run_folder;
pub mod seeds;
pub mod table;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is no finished round to report on.
    #[error(
        "{path} has no metrics of any finished round; run the pipeline first: sims run {pipeline}"
    )]
    NothingFinished {
        /// The run's folder.
        path: std::path::PathBuf,
        /// The pipeline's name or file.
        pipeline: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot read or write {path}")]
    Io {
        /// The file or folder.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A metrics table is damaged or something else.
    #[error("cannot read or write a table (`sims fsck` finds damaged files)")]
    Table(#[from] sims_artifact::ArtifactError),
    /// A picture could not be drawn.
    #[error("cannot draw {path}: {message}")]
    Chart {
        /// The picture's file.
        path: std::path::PathBuf,
        /// What is in the way.
        message: String,
    },
    /// Figures of several seeds have no mean.
    #[error("cannot average {metric} over the seeds")]
    Seeds {
        /// The figure's name.
        metric: String,
        /// The cause.
        source: sims_stats::StatsError,
    },
    /// Recorded figures are not what they should be.
    #[error(
        "{path} cannot be compared with: {message}; `sims report PIPELINE --json` writes such a file"
    )]
    Recorded {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A chart of the page could not be drawn.
    #[error("cannot draw a chart of the report: {0}")]
    Drawing(String),
    /// A stage's summary is damaged.
    #[error("{path} is not a stage's summary; run the pipeline again to restore it")]
    Summary {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// A table of the report is not well formed.
    #[error("cannot put a table of the report together")]
    Columns(#[from] arrow_schema::ArrowError),
    /// A query failed.
    #[error("cannot query the run's metrics")]
    Query(#[from] polars::error::PolarsError),
}
