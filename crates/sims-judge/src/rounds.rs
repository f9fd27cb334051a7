//! The schedule `adaptive`: comparisons in rounds, one round of all prompts at a time.

use std::collections::{BTreeMap, HashMap};

use sims_artifact::tables::{MetricRow, ResponseRow};
use sims_stage::BadInput;
use sims_stats::{Bootstrap, StatsError};

use crate::JudgeParams;
use crate::adaptive::Contest;
use crate::asking::Answers;
use crate::plan::Pair;
use crate::reliability::row;
use crate::verdict::{BothOrders, Preference};

/// A pair judged, with the places of its responses in the prompt.
struct Played<'a> {
    places: (usize, usize),
    pair: Pair<'a>,
    orders: [Preference; 2],
}

/// One prompt on its way through the rounds.
struct Prompt<'a> {
    prompt_id: &'a str,
    request: &'a str,
    responses: &'a [ResponseRow],
    contest: Contest,
    played: Vec<Played<'a>>,
}

/// What the rounds came to.
pub(crate) struct Rounds<'a> {
    /// The pairs judged, prompt by prompt, in the order in which a fixed schedule lists them.
    pub(crate) pairs: Vec<Pair<'a>>,
    /// Their judgments, in the same order.
    pub(crate) preferences: Vec<Preference>,
    /// Number of rounds.
    pub(crate) count: usize,
    contests: Vec<Contest>,
}

/// Judges up to `budget` pairs of every prompt; `ask` judges a list of pairs in both orders.
///
/// # Errors
/// A budget too small to connect a prompt's responses, and what `ask` says.
pub(crate) fn judge<'a>(
    params: &JudgeParams,
    groups: &'a BTreeMap<String, Vec<ResponseRow>>,
    requests: &'a HashMap<String, String>,
    ask: &mut dyn FnMut(&[Pair<'a>]) -> anyhow::Result<Answers>,
) -> anyhow::Result<Rounds<'a>> {
    let budget = params.budget as usize;
    let mut prompts: Vec<Prompt<'a>> = groups
        .iter()
        .map(|(prompt_id, responses)| Prompt {
            prompt_id,
            request: requests.get(prompt_id).map_or("", String::as_str),
            responses,
            contest: Contest::new(responses.len(), params.seed, prompt_id),
            played: Vec::new(),
        })
        .collect();
    check_budget(&prompts, budget)?;
    let mut count = 0;
    loop {
        let mut asked: Vec<(usize, (usize, usize))> = Vec::new();
        for (index, prompt) in prompts.iter().enumerate() {
            let left = budget.saturating_sub(prompt.contest.asked());
            let most = left.min(params.round_pairs as usize);
            if most > 0 {
                let pairs = prompt.contest.next_pairs(most)?;
                asked.extend(pairs.into_iter().map(|places| (index, places)));
            }
        }
        if asked.is_empty() {
            break;
        }
        let pairs: Vec<Pair<'a>> = asked
            .iter()
            .map(|&(index, places)| prompts[index].pair(places))
            .collect();
        let judged = ask(&pairs)?;
        count += 1;
        let orders = judged.preferences.chunks_exact(2);
        for (((index, places), pair), orders) in asked.into_iter().zip(pairs).zip(orders) {
            prompts[index].take(places, pair, [orders[0], orders[1]], params.min_coverage);
        }
    }
    let mut rounds = Rounds {
        pairs: Vec::new(),
        preferences: Vec::new(),
        count,
        contests: Vec::new(),
    };
    for mut prompt in prompts {
        prompt.played.sort_by_key(|played| played.places);
        for played in prompt.played {
            rounds.pairs.push(played.pair);
            rounds.preferences.extend(played.orders);
        }
        rounds.contests.push(prompt.contest);
    }
    Ok(rounds)
}

impl<'a> Prompt<'a> {
    fn pair(&self, (i, j): (usize, usize)) -> Pair<'a> {
        Pair {
            request: self.request,
            a: &self.responses[i],
            b: &self.responses[j],
        }
    }

    fn take(
        &mut self,
        places: (usize, usize),
        pair: Pair<'a>,
        orders: [Preference; 2],
        min_coverage: f64,
    ) {
        let both = BothOrders {
            ab: orders[0],
            ba: orders[1],
        };
        let preference = both.is_valid(min_coverage).then(|| both.preference());
        self.contest.record(places, preference);
        self.played.push(Played {
            places,
            pair,
            orders,
        });
    }
}

impl Rounds<'_> {
    /// Returns how sure best and worst are, one row each; none where no prompt says.
    ///
    /// # Errors
    /// [`StatsError::NonFinite`] for log-odds that are not finite.
    pub(crate) fn rows(&self, bootstrap: &Bootstrap) -> Result<Vec<MetricRow>, StatsError> {
        let (mut best, mut worst) = (Vec::new(), Vec::new());
        for contest in &self.contests {
            if let Some(confidence) = contest.confidence()? {
                best.push(confidence.best);
                worst.push(confidence.worst);
            }
        }
        if best.is_empty() {
            return Ok(Vec::new());
        }
        let method = "chance of beating the nearest rival over all pairs, bootstrap";
        [("best_confidence", best), ("worst_confidence", worst)]
            .into_iter()
            .map(|(metric, values)| {
                let interval = bootstrap.mean(&values)?;
                Ok(row(metric, interval, values.len(), method))
            })
            .collect()
    }
}

fn check_budget(prompts: &[Prompt<'_>], budget: usize) -> Result<(), BadInput> {
    let short = prompts
        .iter()
        .find(|prompt| prompt.contest.opening_pairs() > budget);
    match short {
        Some(prompt) => Err(BadInput::new(format!(
            "budget is {budget} pairs a prompt, but prompt {} has {} responses, and the opening, in which each \
             meets two others, takes {}; raise budget or sample fewer responses",
            prompt.prompt_id,
            prompt.responses.len(),
            prompt.contest.opening_pairs()
        ))),
        None => Ok(()),
    }
}
