//! Finds text that got stuck.

/// What counts as a loop.
///
/// The defaults fit answers of hundreds of tokens. For answers of a dozen tokens lower `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopRule {
    /// Longest period looked for, in tokens.
    pub max_period: usize,
    /// Fewest tokens at the end that must repeat; three periods if that is longer.
    pub window: usize,
    /// Length of a run of one token that is a loop wherever it stands.
    pub max_run: usize,
}

impl Default for LoopRule {
    /// Periods up to 64, at least 24 tokens, runs of 8.
    fn default() -> Self {
        Self {
            max_period: 64,
            window: 24,
            max_run: 8,
        }
    }
}

/// A loop that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// The sequence ends in repeats of a block of this many tokens.
    Period(usize),
    /// One token stands this many times running.
    Run(usize),
}

impl LoopRule {
    /// Returns the first loop of `tokens`, shortest period first.
    ///
    /// A period `q` is a loop if each of the last `max(3 q, window)` tokens equals the token `q`
    /// before it. Leave an end-of-turn token out, or no loop that stopped is found.
    #[must_use]
    pub fn find(&self, tokens: &[u32]) -> Option<Loop> {
        let longest = longest_run(tokens);
        if self.max_run > 0 && longest >= self.max_run {
            return Some(Loop::Run(longest));
        }
        (1..=self.max_period)
            .find(|&period| {
                let repeats = (3 * period).max(self.window);
                tokens.len() >= repeats + period
                    && tokens[tokens.len() - repeats..]
                        == tokens[tokens.len() - repeats - period..tokens.len() - period]
            })
            .map(Loop::Period)
    }
}

/// Length of the longest run of one token.
fn longest_run(tokens: &[u32]) -> usize {
    tokens
        .chunk_by(|left, right| left == right)
        .map(<[u32]>::len)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle(period: u32, length: usize) -> Vec<u32> {
        (0..period).cycle().take(length).collect()
    }

    #[test]
    fn every_period_up_to_64_is_found() {
        let rule = LoopRule::default();
        for period in 2..=64 {
            let mut tokens: Vec<u32> = (1000..1050).collect();
            tokens.extend(cycle(period, 4 * (period as usize).max(8)));
            assert_eq!(rule.find(&tokens), Some(Loop::Period(period as usize)));
        }
        assert_eq!(rule.find(&cycle(65, 65 * 6)), None);
    }

    #[test]
    fn one_token_too_few_is_no_loop() {
        let rule = LoopRule::default();
        assert_eq!(rule.find(&cycle(64, 256)), Some(Loop::Period(64)));
        assert_eq!(rule.find(&cycle(64, 255)), None);
        assert_eq!(rule.find(&cycle(2, 26)), Some(Loop::Period(2)));
        assert_eq!(rule.find(&cycle(2, 25)), None);
    }

    #[test]
    fn runs_are_found_anywhere() {
        let rule = LoopRule::default();
        let mut tokens = vec![1, 2];
        tokens.extend([7; 8]);
        tokens.extend([3, 4, 5]);
        assert_eq!(rule.find(&tokens), Some(Loop::Run(8)));
        tokens.remove(4);
        assert_eq!(rule.find(&tokens), None);
    }

    #[test]
    fn a_numbered_list_is_no_loop() {
        // "<newline> <number> . item": the marks repeat, number and item do not.
        let tokens: Vec<u32> = (0..20).flat_map(|i| [1, 100 + i, 2, 200 + i]).collect();
        assert_eq!(LoopRule::default().find(&tokens), None);
    }

    #[test]
    fn a_loop_that_was_left_is_no_loop() {
        let mut tokens = cycle(3, 60);
        tokens.extend([50, 51, 52]);
        assert_eq!(LoopRule::default().find(&tokens), None);
    }

    #[test]
    fn short_answers_need_a_shorter_window() {
        let tokens = [9, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3];
        assert_eq!(LoopRule::default().find(&tokens), None);
        let rule = LoopRule {
            window: 6,
            ..LoopRule::default()
        };
        assert_eq!(rule.find(&tokens), Some(Loop::Period(3)));
        assert_eq!(rule.find(&[]), None);
    }
}
