//! The parts of the page, one subject a file.

pub(super) mod answers;
pub(super) mod contrast;
pub(super) mod cost;
pub(super) mod curves;
pub(super) mod gates;
pub(super) mod headline;
pub(super) mod judge;
pub(super) mod lineage;
pub(super) mod settings;

/// Charts by round show at most so many rounds, the last ones; tables show all.
const ROUNDS_SHOWN: usize = 6;

/// Returns the last of `rounds`, which are in order, as many as charts show.
fn last_rounds(rounds: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut rounds: Vec<u32> = rounds.collect();
    rounds.dedup();
    rounds.split_off(rounds.len().saturating_sub(ROUNDS_SHOWN))
}
