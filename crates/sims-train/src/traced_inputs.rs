//! What training reads, the same for vectors and adapters: a model that candle can differentiate, and its pairs.

use sims_extract::sequence::PlannedPair;
use sims_model::language_model::set_threads;
use sims_model::{DeviceChoice, Kernels, LanguageModel, LoadOptions};
use sims_stage::{BadInput, StageIo};

/// Opens the model of role `model` in f32 with a decoder that candle can differentiate.
///
/// # Errors
/// [`BadInput`] for a model that cannot be loaded, several devices, or one that this build or machine does not have.
pub fn traced_model(io: &StageIo) -> anyhow::Result<LanguageModel> {
    set_threads(io.threads()).map_err(bad_input)?;
    let device: DeviceChoice = io.device().parse().map_err(bad_input)?;
    let options = LoadOptions {
        devices: device.open().map_err(bad_input)?,
        ..LoadOptions::default()
    };
    if options.devices.len() > 1 {
        return Err(BadInput::new(format!(
            "training runs on one device, not on {device}; name one of them"
        ))
        .into());
    }
    let model = io.input("model")?;
    Ok(LanguageModel::load_with(model, &options, Kernels::Candle).map_err(bad_input)?)
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
