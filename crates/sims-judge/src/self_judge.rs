//! The frozen model as its own judge.

use sims_artifact::Digest;
use sims_model::{JudgeTemplate, LanguageModel};

use crate::JudgeError;
use crate::comparison::{Comparison, Judged, PairJudge, Progress};
use crate::question::{Question, Questioned};
use crate::verdict::Verdicts;

/// Compares answers by the logits that the model gives to the verdict tokens.
///
/// The model runs without hooks: it never sees a steering, so verdicts of different rounds are on one scale.
/// A verdict depends on its transcript alone, not on what else is compared.
pub struct SelfJudge<'a> {
    questioned: Questioned<'a>,
    verdicts: Verdicts,
    id: String,
}

impl<'a> SelfJudge<'a> {
    /// Makes a judge of `model`, whose manifest digest is `digest`, with room for `sequences`
    /// transcripts of full length at once; 0 takes what fits the memory.
    ///
    /// # Errors
    /// A template without verdict tokens in the vocabulary, or one that the chat template refuses.
    pub fn new(
        model: &'a LanguageModel,
        digest: &Digest,
        template: JudgeTemplate,
        sequences: usize,
    ) -> Result<Self, JudgeError> {
        Ok(Self {
            verdicts: Verdicts::find(model.tokenizer(), &template)?,
            id: format!("self/{}/{}", template.version, digest.short(12)),
            questioned: Questioned::new(model, template, 2, sequences)?,
        })
    }
}

impl PairJudge for SelfJudge<'_> {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        let questions: Vec<Question<'_>> = comparisons
            .iter()
            .map(|comparison| Question {
                prompt_id: comparison.prompt_id,
                request: comparison.request,
                answers: [comparison.first.text, comparison.second.text],
            })
            .collect();
        let (next, mut judged) = self
            .questioned
            .ask(&questions, self.verdicts.ids(), progress)?;
        judged.preferences = next.iter().map(|next| self.verdicts.read(next)).collect();
        Ok(judged)
    }
}
