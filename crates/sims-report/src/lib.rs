//! Queries over the artifacts of a run, and the report in the terminal.
//!
//! A run is a folder of views, `runs/PIPELINE/round-N/[NODE/]ROLE.parquet`. [`run_folder`] finds
//! its metric tables, [`metrics`] joins them with polars, [`table`] lays them out for a terminal.
//! [`seeds`] averages what a pipeline found with several seeds. [`curve`] reads what a search over layers and strengths tried, and [`chart`] draws it.

pub mod chart;
pub mod curve;
pub mod metrics;
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
    /// A folder could not be read.
    #[error("cannot read {path}")]
    Io {
        /// The folder.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A metrics table is damaged or something else.
    #[error("cannot read the run's metrics (`sims fsck` finds damaged files)")]
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
    /// A query failed.
    #[error("cannot query the run's metrics")]
    Query(#[from] polars::error::PolarsError),
}
