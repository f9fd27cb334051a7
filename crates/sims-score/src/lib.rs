//! Scores of public benchmarks, computed as their authors define them.
//!
//! A judge's verdicts go in, the numbers of a leaderboard come out; AlpacaEval's can be asked for over HTTP. Nothing
//! here runs a model, and no file of a benchmark is part of this repository: users bring their own.
//!
//! - [`alpaca`]: AlpacaEval 2.0, plain and length-controlled.
//! - [`arena`]: Arena-Hard v0.1 and v2.0, with and without style control.
//! - [`records`]: rows of CSV, Parquet, JSON and JSON Lines files.

pub mod alpaca;
pub mod arena;
mod error;
pub mod mersenne_twister;
pub mod records;

pub use error::ScoreError;
