//! What a judge is asked, what it answers, and what every judge can do.

use std::ops::ControlFlow;

use sims_artifact::tables::ResponseRow;
use sims_model::ModelError;
use sims_model::score::TokenCount;

use crate::JudgeError;
use crate::verdict::Preference;

/// An answer as a judge gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The response's id, or the name of a control.
    pub response_id: &'a str,
    /// The text.
    pub text: &'a str,
    /// Length as sampled. Unit: tokens; words in controls, which nobody sampled.
    pub length: usize,
}

impl<'a> Answer<'a> {
    /// Makes the answer of a sampled response.
    pub fn of(response: &'a ResponseRow) -> Self {
        Self {
            response_id: &response.response_id,
            text: &response.text,
            length: response.token_ids.len(),
        }
    }

    /// Makes an answer that nobody sampled.
    pub fn made(name: &'a str, text: &'a str) -> Self {
        Self {
            response_id: name,
            text,
            length: text.split_whitespace().count(),
        }
    }
}

/// One request with two answers, in the order in which the judge sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison<'a> {
    /// The prompt's id. Comparisons of one prompt share work when they stand together.
    pub prompt_id: &'a str,
    /// The request, as [`request_text`](crate::template::request_text) puts it.
    pub request: &'a str,
    /// The answer shown first.
    pub first: Answer<'a>,
    /// The answer shown second.
    pub second: Answer<'a>,
}

impl<'a> Comparison<'a> {
    /// Returns the same question with the answers in the other order.
    #[must_use]
    pub fn swapped(&self) -> Self {
        Self {
            first: self.second,
            second: self.first,
            ..*self
        }
    }
}

/// What comparisons came to, and what they cost.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judged {
    /// One entry a comparison, in their order.
    pub preferences: Vec<Preference>,
    /// What each member of an ensemble said, by its id; empty for others.
    pub members: Vec<(String, Vec<Preference>)>,
    /// Comparisons whose answers were cut to fit the context.
    pub cut: usize,
    /// Tokens computed, and tokens that a run without shared prefixes would have computed.
    pub tokens: TokenCount,
    /// Tokens that a server read and wrote, those of answers kept from earlier runs included.
    pub api_tokens: u64,
    /// Estimated floating-point operations.
    pub flops: f64,
    /// Most rows that ran through the model at once; 0 where none did.
    pub batch_rows: usize,
}

impl Judged {
    /// Takes answers that cost nothing.
    pub(crate) fn free(preferences: Vec<Preference>) -> Self {
        Self {
            preferences,
            ..Self::default()
        }
    }

    /// Adds what other comparisons cost; what was said in them stays out.
    pub fn add_cost(&mut self, other: &Self) {
        self.cut += other.cut;
        self.tokens.add(other.tokens);
        self.api_tokens += other.api_tokens;
        self.flops += other.flops;
        self.batch_rows = self.batch_rows.max(other.batch_rows);
    }
}

/// Called with the number of comparisons done; may stop the run.
pub type Progress<'a> = &'a mut dyn FnMut(usize) -> ControlFlow<()>;

/// Whoever can say which of two answers to a request is the better one.
///
/// An answer depends on its comparison alone, not on what else is compared, nor on batches or threads.
pub trait PairJudge {
    /// Returns what names the judge in artifacts: kind, version, and what else its verdicts depend on.
    fn id(&self) -> &str;

    /// Answers each comparison, in the order given.
    ///
    /// # Errors
    /// A comparison that cannot be made, and [`ModelError::Interrupted`] when `progress` stops the run.
    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError>;

    /// Answers as if nobody had asked before: a judge that keeps answers asks again.
    ///
    /// # Errors
    /// As [`compare`](Self::compare).
    fn compare_again(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        self.compare(comparisons, progress)
    }

    /// Returns whether the judge reads texts, and so can be asked about ones that nobody sampled.
    fn reads_texts(&self) -> bool {
        true
    }

    /// Returns whether the judge has an answer at all; one that reads texts has.
    fn knows(&self, comparison: &Comparison<'_>) -> bool {
        let _ = comparison;
        true
    }
}

/// Stops where `progress` asks for it.
pub(crate) fn report(progress: Progress<'_>, done: usize) -> Result<(), JudgeError> {
    match progress(done) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ModelError::Interrupted.into()),
    }
}
