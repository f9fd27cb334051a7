//! The stage's parameters.

use sims_judge::ensemble::Pooling;
use sims_judge::{JudgeKind, JudgeParams};
use sims_model::LanguageModel;
use sims_model::generate::SamplingParams;
use sims_sample::{Selection, WeightType};
use sims_stage::{BadInput, List};
use sims_stats::loops::LoopRule;

use crate::gates::Limits;

sims_stage::choice! {
    /// Whether the candidate may be refused
    pub enum Gate {
        /// Back off until the gates pass, else keep the incumbent
        Standard = "standard",
        /// Accept the candidate as it is; only measure
        None = "none",
    }
}

sims_stage::choice! {
    /// Which layers of the candidate are tried
    pub enum LayerSearch {
        /// All that were fitted, together
        Fitted = "fitted",
        /// Every run of neighbours among them: all, fewer, each alone
        Runs = "runs",
    }
}

sims_stage::choice! {
    /// What is measured of a setting that is not safe
    pub enum Curve {
        /// Nothing further
        Safe = "safe",
        /// Its gain as well, for a whole curve of gain against drift
        Whole = "whole",
    }
}

sims_stage::params! {
    /// How a steering is evaluated, and what it must show to be accepted.
    pub struct SteerEvalParams {
        /// Who compares
        judge: JudgeKind = JudgeKind::SelfJudge,
        /// The judge's prompt: auto (the model's own if it has one), ab-1, or the version of the model's own
        template: String = "auto".to_owned(),
        /// Least probability on the verdict tokens; below it a comparison is invalid
        min_coverage: f64 = 0.5,
        /// Divides the judge's log-odds before they become a win probability
        tau: f64 = 1.0,
        /// Responses a prompt and side; draw i of one side meets draw i of the other
        draws: u32 = 4,
        /// Whether the candidate may be refused
        gate: Gate = Gate::Standard,
        /// Strengths tried, in units of what the candidate adds to the incumbent
        back_off: List<f64> = List(vec![1.0, 0.5, 0.25]),
        /// Which layers of the candidate are tried
        layer_search: LayerSearch = LayerSearch::Fitted,
        /// What is measured of a setting that is not safe
        curve: Curve = Curve::Safe,
        /// Share of the prompts on which the strength is chosen; the others confirm it
        selection_share: f64 = 0.35,
        /// Prompts a shard, cut from the prompts in the order of their ids; 0 takes all prompts
        shard_size: u32 = 0,
        /// Which shard, from 1; 0 takes the one with the round's number
        shard: u32 = 1,
        /// Take only prompts of this split; empty takes all
        split: String = String::new(),
        /// Divides the logits; 0 takes the most probable token
        temperature: f64 = 0.9,
        /// Keep the fewest most probable tokens whose probabilities sum to this; 1 keeps all
        top_p: f64 = 1.0,
        /// Keep this many of the most probable tokens; 0 keeps all
        top_k: u32 = 0,
        /// Drop tokens less probable than this times the most probable; 0 keeps all
        min_p: f64 = 0.0,
        /// Makes tokens that occurred less probable; 1 is off
        repetition_penalty: f64 = 1.0,
        /// Longest response. Unit: tokens
        max_new_tokens: u32 = 40,
        /// Fewest tokens that must repeat at the end of a response for a loop. Unit: tokens
        loop_window: u32 = 24,
        /// How much of a neutral text acts as its prompt, half of it at most. Unit: tokens
        neutral_context: u32 = 32,
        /// The lower bound of the win rate against the base must be above this
        min_win_rate: f64 = 0.5,
        /// The lower bound of the win rate against the incumbent must be above this
        min_win_rate_against_incumbent: f64 = 0.45,
        /// The share of loops may rise by this much
        max_loop_rise: f64 = 0.02,
        /// Largest share of loops, whatever the base's; 1 is off, the method's own is 0.05
        max_loop_share: f64 = 1.0,
        /// rep-4 may be this many times the base's, and 0.01 more
        max_repetition_ratio: f64 = 1.25,
        /// distinct-2, at equal amounts of text, may fall to this share of the base's
        min_distinct_2_ratio: f64 = 0.85,
        /// The mean length may differ from the base's by this share of it
        max_length_change: f64 = 0.2,
        /// The share of truncated responses may rise by this much
        max_truncation_rise: f64 = 0.05,
        /// Perplexity on neutral text may be this many times the base's
        max_perplexity_ratio: f64 = 1.15,
        /// Largest mean KL divergence of the steered from the base model on neutral text. Unit: nats a token
        max_neutral_kl: f64 = 0.1,
        /// Largest 99th percentile of the same over tokens. Unit: nats
        max_neutral_kl_p99: f64 = 2.0,
        /// No edit may lengthen a state to more than this many times its norm
        max_norm_ratio: f64 = 1.5,
        /// Resamples of every interval
        resamples: u32 = 10_000,
        /// The type that weights are held in
        dtype: WeightType = WeightType::F32,
        /// The round, from 1
        round: u32 = 1,
        /// Seed of draws, split and resamples
        seed: u64 = 0,
    }
    optional {
        /// A second judge, which measures what is accepted and decides nothing: the guard holds the first against it
        second_judge: JudgeKind,
        /// noisy: the judge that errs; self if not given
        oracle: JudgeKind,
        /// noisy: the probability that a pair is mistaken, both orders together; between 0 and 0.5
        error_rate: f64,
        /// rating: what a difference of 1 between two ratings counts; 1 if not given. Unit: nats
        rating_scale: f64,
        /// http: the model's name at the server
        judge_model: String,
        /// http: the server's address up to /v1; OPENAI_BASE_URL, or OpenAI's, if not given
        base_url: String,
        /// http: requests under way at once; 8 if not given
        concurrency: u32,
        /// http: most requests a minute; no limit if not given
        requests_per_minute: u32,
        /// http: most tokens that a run may spend, after which it stops and keeps its answers
        token_budget: u64,
        /// ensemble: the judges, such as self,rating
        members: List<JudgeKind>,
        /// ensemble: what each member's log-odds are divided by; 1 each if not given
        member_temperatures: List<f64>,
        /// ensemble: how the members decide; mean if not given
        pooling: Pooling,
        /// planted-length: what each token counts by which an answer is longer. Unit: nats
        length_weight: f64,
        /// A bias of the judge, not of the second one, for the longer answer. Unit: nats a token
        length_bias: f64,
        /// What length-bias grows by with each round after the first. Unit: nats a token
        length_bias_growth: f64,
    }
}

impl SteerEvalParams {
    /// Refuses values that mean nothing; sampling parameters are checked where they are used.
    pub(crate) fn check(&self) -> Result<(), BadInput> {
        let refuse = |message: String| Err(BadInput::new(message));
        if self.draws == 0 {
            return refuse("draws is 0, but each side needs at least 1".to_owned());
        }
        if self.back_off.0.is_empty() {
            return refuse("back-off is empty; name at least one strength, such as 1".to_owned());
        }
        if let Some(strength) = self
            .back_off
            .0
            .iter()
            .find(|s| !(s.is_finite() && **s > 0.0))
        {
            return refuse(format!(
                "back-off has the strength {strength}; strengths are above 0"
            ));
        }
        for (name, value) in [
            ("min-coverage", self.min_coverage),
            ("selection-share", self.selection_share),
            ("max-loop-share", self.max_loop_share),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return refuse(format!("{name} is {value}, but a share is between 0 and 1"));
            }
        }
        if !(self.tau.is_finite() && self.tau > 0.0) {
            return refuse(format!(
                "tau is {}, but it divides and must be above 0",
                self.tau
            ));
        }
        if self.resamples == 0 {
            return refuse("resamples is 0, so no interval could be computed".to_owned());
        }
        Ok(())
    }

    /// Returns the settings of the judge, which the second one shares.
    pub(crate) fn judge(&self) -> JudgeParams {
        JudgeParams {
            judge: self.judge,
            template: self.template.clone(),
            oracle: self.oracle,
            error_rate: self.error_rate,
            rating_scale: self.rating_scale,
            judge_model: self.judge_model.clone(),
            base_url: self.base_url.clone(),
            concurrency: self.concurrency,
            requests_per_minute: self.requests_per_minute,
            token_budget: self.token_budget,
            members: self.members.clone(),
            member_temperatures: self.member_temperatures.clone(),
            pooling: self.pooling,
            length_weight: self.length_weight,
            length_bias: self.length_bias,
            length_bias_growth: self.length_bias_growth,
            seed: self.seed,
            ..JudgeParams::default()
        }
    }

    pub(crate) fn selection(&self) -> Selection {
        let shard = if self.shard == 0 {
            self.round
        } else {
            self.shard
        };
        Selection {
            split: self.split.clone(),
            shard_size: self.shard_size as usize,
            shard: shard as usize,
        }
    }

    pub(crate) fn sampling(&self, model: &LanguageModel) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature as f32,
            top_k: self.top_k as usize,
            top_p: self.top_p as f32,
            min_p: self.min_p as f32,
            repetition_penalty: self.repetition_penalty as f32,
            max_new_tokens: self.max_new_tokens as usize,
            stop_tokens: model.generation_config().eos_token_ids.clone(),
        }
    }

    pub(crate) fn loop_rule(&self) -> LoopRule {
        LoopRule {
            window: self.loop_window as usize,
            ..LoopRule::default()
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            gain: self.min_win_rate,
            no_regress: self.min_win_rate_against_incumbent,
            loop_rise: self.max_loop_rise,
            loop_share: self.max_loop_share,
            repetition_factor: self.max_repetition_ratio,
            least_distinct_2: self.min_distinct_2_ratio,
            length_change: self.max_length_change,
            truncation_rise: self.max_truncation_rise,
            perplexity_factor: self.max_perplexity_ratio,
            neutral_kl: self.max_neutral_kl,
            neutral_kl_p99: self.max_neutral_kl_p99,
            norm_factor: self.max_norm_ratio,
        }
    }
}
