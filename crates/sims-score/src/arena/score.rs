//! The leaderboard's score and its intervals.

use std::collections::BTreeMap;

use serde::Serialize;
use sims_stats::{Bootstrap, bootstrap::quantile};

use super::Version;
use super::battles::{Battle, Battles};
use crate::ScoreError;

/// Seed of all resampling, the one that upstream takes.
pub const SEED: u64 = 42;

/// One model's line of the leaderboard. Scores and interval ends are per cent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The model.
    pub model: String,
    /// Expected win rate against the baseline.
    pub score: f64,
    /// Lower end of the official interval, which takes rows for independent.
    pub ci_low: f64,
    /// Its upper end.
    pub ci_high: f64,
    /// Lower end of the interval that resamples questions with all their rows.
    pub question_ci_low: f64,
    /// Its upper end.
    pub question_ci_high: f64,
    /// Rows: one a verdict, three a strong one.
    pub n_rows: u64,
    /// Questions with at least one row.
    pub n_questions: usize,
    /// Rows that the model won.
    pub n_wins: u64,
    /// Rows that nobody won.
    pub n_ties: u64,
    /// Rows that the baseline won.
    pub n_losses: u64,
    /// Games without a usable label.
    pub n_invalid_games: usize,
    /// Questions left out because a game has no label (v2.0).
    pub n_dropped_questions: usize,
}

impl Score {
    /// Computes a model's line from `resamples` resamples (upstream takes 100).
    ///
    /// v0.1 fits Bradley–Terry scores without a penalty. As every row is against the same baseline,
    /// the fit comes out as the share of rows won, a tie counting half, and so do its resamples; each
    /// model's rows are resampled by themselves. v2.0 reports the mean of the resamples' means.
    ///
    /// # Errors
    /// No resamples.
    pub fn of(battles: &Battles, version: Version, resamples: usize) -> Result<Self, ScoreError> {
        let failed = ScoreError::statistics(&battles.path);
        let method = Bootstrap {
            resamples,
            confidence: version.confidence(),
            seed: SEED,
        };
        let mut shares: Vec<f64> = battles.rows.iter().flat_map(expanded).collect();
        shares.sort_by(f64::total_cmp);
        let n = shares.len() as f64;
        let mean = |rows: &[u32]| rows.iter().map(|&row| shares[row as usize]).sum::<f64>() / n;
        let mut means = method.replicates(shares.len(), mean).map_err(&failed)?;
        means.sort_by(f64::total_cmp);
        let tail = 0.5 * (1.0 - method.confidence);

        let mut questions: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for battle in &battles.rows {
            let question = questions.entry(&battle.question).or_default();
            question.0 += battle.share * f64::from(battle.rows);
            question.1 += f64::from(battle.rows);
        }
        let (points, rows): (Vec<f64>, Vec<f64>) = questions.values().copied().unzip();
        let clustered = method.ratio_of_means(&points, &rows).map_err(&failed)?;

        let count = |share: f64| {
            let rows = battles.rows.iter().filter(|battle| battle.share == share);
            rows.map(|battle| u64::from(battle.rows)).sum()
        };
        Ok(Self {
            model: battles.model.clone(),
            score: 100.0
                * match version {
                    Version::V01 => clustered.estimate,
                    Version::V20 => means.iter().sum::<f64>() / means.len() as f64,
                },
            ci_low: 100.0 * quantile(&means, tail),
            ci_high: 100.0 * quantile(&means, 1.0 - tail),
            question_ci_low: 100.0 * clustered.low,
            question_ci_high: 100.0 * clustered.high,
            n_rows: shares.len() as u64,
            n_questions: questions.len(),
            n_wins: count(1.0),
            n_ties: count(0.5),
            n_losses: count(0.0),
            n_invalid_games: battles.invalid_games,
            n_dropped_questions: battles.dropped_questions,
        })
    }
}

fn expanded(battle: &Battle) -> impl Iterator<Item = f64> {
    std::iter::repeat_n(battle.share, battle.rows as usize)
}
