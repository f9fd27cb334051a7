//! Has comparisons answered in chunks of prompts, with progress and interrupts.

use std::ops::ControlFlow;

use anyhow::Context;
use serde::Serialize;
use sims_artifact::Digest;
use sims_artifact::tables::ComparisonRow;
use sims_model::memory;
use sims_stage::{BadInput, Interrupted, Retryable, StageIo};

use crate::comparison::{Answer, Comparison, Judged, PairJudge};
use crate::verdict::Preference;

/// The count of comparisons whose answers were cut to fit the model's context.
pub(crate) const CUT: &str = "comparisons_cut_to_fit";

/// What comparisons are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To rank responses.
    Judge,
    /// To see whether the judge repeats itself.
    Retest,
    /// To see whether it knows a better answer.
    Controls,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Judge => "judge",
            Self::Retest => "retest",
            Self::Controls => "controls",
        }
    }
}

/// What comparisons came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Answers {
    /// One entry a comparison, in their order.
    pub(crate) preferences: Vec<Preference>,
    /// What each member of an ensemble said, by its id; empty for others.
    pub(crate) members: Vec<(String, Vec<Preference>)>,
}

/// A judge, and the stage that asks it.
pub(crate) struct Asking<'a> {
    pub(crate) judge: &'a dyn PairJudge,
    /// The round, from 1.
    pub(crate) round: u32,
    pub(crate) io: &'a mut StageIo,
}

/// What the answer to one comparison depends on beside the judge.
#[derive(Serialize)]
struct Asked<'a> {
    first: (&'a str, &'a str, usize),
    second: (&'a str, &'a str, usize),
}

impl Asking<'_> {
    /// Has comparisons answered, those of a prompt together; what earlier processes had answered is not asked again.
    ///
    /// # Errors
    /// Of the kind of what went wrong: bad input, passing, or else.
    pub(crate) fn ask(
        &mut self,
        purpose: Purpose,
        comparisons: &[Comparison<'_>],
    ) -> anyhow::Result<Answers> {
        let prompts: Vec<&[Comparison<'_>]> = comparisons
            .chunk_by(|left, right| left.prompt_id == right.prompt_id)
            .collect();
        if prompts.is_empty() {
            return Ok(Answers::default());
        }
        let units: Vec<Digest> = prompts
            .iter()
            .map(|prompt| unit(prompt, self.round))
            .collect();
        let (judge, io) = (self.judge, &mut *self.io);
        let mut compute = |io: &mut StageIo, chunk: &[usize]| {
            let asked: Vec<Comparison<'_>> =
                chunk.iter().flat_map(|&i| prompts[i]).copied().collect();
            let judged = answered(judge, purpose, &asked, io)?;
            count_cost(purpose, &judged, io);
            let mut first = 0;
            let rows = chunk.iter().map(|&index| {
                let here = first..first + prompts[index].len();
                first = here.end;
                let prompt = here.flat_map(|i| rows_of(&asked[i], &judged, i));
                prompt.collect()
            });
            Ok(rows.collect())
        };
        let rows = io.chunked_rows(purpose.name(), &units, &mut compute)?;
        Ok(Answers::of(rows.concat()))
    }
}

impl Answers {
    /// Reads answers from rows: that of a comparison before those of its members.
    fn of(rows: Vec<ComparisonRow>) -> Self {
        let mut answers = Self::default();
        for row in rows {
            let preference = Preference {
                logit: row.logit,
                coverage: row.coverage,
            };
            let Some(member) = row.member else {
                answers.preferences.push(preference);
                continue;
            };
            match answers.members.iter_mut().find(|(id, _)| *id == member) {
                Some((_, preferences)) => preferences.push(preference),
                None => answers.members.push((member, vec![preference])),
            }
        }
        answers
    }
}

/// Names all that the answers about a prompt depend on beside the judge.
fn unit(comparisons: &[Comparison<'_>], round: u32) -> Digest {
    fn told<'a>(answer: &Answer<'a>) -> (&'a str, &'a str, usize) {
        (answer.response_id, answer.text, answer.length)
    }
    let asked: Vec<Asked<'_>> = comparisons
        .iter()
        .map(|comparison| Asked {
            first: told(&comparison.first),
            second: told(&comparison.second),
        })
        .collect();
    let prompt = comparisons.first().map(|one| (one.prompt_id, one.request));
    let content = serde_json::to_vec(&(round, prompt, asked)).expect("comparisons are plain data");
    Digest::derived("sims 2026 judged prompt", &content)
}

/// Returns the rows of the `i`-th comparison: the judge's, and its members' where it is an ensemble.
fn rows_of(comparison: &Comparison<'_>, judged: &Judged, i: usize) -> Vec<ComparisonRow> {
    let row = |member: Option<&str>, preference: Preference| ComparisonRow {
        prompt_id: comparison.prompt_id.to_owned(),
        first: comparison.first.response_id.to_owned(),
        second: comparison.second.response_id.to_owned(),
        member: member.map(str::to_owned),
        logit: preference.logit,
        coverage: preference.coverage,
    };
    let members = judged.members.iter();
    let members = members.map(|(id, preferences)| row(Some(id), preferences[i]));
    std::iter::once(row(None, judged.preferences[i]))
        .chain(members)
        .collect()
}

fn answered(
    judge: &dyn PairJudge,
    purpose: Purpose,
    comparisons: &[Comparison<'_>],
    io: &StageIo,
) -> anyhow::Result<Judged> {
    let progress = io.progress(purpose.name(), comparisons.len() as u64);
    let mut report = |done: usize| {
        progress.set(done as u64);
        if io.interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let judged = match purpose {
        Purpose::Retest => judge.compare_again(comparisons, &mut report),
        Purpose::Judge | Purpose::Controls => judge.compare(comparisons, &mut report),
    };
    match judged {
        Ok(judged) => Ok(judged),
        Err(_) if io.interrupted() => Err(Interrupted.into()),
        Err(error) if error.is_bad_input() => {
            Err(BadInput::new(format!("{:#}", anyhow::Error::new(error))).into())
        }
        Err(error) if error.is_passing() => Err(Retryable::new(error.to_string()).into()),
        Err(error) => Err(error).context("judging failed"),
    }
}

/// Counts what comparisons cost.
fn count_cost(purpose: Purpose, judged: &Judged, io: &mut StageIo) {
    if let Some(warning) = memory::warning(judged.tokens.halvings) {
        io.warn(warning);
    }
    if purpose == Purpose::Judge {
        io.count(CUT, judged.cut as f64);
    }
    io.count("batch_rows", judged.batch_rows as f64);
    if judged.api_tokens > 0 {
        io.count("api_tokens", judged.api_tokens as f64);
    }
    io.count("estimated_flops", judged.flops);
    io.count("tokens_computed", judged.tokens.computed as f64);
    io.count("tokens_without_sharing", judged.tokens.total as f64);
}
