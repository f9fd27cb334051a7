//! Answers of the base and of the steered model side by side: a bounded sample.

use std::collections::{BTreeMap, HashMap};

use sims_artifact::tables::ResponseRow;

use crate::ReportError;
use crate::data_table::DataTable;
use crate::parts::headline::judged_node;
use crate::run::Run;

/// How many prompts are shown at most.
const PROMPTS: usize = 200;
/// How much text is shown at most. Unit: bytes.
const BYTES: usize = 1_000_000;
/// How long a text is shown at most. Unit: characters.
const LONGEST: usize = 1_500;

/// Which answer is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The steered answer is better.
    Improved,
    /// The steered answer is worse.
    Worsened,
    /// Both are equally good.
    Same,
    /// Nothing scored them.
    Unknown,
}

impl Change {
    /// Returns the change in a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Improved => "improved",
            Self::Worsened => "worsened",
            Self::Same => "same",
            Self::Unknown => "unknown",
        }
    }
}

/// The answers of both policies to a prompt in one round, their first draws.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The round.
    pub round: u32,
    /// The prompt's id.
    pub prompt_id: String,
    /// The prompt's text; none when its file is not known.
    pub prompt: Option<String>,
    /// The base model's answer.
    pub base: String,
    /// The steered model's answer.
    pub steered: String,
    /// Gold score of the base model's answer.
    pub base_gold: Option<f64>,
    /// Gold score of the steered model's answer.
    pub steered_gold: Option<f64>,
    /// The judge's probability that the steered answer is the better one.
    pub judged: Option<f64>,
}

impl Answer {
    /// Returns by how much the steered answer is better: in gold score, else in probability over one half.
    pub fn difference(&self) -> Option<f64> {
        match (self.base_gold, self.steered_gold) {
            (Some(base), Some(steered)) => Some(steered - base),
            _ => self.judged.map(|probability| probability - 0.5),
        }
    }

    /// Returns which answer is better.
    pub fn change(&self) -> Change {
        match self.difference() {
            None => Change::Unknown,
            Some(difference) if difference > 0.0 => Change::Improved,
            Some(difference) if difference < 0.0 => Change::Worsened,
            Some(_) => Change::Same,
        }
    }
}

/// The sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answers {
    /// The answers, the last round first, by prompt.
    pub rows: Vec<Answer>,
    /// How many prompts both policies answered, in the round with most.
    pub prompts: usize,
    /// The node that answered, by round.
    pub nodes: Vec<(u32, String)>,
}

impl Answers {
    /// Chooses the prompts with the smallest ids, which are hashes, as many as there is room for.
    ///
    /// # Errors
    /// If a table is damaged.
    pub fn of(run: &Run) -> Result<Self, ReportError> {
        let mut answers = Self::default();
        let mut by_prompt: BTreeMap<String, Vec<Answer>> = BTreeMap::new();
        for round in run.rounds.iter().rev() {
            let preferred: Vec<&str> = judged_node(run, round)
                .into_iter()
                .chain([round.gate_node.as_str()])
                .collect();
            let Some((node, rows)) = round.answers(&preferred)? else {
                continue;
            };
            answers.nodes.push((round.number, node));
            let scores = Scores::of(round)?;
            let both = first_draws(&rows);
            answers.prompts = answers.prompts.max(both.len());
            for (prompt_id, (base, steered)) in both {
                let gold = |row: &ResponseRow| scores.get("gold_score", row);
                by_prompt
                    .entry(prompt_id.to_owned())
                    .or_default()
                    .push(Answer {
                        round: round.number,
                        prompt_id: prompt_id.to_owned(),
                        prompt: run.prompts.get(prompt_id).map(|text| cut(text)),
                        base_gold: gold(base),
                        steered_gold: gold(steered),
                        judged: scores.get("self_judge_win", steered),
                        base: cut(&base.text),
                        steered: cut(&steered.text),
                    });
            }
        }
        let mut room = BYTES;
        for rows in by_prompt.into_values().take(PROMPTS) {
            let prompt = |row: &Answer| row.prompt.as_ref().map_or(0, String::len);
            let size = |row: &Answer| prompt(row) + row.base.len() + row.steered.len();
            let bytes = rows.iter().map(size).sum();
            if room < bytes {
                break;
            }
            room -= bytes;
            answers.rows.extend(rows);
        }
        // Stable: within a round the prompts stay in order.
        answers.rows.sort_by_key(|row| std::cmp::Reverse(row.round));
        Ok(answers)
    }

    pub(super) fn table(&self) -> DataTable {
        DataTable::of("answers", &self.rows)
            .count("round", |row| row.round)
            .text("prompt_id", |row| row.prompt_id.as_str())
            .text("prompt", |row| row.prompt.clone().unwrap_or_default())
            .text("base", |row| row.base.as_str())
            .text("steered", |row| row.steered.as_str())
            .number("base_gold_score", |row| row.base_gold)
            .number("steered_gold_score", |row| row.steered_gold)
            .number("judged_win_probability", |row| row.judged)
            .number("difference", Answer::difference)
            .text("change", |row| row.change().word())
            .done()
    }
}

/// The first draw of either policy, by prompt; prompts that only one answered are left out.
fn first_draws(rows: &[ResponseRow]) -> BTreeMap<&str, (&ResponseRow, &ResponseRow)> {
    let mut base: HashMap<&str, &ResponseRow> = HashMap::new();
    let mut steered: BTreeMap<&str, &ResponseRow> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.sample_index == 0) {
        let id = row.prompt_id.as_str();
        if row.policy == "base" {
            base.insert(id, row);
        } else {
            steered.insert(id, row);
        }
    }
    steered
        .into_iter()
        .filter_map(|(id, steered)| Some((id, (*base.get(id)?, steered))))
        .collect()
}

/// Scores by metric, prompt, policy and draw.
struct Scores(HashMap<(String, String, String, u32), f64>);

impl Scores {
    fn of(round: &crate::run::Round) -> Result<Self, ReportError> {
        let mut scores = HashMap::new();
        for row in round.scores()? {
            if ["gold_score", "self_judge_win"].contains(&row.metric.as_str())
                && let Some(draw) = row.draw
            {
                let key = (row.metric, row.prompt_id, row.policy, draw);
                scores.entry(key).or_insert(row.value);
            }
        }
        Ok(Self(scores))
    }

    fn get(&self, metric: &str, row: &ResponseRow) -> Option<f64> {
        let key = (
            metric.to_owned(),
            row.prompt_id.clone(),
            row.policy.clone(),
            row.sample_index,
        );
        self.0.get(&key).copied()
    }
}

/// Cuts a text that is too long, and says so.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… [cut]", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("été"), "été");
        let long = "é".repeat(LONGEST + 1);
        let shown = cut(&long);
        assert!(shown.ends_with("é… [cut]"));
        assert_eq!(shown.chars().count(), LONGEST + "… [cut]".chars().count());
    }

    #[test]
    fn gold_decides_before_the_judge() {
        let answer = |gold: Option<(f64, f64)>, judged| Answer {
            round: 1,
            prompt_id: "p".into(),
            prompt: None,
            base: String::new(),
            steered: String::new(),
            base_gold: gold.map(|gold| gold.0),
            steered_gold: gold.map(|gold| gold.1),
            judged,
        };
        assert_eq!(
            answer(Some((0.5, 0.25)), Some(0.9)).change(),
            Change::Worsened
        );
        assert_eq!(answer(Some((0.5, 0.5)), Some(0.9)).change(), Change::Same);
        assert_eq!(answer(None, Some(0.9)).change(), Change::Improved);
        assert_eq!(answer(None, None).change(), Change::Unknown);
    }
}
