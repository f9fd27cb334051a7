//! How far the judge contradicts itself when the answers change places.

use serde::Serialize;
use sims_stats::StatsError;
use sims_stats::proportion::sign_test;

use super::verdict::Verdict;

/// What the two games of each question say about the judge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Position {
    /// Questions with a usable verdict in both games.
    pub questions: usize,
    /// Questions without.
    pub excluded: usize,
    /// Questions whose games agree on who is better, or on a tie.
    pub agree_on_sign: usize,
    /// Questions whose games agree on the label.
    pub agree_on_label: usize,
    /// Games with a winner.
    pub decisive_games: u64,
    /// Decisive games that the answer shown first won.
    pub won_by_first: u64,
    /// Two-sided p-value of "both places win equally often", by an exact sign test.
    pub p_value: f64,
}

impl Position {
    /// Counts over the games of one model; none if no game has a winner.
    ///
    /// # Errors
    /// Never for counts that come from games.
    pub fn of(games: &[[Option<Verdict>; 2]]) -> Result<Option<Self>, StatsError> {
        let pairs: Vec<(i8, i8)> = games
            .iter()
            .filter_map(|[first, second]| {
                Some(((*first)?.for_model(false), (*second)?.for_model(true)))
            })
            .collect();
        let count = |holds: fn(&(i8, i8)) -> bool| pairs.iter().filter(|p| holds(p)).count();
        let decisive = || {
            let verdicts = games.iter().flatten().flatten();
            verdicts.map(|verdict| verdict.for_a()).filter(|v| *v != 0)
        };
        let decisive_games = decisive().count() as u64;
        if decisive_games == 0 {
            return Ok(None);
        }
        let won_by_first = decisive().filter(|v| *v > 0).count() as u64;
        Ok(Some(Self {
            questions: pairs.len(),
            excluded: games.len() - pairs.len(),
            agree_on_sign: count(|(first, second)| first.signum() == second.signum()),
            agree_on_label: count(|(first, second)| first == second),
            decisive_games,
            won_by_first,
            p_value: sign_test(won_by_first, decisive_games)?,
        }))
    }
}
