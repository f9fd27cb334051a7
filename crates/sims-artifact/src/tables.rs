//! The Parquet artifacts: one row type each.
//!
//! Ids are content hashes, the same in every round and on every machine, so tables join on them.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::schema::{TableSchema, TensorColumn, TensorsSchema};
use crate::table::{Table, table};
use crate::{Digest, canonical_json};

/// One turn of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// Makes a turn by `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }

    /// Makes a turn by the user.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// Makes a turn by the assistant.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

table! {
    /// A prompt: the chat so far, to be continued by the assistant.
    PromptRow = "prompts@1" {
        /// Content hash of `messages`.
        prompt_id: String,
        /// The chat, oldest turn first.
        messages: Vec<Message>,
        /// Which set the prompt belongs to, such as `train` or `eval`.
        split: String,
        /// Where the prompt came from.
        source: String,
    }
}

impl PromptRow {
    /// Makes a prompt with the id that its messages give.
    pub fn new(
        messages: Vec<Message>,
        split: impl Into<String>,
        source: impl Into<String>,
    ) -> Self {
        Self {
            prompt_id: prompt_id(&messages),
            messages,
            split: split.into(),
            source: source.into(),
        }
    }
}

table! {
    /// A prompt that an import left out, and why.
    DroppedPromptRow = "dropped-prompts@1" {
        /// The file that it was read from.
        file: String,
        /// Where in the file, from 1: the line of JSONL and CSV, else the record.
        row: u64,
        /// Content hash of `messages`.
        prompt_id: String,
        /// The chat, oldest turn first; none when the prompt is empty.
        messages: Vec<Message>,
        /// Where the prompt came from.
        source: String,
        /// `empty`, `too-short`, `too-long`, `exact-duplicate`, `normalised-duplicate`, `test-overlap` or `no-split`.
        reason: String,
        /// The prompt that a duplicate repeats.
        duplicate_of: Option<String>,
        /// The record of the test set that an overlap is with.
        overlaps: Option<String>,
    }
}

table! {
    /// One sampled response to a prompt.
    ResponseRow = "responses@1" {
        /// The prompt answered.
        prompt_id: String,
        /// Content hash of prompt, policy, sample index and tokens.
        response_id: String,
        /// The round that sampled it, from 1; 0 outside any round.
        round: u32,
        /// Which of the prompt's samples this is, from 0.
        sample_index: u32,
        /// `base`, or `steered-` and the start of the steering file's digest; `adapted-` and that of an adapter's.
        policy: String,
        /// The response as text, without special tokens.
        text: String,
        /// The response exactly as sampled, end-of-turn token included when it was sampled.
        token_ids: Vec<u32>,
        /// Length of the templated prompt. Unit: tokens.
        prompt_tokens: u32,
        /// `stop` (an end token was sampled) or `length` (the limit was reached).
        finish_reason: String,
        /// Summed log-probability of the tokens under the policy at temperature 1, nothing filtered. Unit: nats.
        logprob_sum: f64,
        /// Key of the random stream that sampled it.
        seed: u64,
    }
}

table! {
    /// One comparison of two responses in one order of presentation.
    JudgmentRow = "judgments@1" {
        /// The prompt that both answer.
        prompt_id: String,
        /// The response with the smaller sample index.
        response_a: String,
        /// The response with the larger sample index.
        response_b: String,
        /// Which one the judge saw first: `ab` or `ba`.
        order: String,
        /// The judge and its template version.
        judge: String,
        /// The judge's probability that `response_a` is the better one.
        p_a: f64,
        /// `a`, `b`, `tie`, or `invalid` when the judge did not answer the question.
        verdict: String,
        /// The judge's log-odds that `response_a` is the better one. Unit: nats.
        raw: f64,
        /// Probability that the judge gave to the verdict tokens together.
        coverage: f64,
    }
}

table! {
    /// What a judge said of two answers in one order, as it said it: a piece of the work of `judge`.
    ComparisonRow = "comparisons@1" {
        /// The prompt.
        prompt_id: String,
        /// The answer shown first: a response, or the name of a control.
        first: String,
        /// The answer shown second.
        second: String,
        /// The member of an ensemble that said it; null for the judge as a whole.
        member: Option<String>,
        /// Log-odds that the answer shown first is the better one. Unit: nats.
        logit: f64,
        /// Probability that the judge gave to the verdict tokens together.
        coverage: f64,
    }
}

table! {
    /// What somebody thinks of one response by itself: people, or a model asked elsewhere.
    RatingRow = "ratings@1" {
        /// The prompt that was answered.
        prompt_id: String,
        /// The response.
        response_id: String,
        /// The rating, higher for better; comparable within a prompt only. Null where there is none.
        rating: Option<f64>,
    }
}

table! {
    /// A response's place among the responses to its prompt.
    RankingRow = "ranking@1" {
        /// The prompt.
        prompt_id: String,
        /// The response.
        response_id: String,
        /// The method's score; comparable within a prompt only.
        score: f64,
        /// Standard error of `score`, where the method has one.
        score_se: Option<f64>,
        /// 1 for the best response.
        rank: u32,
        /// Comparisons that `score` rests on, both orders counted.
        comparisons: u32,
        /// Mean probability of beating the responses it met.
        win_probability: f64,
        /// The prompt's mean log-odds in favour of the response shown first. Unit: nats.
        position_bias: f64,
        /// Whether another response of the prompt has the same score.
        tie: bool,
        /// Noise of a score from order inconsistency, pooled over all prompts.
        noise_sigma: f64,
    }
}

table! {
    /// A contrast pair: a better and a worse response to one prompt.
    PairRow = "pairs@1" {
        /// Content hash of prompt, chosen and rejected response.
        pair_id: String,
        /// The prompt.
        prompt_id: String,
        /// The better response.
        chosen_id: String,
        /// The worse response.
        rejected_id: String,
        /// Text of the better response.
        chosen: String,
        /// Text of the worse response.
        rejected: String,
        /// The better response as sampled.
        chosen_token_ids: Vec<u32>,
        /// The worse response as sampled.
        rejected_token_ids: Vec<u32>,
        /// Score of the better response minus score of the worse one.
        margin: f64,
        /// `margin` standardised within its round.
        z: f64,
        /// Weight in the fit.
        weight: f64,
        /// The round that the pair comes from.
        origin_round: u32,
        /// The judge behind the scores.
        judge: String,
    }
}

table! {
    /// A contrast pair that was not kept, and why.
    DroppedRow = "dropped@1" {
        /// Content hash of prompt, chosen and rejected response.
        pair_id: String,
        /// The prompt.
        prompt_id: String,
        /// The better response.
        chosen_id: String,
        /// The worse response.
        rejected_id: String,
        /// Text of the better response.
        chosen: String,
        /// Text of the worse response.
        rejected: String,
        /// The better response as sampled.
        chosen_token_ids: Vec<u32>,
        /// The worse response as sampled.
        rejected_token_ids: Vec<u32>,
        /// Score of the better response minus score of the worse one.
        margin: f64,
        /// `margin` standardised within its round.
        z: f64,
        /// Weight that the pair would have had.
        weight: f64,
        /// The round that the pair comes from.
        origin_round: u32,
        /// The judge behind the scores.
        judge: String,
        /// Name of the filter that dropped it.
        reason: String,
    }
}

impl PairRow {
    /// Turns the pair into a dropped one.
    pub fn dropped(self, reason: impl Into<String>) -> DroppedRow {
        DroppedRow {
            pair_id: self.pair_id,
            prompt_id: self.prompt_id,
            chosen_id: self.chosen_id,
            rejected_id: self.rejected_id,
            chosen: self.chosen,
            rejected: self.rejected,
            chosen_token_ids: self.chosen_token_ids,
            rejected_token_ids: self.rejected_token_ids,
            margin: self.margin,
            z: self.z,
            weight: self.weight,
            origin_round: self.origin_round,
            judge: self.judge,
            reason: reason.into(),
        }
    }
}

table! {
    /// What one row of the hidden states in `states` belongs to.
    StateIndexRow = "index@1" {
        /// Row of every `layer.{i}.positive` and `layer.{i}.negative`.
        row: u32,
        /// The contrast pair.
        pair_id: String,
        /// The pair's prompt: fit and held-out sets are split by it.
        prompt_id: String,
        /// Position of the positive state in the chosen sequence, counted from the first response token. Unit: tokens.
        position: u32,
        /// Token at that position.
        token_id: u32,
        /// Position of the negative state in the rejected sequence, counted alike. Unit: tokens.
        rejected_position: u32,
        /// Token at that position.
        rejected_token_id: u32,
    }
}

table! {
    /// One figure of a fit at one layer.
    FitReportRow = "fit-report@1" {
        /// The block whose output was fitted, from 0.
        layer: u32,
        /// The steering function.
        operator: String,
        /// What was measured.
        metric: String,
        /// `train`, `held-out`, or `shuffled` (held-out figure of a fit to shuffled labels).
        split: String,
        /// The figure.
        value: f64,
        /// Lower end of its 95 % interval.
        ci_low: Option<f64>,
        /// Upper end of its 95 % interval.
        ci_high: Option<f64>,
        /// How many prompts it rests on.
        n: u64,
        /// Whether the layer is steered.
        selected: bool,
    }
}

table! {
    /// One gate at one attempt to accept a steering.
    DecisionRow = "decision@2" {
        /// Which attempt, from 1.
        attempt: u32,
        /// The part of the prompts: `selection`, `confirmation`, or `all` where nothing is chosen.
        part: String,
        /// The layers that the candidate steered in that attempt.
        layers: Vec<u32>,
        /// Strength of the candidate in that attempt.
        strength: f64,
        /// The gate.
        gate: String,
        /// The measured value.
        value: f64,
        /// Lower end of its 95 % interval.
        ci_low: Option<f64>,
        /// Upper end of its 95 % interval.
        ci_high: Option<f64>,
        /// The limit it was held against.
        limit: f64,
        /// Whether the gate let the candidate through.
        passed: bool,
        /// What followed: `continue`, `accept`, `back-off` or `roll-back`.
        action: String,
    }
}

table! {
    /// One figure about a policy, against a baseline where it has one.
    MetricRow = "metrics@1" {
        /// What was measured.
        metric: String,
        /// The figure.
        value: f64,
        /// Lower end of its 95 % interval.
        ci_low: Option<f64>,
        /// Upper end of its 95 % interval.
        ci_high: Option<f64>,
        /// How many prompts it rests on.
        n: u64,
        /// How the figure and its interval were computed.
        method: String,
        /// The policy it is compared with; empty where it stands alone.
        baseline: String,
    }
}

table! {
    /// One figure of one round, kept for the rounds after it.
    HistoryRow = "history@1" {
        /// The round, from 1.
        round: u32,
        /// What was measured.
        figure: String,
        /// The figure.
        value: f64,
        /// Lower end of its 95 % interval.
        ci_low: Option<f64>,
        /// Upper end of its 95 % interval.
        ci_high: Option<f64>,
    }
}

table! {
    /// One detector of something that goes wrong over rounds, read for one round.
    SignalRow = "signals@1" {
        /// The round, from 1.
        round: u32,
        /// What goes wrong: `judge-collapse`, `feedback-loop`, `degenerate-samples`, `over-steering`, `plateau` or `strikes`.
        signature: String,
        /// What was looked at.
        detector: String,
        /// What was measured.
        value: f64,
        /// Lower end of its 95 % interval.
        ci_low: Option<f64>,
        /// Upper end of its 95 % interval.
        ci_high: Option<f64>,
        /// The same in the first round, where it is compared with that.
        reference: Option<f64>,
        /// The limit it was held against.
        limit: f64,
        /// Whether the limit was passed.
        fired: bool,
        /// What followed: empty, or some of `roll-back`, `hotter`, `back-off`, `fewer-layers`, `drop-pairs`, `stop`.
        action: String,
    }
}

table! {
    /// What the next round does otherwise than its parameters say: one row.
    SettingsRow = "settings@1" {
        /// The round that found it, from 1.
        round: u32,
        /// Added to the sampling temperature.
        temperature_rise: f64,
        /// Factor on the step of the fit.
        step_factor: f64,
        /// Layers to steer fewer, of which at least one stays.
        fewer_layers: u32,
        /// Whether pairs of unlike length are dropped.
        length_balance: bool,
        /// Rounds that were refused or rolled back.
        strikes: u32,
    }
}

table! {
    /// One figure about one prompt.
    ScoreRow = "scores@1" {
        /// The prompt.
        prompt_id: String,
        /// The policy that answered.
        policy: String,
        /// Which draw, from 0; null where the figure is over all draws.
        draw: Option<u32>,
        /// What was measured.
        metric: String,
        /// The figure.
        value: f64,
    }
}

table! {
    /// A question with the answers to choose from, or a worked example of one, as `docs/choices.md` describes.
    ChoicesRow = "choices@1" {
        /// The task that the question belongs to, such as `arc_easy`.
        task: String,
        /// The groups that the task counts in, such as `mmlu`; empty for none.
        groups: Vec<String>,
        /// Names the question within its task and split.
        doc_id: String,
        /// `test` for a question that is asked, `fewshot` for an example that may be shown before it.
        split: String,
        /// What stands before the examples, or in the system message of a chat.
        description: Option<String>,
        /// The question, up to where an answer starts; empty where `contexts` are given.
        context: String,
        /// A context for each choice, where choices differ before the text that is scored.
        contexts: Option<Vec<String>>,
        /// The texts to choose from.
        choices: Vec<String>,
        /// Index of the right choice; null where only `labels` say what is right.
        gold: Option<u32>,
        /// For each choice 1 if it is right, else 0.
        labels: Option<Vec<u32>>,
        /// The beginning of every answer, put after the context and not scored.
        prefix: Option<String>,
        /// What stands between context and choice, and is scored with the choice.
        target_delimiter: String,
        /// What stands after an example.
        fewshot_delimiter: String,
    }
}

table! {
    /// What a response to a prompt has to look like, checked by rule, as `docs/side-effects.md` describes.
    ConstraintRow = "constraints@1" {
        /// The prompt that asks for it.
        prompt_id: String,
        /// `words`, `sentences`, `paragraphs`, `bullets`, `json`, `lowercase`, `uppercase`, `quoted`, `includes`, `excludes` or `ends-with`.
        kind: String,
        /// How many (`5`, `5..`, `..10`, `3..5`), or the words; empty for kinds that take nothing.
        value: String,
    }
}

table! {
    /// What a policy thinks of one choice.
    ChoiceScoreRow = "choices-scores@1" {
        /// The task.
        task: String,
        /// The question within the task.
        doc_id: String,
        /// Index of the choice.
        choice: u32,
        /// `base`, or `steered-` and the start of the steering file's digest.
        policy: String,
        /// Summed log-probability of delimiter and choice. Unit: nats.
        loglikelihood: f64,
        /// Whether every token of them is the most probable one.
        is_greedy: bool,
        /// Length of the text that differs between the choices. Unit: Unicode code points.
        characters: u32,
        /// Its length in UTF-8. Unit: bytes.
        bytes: u32,
        /// Tokens scored. Unit: tokens.
        tokens: u32,
        /// Tokens of the context that were cut off on the left because the model's context is shorter. Unit: tokens.
        cut_tokens: u32,
        /// The same log-probability without a context, where it was asked for. Unit: nats.
        unconditional: Option<f64>,
    }
}

/// Returns the id of a prompt: a hash of its messages.
pub fn prompt_id(messages: &[Message]) -> String {
    content_id(&json!(["prompt", messages]))
}

/// Returns the id of a response.
pub fn response_id(prompt_id: &str, policy: &str, sample_index: u32, token_ids: &[u32]) -> String {
    content_id(&json!([
        "response",
        prompt_id,
        policy,
        sample_index,
        token_ids
    ]))
}

/// Returns the id of a contrast pair.
pub fn pair_id(prompt_id: &str, chosen_id: &str, rejected_id: &str) -> String {
    content_id(&json!(["pair", prompt_id, chosen_id, rejected_id]))
}

fn content_id(value: &serde_json::Value) -> String {
    Digest::of_bytes(canonical_json(value).as_bytes()).short(32)
}

/// Returns the schema of every Parquet artifact.
pub fn table_schemas() -> Vec<TableSchema> {
    vec![
        PromptRow::schema(),
        DroppedPromptRow::schema(),
        ResponseRow::schema(),
        JudgmentRow::schema(),
        ComparisonRow::schema(),
        RatingRow::schema(),
        RankingRow::schema(),
        PairRow::schema(),
        DroppedRow::schema(),
        StateIndexRow::schema(),
        FitReportRow::schema(),
        DecisionRow::schema(),
        MetricRow::schema(),
        HistoryRow::schema(),
        SignalRow::schema(),
        SettingsRow::schema(),
        ScoreRow::schema(),
        ChoicesRow::schema(),
        ChoiceScoreRow::schema(),
        ConstraintRow::schema(),
    ]
}

/// Returns the schema of every safetensors artifact.
pub fn tensors_schemas() -> Vec<TensorsSchema> {
    vec![
        TensorsSchema {
            id: "states@1",
            description: "Hidden states of chosen and rejected responses; `index` says what each row is.",
            tensors: vec![
                TensorColumn {
                    name: "layer.{i}.positive",
                    shape: "[rows, hidden]",
                    dtype: "f32 or bf16",
                    meaning: "output of block i (from 0) in the chosen sequence, before the final norm",
                },
                TensorColumn {
                    name: "layer.{i}.negative",
                    shape: "[rows, hidden]",
                    dtype: "f32 or bf16",
                    meaning: "output of block i in the rejected sequence at the matching position",
                },
            ],
            metadata: "model (manifest digest), layers, positions, dtype, steering (digest or null)",
        },
        TensorsSchema {
            id: "steering@1",
            description: "A steering function: operators by layer, applied in order to the block's output.",
            tensors: vec![
                TensorColumn {
                    name: "layer.{i}.{k}.vector",
                    shape: "[hidden]",
                    dtype: "f32",
                    meaning: "what operator k adds to the output of block i, at strength 1",
                },
                TensorColumn {
                    name: "layer.{i}.{k}.normal",
                    shape: "[hidden]",
                    dtype: "f32",
                    meaning: "normal of the hyperplane of a pseudo-rotation",
                },
                TensorColumn {
                    name: "layer.{i}.{k}.angle.{m}.weight",
                    shape: "[out, in]",
                    dtype: "f32",
                    meaning: "linear layer m of the angle network of a pseudo-rotation (with `.bias`)",
                },
            ],
            metadata: "format, operator, layers, strength, model (manifest digest), hidden_size, fit summary",
        },
        TensorsSchema {
            id: "adapter@1",
            description: "Low-rank changes of linear layers, under the names that PEFT gives them: `W + alpha/rank · B · A`.",
            tensors: vec![
                TensorColumn {
                    name: "base_model.model.model.layers.{i}.{module}.lora_A.weight",
                    shape: "[rank, in]",
                    dtype: "f32",
                    meaning: "A of a linear layer of block i, such as `self_attn.q_proj`",
                },
                TensorColumn {
                    name: "base_model.model.model.layers.{i}.{module}.lora_B.weight",
                    shape: "[out, rank]",
                    dtype: "f32",
                    meaning: "B of the same layer",
                },
            ],
            metadata: "format, method, rank, alpha, targets, model (manifest digest), fit summary",
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_across_machines_and_versions() {
        let id = prompt_id(&[Message::user("sort : pear fig")]);
        assert_eq!(id.len(), 32);
        assert_eq!(id, prompt_id(&[Message::user("sort : pear fig")]));
        assert_ne!(id, prompt_id(&[Message::assistant("sort : pear fig")]));
        assert_ne!(
            response_id(&id, "base", 0, &[1, 2]),
            response_id(&id, "base", 1, &[1, 2])
        );
    }

    #[test]
    fn units_are_taken_from_the_doc_comment() {
        let schema = ResponseRow::schema();
        let column = schema
            .columns
            .iter()
            .find(|c| c.name == "prompt_tokens")
            .unwrap();
        assert_eq!(column.unit.as_deref(), Some("tokens"));
        assert_eq!(column.meaning, "Length of the templated prompt.");
    }
}
