//! The parameters of the stage.

use sims_stage::List;
use sims_stats::loops::LoopRule;

sims_stage::choice! {
    /// Where contrast pairs come from
    pub enum Strategy {
        /// This round only: the best against the worst response to each prompt
        PromptRanking = "prompt-ranking",
        /// This round and a memory bank of earlier ones: the pairs with the clearest margin
        ContrastSampling = "contrast-sampling",
        /// Control: two random responses to each prompt, scores unread
        Random = "random",
    }
}

sims_stage::choice! {
    /// Which pairs a prompt gives
    pub enum PairPolicy {
        /// The best against the worst
        Extreme = "extreme",
        /// The largest margin that passes every filter: where best and worst differ too much in length, say
        Widest = "widest",
        /// The two best against the two worst, sharing one weight
        Top2 = "top2",
        /// Pairs weighted so that their sum is that of all responses under exponential weights
        Soft = "soft",
    }
}

sims_stage::choice! {
    /// How large the margin of a pair must be
    pub enum MarginRule {
        /// Above what best minus worst of pure noise exceeds once in twenty prompts
        NoiseFloor = "noise-floor",
        /// Above `min-margin`
        Positive = "positive",
        /// Any, as long as the two scores differ
        None = "none",
    }
}

sims_stage::choice! {
    /// What the margin is measured against when pairs of a round are standardised
    pub enum MarginReference {
        /// The worst response
        Worst = "worst",
        /// The median response, since judges are least reliable on bad text
        Median = "median",
    }
}

sims_stage::choice! {
    /// What becomes of a response that was cut off by the length limit
    pub enum TruncatedRule {
        /// It is never chosen against a finished one
        NeverChosen = "never-chosen",
        /// It takes part in no pair
        Drop = "drop",
        /// It is treated like any other
        Keep = "keep",
    }
}

sims_stage::choice! {
    /// How lengths of chosen and rejected responses are evened out over a round
    pub enum LengthBalance {
        /// Drop pairs of the heavier side, lowest margin first
        Drop = "drop",
        /// Not at all
        Off = "off",
    }
}

sims_stage::params! {
    /// How contrast pairs are selected
    pub struct ContrastParams {
        /// prompt-ranking, contrast-sampling or random (a control)
        strategy: Strategy = Strategy::PromptRanking,
        /// extreme, widest, top2 or soft; weights are read by fit where it is given the pairs
        pairs: PairPolicy = PairPolicy::Extreme,
        /// Sharpness of `soft` in the exponent, per unit of score; large is the best against the worst
        eta: f64 = 4.0,
        /// Most pairs of a prompt, the heaviest first; `soft` is exact from one less than the responses
        max_pairs: u32 = 4,

        /// Fewest tokens of a response, its end-of-turn token not counted
        min_content_tokens: u32 = 4,
        /// Fewest characters of a response that are neither space nor control
        min_visible_characters: u32 = 10,
        /// Further strings that mark a response as broken, beside the usual chat-template marks
        markers: List<String> = List(Vec::new()),
        /// Largest share of control characters
        max_control_share: f64 = 0.05,
        /// Longest period of a loop, in tokens; 0 looks for none
        loop_period: u32 = 64,
        /// How often a loop's block must be repeated after its first occurrence
        loop_repeats: u32 = 3,
        /// Fewest tokens that the repeats must cover
        loop_window: u32 = 24,
        /// Length of a run of one token that is a loop; 0 for no such rule
        loop_run: u32 = 8,
        /// Whether a loop counts that does not last to the end
        loop_anywhere: bool = false,
        /// Largest share of repeated 4-grams
        max_rep4: f64 = 0.30,
        /// Fewest tokens for the rule on 4-grams
        rep4_min_tokens: u32 = 50,
        /// Smallest size after DEFLATE, as a share of the text's bytes
        min_compression: f64 = 0.20,
        /// Fewest bytes for the rule on DEFLATE
        compression_min_bytes: u32 = 400,
        /// Whether a response must be in the prompt's script, unless the prompt names a language
        same_script: bool = true,
        /// Largest overlap with a better response to the same prompt; 1 for equal texts only
        max_jaccard: f64 = 0.8,
        /// never-chosen, drop or keep: responses cut off by the length limit
        truncated: TruncatedRule = TruncatedRule::NeverChosen,
        /// Whether looping and repetitive responses may be rejected ones
        degenerate_negatives: bool = false,

        /// noise-floor, positive or none
        margin: MarginRule = MarginRule::NoiseFloor,
        /// Smallest margin, in units of the ranking's score
        min_margin: f64 = 0.0,
        /// Whether the chosen must beat the rejected in both orders, where the two met
        both_orders: bool = true,
        /// Largest overlap of the two responses of a pair
        max_pair_jaccard: f64 = 0.7,
        /// Tokens of a shingle, for both overlaps
        shingle: u32 = 5,
        /// Fewest tokens of the shorter response after the common beginning
        min_unshared: u32 = 8,
        /// Longest to shortest length within a pair; 0 for any
        length_ratio: f64 = 2.5,
        /// drop or off: pairs are kept or dropped whole, each that is kept has weight 1
        length_balance: LengthBalance = LengthBalance::Drop,
        /// Largest mean log ratio of the lengths over a round
        length_tolerance: f64 = 0.05,
        /// Smallest share of prompts that must give a pair
        min_yield: f64 = 0.2,

        /// worst or median: what a pair's standardised margin is measured against
        reference: MarginReference = MarginReference::Worst,
        /// Contrast sampling: pairs handed to the fit; the bank holds four times as many
        n_fit: u32 = 512,
        /// Contrast sampling: fewest pairs worth a fit
        min_pairs: u32 = 32,
        /// Contrast sampling: pairs of one prompt handed to the fit
        per_prompt: u32 = 2,
        /// Contrast sampling: whether the selection covers the prompts, by their words, among the clearest twice as many
        diverse: bool = false,
        /// Contrast sampling: rounds after which a pair leaves the bank
        max_age: u32 = 3,
        /// Contrast sampling: factor on a pair's standardised margin with every round
        decay: f64 = 0.9,

        /// Seed of the control's draws
        seed: u64 = 0,
        /// The round, from 1
        round: u32 = 1,
    }
}

/// Largest ratio of lengths where the guard asks for pairs of like length.
const LIKE_LENGTHS: f64 = 1.25;

impl ContrastParams {
    /// Keeps only pairs of like length, the widest of each prompt: for a judge that pays for length.
    ///
    /// Best and worst would all be dropped, since to such a judge the longest is the best.
    pub fn keep_like_lengths(&mut self) {
        if self.pairs == PairPolicy::Extreme {
            self.pairs = PairPolicy::Widest;
        }
        if self.length_ratio == 0.0 || self.length_ratio > LIKE_LENGTHS {
            self.length_ratio = LIKE_LENGTHS;
        }
    }

    /// Returns the first parameter that makes no sense, in words.
    ///
    /// # Errors
    /// A share outside 0 to 1, or another value out of range.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("max-control-share", self.max_control_share),
            ("max-rep4", self.max_rep4),
            ("min-compression", self.min_compression),
            ("max-jaccard", self.max_jaccard),
            ("max-pair-jaccard", self.max_pair_jaccard),
            ("min-yield", self.min_yield),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{name} is {value}; it must be within 0 to 1"));
            }
        }
        let above_zero = |value: f64| value > 0.0 && value.is_finite();
        if !(self.min_margin >= 0.0 && self.min_margin.is_finite()) {
            return Err(format!(
                "min-margin is {}; it must be 0 or above",
                self.min_margin
            ));
        }
        let ratio_is_fine = self.length_ratio == 0.0 || self.length_ratio >= 1.0;
        if !ratio_is_fine {
            return Err(format!(
                "length-ratio is {}; it must be 0 or at least 1",
                self.length_ratio
            ));
        }
        if !above_zero(self.length_tolerance) {
            return Err(format!(
                "length-tolerance is {}; it must be above 0",
                self.length_tolerance
            ));
        }
        if !(above_zero(self.decay) && self.decay <= 1.0) {
            return Err(format!(
                "decay is {}; it must be above 0 and at most 1",
                self.decay
            ));
        }
        if !above_zero(self.eta) {
            return Err(format!("eta is {}; it must be above 0", self.eta));
        }
        if self.max_pairs == 0 {
            return Err("max-pairs must be at least 1".to_owned());
        }
        if self.strategy == Strategy::Random && self.pairs != PairPolicy::Extreme {
            return Err(format!(
                "the control random has no scores to weigh pairs by; set pairs to extreme, not {}",
                self.pairs
            ));
        }
        if self.n_fit == 0 || self.per_prompt == 0 {
            return Err("n-fit and per-prompt must be at least 1".to_owned());
        }
        Ok(())
    }

    /// Returns what counts as a loop.
    #[must_use]
    pub fn loop_rule(&self) -> LoopRule {
        LoopRule {
            max_period: self.loop_period as usize,
            repeats: self.loop_repeats as usize,
            window: self.loop_window as usize,
            max_run: self.loop_run as usize,
            anywhere: self.loop_anywhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_legal_and_the_loop_rule_is_the_usual_one() {
        let params = ContrastParams::default();
        assert_eq!(params.check(), Ok(()));
        assert_eq!(params.loop_rule(), LoopRule::default());
    }

    #[test]
    fn values_out_of_range_are_named() {
        let with = |change: fn(&mut ContrastParams)| {
            let mut params = ContrastParams::default();
            change(&mut params);
            params.check().expect_err("out of range")
        };
        assert!(with(|p| p.max_jaccard = 1.5).starts_with("max-jaccard is 1.5"));
        assert!(with(|p| p.min_yield = f64::NAN).contains("min-yield"));
        assert!(with(|p| p.length_ratio = 0.5).contains("length-ratio"));
        assert!(with(|p| p.decay = 0.0).contains("decay"));
        assert!(with(|p| p.eta = 0.0).contains("eta"));
        assert!(with(|p| p.max_pairs = 0).contains("max-pairs"));
        let control = |p: &mut ContrastParams| {
            (p.strategy, p.pairs) = (Strategy::Random, PairPolicy::Soft);
        };
        assert!(with(control).contains("set pairs to extreme, not soft"));
        assert!(with(|p| p.n_fit = 0).contains("n-fit"));
        assert!(with(|p| p.min_margin = -1.0).contains("min-margin"));
        assert!(with(|p| p.length_tolerance = 0.0).contains("length-tolerance"));
    }
}
