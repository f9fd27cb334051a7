//! PairRM (Jiang et al. 2023, arXiv 2306.02561): an encoder that was trained to compare two answers.
//!
//! It reads request and answers at once and is run as LLM-Blender runs it, from a folder in the layout of
//! `llm-blender/PairRM-hf`: `config.json`, `tokenizer.json` and `model.safetensors`. It was trained on people's and
//! models' preferences, so a loop that it judges is not without outside supervision.

mod buckets;
mod config;
mod encoder;
mod layout;
mod weights;

use std::path::Path;

use candle_core::Tensor;
use sims_artifact::ModelManifest;
use sims_model::Device;

use self::config::PairRmConfig;
use self::encoder::Encoder;
use self::layout::{Layout, Transcript};
use self::weights::{Linear, Weights};
use crate::JudgeError;
use crate::comparison::{Comparison, Judged, PairJudge, Progress, report};
use crate::verdict::Preference;

/// Compares answers by an encoder with a head that scores both.
///
/// The log-odds are the difference of the two scores: the training loss is `-log σ(first - second)`, so they need no
/// temperature. They depend on the order. Each comparison runs by itself, so nothing else changes them.
pub struct PairRm {
    layout: Layout,
    encoder: Encoder,
    /// `[2 * hidden_size] -> [hidden_size] -> [n_tasks]`, with a tanh in between.
    head: [Linear; 2],
    /// Weights that each token is multiplied with.
    weights: usize,
    id: String,
}

impl PairRm {
    /// Reads the model in `folder` to `device`, in f32.
    ///
    /// # Errors
    /// A file that is absent, malformed, or of another kind of model; a tensor that is missing, left over, of another
    /// shape or not finite; a tokenizer without the markers.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, JudgeError> {
        let config = PairRmConfig::read(&folder.join("config.json"))?;
        let layout = Layout::open(folder, &config)?;
        let mut weights = Weights::open(folder, &config, device)?;
        let encoder = Encoder::read(&mut weights, &config, device)?;
        let [inner, outer] = weights.head.clone();
        let hidden = config.hidden_size;
        let head = [
            weights.linear_named(&inner, 2 * hidden, hidden)?,
            weights.linear_named(&outer, hidden, config.n_tasks)?,
        ];
        weights.finish()?;
        let of_layer = 4 * hidden * hidden + 2 * hidden * config.intermediate_size;
        Ok(Self {
            layout,
            encoder,
            head,
            weights: of_layer * config.num_hidden_layers,
            id: format!("pairrm/{}", ModelManifest::of_dir(folder)?.digest.short(12)),
        })
    }

    /// Returns the log-odds that the first answer is the better one. Unit: nats.
    fn logit(&self, transcript: &Transcript) -> sims_model::Result<f64> {
        let hidden = self.encoder.forward(&transcript.ids)?;
        let [source, first, second] = transcript.marked;
        let row = |place: usize| hidden.narrow(0, place, 1);
        let source = row(source)?;
        // Both at once: `[2, 2 * hidden_size]`.
        let pairs = Tensor::cat(
            &[
                Tensor::cat(&[&source, &row(first)?], 1)?,
                Tensor::cat(&[&source, &row(second)?], 1)?,
            ],
            0,
        )?;
        let inner = self.head[0].forward(&pairs)?.tanh()?;
        let scores: Vec<Vec<f32>> = self.head[1].forward(&inner)?.to_vec2()?;
        let tasks = scores[0].iter().zip(&scores[1]);
        let difference: f64 = tasks
            .map(|(&first, &second)| f64::from(first) - f64::from(second))
            .sum();
        Ok(difference / scores[0].len() as f64)
    }
}

impl PairJudge for PairRm {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        let mut judged = Judged::default();
        for (done, comparison) in comparisons.iter().enumerate() {
            report(&mut *progress, done)?;
            let transcript = self.layout.transcript(comparison)?;
            let logit = self.logit(&transcript)?;
            if !logit.is_finite() {
                return Err(JudgeError::NoLogOdds {
                    prompt_id: comparison.prompt_id.to_owned(),
                    first: comparison.first.response_id.to_owned(),
                    second: comparison.second.response_id.to_owned(),
                    value: logit,
                });
            }
            // It has no tokens for a verdict to miss.
            let coverage = 1.0;
            judged.preferences.push(Preference { logit, coverage });
            let tokens = transcript.ids.len();
            judged.cut += usize::from(transcript.is_cut);
            judged.tokens.computed += tokens;
            judged.batch_rows = judged.batch_rows.max(tokens);
        }
        judged.tokens.unique = judged.tokens.computed;
        judged.tokens.total = judged.tokens.computed;
        // Two for each weight and token: a multiplication and an addition.
        judged.flops = 2.0 * self.weights as f64 * judged.tokens.computed as f64;
        report(progress, comparisons.len())?;
        Ok(judged)
    }
}

/// Returns the error about a file of the folder.
fn refused(path: &Path, message: String) -> JudgeError {
    let path = path.to_owned();
    JudgeError::PairRm { path, message }
}
