//! Why a pair was not kept.

use std::collections::BTreeMap;
use std::fmt;

/// The filter that dropped a pair, in the order in which filters run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The prompt has fewer than two responses (counted, but there is no pair to list).
    SingleResponse,
    /// A response has no valid comparison.
    Unjudged,
    /// A response has next to no content.
    Empty,
    /// A response holds chat-template marks or broken characters.
    Markup,
    /// A response got stuck in a loop.
    Loop,
    /// A response repeats itself.
    Repeat,
    /// A response is in another script than the prompt.
    Script,
    /// A response says what a better one says.
    Duplicate,
    /// A response was cut off by the length limit.
    Truncated,
    /// The two scores are equal.
    Tie,
    /// The margin could be noise.
    Margin,
    /// The chosen does not win in both orders.
    Order,
    /// The two responses overlap too much.
    Similar,
    /// The two responses hardly differ after their common beginning.
    Prefix,
    /// The lengths differ too much.
    Length,
    /// The pair was given up to even out lengths over the round.
    LengthBalance,
    /// The pair in the bank is too old.
    BankAge,
    /// The pair in the bank was judged by another judge.
    BankJudge,
    /// The bank is full of clearer pairs.
    BankFull,
}

impl Reason {
    /// Returns the word in the `reason` column.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::SingleResponse => "single-response",
            Self::Unjudged => "unjudged",
            Self::Empty => "empty",
            Self::Markup => "markup",
            Self::Loop => "loop",
            Self::Repeat => "repeat",
            Self::Script => "script",
            Self::Duplicate => "duplicate",
            Self::Truncated => "truncated",
            Self::Tie => "tie",
            Self::Margin => "margin",
            Self::Order => "order",
            Self::Similar => "similar",
            Self::Prefix => "prefix",
            Self::Length => "length",
            Self::LengthBalance => "length-balance",
            Self::BankAge => "bank-age",
            Self::BankJudge => "bank-judge",
            Self::BankFull => "bank-full",
        }
    }

    /// Returns what a user can change when this filter leaves too little.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::SingleResponse => "sample at least two responses a prompt",
            Self::Unjudged => "let the judge compare every response, and look at its coverage",
            Self::Empty => "lower `min-content-tokens` and `min-visible-characters`",
            Self::Markup => "check the chat template and the stop tokens of `sample`",
            Self::Loop => "sample at a higher temperature, or relax the `loop-…` parameters",
            Self::Repeat => "sample at a higher temperature, or raise `max-rep4`",
            Self::Script => "set `same-script` to false",
            Self::Duplicate => "sample at a higher temperature, or raise `max-jaccard`",
            Self::Truncated => "raise `max-new-tokens` of `sample`, or set `truncated` to keep",
            Self::Tie => "the judge has no preference: use another judge or template",
            Self::Margin => "raise `samples`, or set `margin` to positive",
            Self::Order => "set `both-orders` to false",
            Self::Similar => "raise `max-pair-jaccard`",
            Self::Prefix => "lower `min-unshared`",
            Self::Length => "raise `length-ratio`",
            Self::LengthBalance => "set `length-balance` to off or raise `length-tolerance`",
            Self::BankAge => "raise `max-age`",
            Self::BankJudge => "start with an empty bank after a change of judge",
            Self::BankFull => "raise `n-fit`",
        }
    }

    /// Whether the response is broken in a way that the direction should not learn.
    #[must_use]
    pub fn is_degenerate(self) -> bool {
        matches!(self, Self::Loop | Self::Repeat)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How many pairs each filter dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DropCounts(BTreeMap<Reason, usize>);

impl DropCounts {
    /// Counts one more.
    pub fn add(&mut self, reason: Reason) {
        *self.0.entry(reason).or_default() += 1;
    }

    /// Returns the count of one filter.
    #[must_use]
    pub fn of(&self, reason: Reason) -> usize {
        self.0.get(&reason).copied().unwrap_or(0)
    }

    /// Returns the filters that dropped something, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, usize)> + '_ {
        self.0.iter().map(|(&reason, &count)| (reason, count))
    }

    /// Returns the filter that dropped most; the earlier one if two are equal.
    #[must_use]
    pub fn most(&self) -> Option<Reason> {
        self.iter()
            .max_by(|left, right| left.1.cmp(&right.1).then(right.0.cmp(&left.0)))
            .map(|(reason, _)| reason)
    }
}

impl fmt::Display for DropCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (index, (reason, count)) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{count} {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_in_filter_order_and_name_the_largest() {
        let mut counts = DropCounts::default();
        assert_eq!(
            (counts.to_string().as_str(), counts.most()),
            ("nothing", None)
        );
        for reason in [Reason::Margin, Reason::Empty, Reason::Margin, Reason::Empty] {
            counts.add(reason);
        }
        assert_eq!(counts.to_string(), "2 empty, 2 margin");
        assert_eq!(counts.most(), Some(Reason::Empty));
        counts.add(Reason::Margin);
        assert_eq!(counts.most(), Some(Reason::Margin));
        assert_eq!(counts.of(Reason::Loop), 0);
    }
}
