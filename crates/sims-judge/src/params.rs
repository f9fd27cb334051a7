//! The stage's parameters.

use sims_stage::{BadInput, List};

use crate::Schedule;
use crate::ensemble::Pooling;
use crate::limits::{Limits, Unreliable};

sims_stage::choice! {
    /// Who compares
    pub enum JudgeKind {
        /// The frozen model itself, by the logits of its verdict
        SelfJudge = "self",
        /// The frozen model itself, by the mean of its ratings from 1 to 9 of each answer alone
        Rating = "rating",
        /// PairRM, an encoder that was trained to compare, given as `pairrm`
        PairRm = "pairrm",
        /// A model behind an OpenAI-compatible chat completions interface
        Http = "http",
        /// Annotations made elsewhere, given as `annotations` or `ratings`
        File = "file",
        /// Several judges that decide together
        Ensemble = "ensemble",
        /// Another judge, the oracle, that errs at a known rate
        Noisy = "noisy",
        /// A control: the longer answer wins by fixed log-odds per token
        PlantedLength = "planted-length",
        /// A control: the answer shown first wins
        PlantedFirst = "planted-first",
    }
}

sims_stage::choice! {
    /// What follows when a pair is not annotated
    pub enum Missing {
        /// The stage fails
        Fail = "fail",
        /// The pair is left out and counted
        Skip = "skip",
    }
}

sims_stage::choice! {
    /// The type that weights are held in
    pub enum WeightType {
        /// 32-bit floats
        F32 = "f32",
        /// The upper half of a 32-bit float
        Bf16 = "bf16",
    }
}

sims_stage::params! {
    /// Which responses are compared, and by whom.
    pub struct JudgeParams {
        /// Who compares
        judge: JudgeKind = JudgeKind::SelfJudge,
        /// Which pairs of a prompt's responses are compared
        schedule: Schedule = Schedule::Circulant,
        /// How many others each response meets under `circulant`; at least 2, so that all are connected
        meets: u32 = 4,
        /// Pairs a prompt that are judged under `adaptive`; 18 of the 45 of ten responses usually say what all say
        budget: u32 = 18,
        /// Pairs a prompt in a round of `adaptive`, after the opening in which each response meets two others
        round_pairs: u32 = 4,
        /// The judge's prompt: auto (the model's own if it has one), ab-1, or the version of the model's own
        template: String = "auto".to_owned(),
        /// Least probability on the verdict tokens; below it a comparison is invalid
        min_coverage: f64 = 0.5,
        /// Prompts with controls, comparisons whose better answer is known; 0 for none
        controls: u32 = 64,
        /// What follows when the judge misses one of the two limits below
        unreliable: Unreliable = Unreliable::Warn,
        /// Largest share of pairs in which the slot, not the response, decides
        max_flip_rate: f64 = 0.4,
        /// Least share of controls in which a response is preferred to another prompt's
        min_control_accuracy: f64 = 0.9,
        /// The type that weights are held in
        dtype: WeightType = WeightType::F32,
        /// Seed of the circulant designs, the controls and the intervals
        seed: u64 = 0,
    }
    optional {
        /// noisy: the judge that errs; self if not given
        oracle: JudgeKind,
        /// noisy: the probability that a pair is mistaken, both orders together; between 0 and 0.5
        error_rate: f64,
        /// rating, file: what a difference of 1 between two ratings counts; 1 if not given. Unit: nats
        rating_scale: f64,
        /// file: what follows when a pair is not annotated; fail if not given
        missing: Missing,
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
        /// Any judge: prompts whose pairs are asked a second time, to see whether the judge repeats itself
        retest: u32,
        /// Any judge: a bias for the answer shown first, added to its log-odds. Unit: nats
        first_bias: f64,
        /// Any judge: a bias for the longer answer, added to its log-odds. Unit: nats a token
        length_bias: f64,
        /// Any judge: what length-bias grows by with each round after the first. Unit: nats a token
        length_bias_growth: f64,
    }
}

impl JudgeParams {
    /// Refuses values that mean nothing; those of single judges are checked where one is made.
    pub(crate) fn check(&self) -> Result<(), BadInput> {
        if self.schedule == Schedule::Circulant && self.meets < 2 {
            return Err(BadInput::new(format!(
                "meets is {}, but each response must meet at least 2 others for all to be connected",
                self.meets
            )));
        }
        if self.schedule == Schedule::Adaptive {
            if self.round_pairs == 0 {
                return Err(BadInput::new(
                    "round-pairs is 0, but a round needs at least 1 pair a prompt",
                ));
            }
            if self.missing == Some(Missing::Skip) {
                return Err(BadInput::new(
                    "schedule adaptive chooses pairs as it goes and cannot skip those that are not annotated; \
                     choose schedule all",
                ));
            }
        }
        if !(0.0..=1.0).contains(&self.min_coverage) {
            return Err(BadInput::new(format!(
                "min-coverage is {}, but a probability is between 0 and 1",
                self.min_coverage
            )));
        }
        self.limits().check()
    }

    /// Returns what the judge must reach.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_flip_rate: self.max_flip_rate,
            min_control_accuracy: self.min_control_accuracy,
        }
    }
}
