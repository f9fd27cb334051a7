//! What is remembered of a round: a few figures, with intervals over prompts where they have one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sims_artifact::tables::{
    DecisionRow, HistoryRow, JudgmentRow, MetricRow, PairRow, ResponseRow,
};
use sims_stats::loops::LoopRule;
use sims_stats::{Bootstrap, StatsError, diversity};

/// The gates of `steer-eval` that ask for a gain; all others guard against harm.
const ACCEPT_GATES: [&str; 3] = ["gain", "no-regress", "signal"];

/// A figure and, where it has one, its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The figure.
    pub value: f64,
    /// The ends of its interval.
    pub interval: Option<(f64, f64)>,
}

impl Figure {
    /// Returns the lower end, or the figure itself where it has no interval.
    pub fn low(&self) -> f64 {
        self.interval.map_or(self.value, |(low, _)| low)
    }

    /// Returns the upper end, or the figure itself where it has no interval.
    pub fn high(&self) -> f64 {
        self.interval.map_or(self.value, |(_, high)| high)
    }
}

/// The figures of one round by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures(BTreeMap<String, Figure>);

impl Figures {
    /// Returns a figure that was measured.
    pub fn get(&self, name: &str) -> Option<Figure> {
        self.0.get(name).copied()
    }

    /// Sets a figure without an interval.
    pub fn plain(&mut self, name: &str, value: f64) {
        let interval = None;
        self.0.insert(name.to_owned(), Figure { value, interval });
    }

    fn with_interval(
        &mut self,
        name: &str,
        interval: Result<sims_stats::Interval, StatsError>,
    ) -> Result<(), StatsError> {
        let found = interval?;
        let figure = Figure {
            value: found.estimate,
            interval: Some((found.low, found.high)),
        };
        self.0.insert(name.to_owned(), figure);
        Ok(())
    }

    /// Returns the figures as rows of the history.
    pub fn rows(&self, round: u32) -> Vec<HistoryRow> {
        let rows = self.0.iter().map(|(name, figure)| HistoryRow {
            round,
            figure: name.clone(),
            value: figure.value,
            ci_low: figure.interval.map(|(low, _)| low),
            ci_high: figure.interval.map(|(_, high)| high),
        });
        rows.collect()
    }

    /// Adds what the sampled responses look like.
    ///
    /// # Errors
    /// [`StatsError::NonFinite`] for log-probabilities that are not finite.
    pub fn add_responses(
        &mut self,
        responses: &[ResponseRow],
        rule: &LoopRule,
        bootstrap: &Bootstrap,
    ) -> Result<(), StatsError> {
        let mut prompts: BTreeMap<&str, Vec<&ResponseRow>> = BTreeMap::new();
        for response in responses {
            prompts
                .entry(&response.prompt_id)
                .or_default()
                .push(response);
        }
        let mean_of = |figure: &dyn Fn(&[&ResponseRow]) -> Option<f64>| {
            let values: Vec<f64> = prompts.values().filter_map(|rows| figure(rows)).collect();
            bootstrap.mean(&values)
        };
        let share = |yes: &dyn Fn(&ResponseRow) -> bool, rows: &[&ResponseRow]| {
            rows.iter().filter(|row| yes(row)).count() as f64 / rows.len() as f64
        };
        self.with_interval(
            "loop_share",
            mean_of(&|rows| Some(share(&|row| rule.find(content(row)).is_some(), rows))),
        )?;
        self.with_interval(
            "truncated_share",
            mean_of(&|rows| Some(share(&|row| row.finish_reason == "length", rows))),
        )?;
        self.with_interval(
            "identical_share",
            mean_of(&|rows| {
                let texts: BTreeSet<&str> = rows.iter().map(|row| row.text.as_str()).collect();
                Some(1.0 - texts.len() as f64 / rows.len() as f64)
            }),
        )?;
        self.with_interval(
            "length_tokens",
            mean_of(&|rows| {
                let tokens: usize = rows.iter().map(|row| content(row).len()).sum();
                Some(tokens as f64 / rows.len() as f64)
            }),
        )?;
        let (surprise, tokens): (Vec<f64>, Vec<f64>) = prompts
            .values()
            .map(|rows| {
                let surprise: f64 = rows.iter().map(|row| -row.logprob_sum).sum();
                let tokens: usize = rows.iter().map(|row| row.token_ids.len()).sum();
                (surprise, tokens as f64)
            })
            .filter(|(_, tokens)| *tokens > 0.0)
            .unzip();
        if !tokens.is_empty() {
            self.with_interval(
                "entropy_per_token",
                bootstrap.ratio_of_means(&surprise, &tokens),
            )?;
        }
        let distinct: Vec<f64> = prompts
            .values()
            .filter_map(|rows| {
                let tokens: Vec<&[u32]> = rows.iter().map(|row| content(row)).collect();
                diversity::distinct_n(&tokens, 2)
            })
            .collect();
        if !distinct.is_empty() {
            self.with_interval("distinct_2", bootstrap.mean(&distinct))?;
        }
        Ok(())
    }

    /// Adds how the judge judges: which slot it sides with, and what length is worth to it.
    ///
    /// # Errors
    /// [`StatsError::NonFinite`] for log-odds that are not finite.
    pub fn add_judgments(
        &mut self,
        judgments: &[JudgmentRow],
        responses: &[ResponseRow],
        bootstrap: &Bootstrap,
    ) -> Result<(), StatsError> {
        let known: HashMap<&str, &ResponseRow> = responses
            .iter()
            .map(|row| (row.response_id.as_str(), row))
            .collect();
        let mut prompts: BTreeMap<&str, OfPrompt> = BTreeMap::new();
        let mut preferences: BTreeMap<[&str; 3], (f64, u32)> = BTreeMap::new();
        for row in judgments {
            let of_prompt = prompts.entry(&row.prompt_id).or_default();
            of_prompt.all += 1.0;
            let texts = [&row.response_a, &row.response_b].map(|id| {
                known
                    .get(id.as_str())
                    .map(|response| response.text.as_str())
            });
            if row.verdict == "invalid" {
                of_prompt.invalid += 1.0;
                continue;
            }
            // Between equal texts only the slot can decide.
            if texts[0] == texts[1] || texts.contains(&None) {
                continue;
            }
            match (row.order.as_str(), row.verdict.as_str()) {
                ("ab", "a") | ("ba", "b") => of_prompt.first += 1.0,
                ("ab", "b") | ("ba", "a") => of_prompt.second += 1.0,
                _ => {}
            }
            let pair = [&row.prompt_id, &row.response_a, &row.response_b].map(String::as_str);
            let preference = preferences.entry(pair).or_default();
            preference.0 += row.raw / 2.0;
            preference.1 += 1;
        }
        for ([prompt, a, b], (preference, orders)) in preferences {
            let (Some(a), Some(b)) = (known.get(a), known.get(b)) else {
                continue;
            };
            let longer = content(a).len() as f64 - content(b).len() as f64;
            if orders == 2 && longer != 0.0 {
                let of_prompt = prompts.entry(prompt).or_default();
                of_prompt.unequal += 1.0;
                of_prompt.longer_wins += sims_stats::win_rate::win(preference * longer, 0.0);
                of_prompt.length_moment += preference * longer;
                of_prompt.length_square += longer * longer;
            }
        }
        let mut ratio =
            |name: &str, part: &dyn Fn(&OfPrompt) -> f64, whole: &dyn Fn(&OfPrompt) -> f64| {
                let (parts, wholes): (Vec<f64>, Vec<f64>) = prompts
                    .values()
                    .map(|prompt| (part(prompt), whole(prompt)))
                    .filter(|(_, whole)| *whole > 0.0)
                    .unzip();
                if wholes.is_empty() {
                    return Ok(());
                }
                self.with_interval(name, bootstrap.ratio_of_means(&parts, &wholes))
            };
        ratio("first_slot_share", &|p| p.first, &|p| p.first + p.second)?;
        ratio("invalid_share", &|p| p.invalid, &|p| p.all)?;
        ratio("longer_preferred", &|p| p.longer_wins, &|p| p.unequal)?;
        ratio("length_slope", &|p| p.length_moment, &|p| p.length_square)
    }

    /// Adds how many of `prompts` prompts gave a pair, and whether the chosen responses are the longer ones.
    ///
    /// # Errors
    /// None for pairs that a store holds.
    pub fn add_pairs(
        &mut self,
        pairs: &[PairRow],
        prompts: usize,
        round: u32,
        bootstrap: &Bootstrap,
    ) -> Result<(), StatsError> {
        let fresh: BTreeSet<&str> = pairs
            .iter()
            .filter(|pair| pair.origin_round == round)
            .map(|pair| pair.prompt_id.as_str())
            .collect();
        if prompts > 0 {
            self.plain("yield", fresh.len() as f64 / prompts as f64);
        }
        let chosen_longer: Vec<f64> = pairs
            .iter()
            .map(|pair| {
                sims_stats::win_rate::win(
                    pair.chosen_token_ids.len() as f64,
                    pair.rejected_token_ids.len() as f64,
                )
            })
            .collect();
        if !chosen_longer.is_empty() {
            self.with_interval("chosen_longer", bootstrap.mean(&chosen_longer))?;
        }
        let length_gaps: Vec<f64> = pairs
            .iter()
            .filter(|pair| !pair.chosen_token_ids.is_empty() && !pair.rejected_token_ids.is_empty())
            .map(|pair| {
                (pair.chosen_token_ids.len() as f64 / pair.rejected_token_ids.len() as f64).ln()
            })
            .collect();
        if !length_gaps.is_empty() {
            self.with_interval("pair_length_gap", bootstrap.mean(&length_gaps))?;
        }
        Ok(())
    }

    /// Adds what `steer-eval` measured of the steering that it accepted.
    pub fn add_metrics(&mut self, metrics: &[MetricRow]) {
        for (name, metric, baseline) in [
            ("win_rate", "self_judge_win_rate", "base"),
            (
                "win_rate_against_incumbent",
                "self_judge_win_rate",
                "incumbent",
            ),
            ("second_win_rate", "second_judge_win_rate", "base"),
            (
                "second_win_rate_against_incumbent",
                "second_judge_win_rate",
                "incumbent",
            ),
            ("neutral_kl", "neutral_kl_per_token", "base"),
            ("perplexity_ratio", "neutral_perplexity_ratio", "base"),
            ("length_ratio", "length_ratio", "base"),
            ("distinct_2_ratio", "distinct_2_ratio", "base"),
        ] {
            let found = metrics
                .iter()
                .find(|row| row.metric == metric && row.baseline == baseline);
            if let Some(row) = found {
                let figure = Figure {
                    value: row.value,
                    interval: row.ci_low.zip(row.ci_high),
                };
                self.0.insert(name.to_owned(), figure);
            }
        }
    }

    /// Adds whether the round was accepted, at what strength, and how many strengths were unsafe.
    pub fn add_decision(&mut self, decision: &[DecisionRow]) {
        let accepted = decision.iter().rfind(|row| row.action == "accept");
        self.plain("accepted", f64::from(u8::from(accepted.is_some())));
        if let Some(row) = accepted {
            self.plain("accepted_strength", row.strength);
        }
        let mut attempts: BTreeMap<u32, bool> = BTreeMap::new();
        for row in decision {
            let harmful = !row.passed && !ACCEPT_GATES.contains(&row.gate.as_str());
            *attempts.entry(row.attempt).or_default() |= harmful;
        }
        if !attempts.is_empty() {
            let unsafe_ones = attempts.values().filter(|harmful| **harmful).count();
            self.plain("unsafe_share", unsafe_ones as f64 / attempts.len() as f64);
        }
    }
}

/// What the judge made of one prompt's responses.
#[derive(Debug, Clone, Copy, Default)]
struct OfPrompt {
    all: f64,
    invalid: f64,
    /// Verdicts for the slot.
    first: f64,
    second: f64,
    /// Pairs of different length, judged in both orders.
    unequal: f64,
    longer_wins: f64,
    length_moment: f64,
    length_square: f64,
}

/// Returns a response's tokens without the end-of-turn token.
fn content(response: &ResponseRow) -> &[u32] {
    match response.token_ids.split_last() {
        Some((_, content)) if response.finish_reason == "stop" => content,
        _ => &response.token_ids,
    }
}

/// The figures of the rounds before this one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History(BTreeMap<u32, Figures>);

impl History {
    /// Reads the rows that earlier rounds left.
    pub fn of(rows: &[HistoryRow]) -> Self {
        let mut rounds: BTreeMap<u32, Figures> = BTreeMap::new();
        for row in rows {
            let figure = Figure {
                value: row.value,
                interval: row.ci_low.zip(row.ci_high),
            };
            let figures = rounds.entry(row.round).or_default();
            figures.0.insert(row.figure.clone(), figure);
        }
        Self(rounds)
    }

    /// Adds a round.
    pub fn push(&mut self, round: u32, figures: Figures) {
        self.0.insert(round, figures);
    }

    /// Returns a figure of the first round.
    pub fn first(&self, name: &str) -> Option<Figure> {
        self.0.values().next()?.get(name)
    }

    /// Returns the rounds, the last one first.
    pub fn backwards(&self) -> impl Iterator<Item = &Figures> {
        self.0.values().rev()
    }

    /// Returns the rounds in order, each with its number.
    pub fn rounds(&self) -> impl Iterator<Item = (u32, &Figures)> {
        self.0.iter().map(|(round, figures)| (*round, figures))
    }

    /// Returns all rows.
    pub fn rows(&self) -> Vec<HistoryRow> {
        self.rounds()
            .flat_map(|(round, figures)| figures.rows(round))
            .collect()
    }
}
