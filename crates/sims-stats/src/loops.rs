//! Finds text that got stuck.

/// What counts as a loop.
///
/// The defaults fit answers of hundreds of tokens that run into the length limit. For answers of a
/// dozen tokens lower `window` and `repeats` and look `anywhere`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopRule {
    /// Longest period looked for, in tokens.
    pub max_period: usize,
    /// How often a block must be repeated after its first occurrence.
    pub repeats: usize,
    /// Fewest tokens that the repeats must cover together.
    pub window: usize,
    /// Length of a run of one token that is a loop wherever it stands; 0 for no such rule.
    pub max_run: usize,
    /// Whether a loop that the text got out of counts, too.
    pub anywhere: bool,
}

impl Default for LoopRule {
    /// Periods up to 64 repeated three times or more over at least 24 tokens at the end; runs of 8.
    fn default() -> Self {
        Self {
            max_period: 64,
            repeats: 3,
            window: 24,
            max_run: 8,
            anywhere: false,
        }
    }
}

/// A loop that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// A block of this many tokens is repeated.
    Period(usize),
    /// One token stands this many times running.
    Run(usize),
}

impl LoopRule {
    /// Returns the first loop of `tokens`, shortest period first.
    ///
    /// A period `q` is a loop if each of the last `max(repeats q, window)` tokens equals the token
    /// `q` before it; with `anywhere`, of any so many consecutive tokens. Leave an end-of-turn token
    /// out, or no loop that stopped is found.
    #[must_use]
    pub fn find(&self, tokens: &[u32]) -> Option<Loop> {
        let longest = longest_run(tokens);
        if self.max_run > 0 && longest >= self.max_run {
            return Some(Loop::Run(longest));
        }
        (1..=self.max_period.min(tokens.len()))
            .find(|&period| {
                let needed = (self.repeats * period).max(self.window).max(1);
                self.repeated(tokens, period) >= needed
            })
            .map(Loop::Period)
    }

    /// Length of the stretch in which every token equals the one `period` before it: the last
    /// stretch, or with `anywhere` the longest.
    fn repeated(&self, tokens: &[u32], period: usize) -> usize {
        let (mut stretch, mut longest) = (0, 0);
        for (token, earlier) in tokens[period..].iter().zip(tokens) {
            stretch = if token == earlier { stretch + 1 } else { 0 };
            longest = longest.max(stretch);
        }
        if self.anywhere { longest } else { stretch }
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
    fn a_loop_that_was_left_counts_only_anywhere() {
        let mut tokens = cycle(3, 60);
        tokens.extend([50, 51, 52]);
        assert_eq!(LoopRule::default().find(&tokens), None);
        let rule = LoopRule {
            anywhere: true,
            ..LoopRule::default()
        };
        assert_eq!(rule.find(&tokens), Some(Loop::Period(3)));
    }

    #[test]
    fn short_answers_need_a_shorter_rule() {
        let rule = LoopRule {
            repeats: 2,
            window: 0,
            anywhere: true,
            ..LoopRule::default()
        };
        // "of course : fig , fig , fig done": an item three times running, marks between.
        let stuck = [9, 8, 7, 1, 5, 1, 5, 1, 6];
        assert_eq!(LoopRule::default().find(&stuck), None);
        assert_eq!(rule.find(&stuck), None);
        let stuck = [9, 8, 7, 1, 5, 1, 5, 1, 5, 6];
        assert_eq!(rule.find(&stuck), Some(Loop::Period(2)));
        // Each word twice is no loop.
        assert_eq!(rule.find(&[1, 1, 2, 2, 3, 3]), None);
        assert_eq!(rule.find(&[]), None);
    }
}
