//! What extraction wrote: states by layer, and which pair and prompt each row belongs to.

use crate::FitStageError;
use candle_core::Device;
use serde::Deserialize;
use sims_artifact::tables::StateIndexRow;
use sims_artifact::{Digest, TensorFile};
use sims_stats::random::{Stream, key_of};
use sims_steering::{DeviceStates, FitError, PairedStates};
use std::collections::HashMap;
use std::path::Path;

/// The metadata of a states file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StatesHeader {
    /// Digest of the model that the states come from.
    pub model: Digest,
    /// Its hidden size.
    pub hidden_size: usize,
    /// Its number of blocks.
    pub num_hidden_layers: usize,
    /// The layers that were read.
    pub layers: Vec<usize>,
    /// The position set.
    pub positions: String,
    /// Digest of the steering that the states were read under, if any.
    pub steering: Option<Digest>,
    /// The shape of the attention heads, if it is their outputs that were read.
    #[serde(default)]
    pub heads: Option<HeadsShape>,
}

/// How the outputs of attention heads lie in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct HeadsShape {
    /// Number of heads, one after another.
    pub num_attention_heads: usize,
    /// Width of each.
    pub head_dim: usize,
}

impl StatesHeader {
    /// Returns the width of a row.
    pub fn width(&self) -> usize {
        self.heads.map_or(self.hidden_size, |heads| {
            heads.num_attention_heads * heads.head_dim
        })
    }
}

/// Rows read at a time.
const CHUNK: usize = 1024;

/// An open states file with its index.
#[derive(Debug)]
pub struct StatesFile {
    file: TensorFile,
    /// Rows that are read, ascending; those of `pairs` and `prompts`.
    kept: Vec<usize>,
    header: StatesHeader,
    pair_ids: Vec<String>,
    prompt_ids: Vec<String>,
    pairs: Vec<u32>,
    prompts: Vec<u32>,
    /// By pair; empty if all weigh the same.
    weights: Vec<f64>,
    /// Where fits compute, if not on the host.
    device: Option<Device>,
}

/// The states of one layer, in memory.
#[derive(Debug)]
pub struct LayerStates {
    positive: Vec<f32>,
    negative: Vec<f32>,
    on_device: Option<DeviceStates>,
}

impl LayerStates {
    /// Returns the chosen states, `[rows, hidden]`.
    pub fn chosen(&self) -> &[f32] {
        &self.positive
    }
}

impl StatesFile {
    /// Opens a states file; `index` is the table written beside it.
    ///
    /// # Errors
    /// [`FitStageError::NotStates`] or [`FitStageError::Artifact`] for the file, [`FitStageError::BadIndex`] or
    /// [`FitStageError::RowCount`] for an index that is not its own.
    pub fn open(path: &Path, index: &[StateIndexRow]) -> Result<Self, FitStageError> {
        let file = TensorFile::open(path)?;
        let header: StatesHeader =
            serde_json::from_value(file.metadata().clone()).map_err(|error| {
                FitStageError::NotStates {
                    path: path.to_owned(),
                    message: format!("its metadata: {error}"),
                }
            })?;
        let (pair_ids, pairs) = numbered(index.iter().map(|row| row.pair_id.as_str()));
        let (prompt_ids, prompts) = numbered(index.iter().map(|row| row.prompt_id.as_str()));
        let states = Self {
            file,
            kept: (0..index.len()).collect(),
            header,
            pair_ids,
            prompt_ids,
            pairs,
            prompts,
            weights: Vec::new(),
            device: None,
        };
        states.check_index(index)?;
        states.check_shapes(path)?;
        Ok(states)
    }

    /// Gives the pairs weights, by pair number; none if all weigh the same.
    pub fn set_weights(&mut self, weights: Vec<f64>) {
        self.weights = weights;
    }

    /// Lets the layers that are read from now on be copied to a device, where fits then compute; none is the host.
    pub fn set_device(&mut self, device: Option<Device>) {
        self.device = device;
    }

    /// Keeps at most `max_rows` rows, drawn uniformly under `seed`; 0 keeps all.
    ///
    /// A row's draw is named by its pair and its number in it: the same rows are kept at every layer, and in every file
    /// with these pairs. They bound the memory of a fit: `8·rows·hidden` bytes for both classes of a layer.
    pub fn limit(&mut self, max_rows: usize, seed: u64) {
        if max_rows == 0 || self.kept.len() <= max_rows {
            return;
        }
        let mut drawn: Vec<(u64, usize)> = Vec::with_capacity(self.kept.len());
        for rows in (0..self.pairs.len())
            .collect::<Vec<_>>()
            .chunk_by(|&a, &b| self.pairs[a] == self.pairs[b])
        {
            let id = &self.pair_ids[self.pairs[rows[0]] as usize];
            let mut stream = Stream::new(seed, key_of(&format!("reservoir|{id}")));
            drawn.extend(rows.iter().map(|&row| (stream.next_u64(), row)));
        }
        // The smallest of independent uniform numbers are a uniform draw.
        drawn.sort_unstable();
        drawn.truncate(max_rows);
        let mut rows: Vec<usize> = drawn.into_iter().map(|(_, row)| row).collect();
        rows.sort_unstable();
        self.pairs = rows.iter().map(|&row| self.pairs[row]).collect();
        self.prompts = rows.iter().map(|&row| self.prompts[row]).collect();
        self.kept = rows.iter().map(|&row| self.kept[row]).collect();
    }

    /// Returns the metadata.
    pub fn header(&self) -> &StatesHeader {
        &self.header
    }

    /// Returns the ids of the contrast pairs, by pair number.
    pub fn pair_ids(&self) -> &[String] {
        &self.pair_ids
    }

    /// Returns the ids of the prompts, by prompt number.
    pub fn prompt_ids(&self) -> &[String] {
        &self.prompt_ids
    }

    /// Returns the prompt number of each row.
    pub fn prompts(&self) -> &[u32] {
        &self.prompts
    }

    /// Reads the kept states of a layer, some rows of the file at a time.
    ///
    /// # Errors
    /// [`FitStageError::LayerNotExtracted`], [`FitStageError::Artifact`] if reading fails, [`FitStageError::Layer`] for
    /// a NaN or an infinity in any row of the file, and for a device without room.
    pub fn read(&self, layer: usize) -> Result<LayerStates, FitStageError> {
        if !self.header.layers.contains(&layer) {
            return Err(FitStageError::LayerNotExtracted {
                layer,
                extracted: self.header.layers.clone(),
            });
        }
        let positive = self.read_class(layer, "positive")?;
        let negative = self.read_class(layer, "negative")?;
        let upload =
            |device| DeviceStates::upload(self.header.width(), &positive, &negative, device);
        let on_device = self.device.as_ref().map(upload).transpose();
        Ok(LayerStates {
            on_device: on_device.map_err(FitStageError::at(layer))?,
            positive,
            negative,
        })
    }

    fn read_class(&self, layer: usize, class: &str) -> Result<Vec<f32>, FitStageError> {
        let name = format!("layer.{layer}.{class}");
        let (rows, hidden) = (self.file.shape(&name)?[0], self.header.width());
        let mut values = Vec::with_capacity(self.kept.len() * hidden);
        let mut kept = self.kept.iter().peekable();
        for first in (0..rows).step_by(CHUNK) {
            let chunk = self.file.read_rows(&name, first, CHUNK.min(rows - first))?;
            if let Some(at) = chunk.iter().position(|x| !x.is_finite()) {
                let row = (first + at / hidden) as u64;
                return Err(FitStageError::at(layer)(FitError::NonFinite { row }));
            }
            while let Some(&row) = kept.next_if(|&&row| row < first + CHUNK) {
                let start = (row - first) * hidden;
                values.extend_from_slice(&chunk[start..start + hidden]);
            }
        }
        Ok(values)
    }

    /// Pairs the states of a layer row by row.
    ///
    /// # Errors
    /// [`FitError::NonFinite`] for a NaN or an infinity, [`FitError::EmptyClass`] without rows.
    pub fn paired<'a>(&'a self, states: &'a LayerStates) -> Result<PairedStates<'a>, FitError> {
        PairedStates::new(
            self.header.width(),
            &states.positive,
            &states.negative,
            &self.pairs,
            &self.prompts,
        )
        .map(|paired| {
            paired
                .with_weights(&self.weights)
                .on_device(states.on_device.as_ref())
        })
    }

    fn check_index(&self, index: &[StateIndexRow]) -> Result<(), FitStageError> {
        let bad = |message: String| Err(FitStageError::BadIndex { message });
        if index.is_empty() {
            return bad("it has no rows".to_owned());
        }
        if let Some((at, row)) = index
            .iter()
            .enumerate()
            .find(|(at, row)| row.row as usize != *at)
        {
            return bad(format!("row {at} is numbered {}", row.row));
        }
        // Pairs are numbered as they appear, so a number below the one before means a pair that came back.
        if let Some(at) = self.pairs.windows(2).position(|two| two[1] < two[0]) {
            return bad(format!(
                "the rows of pair {} are apart",
                self.pair_ids[self.pairs[at + 1] as usize]
            ));
        }
        Ok(())
    }

    fn check_shapes(&self, path: &Path) -> Result<(), FitStageError> {
        for &layer in &self.header.layers {
            for class in ["positive", "negative"] {
                let name = format!("layer.{layer}.{class}");
                match self.file.shape(&name)? {
                    [rows, hidden] if *hidden == self.header.width() => {
                        if *rows != self.pairs.len() {
                            return Err(FitStageError::RowCount {
                                path: path.to_owned(),
                                layer,
                                states: *rows,
                                index: self.pairs.len(),
                            });
                        }
                    }
                    shape => {
                        return Err(FitStageError::NotStates {
                            path: path.to_owned(),
                            message: format!(
                                "{name} has the shape {shape:?}, but a row has {} numbers",
                                self.header.width()
                            ),
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Numbers distinct ids in the order in which they appear; returns them and the number of each row.
fn numbered<'a>(ids: impl Iterator<Item = &'a str>) -> (Vec<String>, Vec<u32>) {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut distinct = Vec::new();
    let rows = ids
        .map(|id| {
            *numbers.entry(id).or_insert_with(|| {
                distinct.push(id.to_owned());
                distinct.len() as u32 - 1
            })
        })
        .collect();
    (distinct, rows)
}
