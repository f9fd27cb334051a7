//! Chooses the next token from a row of logits.
//!
//! Filters follow the definitions of Hugging Face transformers 5 (`generation/logits_process.py`), in its order:
//! repetition penalty, temperature, top-k, top-p, min-p. The draw is an inverse cumulative distribution in order of
//! token ids, so that it needs one uniform number and no sorting unless top-p is on.

use crate::softmax::{LogSumExp, LogitsError, log_sum_exp, softmax_weights};
use crate::{ModelError, Result};

/// How tokens are chosen and when a response ends.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most probable token (ties: the lowest id), whatever the filters.
    pub temperature: f32,
    /// Keeps the `top_k` most probable tokens and those tied with the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most probable tokens whose probabilities sum to at least `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less probable than `min_p` times the most probable; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of the tokens in the prompt or the response so far, multiplies negative ones; 1 is off.
    pub repetition_penalty: f32,
    /// Longest response, in tokens, a stop token included.
    pub max_new_tokens: usize,
    /// Tokens that end a response; the one sampled is part of it.
    pub stop_tokens: Vec<u32>,
}

impl Default for SamplingParams {
    /// Plain sampling from the model: temperature 1, no filter, 256 new tokens, no stop token.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_new_tokens: 256,
            stop_tokens: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// Greedy decoding of up to `max_new_tokens` tokens.
    pub fn greedy(max_new_tokens: usize, stop_tokens: Vec<u32>) -> Self {
        Self {
            temperature: 0.0,
            max_new_tokens,
            stop_tokens,
            ..Self::default()
        }
    }

    /// Checks that every parameter is in its range.
    ///
    /// # Errors
    /// [`ModelError::Setting`] for the first parameter that is not, with its value and range.
    pub fn validate(&self) -> Result<()> {
        let (top_p, min_p) = (self.top_p, self.min_p);
        let checks = [
            (
                "temperature",
                self.temperature,
                self.temperature >= 0.0,
                "0 or more",
            ),
            (
                "top-p",
                top_p,
                top_p > 0.0 && top_p <= 1.0,
                "above 0 and at most 1",
            ),
            (
                "min-p",
                min_p,
                (0.0..=1.0).contains(&min_p),
                "between 0 and 1",
            ),
            (
                "repetition-penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
                "above 0",
            ),
            (
                "max-new-tokens",
                self.max_new_tokens as f32,
                self.max_new_tokens > 0,
                "1 or more",
            ),
        ];
        for (setting, value, in_range, range) in checks {
            if !in_range || !value.is_finite() {
                let message = format!("must be {range}, not {value}");
                return Err(ModelError::Setting { setting, message });
            }
        }
        Ok(())
    }

    /// Returns whether the choice of a token depends on the tokens before it other than through the logits.
    pub(crate) fn has_repetition_penalty(&self) -> bool {
        self.repetition_penalty != 1.0
    }
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Token id.
    pub token: u32,
    /// Natural log of its probability under the plain model: before penalty, temperature and filters.
    pub log_probability: f64,
}

/// The tokens that the repetition penalty acts on: each once, however often it occurred.
#[derive(Debug, Clone, Default)]
pub struct SeenTokens {
    tokens: Vec<u32>,
    is_seen: Vec<bool>,
}

impl SeenTokens {
    /// Adds a token.
    pub fn insert(&mut self, token: u32) {
        let index = token as usize;
        if index >= self.is_seen.len() {
            self.is_seen.resize(index + 1, false);
        }
        if !self.is_seen[index] {
            self.is_seen[index] = true;
            self.tokens.push(token);
        }
    }
}

impl<'a> Extend<&'a u32> for SeenTokens {
    fn extend<T: IntoIterator<Item = &'a u32>>(&mut self, tokens: T) {
        tokens.into_iter().for_each(|&token| self.insert(token));
    }
}

/// Chooses tokens under fixed parameters, reusing its buffers from row to row.
///
/// It keeps nothing between rows that could influence a choice.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    /// Logits after the repetition penalty.
    scores: Vec<f32>,
    /// Unnormalised probabilities, 0 where a filter dropped the token.
    weights: Vec<f32>,
    /// Token ids, for partial sorts.
    order: Vec<u32>,
}

impl Sampler {
    /// Creates a sampler.
    ///
    /// # Errors
    /// A parameter out of range, as [`SamplingParams::validate`].
    pub fn new(params: &SamplingParams) -> Result<Self> {
        params.validate()?;
        Ok(Self {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            scores: Vec::new(),
            weights: Vec::new(),
            order: Vec::new(),
        })
    }

    /// Chooses a token from `logits` (`[vocab]`, the plain model's).
    ///
    /// `seen` matters only with a repetition penalty, `uniform` (in `[0, 1)`) only above temperature 0.
    ///
    /// # Errors
    /// A logit that is NaN or `+inf`, or no finite logit.
    pub fn choose(
        &mut self,
        logits: &[f32],
        seen: &SeenTokens,
        uniform: f64,
    ) -> std::result::Result<Choice, LogitsError> {
        let penalised = self.repetition_penalty != 1.0;
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        if penalised {
            self.penalise(seen);
        }
        let (token, plain) = if self.temperature == 0.0 {
            let plain = log_sum_exp(logits)?;
            (argmax(&self.scores), plain)
        } else {
            let tempered = softmax_weights(&self.scores, self.temperature, &mut self.weights)?;
            let plain = if penalised || self.temperature != 1.0 {
                log_sum_exp(logits)?
            } else {
                tempered
            };
            self.filter();
            (draw(&self.weights, uniform), plain)
        };
        Ok(choice(token, logits, plain))
    }

    /// Applies the repetition penalty to the scores of the tokens seen.
    fn penalise(&mut self, seen: &SeenTokens) {
        for &token in &seen.tokens {
            if let Some(score) = self.scores.get_mut(token as usize) {
                *score = if *score < 0.0 {
                    *score * self.repetition_penalty
                } else {
                    *score / self.repetition_penalty
                };
            }
        }
    }

    /// Sets the weights of the tokens that top-k, top-p or min-p drops to 0; the most probable token always stays.
    fn filter(&mut self) {
        if self.top_k > 0 && self.top_k < self.scores.len() {
            self.keep_top_k();
        }
        if self.top_p < 1.0 {
            self.keep_top_p();
        }
        if self.min_p > 0.0 {
            // The largest weight is exp(0) = 1, so weights are probabilities relative to the most probable token.
            for weight in &mut self.weights {
                if *weight < self.min_p {
                    *weight = 0.0;
                }
            }
        }
    }

    /// Drops the tokens below the `top_k`-th largest score.
    fn keep_top_k(&mut self) {
        self.order.clear();
        self.order.extend(0..self.scores.len() as u32);
        let scores = &self.scores;
        let by_score = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]);
        let (_, &mut last, _) = self.order.select_nth_unstable_by(self.top_k - 1, by_score);
        let threshold = scores[last as usize];
        for (weight, &score) in self.weights.iter_mut().zip(scores) {
            if score < threshold {
                *weight = 0.0;
            }
        }
    }

    /// Drops the tokens for which the more probable ones (ties: the lower ids) already hold `top_p` of the mass.
    fn keep_top_p(&mut self) {
        let weights = &mut self.weights;
        self.order.clear();
        self.order
            .extend((0..weights.len() as u32).filter(|&token| weights[token as usize] > 0.0));
        let mass = weights
            .iter()
            .fold(0.0, |sum, &weight| sum + f64::from(weight));
        let wanted = f64::from(self.top_p) * mass;

        // Sorting ever longer heads of the order is linear in the vocabulary when the nucleus is small.
        let scores = &self.scores;
        let by_probability = |a: &u32, b: &u32| {
            scores[*b as usize]
                .total_cmp(&scores[*a as usize])
                .then_with(|| a.cmp(b))
        };
        let (mut sorted, mut head, mut held) = (0, 128, 0.0);
        while sorted < self.order.len() {
            let rest = &mut self.order[sorted..];
            let block = head.min(rest.len());
            if block < rest.len() {
                rest.select_nth_unstable_by(block, by_probability);
            }
            rest[..block].sort_unstable_by(by_probability);
            for (index, &token) in rest[..block].iter().enumerate() {
                if held >= wanted && sorted + index > 0 {
                    for &dropped in &self.order[sorted + index..] {
                        weights[dropped as usize] = 0.0;
                    }
                    return;
                }
                held += f64::from(weights[token as usize]);
            }
            sorted += block;
            head *= 8;
        }
    }
}

/// Packs a token with its log-probability under the plain model.
fn choice(token: usize, logits: &[f32], plain: LogSumExp) -> Choice {
    Choice {
        token: token as u32,
        log_probability: plain.log_probability(logits[token]),
    }
}

/// Index of the largest entry; of equal ones the first.
fn argmax(scores: &[f32]) -> usize {
    let mut best = 0;
    for (index, &score) in scores.iter().enumerate() {
        if score > scores[best] {
            best = index;
        }
    }
    best
}

/// Index at which the running sum of `weights` first exceeds `uniform` times the whole.
fn draw(weights: &[f32], uniform: f64) -> usize {
    let total = weights
        .iter()
        .fold(0.0, |sum, &weight| sum + f64::from(weight));
    let target = uniform * total;
    let mut running = 0.0;
    let mut last = 0;
    for (index, &weight) in weights.iter().enumerate() {
        if weight > 0.0 {
            running += f64::from(weight);
            last = index;
            if running > target {
                break;
            }
        }
    }
    last
}

#[cfg(test)]
mod tests;
