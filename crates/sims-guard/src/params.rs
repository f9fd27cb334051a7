//! The stage's parameters.

use sims_stage::BadInput;
use sims_stats::loops::LoopRule;

sims_stage::choice! {
    /// What follows when a detector fires
    pub enum Act {
        /// Its action
        Act = "act",
        /// Nothing; it is only recorded
        Observe = "observe",
    }
}

sims_stage::params! {
    /// What counts as going wrong, and whether anything follows.
    pub struct GuardParams {
        /// What follows when a detector fires
        on_signal: Act = Act::Act,
        /// Judge collapse: the share of verdicts for one slot, either one, above this
        max_slot_share: f64 = 0.9,
        /// Judge collapse: the share of invalid comparisons above this
        max_invalid_share: f64 = 0.5,
        /// Feedback loop: of two responses of different length, the longer one wins this often for certain
        max_longer_preferred: f64 = 0.9,
        /// Feedback loop: that share rises by more than this over the first round
        max_longer_preferred_rise: f64 = 0.25,
        /// Feedback loop: the second judge's win rate against the incumbent is for certain below this while the loop's own is above one half
        min_second_win_rate: f64 = 0.5,
        /// Degenerate samples: the share of responses that repeat another of their prompt above this
        max_identical_share: f64 = 0.8,
        /// Degenerate samples: that share rises by more than this over the first round
        max_identical_rise: f64 = 0.25,
        /// Degenerate samples: the entropy of a token falls below this share of the first round's
        min_entropy_ratio: f64 = 0.5,
        /// Degenerate samples: distinct-2 of a prompt's responses falls below this share of the first round's
        min_distinct_2_ratio: f64 = 0.6,
        /// Degenerate samples: the share of loops rises by more than this over the first round
        max_loop_rise: f64 = 0.1,
        /// Degenerate samples: the share of prompts that give a pair is below this
        min_yield: f64 = 0.2,
        /// Plateau: this many rounds running without a gain over the incumbent that is certain; 0 is off
        plateau_rounds: u32 = 2,
        /// This many refused or rolled-back rounds end the loop; 0 is off
        max_strikes: u32 = 2,
        /// What a hotter round adds to the temperature
        temperature_step: f64 = 0.1,
        /// Most that is added in all
        max_temperature_rise: f64 = 0.3,
        /// Fewest tokens that must repeat at the end of a response for a loop. Unit: tokens
        loop_window: u32 = 24,
        /// Resamples of every interval
        resamples: u32 = 2_000,
        /// The round, from 1
        round: u32 = 1,
        /// Seed of the resamples
        seed: u64 = 0,
    }
}

impl GuardParams {
    /// Refuses values that mean nothing.
    pub(crate) fn check(&self) -> Result<(), BadInput> {
        for (name, value) in [
            ("max-slot-share", self.max_slot_share),
            ("max-invalid-share", self.max_invalid_share),
            ("max-longer-preferred", self.max_longer_preferred),
            ("max-longer-preferred-rise", self.max_longer_preferred_rise),
            ("min-second-win-rate", self.min_second_win_rate),
            ("max-identical-share", self.max_identical_share),
            ("max-identical-rise", self.max_identical_rise),
            ("max-loop-rise", self.max_loop_rise),
            ("min-yield", self.min_yield),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(BadInput::new(format!(
                    "{name} is {value}, but a share is between 0 and 1"
                )));
            }
        }
        for (name, value) in [
            ("min-entropy-ratio", self.min_entropy_ratio),
            ("min-distinct-2-ratio", self.min_distinct_2_ratio),
            ("temperature-step", self.temperature_step),
            ("max-temperature-rise", self.max_temperature_rise),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(BadInput::new(format!(
                    "{name} is {value}, but must be 0 or a positive number"
                )));
            }
        }
        if self.resamples == 0 {
            return Err(BadInput::new(
                "resamples is 0, so no interval could be computed",
            ));
        }
        if self.round == 0 {
            return Err(BadInput::new("round is 0, but rounds count from 1"));
        }
        Ok(())
    }

    pub(crate) fn loop_rule(&self) -> LoopRule {
        LoopRule {
            window: self.loop_window as usize,
            ..LoopRule::default()
        }
    }
}
