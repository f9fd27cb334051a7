//! What training reads, the same for vectors and adapters: a model that candle can differentiate, and its pairs.

use sims_extract::sequence::PlannedPair;
use sims_model::language_model::set_threads;
use sims_model::{Kernels, LanguageModel, LoadOptions};
use sims_stage::{BadInput, StageIo};

/// Opens the model of role `model` with a decoder that candle can differentiate, on the CPU whatever the device.
///
/// # Errors
/// [`BadInput`] for a model that cannot be loaded.
pub fn traced_model(io: &mut StageIo) -> anyhow::Result<LanguageModel> {
    set_threads(io.threads()).map_err(bad_input)?;
    if !matches!(io.device(), "auto" | "cpu") {
        let device = io.device().to_owned();
        io.warn(format!(
            "training runs on the CPU, not on {device}: the kernels for devices have no derivatives"
        ));
    }
    let model = io.input("model")?;
    let loaded = LanguageModel::load_with(model, &LoadOptions::default(), Kernels::Candle);
    Ok(loaded.map_err(bad_input)?)
}

/// Warns of pairs of two identical responses, which are left out.
pub fn warn_of_identical(planned: &[PlannedPair], io: &mut StageIo) {
    let identical = planned.iter().filter(|pair| pair.is_identical()).count();
    if identical > 0 {
        io.warn(format!(
            "{identical} of {} pairs have two identical responses and are left out",
            planned.len()
        ));
    }
}

/// Wraps what is wrong with the input, cause chain and all.
pub fn bad_input<E: std::error::Error + Send + Sync + 'static>(error: E) -> BadInput {
    BadInput::new(format!("{:#}", anyhow::Error::new(error)))
}
