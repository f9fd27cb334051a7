//! Selects the pairs of a whole round.

use std::collections::{BTreeMap, HashSet};

use sims_artifact::tables::{
    DroppedRow, JudgmentRow, PairRow, PromptRow, RankingRow, ResponseRow, pair_id,
};
use sims_stats::noise_range::noise_range_quantile;

use crate::bank::{self, Standard};
use crate::candidate::{Candidate, PromptCandidates, Verdicts, gather};
use crate::extremes::{Pick, search};
use crate::length_balance::{self, Lengths};
use crate::{
    ContrastParams, DropCounts, LengthBalance, MarginReference, Reason, Strategy, pair_filters,
    response_filters,
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

/// Figures of a selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Prompts with responses.
    pub prompts: usize,
    /// Pairs of this round that passed every filter.
    pub fresh: usize,
    /// How many pairs each filter dropped.
    pub dropped: DropCounts,
    /// Share of responses that say what a better one says.
    pub duplicate_share: f64,
    /// Median margin of this round's pairs; 0 for the control.
    pub median_margin: f64,
    /// Median of margin over noise limit of this round's pairs; `None` without noise.
    pub median_margin_over_noise: Option<f64>,
    /// Mean of log chosen length over rejected length, of the selected pairs.
    pub mean_log_length_ratio: f64,
    /// Share of selected pairs that are of this round.
    pub fresh_share: f64,
    /// Mean age of the selected pairs. Unit: rounds.
    pub mean_age: f64,
    /// Prompts of this round that a pair of an earlier round in the bank has, too.
    pub repeated_prompts: usize,
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
    let pairs = bank::select(&updated.bank, params);
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
        let Some(pick) = search.found else { return };
        let noise_limit = group.noise_sigma * self.noise_quantile(group.judged());
        let (chosen, rejected) = (
            &group.candidates[pick.chosen],
            &group.candidates[pick.rejected],
        );
        let row = self.pair_row(group, pick);
        match pair_filters::flag(chosen, rejected, verdicts, noise_limit, self.params) {
            Some(reason) => self.drop(row, reason),
            None => self.kept.push(Draft {
                reference_margin: self.reference_margin(group, chosen, row.margin),
                log_length_ratio: log_length_ratio(chosen.content(), rejected.content()),
                noise_limit,
                row,
            }),
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
            // No later stage reads it: extract and fit take every pair alike.
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
        let share = self.kept.len() as f64 / prompts as f64;
        if !self.kept.is_empty() && share >= self.params.min_yield {
            return Ok(());
        }
        let shortage = if self.kept.is_empty() {
            format!("no contrast pair is left of {prompts} prompts")
        } else {
            format!(
                "{} of {prompts} prompts gave a pair ({:.1} %), fewer than `min-yield` asks for \
                 ({:.1} %)",
                self.kept.len(),
                100.0 * share,
                100.0 * self.params.min_yield
            )
        };
        Err(ContrastError::Failure {
            shortage,
            counts: self.counts.clone(),
        })
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

impl Figures {
    /// Fills in what is about the selected pairs (at least one).
    fn describe(&mut self, pairs: &[PairRow], round: u32) {
        let count = pairs.len().max(1) as f64;
        let ages = pairs
            .iter()
            .map(|pair| f64::from(round - pair.origin_round));
        self.mean_age = ages.sum::<f64>() / count;
        let fresh = pairs
            .iter()
            .filter(|pair| pair.origin_round == round)
            .count();
        self.fresh_share = fresh as f64 / count;
        let ratios = pairs
            .iter()
            .map(|pair| log_length_ratio(&pair.chosen_token_ids, &pair.rejected_token_ids));
        self.mean_log_length_ratio = ratios.sum::<f64>() / count;
    }
}

/// Log of one length over the other; an empty response counts as one token.
fn log_length_ratio(chosen: &[u32], rejected: &[u32]) -> f64 {
    (chosen.len().max(1) as f64 / rejected.len().max(1) as f64).ln()
}

/// Median; 0 for nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => 0.5 * (values[n / 2 - 1] + values[n / 2]),
    }
}

#[cfg(test)]
mod tests;
