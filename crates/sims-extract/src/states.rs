//! Runs planned pairs through the model and writes their hidden states as they come.

use crate::ExtractError;
use crate::sequence::{PlannedPair, PlannedSequence};
use sims_artifact::tables::StateIndexRow;
use sims_artifact::tensors::StoredDtype;
use sims_artifact::{ArtifactError, TensorFile, TensorSpec, TensorWriter};
use sims_model::capture::{CaptureRequest, HiddenStates, states_at};
use sims_model::score::{ScoreLimits, TokenCount};
use sims_model::{Decoder, Hook, ModelError, Site};
use sims_stage::Place;
use std::ops::ControlFlow;
use std::path::Path;

/// Extraction that stopped midway.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The states themselves are at fault.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// The file could not be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The model refused a sequence, or was interrupted.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Returns the names of the tensors of a layer: chosen and rejected.
pub fn tensor_names(layer: usize) -> [String; 2] {
    [
        format!("layer.{layer}.positive"),
        format!("layer.{layer}.negative"),
    ]
}

/// Describes every row that [`write_states`] writes, in order.
///
/// Positions count from the first token of the response. For `end` and `reask` those of the two sequences may
/// differ, since the responses may differ in length. A mean has the last of its positions, counted from the prompt's
/// first token.
pub fn index(pairs: &[PlannedPair]) -> Vec<StateIndexRow> {
    let mut rows = Vec::new();
    for pair in pairs {
        let in_response =
            |place: usize| u32::try_from(place - pair.prompt_tokens).unwrap_or(u32::MAX);
        if let (true, Some(&last)) = (pair.chosen.is_pooled, pair.chosen.positions.last()) {
            let position = u32::try_from(last).unwrap_or(u32::MAX);
            rows.push(StateIndexRow {
                row: u32::try_from(rows.len()).unwrap_or(u32::MAX),
                pair_id: pair.pair_id.clone(),
                prompt_id: pair.prompt_id.clone(),
                position,
                token_id: pair.chosen.tokens[last],
                rejected_position: position,
                rejected_token_id: pair.chosen.tokens[last],
            });
            continue;
        }
        for (&chosen, &rejected) in pair.chosen.positions.iter().zip(&pair.rejected.positions) {
            rows.push(StateIndexRow {
                row: u32::try_from(rows.len()).unwrap_or(u32::MAX),
                pair_id: pair.pair_id.clone(),
                prompt_id: pair.prompt_id.clone(),
                position: in_response(chosen),
                token_id: pair.chosen.tokens[chosen],
                rejected_position: in_response(rejected),
                rejected_token_id: pair.rejected.tokens[rejected],
            });
        }
    }
    rows
}

/// How states are written.
pub struct StatesForm {
    /// What is read of each layer.
    pub site: Site,
    /// How values are stored.
    pub dtype: StoredDtype,
    /// Its metadata.
    pub metadata: serde_json::Value,
}

impl StatesForm {
    /// Starts a file at `path` with room for `rows` of each class, `width` values each.
    fn create(
        &self,
        path: &Path,
        layers: &[usize],
        rows: usize,
        width: usize,
    ) -> Result<TensorWriter, ArtifactError> {
        let specs = layers
            .iter()
            .flat_map(|&layer| tensor_names(layer))
            .map(|name| TensorSpec {
                name,
                dtype: self.dtype,
                shape: vec![rows, width],
            })
            .collect();
        TensorWriter::create(path, specs, &self.metadata)
    }
}

/// Writes to `path` the rows at `places`, in their order, of files that [`write_states`] wrote.
///
/// # Errors
/// If a file cannot be read, is not of this form, or the whole cannot be written.
pub fn assemble(
    path: &Path,
    places: &[Place],
    layers: &[usize],
    width: usize,
    form: &StatesForm,
) -> Result<(), ArtifactError> {
    let rows = places.iter().map(|place| place.rows).sum();
    let mut writer = form.create(path, layers, rows, width)?;
    let mut row = 0;
    // Neighbours mostly lie one after another in one file, and are copied together.
    let runs = places.chunk_by(|left, right| {
        left.file == right.file && left.first_row + left.rows == right.first_row
    });
    for run in runs {
        let rows = run.iter().map(|place| place.rows).sum();
        let from = TensorFile::open(&run[0].file)?;
        for name in layers.iter().flat_map(|&layer| tensor_names(layer)) {
            writer.copy_rows(&name, row, &from, run[0].first_row, rows)?;
        }
        row += rows;
    }
    writer.publish()
}

/// Runs the pairs and writes their states at `layers`: `layer.{i}.positive` and `layer.{i}.negative`,
/// `[rows, hidden]` each, or as wide as the file's site. States are read after `hook`, where there is one.
///
/// Memory is bounded by `limits`, whatever the number of pairs. `progress` is called after every pair and may
/// stop the run.
///
/// # Errors
/// [`ExtractError::NonFinite`] for a state that is not a number, and whatever the model or the file says.
pub fn write_states(
    decoder: &Decoder,
    pairs: &[&PlannedPair],
    layers: &[usize],
    hook: Option<&mut dyn Hook>,
    limits: &ScoreLimits,
    (path, form): (&Path, &StatesForm),
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<TokenCount, RunError> {
    let width = form.site.width(decoder.config());
    let rows: usize = pairs.iter().map(|pair| pair.rows()).sum();
    let mut writer = form.create(path, layers, rows, width)?;

    // A pair's two sequences are neighbours, so that their common prompt is computed once.
    let with_rows: Vec<&PlannedPair> = pairs
        .iter()
        .copied()
        .filter(|pair| pair.rows() > 0)
        .collect();
    let requests: Vec<CaptureRequest> = with_rows
        .iter()
        .flat_map(|pair| [&pair.chosen, &pair.rejected])
        .map(request)
        .collect();
    let mut first_row = 0;
    let mut failure: Option<RunError> = None;
    let mut sink = |states: HiddenStates| {
        let pair = with_rows[states.request / 2];
        let is_rejected = states.request % 2;
        if let Err(error) = write_pair(&mut writer, pair, is_rejected, first_row, layers, &states) {
            failure = Some(error);
            return ControlFlow::Break(());
        }
        if is_rejected == 1 {
            first_row += pair.rows();
            return progress();
        }
        ControlFlow::Continue(())
    };
    let counted = states_at(
        form.site, decoder, &requests, layers, limits, hook, &mut sink,
    );
    if let Some(error) = failure {
        return Err(error);
    }
    let counted = counted?;
    writer.publish()?;
    Ok(counted)
}

fn request(sequence: &PlannedSequence) -> CaptureRequest {
    CaptureRequest {
        tokens: sequence.tokens.clone(),
        positions: sequence.positions.clone(),
        edit_from: sequence.edit_from,
    }
}

fn write_pair(
    writer: &mut TensorWriter,
    pair: &PlannedPair,
    is_rejected: usize,
    first_row: usize,
    layers: &[usize],
    states: &HiddenStates,
) -> Result<(), RunError> {
    for (&layer, values) in layers.iter().zip(&states.layers) {
        if values.iter().any(|x| !x.is_finite()) {
            let error = ExtractError::NonFinite {
                pair_id: pair.pair_id.clone(),
                class: ["chosen", "rejected"][is_rejected],
                layer,
            };
            return Err(error.into());
        }
        let name = &tensor_names(layer)[is_rejected];
        if pair.chosen.is_pooled {
            let positions = pair.chosen.positions.len();
            writer.write_rows(name, first_row, &mean(values, positions))?;
        } else {
            writer.write_rows(name, first_row, values)?;
        }
    }
    Ok(())
}

/// Averages `[rows, hidden]` over the rows, in f64 and in their order; `[hidden]`.
fn mean(values: &[f32], rows: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; values.len() / rows];
    for row in values.chunks_exact(sums.len()) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, &x)| *sum += f64::from(x));
    }
    sums.iter().map(|sum| (sum / rows as f64) as f32).collect()
}
