//! Several responses to each prompt, from any policy.

use std::ops::{ControlFlow, Range};

use sims_artifact::tables::{ResponseRow, response_id};
use sims_model::generate::{
    BatchLimits, FinishReason, Generation, Progress, Request, SampleKey, SamplingParams,
};
use sims_model::{Hook, LanguageModel, ModelError, generate};

use crate::encode::EncodedPrompt;

/// The policy name of the model without steering.
pub const BASE_POLICY: &str = "base";

/// What to draw, and how.
#[derive(Debug, Clone)]
pub struct Draws {
    /// Value of the `policy` column: [`BASE_POLICY`], or `steered-` or `adapted-` and the start of a digest.
    pub policy: String,
    /// The sample indices to draw for every prompt.
    pub indices: Range<u32>,
    /// Seed of the random streams; each response has its own, named by seed, round, prompt and index.
    pub seed: u64,
    /// The round, also part of the stream's name.
    pub round: u32,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// How much runs at once; changes no result.
    pub limits: BatchLimits,
}

impl Draws {
    /// Draws the responses to `prompts`, sorted by prompt (in the order given) and sample index.
    ///
    /// `hook` steers the model; `progress` is called after every forward pass and may stop the run.
    ///
    /// # Errors
    /// What [`generate`](sims_model::generate::generate) returns, or a tokenizer that cannot decode.
    pub fn from(
        &self,
        model: &LanguageModel,
        prompts: &[EncodedPrompt],
        hook: Option<&mut dyn Hook>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Vec<ResponseRow>, ModelError> {
        let keys = |prompt: &EncodedPrompt| {
            let key = |index| SampleKey::new(self.seed, self.round, &prompt.prompt_id, index);
            self.indices.clone().map(key).collect::<Vec<_>>()
        };
        let requests: Vec<Request> = prompts
            .iter()
            .map(|prompt| Request {
                prompt: prompt.tokens.clone(),
                samples: keys(prompt),
            })
            .collect();
        let generated = generate::generate(
            model.decoder(),
            &requests,
            &self.sampling,
            &self.limits,
            hook,
            progress,
        )?;

        let mut rows = Vec::with_capacity(prompts.len() * self.indices.len());
        for ((prompt, request), generations) in prompts.iter().zip(&requests).zip(generated) {
            for ((index, key), generation) in
                self.indices.clone().zip(&request.samples).zip(generations)
            {
                rows.push(self.row(model, prompt, index, *key, generation)?);
            }
        }
        Ok(rows)
    }

    fn row(
        &self,
        model: &LanguageModel,
        prompt: &EncodedPrompt,
        sample_index: u32,
        key: SampleKey,
        generation: Generation,
    ) -> Result<ResponseRow, ModelError> {
        let Generation {
            token_ids,
            finish_reason,
            logprob_sum,
        } = generation;
        // The stop token is no text, even where a tokenizer does not mark it as special.
        let content = match (finish_reason, token_ids.split_last()) {
            (FinishReason::Stop, Some((_, content))) => content,
            _ => &token_ids[..],
        };
        Ok(ResponseRow {
            response_id: response_id(&prompt.prompt_id, &self.policy, sample_index, &token_ids),
            prompt_id: prompt.prompt_id.clone(),
            round: self.round,
            sample_index,
            policy: self.policy.clone(),
            text: model.tokenizer().decode(content)?,
            prompt_tokens: u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX),
            finish_reason: finish_reason.as_str().to_owned(),
            logprob_sum,
            seed: key.as_u64(),
            token_ids,
        })
    }
}
