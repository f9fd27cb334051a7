//! What an evaluation works with: the model, the judge, the prompts, and the base model's answers.

use std::ops::ControlFlow;

use anyhow::Context;
use sims_artifact::Digest;
use sims_judge::{Answer, BothOrders, Comparison, PairJudge};
use sims_model::generate::{BatchLimits, Progress};
use sims_model::score::TokenCount;
use sims_model::{Hook, LanguageModel, ModelError};
use sims_sample::{Draws, EncodedPrompt};
use sims_stage::{BadInput, Interrupted, Retryable, StageIo};
use sims_stats::Bootstrap;
use sims_steering::Steering;

use crate::SteerEvalParams;
use crate::answers::Answers;
use crate::constraints::Constraints;
use crate::neutral::{NeutralDrift, NeutralText};
use crate::win_rate::{JudgedTexts, Wins};

/// Sampling met logits that are no numbers: the edit drove the model out of its range.
#[derive(Debug, thiserror::Error)]
#[error("the steered model's logits are not finite")]
pub(crate) struct NotFinite;

/// A steering under its name in the `policy` column.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) steering: Steering,
}

/// Which random streams draws come from.
///
/// The sides of a comparison are drawn independently: equal streams would couple them, and a win rate
/// over coupled draws is another figure. All strengths of a candidate share a stream, so that they
/// differ by the strength alone; the base's draws are the same in every round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Base,
    Candidate,
    Incumbent,
}

impl Side {
    fn stream(self, params: &SteerEvalParams) -> (u64, u32) {
        let (name, round) = match self {
            Self::Base => ("sims steer-eval draws of the base", 0),
            Self::Candidate => ("sims steer-eval draws of the candidate", params.round),
            Self::Incumbent => ("sims steer-eval draws of the incumbent", params.round),
        };
        let digest = Digest::derived(name, &params.seed.to_le_bytes());
        let mut seed = [0; 8];
        seed.copy_from_slice(&digest.as_bytes()[..8]);
        (u64::from_le_bytes(seed), round)
    }
}

/// How large a steering's edits were while it answered.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct EditFigures {
    /// Mean of `‖a′ − a‖/‖a‖` over the rows offered.
    pub(crate) mean_shift: f64,
    /// Largest `‖a′‖/‖a‖`; 1 without an edit.
    pub(crate) largest_norm_ratio: f64,
    /// Smallest `‖a′‖/‖a‖`; 1 without an edit.
    pub(crate) smallest_norm_ratio: f64,
    /// Edited rows with a value that is not finite.
    pub(crate) non_finite_rows: u64,
    /// Share of rows that an operator changed.
    pub(crate) edited_share: f64,
    /// Share of changed rows whose angle met a cap.
    pub(crate) capped_share: f64,
}

/// Answers of a policy, and what its edits did meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    pub(crate) answers: Answers,
    pub(crate) edits: EditFigures,
}

/// What was computed so far. Unit: tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    pub(crate) prompt_tokens: usize,
    pub(crate) new_tokens: usize,
    pub(crate) repeated_tokens: usize,
    pub(crate) neutral_tokens: usize,
    /// The largest batch of responses that any draw was allowed.
    pub(crate) batch_sequences: usize,
    /// How often memory ran out while drawing.
    pub(crate) halvings: usize,
    pub(crate) judge: TokenCount,
}

/// The model with an adapter merged into its weights, for the candidate alone.
pub(crate) struct Adapted {
    pub(crate) model: LanguageModel,
    /// What stands in the `policy` column.
    pub(crate) name: String,
}

/// Draws, judges and measures; decides nothing.
pub(crate) struct Evaluation<'a> {
    pub(crate) params: &'a SteerEvalParams,
    pub(crate) io: &'a StageIo,
    pub(crate) model: &'a LanguageModel,
    pub(crate) adapted: Option<&'a Adapted>,
    pub(crate) judge: Box<dyn PairJudge + 'a>,
    /// Measures beside the loop's judge, and decides nothing.
    pub(crate) second_judge: Option<Box<dyn PairJudge + 'a>>,
    pub(crate) prompts: Vec<EncodedPrompt>,
    /// What the judge reads as the request, in the order of `prompts`.
    pub(crate) requests: Vec<String>,
    pub(crate) neutral: Vec<NeutralText>,
    /// What prompts ask of the form of a response.
    pub(crate) constraints: Constraints,
    pub(crate) cost: Cost,
}

impl<'a> Evaluation<'a> {
    /// Returns the resampling of every interval.
    pub(crate) fn bootstrap(&self) -> Bootstrap {
        Bootstrap {
            resamples: self.params.resamples as usize,
            ..Bootstrap::seeded(self.params.seed)
        }
    }

    /// Returns the model that answers on a side: the base's weights, or the adapted ones for the candidate.
    fn model_of(&self, side: Side) -> &'a LanguageModel {
        match (side, self.adapted) {
            (Side::Candidate, Some(adapted)) => &adapted.model,
            _ => self.model,
        }
    }

    /// Returns the candidate's name, where its steering by itself is called `steered`.
    pub(crate) fn candidate_name(&self, steering: &Steering, steered: String) -> String {
        match self.adapted {
            None => steered,
            Some(adapted) if steering.is_identity() => adapted.name.clone(),
            Some(adapted) => format!("{}-{steered}", adapted.name),
        }
    }

    /// Draws a policy's answers to the prompts at `indices`; without steering the base's.
    ///
    /// # Errors
    /// [`NotFinite`] when the steered model has no distribution left to draw from.
    pub(crate) fn draw(
        &mut self,
        policy: &str,
        steering: Option<&Steering>,
        side: Side,
        indices: &[usize],
    ) -> anyhow::Result<Drawn> {
        let prompts: Vec<EncodedPrompt> = indices
            .iter()
            .map(|&index| self.prompts[index].clone())
            .collect();
        let (seed, round) = side.stream(self.params);
        let draws = Draws {
            policy: policy.to_owned(),
            indices: 0..self.params.draws,
            seed,
            round,
            sampling: self.params.sampling(self.model),
            limits: self.batch_limits(),
        };
        let sequences = draws.limits.max_sequences;
        self.cost.batch_sequences = self.cost.batch_sequences.max(sequences);
        let changes_weights = side == Side::Candidate && self.adapted.is_some();
        let io = self.io;
        let bar = io.progress(
            &format!("draw {policy}"),
            prompts.len() as u64 * u64::from(self.params.draws),
        );
        let mut last = Progress::default();
        let mut report = |progress: Progress| {
            last = progress;
            bar.set(progress.finished as u64);
            keep_going(io)
        };
        let mut hook = steering
            .map(|steering| steering.hook().measuring())
            .filter(|hook| !hook.is_identity());
        let drawn = draws.from(
            self.model_of(side),
            &prompts,
            hook.as_mut().map(|hook| hook as &mut dyn Hook),
            &mut report,
        );
        let rows = match drawn {
            Ok(rows) => rows,
            Err(_) if io.interrupted() => return Err(Interrupted.into()),
            Err(ModelError::Sampling { .. }) if hook.is_some() || changes_weights => {
                return Err(NotFinite.into());
            }
            Err(error @ ModelError::Setting { .. }) => {
                return Err(BadInput::new(error.to_string()).into());
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("drawing the answers of {policy} failed"));
            }
        };
        self.cost.prompt_tokens += last.prompt_tokens;
        self.cost.new_tokens += last.new_tokens;
        self.cost.repeated_tokens += last.repeated_tokens;
        self.cost.halvings += last.halvings;
        if let Some(hook) = &hook {
            hook.check_applied()?;
        }
        let answers = rows
            .chunks(self.params.draws as usize)
            .map(<[_]>::to_vec)
            .collect();
        Ok(Drawn {
            answers,
            edits: hook.as_ref().map_or_else(no_edits, edit_figures),
        })
    }

    /// Judges draw `i` of `policy` against draw `i` of `other`, on the prompts at `indices`.
    pub(crate) fn wins(
        &mut self,
        label: &str,
        indices: &[usize],
        policy: &Answers,
        other: &Answers,
    ) -> anyhow::Result<Wins> {
        let (wins, tokens) = self.wins_by(self.judge.as_ref(), label, indices, policy, other)?;
        self.cost.judge.add(tokens);
        Ok(wins)
    }

    /// Does the same with the second judge; none where there is no second one.
    pub(crate) fn second_wins(
        &mut self,
        label: &str,
        indices: &[usize],
        policy: &Answers,
        other: &Answers,
    ) -> anyhow::Result<Option<Wins>> {
        let Some(judge) = &self.second_judge else {
            return Ok(None);
        };
        let label = format!("{label}, second judge");
        let (wins, tokens) = self.wins_by(judge.as_ref(), &label, indices, policy, other)?;
        self.cost.judge.add(tokens);
        Ok(Some(wins))
    }

    fn wins_by(
        &self,
        judge: &dyn PairJudge,
        label: &str,
        indices: &[usize],
        policy: &Answers,
        other: &Answers,
    ) -> anyhow::Result<(Wins, TokenCount)> {
        let draws = policy
            .iter()
            .zip(other)
            .map(|(a, b)| a.len().min(b.len()))
            .min()
            .unwrap_or(0);
        let mut comparisons = Vec::with_capacity(2 * draws * indices.len());
        for ((&index, policy), other) in indices.iter().zip(policy).zip(other) {
            for (own, other) in policy.iter().zip(other).take(draws) {
                let forth = Comparison {
                    prompt_id: self.prompts[index].prompt_id.as_str(),
                    request: self.requests[index].as_str(),
                    first: Answer::of(own),
                    second: Answer::of(other),
                };
                comparisons.extend([forth, forth.swapped()]);
            }
        }
        let io = self.io;
        let bar = io.progress(&format!("judge {label}"), comparisons.len() as u64);
        let mut report = |done: usize| {
            bar.set(done as u64);
            keep_going(io)
        };
        let judged = match judge.compare(&comparisons, &mut report) {
            Ok(judged) => judged,
            Err(_) if io.interrupted() => return Err(Interrupted.into()),
            Err(error) if error.is_bad_input() => {
                return Err(BadInput::new(error.to_string()).into());
            }
            Err(error) if error.is_passing() => {
                return Err(Retryable::new(error.to_string()).into());
            }
            Err(error) => return Err(error).context("judging failed"),
        };
        let tokens = judged.tokens;
        let judged: Vec<JudgedTexts> = comparisons
            .chunks_exact(2)
            .zip(judged.preferences.chunks_exact(2))
            .map(|(shown, orders)| JudgedTexts {
                orders: BothOrders {
                    ab: orders[0],
                    ba: orders[1],
                },
                equal: shown[0].first.text == shown[0].second.text,
            })
            .collect();
        let (tau, min_coverage) = (self.params.tau, self.params.min_coverage);
        Ok((Wins::of(&judged, draws, tau, min_coverage), tokens))
    }

    /// Measures the candidate with a steering on the neutral texts; none when there are no texts.
    ///
    /// # Errors
    /// [`NotFinite`] when the steered model has no distribution there.
    pub(crate) fn drift(&mut self, steering: &Steering) -> anyhow::Result<Option<NeutralDrift>> {
        if self.neutral.is_empty() {
            return Ok(None);
        }
        let io = self.io;
        let bar = io.progress("neutral text", self.neutral.len() as u64);
        let mut report = |done: usize| {
            bar.set(done as u64);
            keep_going(io)
        };
        // Both models read every text, until one of them fails.
        let tokens = self.neutral.iter().map(NeutralText::tokens).sum::<usize>();
        self.cost.neutral_tokens += 2 * tokens;
        let candidate = self.model_of(Side::Candidate);
        match NeutralDrift::measure(self.model, candidate, steering, &self.neutral, &mut report) {
            Ok(drift) if drift.is_finite() => Ok(Some(drift)),
            Ok(_) => Err(NotFinite.into()),
            Err(_) if io.interrupted() => Err(Interrupted.into()),
            Err(error) => Err(error).context("scoring neutral text failed"),
        }
    }

    /// Limits that fit the memory; a batch size that was asked for goes before what would be chosen.
    fn batch_limits(&self) -> BatchLimits {
        let fitting = BatchLimits::for_decoder(self.model.decoder());
        match self.io.batch_size() {
            0 => fitting,
            max_sequences => BatchLimits {
                max_sequences,
                ..fitting
            },
        }
    }
}

fn keep_going(io: &StageIo) -> ControlFlow<()> {
    if io.interrupted() {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

fn no_edits() -> EditFigures {
    EditFigures {
        largest_norm_ratio: 1.0,
        smallest_norm_ratio: 1.0,
        ..EditFigures::default()
    }
}

fn edit_figures(hook: &sims_steering::SteeringHook) -> EditFigures {
    let counts = hook.counts();
    let sizes = hook.sizes().unwrap_or_default();
    let share = |part: u64, whole: u64| {
        if whole == 0 {
            0.0
        } else {
            part as f64 / whole as f64
        }
    };
    EditFigures {
        mean_shift: if sizes.rows == 0 {
            0.0
        } else {
            sizes.relative_shift_sum / sizes.rows as f64
        },
        largest_norm_ratio: sizes.largest_norm_ratio,
        smallest_norm_ratio: sizes.smallest_norm_ratio,
        non_finite_rows: sizes.non_finite_rows,
        edited_share: share(counts.edited, counts.rows),
        capped_share: share(counts.capped, counts.edited),
    }
}
