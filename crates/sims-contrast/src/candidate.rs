//! The responses to one prompt, best first.

use std::collections::{BTreeMap, HashMap};

use sims_artifact::tables::{JudgmentRow, PromptRow, RankingRow, ResponseRow};
use sims_stats::random::{Stream, key_of};

use crate::{ContrastError, ContrastParams, Strategy};

/// A response that may become one side of a pair.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The response.
    pub response: &'a ResponseRow,
    /// Its score; 0 for the control, which reads none.
    pub score: f64,
    /// Whether the score rests on a comparison.
    pub judged: bool,
}

impl<'a> Candidate<'a> {
    /// Returns the response's tokens without the end-of-turn token.
    #[must_use]
    pub fn content(&self) -> &'a [u32] {
        content(self.response)
    }

    /// Whether the response was cut off by the length limit.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.response.finish_reason == "length"
    }
}

/// Returns a response's tokens without the end-of-turn token.
#[must_use]
pub fn content(response: &ResponseRow) -> &[u32] {
    match response.token_ids.split_last() {
        Some((_, content)) if response.finish_reason == "stop" => content,
        _ => &response.token_ids,
    }
}

/// One prompt with its candidates.
#[derive(Debug, Clone)]
pub struct PromptCandidates<'a> {
    /// The prompt.
    pub prompt: &'a PromptRow,
    /// Its responses, best first (shuffled for the control).
    pub candidates: Vec<Candidate<'a>>,
    /// Noise of a score; 0 for the control.
    pub noise_sigma: f64,
}

impl PromptCandidates<'_> {
    /// Returns the text of the prompt's user turns.
    #[must_use]
    pub fn request(&self) -> String {
        let turns = self
            .prompt
            .messages
            .iter()
            .filter(|message| message.role == "user");
        turns
            .map(|message| message.content.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Returns how many responses have a score that rests on a comparison.
    #[must_use]
    pub fn judged(&self) -> usize {
        self.candidates
            .iter()
            .filter(|candidate| candidate.judged)
            .count()
    }
}

/// Groups responses by prompt, in the order in which the responses first name a prompt.
///
/// The strategy `random` shuffles each prompt's responses by seed, round and prompt id, and does
/// not read `ranking`.
///
/// # Errors
/// A response whose prompt is unknown, or that the ranking lacks.
pub fn gather<'a>(
    prompts: &'a [PromptRow],
    responses: &'a [ResponseRow],
    ranking: &[RankingRow],
    params: &ContrastParams,
) -> Result<Vec<PromptCandidates<'a>>, ContrastError> {
    let by_id: HashMap<&str, &PromptRow> = prompts
        .iter()
        .map(|prompt| (prompt.prompt_id.as_str(), prompt))
        .collect();
    let mut groups: Vec<(&PromptRow, Vec<&ResponseRow>)> = Vec::new();
    let mut group_of: HashMap<&str, usize> = HashMap::new();
    for response in responses {
        let unknown = || ContrastError::UnknownPrompt {
            prompt_id: response.prompt_id.clone(),
            response_id: response.response_id.clone(),
        };
        let prompt = by_id
            .get(response.prompt_id.as_str())
            .copied()
            .ok_or_else(unknown)?;
        let group = *group_of.entry(&response.prompt_id).or_insert_with(|| {
            groups.push((prompt, Vec::new()));
            groups.len() - 1
        });
        groups[group].1.push(response);
    }
    if params.strategy == Strategy::Random {
        return Ok(groups
            .into_iter()
            .map(|(prompt, responses)| shuffled(prompt, responses, params))
            .collect());
    }
    let ranked: BTreeMap<&str, &RankingRow> = ranking
        .iter()
        .map(|row| (row.response_id.as_str(), row))
        .collect();
    groups
        .into_iter()
        .map(|(prompt, responses)| by_rank(prompt, &responses, &ranked))
        .collect()
}

fn shuffled<'a>(
    prompt: &'a PromptRow,
    mut responses: Vec<&'a ResponseRow>,
    params: &ContrastParams,
) -> PromptCandidates<'a> {
    let key = key_of(&format!("contrast|{}|{}", params.round, prompt.prompt_id));
    // The draw must not depend on the order of the table.
    responses.sort_by(|l, r| l.response_id.cmp(&r.response_id));
    Stream::new(params.seed, key).shuffle(&mut responses);
    let candidate = |response| Candidate {
        response,
        score: 0.0,
        judged: true,
    };
    PromptCandidates {
        prompt,
        candidates: responses.into_iter().map(candidate).collect(),
        noise_sigma: 0.0,
    }
}

fn by_rank<'a>(
    prompt: &'a PromptRow,
    responses: &[&'a ResponseRow],
    ranked: &BTreeMap<&str, &RankingRow>,
) -> Result<PromptCandidates<'a>, ContrastError> {
    let mut placed = Vec::with_capacity(responses.len());
    let mut noise_sigma = 0.0;
    for &response in responses {
        let row =
            ranked
                .get(response.response_id.as_str())
                .ok_or_else(|| ContrastError::Unranked {
                    response_id: response.response_id.clone(),
                })?;
        noise_sigma = row.noise_sigma;
        let candidate = Candidate {
            response,
            score: row.score,
            judged: row.comparisons > 0,
        };
        placed.push((row.rank, candidate));
    }
    placed.sort_by(|l, r| {
        l.0.cmp(&r.0)
            .then_with(|| l.1.response.response_id.cmp(&r.1.response.response_id))
    });
    Ok(PromptCandidates {
        prompt,
        candidates: placed.into_iter().map(|(_, candidate)| candidate).collect(),
        noise_sigma,
    })
}

/// Valid verdicts by the two responses compared, each with the log-odds that the first named one is
/// better, in one order and the other.
#[derive(Debug, Clone, Default)]
pub struct Verdicts(HashMap<(String, String), [Option<f64>; 2]>);

impl Verdicts {
    /// Takes in a round's judgments.
    #[must_use]
    pub fn of(judgments: &[JudgmentRow]) -> Self {
        let mut verdicts: HashMap<(String, String), [Option<f64>; 2]> = HashMap::new();
        for judgment in judgments
            .iter()
            .filter(|judgment| judgment.verdict != "invalid")
        {
            let key = (judgment.response_a.clone(), judgment.response_b.clone());
            let slot = usize::from(judgment.order == "ba");
            verdicts.entry(key).or_default()[slot] = Some(judgment.raw);
        }
        Self(verdicts)
    }

    /// Whether `chosen` beat `rejected` in both orders; `None` if they were not compared in both.
    #[must_use]
    pub fn wins_both_orders(&self, chosen: &str, rejected: &str) -> Option<bool> {
        let find = |a: &str, b: &str| self.0.get(&(a.to_owned(), b.to_owned()));
        let (orders, sign) = match find(chosen, rejected) {
            Some(orders) => (orders, 1.0),
            None => (find(rejected, chosen)?, -1.0),
        };
        Some(sign * orders[0]? > 0.0 && sign * orders[1]? > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Round, judgment};

    #[test]
    fn candidates_come_best_first() {
        let round = Round::new(&[("p", &[0.1, 0.9, 0.5])]);
        let params = ContrastParams::default();
        let groups = gather(&round.prompts, &round.responses, &round.ranking, &params);
        let scores: Vec<f64> = groups.expect("consistent")[0]
            .candidates
            .iter()
            .map(|c| c.score)
            .collect();
        assert_eq!(scores, [0.9, 0.5, 0.1]);
    }

    #[test]
    fn the_control_never_reads_a_score() {
        let round = Round::new(&[("p", &[0.1, 0.9, 0.5, 0.3]), ("q", &[0.7, 0.2, 0.1, 0.4])]);
        let params = ContrastParams {
            strategy: Strategy::Random,
            ..ContrastParams::default()
        };
        let order = |ranking: &[RankingRow], params: &ContrastParams| -> Vec<String> {
            let groups = gather(&round.prompts, &round.responses, ranking, params);
            let groups = groups.expect("consistent");
            assert!(
                groups
                    .iter()
                    .all(|group| group.candidates.iter().all(|c| c.score == 0.0))
            );
            let candidates = groups.iter().flat_map(|group| &group.candidates);
            candidates.map(|c| c.response.response_id.clone()).collect()
        };
        let with_scores = order(&round.ranking, &params);
        assert_eq!(with_scores, order(&[], &params));
        let other_round = ContrastParams {
            round: 2,
            ..params.clone()
        };
        assert_ne!(with_scores, order(&[], &other_round));
    }

    #[test]
    fn the_control_picks_each_response_equally_often() {
        let prompts: Vec<String> = (0..4000).map(|prompt| format!("p{prompt}")).collect();
        let qualities: Vec<(&str, &[f64])> = prompts
            .iter()
            .map(|prompt| (prompt.as_str(), &[0.0, 1.0, 2.0, 3.0][..]))
            .collect();
        let round = Round::new(&qualities);
        let params = ContrastParams {
            strategy: Strategy::Random,
            ..ContrastParams::default()
        };
        let groups = gather(&round.prompts, &round.responses, &[], &params).expect("consistent");
        let mut firsts = [0u32; 4];
        for group in &groups {
            firsts[group.candidates[0].response.sample_index as usize] += 1;
        }
        // Binomial(4000, 1/4): 1000 with standard deviation 27.
        assert!(
            firsts.iter().all(|&count| (890..1110).contains(&count)),
            "{firsts:?}"
        );
    }

    #[test]
    fn tables_that_do_not_belong_together_are_refused() {
        let round = Round::new(&[("p", &[0.1, 0.9])]);
        let params = ContrastParams::default();
        assert!(matches!(
            gather(&[], &round.responses, &round.ranking, &params),
            Err(ContrastError::UnknownPrompt { .. })
        ));
        assert!(matches!(
            gather(
                &round.prompts,
                &round.responses,
                &round.ranking[..1],
                &params
            ),
            Err(ContrastError::Unranked { .. })
        ));
    }

    #[test]
    fn content_leaves_the_end_token_out() {
        let round = Round::new(&[("p", &[0.0])]);
        let mut response = round.responses[0].clone();
        response.token_ids = vec![5, 6, 2];
        assert_eq!(content(&response), [5, 6]);
        response.finish_reason = "length".into();
        assert_eq!(content(&response), [5, 6, 2]);
    }

    #[test]
    fn verdicts_are_read_from_either_side() {
        let verdicts = Verdicts::of(&[
            judgment("x", "y", "ab", 1.0),
            judgment("x", "y", "ba", 0.5),
            judgment("x", "z", "ab", 1.0),
            judgment("x", "z", "ba", -1.0),
            judgment("y", "z", "ab", 1.0),
        ]);
        assert_eq!(verdicts.wins_both_orders("x", "y"), Some(true));
        assert_eq!(verdicts.wins_both_orders("y", "x"), Some(false));
        assert_eq!(verdicts.wins_both_orders("z", "x"), Some(false));
        assert_eq!(verdicts.wins_both_orders("y", "z"), None);
        assert_eq!(verdicts.wins_both_orders("y", "w"), None);
    }
}
