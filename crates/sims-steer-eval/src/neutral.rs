//! What steering does to text that has nothing to do with the task: perplexity and drift.

use std::ops::{ControlFlow, Range};

use sims_artifact::tables::PromptRow;
use sims_model::{Batch, Decoder, Hook, KvCache, LanguageModel, ModelError, Tensor};
use sims_stage::BadInput;
use sims_stats::{Bootstrap, Interval, StatsError};
use sims_steering::Steering;

/// Most rows of one forward pass.
const MAX_ROWS: usize = 1024;

/// Most logits of one policy that are held at once.
const MAX_LOGITS: usize = 1 << 22;

/// A text whose tail is predicted by both policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeutralText {
    tokens: Vec<u32>,
    /// How many tokens at the start are read as a prompt.
    context: usize,
}

impl NeutralText {
    /// Tokenises texts; the first `context` tokens of each, at most half of it, act as its prompt.
    ///
    /// A text longer than the model's context is cut; one of fewer than two tokens is left out.
    ///
    /// # Errors
    /// A row that is not a single message, or no text that is long enough.
    pub fn encode_all(
        model: &LanguageModel,
        rows: &[PromptRow],
        context: usize,
    ) -> anyhow::Result<Vec<Self>> {
        if rows.is_empty() {
            return Err(BadInput::new(
                "the neutral table has no rows; give plain texts, or no table at all",
            )
            .into());
        }
        let longest = model.decoder().config().max_position_embeddings;
        let mut texts = Vec::with_capacity(rows.len());
        for row in rows {
            let [message] = &row.messages[..] else {
                return Err(BadInput::new(format!(
                    "neutral text {} has {} messages; a plain text is a single one",
                    row.prompt_id,
                    row.messages.len()
                ))
                .into());
            };
            let mut tokens = model.tokenizer().encode(&message.content)?;
            tokens.truncate(longest);
            let context = context.min(tokens.len() / 2).max(1);
            if tokens.len() > context {
                texts.push(Self { tokens, context });
            }
        }
        if texts.is_empty() {
            return Err(BadInput::new("no neutral text has two tokens or more").into());
        }
        Ok(texts)
    }

    /// Returns how many tokens the text has.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the positions whose next token is predicted.
    fn predictive(&self) -> Range<usize> {
        self.context - 1..self.tokens.len() - 1
    }
}

/// How the steered model's view of neutral texts differs from the base model's; one entry a text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NeutralDrift {
    /// Tokens predicted.
    pub tokens: Vec<f64>,
    /// Summed negative log-likelihood under the base. Unit: nats.
    pub base_nll: Vec<f64>,
    /// Summed negative log-likelihood under the steered model. Unit: nats.
    pub steered_nll: Vec<f64>,
    /// Summed divergence KL(base ‖ steered) of the next-token distributions. Unit: nats.
    pub kl: Vec<f64>,
    /// The same divergence of each predicted token, text after text. Unit: nats.
    pub token_kl: Vec<f64>,
}

impl NeutralDrift {
    /// Runs both policies over `texts`, steering from the last token of each prompt on.
    ///
    /// `candidate`: the model that is steered, which is `base` or has the same tokens and shapes.
    ///
    /// `progress` is called with the number of texts done and may stop the run.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`], and whatever the model returns.
    pub fn measure(
        base: &LanguageModel,
        candidate: &LanguageModel,
        steering: &Steering,
        texts: &[NeutralText],
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Self, ModelError> {
        let mut hook = steering.hook();
        let mut drift = Self::default();
        for texts in batches(texts) {
            let hook: Option<&mut dyn Hook> = if hook.is_identity() {
                None
            } else {
                Some(&mut hook)
            };
            drift.add_batch([base.decoder(), candidate.decoder()], hook, texts)?;
            if progress(drift.tokens.len()).is_break() {
                return Err(ModelError::Interrupted);
            }
        }
        Ok(drift)
    }

    fn add_batch(
        &mut self,
        [base, candidate]: [&Decoder; 2],
        hook: Option<&mut dyn Hook>,
        texts: &[NeutralText],
    ) -> Result<(), ModelError> {
        let mut batch = Batch::default();
        for text in texts {
            let slot = batch.tokens.len();
            batch.push(&text.tokens, Vec::new(), slot, text.context - 1);
        }
        let run = |decoder: &Decoder, hook: Option<&mut dyn Hook>| -> Result<Tensor, ModelError> {
            decoder.forward(&batch, &mut KvCache::new(decoder, batch.tokens.len()), hook)
        };
        let base_rows = run(base, None)?;
        let steered_rows = run(candidate, hook)?;
        for (text, segment) in texts.iter().zip(&batch.segments) {
            let mut sums = Sums::default();
            let rows = text.predictive();
            let chunk = (MAX_LOGITS / base.config().vocab_size).max(1);
            for start in rows.clone().step_by(chunk) {
                let count = chunk.min(rows.end - start);
                let logits = |decoder: &Decoder, hidden: &Tensor| -> Result<Vec<f32>, ModelError> {
                    let hidden = hidden
                        .narrow(0, segment.rows.start + start, count)?
                        .contiguous()?;
                    Ok(decoder.logits(&hidden)?.flatten_all()?.to_vec1::<f32>()?)
                };
                let next = &text.tokens[start + 1..=start + count];
                let steered = logits(candidate, &steered_rows)?;
                sums.add(&logits(base, &base_rows)?, &steered, next);
            }
            self.tokens.push(rows.len() as f64);
            self.base_nll.push(sums.base_nll);
            self.steered_nll.push(sums.steered_nll);
            self.kl.push(sums.kl);
            self.token_kl.append(&mut sums.token_kl);
        }
        Ok(())
    }

    /// Whether every figure is a number.
    pub fn is_finite(&self) -> bool {
        [&self.base_nll, &self.steered_nll, &self.kl]
            .iter()
            .all(|sums| sums.iter().all(|sum| sum.is_finite()))
    }

    /// Estimates the steered perplexity divided by the base's, resampling texts.
    ///
    /// # Errors
    /// A figure that is not finite.
    pub fn perplexity_ratio(&self, bootstrap: &Bootstrap) -> Result<Interval, StatsError> {
        let change: Vec<f64> = self
            .steered_nll
            .iter()
            .zip(&self.base_nll)
            .map(|(s, b)| s - b)
            .collect();
        self.exp_per_token(&change, bootstrap)
    }

    /// Estimates the base model's perplexity, resampling texts.
    ///
    /// # Errors
    /// A figure that is not finite.
    pub fn base_perplexity(&self, bootstrap: &Bootstrap) -> Result<Interval, StatsError> {
        self.exp_per_token(&self.base_nll, bootstrap)
    }

    /// Estimates the steered model's perplexity, resampling texts.
    ///
    /// # Errors
    /// A figure that is not finite.
    pub fn steered_perplexity(&self, bootstrap: &Bootstrap) -> Result<Interval, StatsError> {
        self.exp_per_token(&self.steered_nll, bootstrap)
    }

    /// Estimates the mean KL(base ‖ steered) a token, resampling texts. Unit: nats.
    ///
    /// # Errors
    /// A figure that is not finite.
    pub fn kl_per_token(&self, bootstrap: &Bootstrap) -> Result<Interval, StatsError> {
        bootstrap.ratio_of_means(&self.kl, &self.tokens)
    }

    /// Returns the 99th percentile over tokens of KL(base ‖ steered), by nearest rank. Unit: nats.
    ///
    /// The mean hides a model that is itself on most tokens and another on a few. 0 without tokens.
    pub fn kl_p99(&self) -> f64 {
        let mut sorted = self.token_kl.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (99 * sorted.len()).div_ceil(100);
        rank.checked_sub(1).map_or(0.0, |index| sorted[index])
    }

    fn exp_per_token(&self, sums: &[f64], bootstrap: &Bootstrap) -> Result<Interval, StatsError> {
        let Interval {
            estimate,
            low,
            high,
        } = bootstrap.ratio_of_means(sums, &self.tokens)?;
        Ok(Interval {
            estimate: estimate.exp(),
            low: low.exp(),
            high: high.exp(),
        })
    }
}

/// Groups texts so that a forward pass has at most [`MAX_ROWS`] rows, or one text.
fn batches(texts: &[NeutralText]) -> Vec<&[NeutralText]> {
    let mut batches = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        if index > start && rows + text.tokens.len() > MAX_ROWS {
            batches.push(&texts[start..index]);
            (start, rows) = (index, 0);
        }
        rows += text.tokens.len();
    }
    batches.push(&texts[start..]);
    batches
}

#[derive(Default)]
struct Sums {
    base_nll: f64,
    steered_nll: f64,
    kl: f64,
    token_kl: Vec<f64>,
}

impl Sums {
    /// Adds rows of logits, `[next.len(), vocab]` each, that are followed by the tokens `next`.
    fn add(&mut self, base: &[f32], steered: &[f32], next: &[u32]) {
        let vocab = base.len() / next.len();
        for ((base, steered), &next) in base.chunks(vocab).zip(steered.chunks(vocab)).zip(next) {
            let (base_sum, steered_sum) = (log_sum_exp(base), log_sum_exp(steered));
            let log_p = |token: usize| f64::from(base[token]) - base_sum;
            let log_q = |token: usize| f64::from(steered[token]) - steered_sum;
            self.base_nll -= log_p(next as usize);
            self.steered_nll -= log_q(next as usize);
            let kl = (0..vocab)
                .map(|token| log_p(token).exp() * (log_p(token) - log_q(token)))
                .sum::<f64>();
            self.kl += kl;
            self.token_kl.push(kl);
        }
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest
        + logits
            .iter()
            .map(|&logit| (f64::from(logit) - largest).exp())
            .sum::<f64>()
            .ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihood_and_divergence_match_hand_computed_values() {
        // Two tokens: base (3/4, 1/4), steered (1/2, 1/2); then equal distributions.
        let base = [3.0_f32.ln(), 0.0, 1.0, 1.0];
        let steered = [7.0, 7.0, 0.0, 0.0];
        let mut sums = Sums::default();
        sums.add(&base, &steered, &[0, 1]);
        assert!((sums.base_nll - (-(0.75_f64.ln()) + 2.0_f64.ln())).abs() < 1e-6);
        assert!((sums.steered_nll - 2.0 * 2.0_f64.ln()).abs() < 1e-6);
        let kl = 0.75 * (0.75_f64 / 0.5).ln() + 0.25 * (0.25_f64 / 0.5).ln();
        assert!((sums.kl - kl).abs() < 1e-6);
        assert!((sums.token_kl[0] - kl).abs() < 1e-6 && sums.token_kl[1].abs() < 1e-6);
    }

    #[test]
    fn ratios_are_per_token_over_all_texts() {
        let drift = NeutralDrift {
            tokens: vec![1.0, 3.0],
            base_nll: vec![1.0, 1.0],
            steered_nll: vec![2.0, 4.0],
            kl: vec![0.2, 0.2],
            token_kl: vec![0.2, 0.1, 0.05, 0.05],
        };
        let bootstrap = Bootstrap::seeded(1);
        assert!(
            (drift.perplexity_ratio(&bootstrap).unwrap().estimate - 1.0_f64.exp()).abs() < 1e-12
        );
        assert!(
            (drift.base_perplexity(&bootstrap).unwrap().estimate - 0.5_f64.exp()).abs() < 1e-12
        );
        assert!((drift.kl_per_token(&bootstrap).unwrap().estimate - 0.1).abs() < 1e-12);
    }

    #[test]
    fn the_99th_percentile_leaves_one_token_in_a_hundred_above() {
        let of = |token_kl: Vec<f64>| NeutralDrift {
            token_kl,
            ..NeutralDrift::default()
        };
        // 200, 199, … 1: two of two hundred are above 198.
        let many = of((1..=200).rev().map(f64::from).collect());
        assert_eq!(many.kl_p99(), 198.0);
        assert_eq!(of(vec![0.5, 3.0]).kl_p99(), 3.0);
        assert_eq!(of(Vec::new()).kl_p99(), 0.0);
    }

    #[test]
    fn batches_are_bounded_and_complete() {
        let text = |length: usize| NeutralText {
            tokens: vec![0; length],
            context: 1,
        };
        let texts = [text(600), text(500), text(2000), text(10), text(20)];
        let lengths: Vec<usize> = batches(&texts).iter().map(|batch| batch.len()).collect();
        assert_eq!(lengths, [1, 1, 1, 2]);
    }
}
