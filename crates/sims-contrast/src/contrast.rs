//! Selects the pairs of a whole round.

use std::collections::{BTreeMap, HashMap, HashSet};

use sims_artifact::tables::{
    DroppedRow, JudgmentRow, PairRow, PromptRow, RankingRow, ResponseRow, pair_id,
};
use sims_stats::noise_range::noise_range_quantile;

use crate::bank::{self, Standard};
use crate::candidate::{Candidate, PromptCandidates, Verdicts, gather};
use crate::diversity::{self, PromptVector};
use crate::extremes::{Pick, search};
use crate::figures::{Figures, log_length_ratio, median};
use crate::length_balance::{self, Lengths};
use crate::{
    ContrastParams, DropCounts, LengthBalance, MarginReference, PairPolicy, Reason, Strategy,
    pair_filters, policy, response_filters,
};

/// Share of prompts in which best minus worst of pure noise stays below the noise limit.
const NOISE_CONFIDENCE: f64 = 0.95;

/// Why no pairs can be selected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ContrastError {
    /// A parameter makes no sense.
    #[error("{0}")]
    Parameter(String),
    /// There are no responses.
    #[error("there are no responses to select pairs from")]
    NoResponses,
    /// A response's prompt is not among the prompts.
    #[error("response {response_id} answers prompt {prompt_id}, which is not among the prompts")]
    UnknownPrompt {
        /// The prompt.
        prompt_id: String,
        /// The response.
        response_id: String,
    },
    /// A response is not in the ranking.
    #[error(
        "response {response_id} is not in the ranking; ranking and responses must come from the \
         same round"
    )]
    Unranked {
        /// The response.
        response_id: String,
    },
    /// The bank is ahead of the round.
    #[error(
        "the bank holds pair {pair_id} of round {origin_round}, but this is round {round}; is \
         `round` right?"
    )]
    BankAhead {
        /// The pair.
        pair_id: String,
        /// Its round.
        origin_round: u32,
        /// This round.
        round: u32,
    },
    /// A diverse selection needs the text of every prompt.
    #[error(
        "pair {pair_id} of the bank answers prompt {prompt_id}, which is not among the prompts; hand the prompts of \
         all rounds, or set `diverse` to false"
    )]
    UnknownBankPrompt {
        /// The pair.
        pair_id: String,
        /// Its prompt.
        prompt_id: String,
    },
    /// Too few pairs are left to learn from.
    #[error(
        "contrast failure: {shortage}. Dropped: {counts}{}",
        counts.most().map(|reason| format!(
            ". Most went as `{reason}`: {}", reason.remedy()
        )).unwrap_or_default()
    )]
    Failure {
        /// How few, in words.
        shortage: String,
        /// What dropped the others.
        counts: DropCounts,
    },
}

/// The tables of one round.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// The prompts, possibly of other rounds, too.
    pub prompts: &'a [PromptRow],
    /// This round's responses.
    pub responses: &'a [ResponseRow],
    /// Their ranking.
    pub ranking: &'a [RankingRow],
    /// The judgments behind it.
    pub judgments: &'a [JudgmentRow],
    /// Pairs kept from earlier rounds.
    pub bank: &'a [PairRow],
}

/// The pairs of a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrast {
    /// The pairs for the fit: by prompt, or for contrast sampling the clearest first.
    pub pairs: Vec<PairRow>,
    /// Every pair that was considered and not kept, and pairs that left the bank.
    pub dropped: Vec<DroppedRow>,
    /// The bank for the next round; empty unless the strategy is contrast sampling.
    pub bank: Vec<PairRow>,
    /// What to report.
    pub figures: Figures,
}

/// A pair of this round on its way through the filters.
struct Draft {
    row: PairRow,
    /// What the standardised margin is taken from.
    reference_margin: f64,
    log_length_ratio: f64,
    /// The margin that pure noise would exceed once in twenty prompts.
    noise_limit: f64,
}

/// Selects contrast pairs; `progress` is called with the number of prompts done.
///
/// # Errors
/// Parameters or tables that make no sense, and [`ContrastError::Failure`] when fewer pairs are left
/// than `min-yield` (or, for contrast sampling, `min-pairs`) asks for.
pub fn contrast(
    tables: &Tables,
    params: &ContrastParams,
    progress: &mut dyn FnMut(usize),
) -> Result<Contrast, ContrastError> {
    params.check().map_err(ContrastError::Parameter)?;
    if tables.responses.is_empty() {
        return Err(ContrastError::NoResponses);
    }
    check_bank(tables.bank, params.round)?;
    let groups = gather(tables.prompts, tables.responses, tables.ranking, params)?;
    let judge = match tables.judgments.first() {
        Some(judgment) if params.strategy != Strategy::Random => judgment.judge.clone(),
        _ => String::new(),
    };

    let mut round = RoundPairs::new(&judge, params);
    let verdicts = Verdicts::of(tables.judgments);
    for (done, group) in (1..).zip(&groups) {
        round.add(group, &verdicts);
        progress(done);
    }
    round.balance_lengths();
    round.standardise();
    round.check_yield(groups.len())?;
    let fresh: Vec<PairRow> = round.kept.iter().map(|draft| draft.row.clone()).collect();
    let mut figures = round.figures(groups.len(), tables.responses.len());
    figures.repeated_prompts = repeated_prompts(tables.bank, &groups, params.round);

    let mut dropped: Vec<DroppedRow> = round
        .dropped
        .into_iter()
        .map(|(row, reason)| row.dropped(reason.word()))
        .collect();
    if params.strategy != Strategy::ContrastSampling {
        figures.describe(&fresh, params.round);
        return Ok(Contrast {
            pairs: fresh,
            dropped,
            bank: Vec::new(),
            figures,
        });
    }

    let updated = bank::update(tables.bank, &fresh, &judge, params);
    for (row, reason) in updated.dropped {
        figures.dropped.add(reason);
        dropped.push(row.dropped(reason.word()));
    }
    let vectors = if params.diverse {
        Some(prompt_vectors(&updated.bank, tables.prompts)?)
    } else {
        None
    };
    let pairs = bank::select(&updated.bank, params, vectors.as_ref());
    if pairs.len() < params.min_pairs as usize {
        return Err(ContrastError::Failure {
            shortage: format!(
                "contrast sampling selected {} pairs ({} of this round passed the filters), fewer \
                 than `min-pairs` asks for ({})",
                pairs.len(),
                fresh.len(),
                params.min_pairs
            ),
            counts: figures.dropped,
        });
    }
    figures.describe(&pairs, params.round);
    Ok(Contrast {
        pairs,
        dropped,
        bank: updated.bank,
        figures,
    })
}

/// Returns the vector of every prompt in the bank.
fn prompt_vectors<'a>(
    bank: &[PairRow],
    prompts: &'a [PromptRow],
) -> Result<HashMap<&'a str, PromptVector>, ContrastError> {
    let wanted: HashSet<&str> = bank.iter().map(|entry| entry.prompt_id.as_str()).collect();
    let rows: Vec<&PromptRow> = prompts
        .iter()
        .filter(|prompt| wanted.contains(prompt.prompt_id.as_str()))
        .collect();
    let known: HashSet<&str> = rows.iter().map(|row| row.prompt_id.as_str()).collect();
    if let Some(entry) = bank
        .iter()
        .find(|entry| !known.contains(entry.prompt_id.as_str()))
    {
        return Err(ContrastError::UnknownBankPrompt {
            pair_id: entry.pair_id.clone(),
            prompt_id: entry.prompt_id.clone(),
        });
    }
    let ids = rows.iter().map(|row| row.prompt_id.as_str());
    Ok(ids.zip(diversity::vectors(&rows)).collect())
}

fn check_bank(bank: &[PairRow], round: u32) -> Result<(), ContrastError> {
    match bank.iter().find(|entry| entry.origin_round > round) {
        Some(entry) => Err(ContrastError::BankAhead {
            pair_id: entry.pair_id.clone(),
            origin_round: entry.origin_round,
            round,
        }),
        None => Ok(()),
    }
}

/// Prompts of this round that the bank knows from an earlier one: shards that are not disjoint.
fn repeated_prompts(bank: &[PairRow], groups: &[PromptCandidates], round: u32) -> usize {
    let earlier: HashSet<&str> = bank
        .iter()
        .filter(|entry| entry.origin_round < round)
        .map(|entry| entry.prompt_id.as_str())
        .collect();
    groups
        .iter()
        .filter(|group| earlier.contains(group.prompt.prompt_id.as_str()))
        .count()
}

/// The pairs of this round.
struct RoundPairs<'a> {
    params: &'a ContrastParams,
    judge: &'a str,
    kept: Vec<Draft>,
    dropped: Vec<(PairRow, Reason)>,
    counts: DropCounts,
    duplicates: usize,
    /// Noise quantiles by number of judged responses.
    quantiles: BTreeMap<usize, f64>,
}

impl<'a> RoundPairs<'a> {
    fn new(judge: &'a str, params: &'a ContrastParams) -> Self {
        Self {
            params,
            judge,
            kept: Vec::new(),
            dropped: Vec::new(),
            counts: DropCounts::default(),
            duplicates: 0,
            quantiles: BTreeMap::new(),
        }
    }

    /// Runs one prompt through the filters.
    fn add(&mut self, group: &PromptCandidates, verdicts: &Verdicts) {
        if group.candidates.len() < 2 {
            self.counts.add(Reason::SingleResponse);
            return;
        }
        let flags = response_filters::flags(group, self.params);
        self.duplicates += flags
            .iter()
            .filter(|flag| **flag == Some(Reason::Duplicate))
            .count();
        let search = search(&group.candidates, &flags, self.params);
        for (pick, reason) in search.dropped {
            let row = self.pair_row(group, pick);
            self.drop(row, reason);
        }
        let Some(outermost) = search.found else {
            return;
        };
        let noise_limit = group.noise_sigma * self.noise_quantile(group.judged());
        let is_widest = self.params.pairs == PairPolicy::Widest;
        for (pick, weight) in policy::picks(&group.candidates, &flags, outermost, self.params) {
            let (chosen, rejected) = (
                &group.candidates[pick.chosen],
                &group.candidates[pick.rejected],
            );
            let row = PairRow {
                weight,
                ..self.pair_row(group, pick)
            };
            match pair_filters::flag(chosen, rejected, verdicts, noise_limit, self.params) {
                Some(reason) => {
                    self.drop(row, reason);
                    // The rest have smaller margins still.
                    if is_widest && matches!(reason, Reason::Tie | Reason::Margin) {
                        return;
                    }
                }
                None => {
                    self.kept.push(Draft {
                        reference_margin: self.reference_margin(group, chosen, row.margin),
                        log_length_ratio: log_length_ratio(chosen.content(), rejected.content()),
                        noise_limit,
                        row,
                    });
                    if is_widest {
                        return;
                    }
                }
            }
        }
    }

    fn drop(&mut self, row: PairRow, reason: Reason) {
        self.counts.add(reason);
        self.dropped.push((row, reason));
    }

    fn noise_quantile(&mut self, judged: usize) -> f64 {
        *self
            .quantiles
            .entry(judged)
            .or_insert_with(|| noise_range_quantile(judged, NOISE_CONFIDENCE))
    }

    fn reference_margin(&self, group: &PromptCandidates, chosen: &Candidate, margin: f64) -> f64 {
        match self.params.reference {
            MarginReference::Worst => margin,
            MarginReference::Median => {
                let judged = group.candidates.iter().filter(|candidate| candidate.judged);
                chosen.score - median(judged.map(|candidate| candidate.score).collect())
            }
        }
    }

    fn pair_row(&self, group: &PromptCandidates, pick: Pick) -> PairRow {
        let (chosen, rejected) = (
            &group.candidates[pick.chosen],
            &group.candidates[pick.rejected],
        );
        let (better, worse) = (chosen.response, rejected.response);
        let prompt_id = &group.prompt.prompt_id;
        PairRow {
            pair_id: pair_id(prompt_id, &better.response_id, &worse.response_id),
            prompt_id: prompt_id.clone(),
            chosen_id: better.response_id.clone(),
            rejected_id: worse.response_id.clone(),
            chosen: better.text.clone(),
            rejected: worse.text.clone(),
            chosen_token_ids: better.token_ids.clone(),
            rejected_token_ids: worse.token_ids.clone(),
            margin: chosen.score - rejected.score,
            z: 0.0,
            weight: 1.0,
            origin_round: self.params.round,
            judge: self.judge.to_owned(),
        }
    }

    /// Drops pairs until chosen and rejected responses are equally long on average.
    fn balance_lengths(&mut self) {
        let lengths: Vec<Lengths> = self
            .kept
            .iter()
            .map(|draft| Lengths {
                log_ratio: draft.log_length_ratio,
                margin: draft.row.margin,
            })
            .collect();
        let keep = match self.params.length_balance {
            LengthBalance::Off => return,
            LengthBalance::Drop => length_balance::keep(&lengths, self.params.length_tolerance),
        };
        let drafts = std::mem::take(&mut self.kept);
        for (draft, keep) in drafts.into_iter().zip(keep) {
            if keep {
                self.kept.push(draft);
            } else {
                self.drop(draft.row, Reason::LengthBalance);
            }
        }
    }

    /// Standardises margins by the mean and deviation of the pairs that are left.
    fn standardise(&mut self) {
        let margins: Vec<f64> = self
            .kept
            .iter()
            .map(|draft| draft.reference_margin)
            .collect();
        let standard = Standard::of(&margins);
        for draft in &mut self.kept {
            draft.row.z = standard.z(draft.reference_margin);
        }
        let against_worst = self.params.reference == MarginReference::Worst;
        for (row, _) in self.dropped.iter_mut().filter(|_| against_worst) {
            row.z = standard.z(row.margin);
        }
    }

    fn check_yield(&self, prompts: usize) -> Result<(), ContrastError> {
        let with_pair = self.prompts_with_pair();
        let share = with_pair as f64 / prompts as f64;
        if !self.kept.is_empty() && share >= self.params.min_yield {
            return Ok(());
        }
        let shortage = if self.kept.is_empty() {
            format!("no contrast pair is left of {prompts} prompts")
        } else {
            format!(
                "{} of {prompts} prompts gave a pair ({:.1} %), fewer than `min-yield` asks for \
                 ({:.1} %)",
                with_pair,
                100.0 * share,
                100.0 * self.params.min_yield
            )
        };
        Err(ContrastError::Failure {
            shortage,
            counts: self.counts.clone(),
        })
    }

    fn prompts_with_pair(&self) -> usize {
        let prompts: HashSet<&str> = self
            .kept
            .iter()
            .map(|draft| draft.row.prompt_id.as_str())
            .collect();
        prompts.len()
    }

    fn figures(&self, prompts: usize, responses: usize) -> Figures {
        let over_noise: Vec<f64> = self
            .kept
            .iter()
            .filter(|draft| draft.noise_limit > 0.0)
            .map(|draft| draft.row.margin / draft.noise_limit)
            .collect();
        Figures {
            prompts,
            fresh: self.kept.len(),
            prompts_with_pair: self.prompts_with_pair(),
            dropped: self.counts.clone(),
            duplicate_share: self.duplicates as f64 / responses as f64,
            median_margin: median(self.kept.iter().map(|draft| draft.row.margin).collect()),
            median_margin_over_noise: (!over_noise.is_empty()).then(|| median(over_noise)),
            mean_log_length_ratio: 0.0,
            fresh_share: 1.0,
            mean_age: 0.0,
            repeated_prompts: 0,
        }
    }
}

#[cfg(test)]
mod tests;
