//! The two official files that length control rests on.
//!
//! They belong to the data set `tatsu-lab/alpaca_eval` (CC BY-NC 4.0, not for commercial use), so users
//! bring their own.

use std::path::{Path, PathBuf};

use crate::ScoreError;
use crate::records::Records;

/// Official name of the file of [`Difficulties`].
pub const DIFFICULTY_FILE: &str = "instruction_difficulty.csv";
/// Official name of the file of [`Gamed`].
pub const GAMED_FILE: &str = "df_gamed.csv";

/// How hard each instruction is to beat the baseline on.
#[derive(Debug)]
pub struct Difficulties {
    /// The file.
    pub path: PathBuf,
    /// One an instruction, in the official order.
    pub values: Vec<f64>,
}

/// Verdicts on the baseline told to be verbose or concise, which teach what length alone does.
#[derive(Debug)]
pub struct Gamed {
    /// The file.
    pub path: PathBuf,
    /// Its rows.
    pub rows: Vec<GamedRow>,
}

/// A verdict on the baseline told to be verbose or concise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GamedRow {
    /// How much it is preferred to the baseline as it is, from 0 to 1.
    pub share: f64,
    /// Standardised difference in length, baseline minus the other.
    pub std_delta_len: f64,
    /// The instruction's difficulty.
    pub difficulty: f64,
}

impl Difficulties {
    /// Reads `index` and `instruction_difficulty`.
    ///
    /// # Errors
    /// A file that cannot be read, an index out of order, a difficulty that is not finite.
    pub fn read(path: &Path) -> Result<Self, ScoreError> {
        let records = Records::read(path)?;
        let mut values = Vec::with_capacity(records.count());
        for record in records.iter() {
            let index = record.count("index")?;
            if index as usize != record.row() {
                return Err(record.cell(
                    "index",
                    format!("{index} is out of order; the official file counts from 0 to 804"),
                ));
            }
            values.push(record.finite("instruction_difficulty")?);
        }
        Ok(Self {
            path: path.to_owned(),
            values,
        })
    }
}

impl Gamed {
    /// Reads `preference` (from 0 to 1), `std_delta_len` and `instruction_difficulty`.
    ///
    /// # Errors
    /// A file that cannot be read, a value out of range.
    pub fn read(path: &Path) -> Result<Self, ScoreError> {
        let records = Records::read(path)?;
        let rows = records
            .iter()
            .map(|record| {
                let share = record.finite("preference")?;
                if !(0.0..=1.0).contains(&share) {
                    return Err(record.cell(
                        "preference",
                        format!(
                            "{share} is outside 0 to 1, the scale of the official {GAMED_FILE}"
                        ),
                    ));
                }
                Ok(GamedRow {
                    share,
                    std_delta_len: record.finite("std_delta_len")?,
                    difficulty: record.finite("instruction_difficulty")?,
                })
            })
            .collect::<Result<_, ScoreError>>()?;
        Ok(Self {
            path: path.to_owned(),
            rows,
        })
    }
}
