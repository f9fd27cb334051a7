//! How far a run is, and how long the rest will take.

use std::collections::BTreeMap;

/// How far a run is, over all its stages.
///
/// Each stage weighs what it took last time, in this run or the one before; a stage that was
/// never timed weighs as much as the mean of those that were. Times come in from outside, so
/// that nothing here reads a clock.
#[derive(Debug, Clone)]
pub struct RunProgress {
    stages: Vec<StageProgress>,
    /// The last time of each stage, whatever its round, by name.
    timed: BTreeMap<String, f64>,
}

#[derive(Debug, Clone)]
struct StageProgress {
    name: String,
    expected: Option<f64>,
    /// From 0 to 1.
    done: f64,
    free: bool,
}

impl RunProgress {
    /// Starts with the names of the stages in the plan's order, and what each took before.
    pub fn new(stages: impl IntoIterator<Item = (String, Option<f64>)>) -> Self {
        let stages = stages.into_iter().map(|(name, expected)| StageProgress {
            name,
            expected,
            done: 0.0,
            free: false,
        });
        Self {
            stages: stages.collect(),
            timed: BTreeMap::new(),
        }
    }

    /// Records that a stage needs no work.
    pub fn cached(&mut self, index: usize) {
        self.stages[index].done = 1.0;
        self.stages[index].free = true;
    }

    /// Records how far a running stage is: `done` of `total` steps.
    pub fn advance(&mut self, index: usize, done: u64, total: u64) {
        if total > 0 {
            // Not complete before the stage says so: it still has to write its outputs.
            self.stages[index].done = (done as f64 / total as f64).clamp(0.0, 0.99);
        }
    }

    /// Records that a stage finished after `seconds`.
    pub fn finished(&mut self, index: usize, seconds: f64) {
        let stage = &mut self.stages[index];
        stage.done = 1.0;
        stage.expected = Some(seconds);
        self.timed.insert(stage.name.clone(), seconds);
    }

    /// Returns how many stages are complete.
    pub fn complete(&self) -> usize {
        self.stages.iter().filter(|stage| stage.done >= 1.0).count()
    }

    /// Returns how much of the work is done, from 0 to 1; stages that need no work do not count.
    pub fn fraction(&self) -> f64 {
        let (mut done, mut all) = (0.0, 0.0);
        for stage in self.stages.iter().filter(|stage| !stage.free) {
            let weight = self.weight(stage);
            done += weight * stage.done;
            all += weight;
        }
        if all > 0.0 { done / all } else { 1.0 }
    }

    /// Returns how long the rest will take, from what is known of the stages; `None` while
    /// nothing was timed. `jobs` stages run at a time. Unit: seconds.
    pub fn seconds_left(&self, jobs: usize) -> Option<f64> {
        self.mean()?;
        let left = self
            .stages
            .iter()
            .map(|stage| self.weight(stage) * (1.0 - stage.done));
        Some(left.sum::<f64>() / jobs.max(1) as f64)
    }

    fn weight(&self, stage: &StageProgress) -> f64 {
        let timed = self.timed.get(&stage.name).copied();
        timed
            .or(stage.expected)
            .or_else(|| self.mean())
            .unwrap_or(1.0)
            .max(1e-3)
    }

    fn mean(&self) -> Option<f64> {
        let known: Vec<f64> = self
            .stages
            .iter()
            .filter_map(|stage| stage.expected)
            .collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> RunProgress {
        RunProgress::new(names.iter().map(|name| ((*name).to_owned(), None)))
    }

    #[test]
    fn round_one_teaches_the_later_rounds() {
        let mut progress = names(&["sample", "rank", "sample", "rank"]);
        assert_eq!(progress.seconds_left(1), None);
        progress.finished(0, 9.0);
        progress.finished(1, 1.0);
        assert_eq!(progress.complete(), 2);
        assert!((progress.fraction() - 0.5).abs() < 1e-9);
        assert_eq!(progress.seconds_left(1), Some(10.0));
        progress.advance(2, 1, 3);
        assert_eq!(progress.seconds_left(1).map(f64::round), Some(7.0));
    }

    #[test]
    fn cached_stages_take_no_time_and_no_share() {
        let mut progress = names(&["sample", "rank"]);
        progress.cached(0);
        assert!(progress.fraction() < 1e-9);
        progress.cached(1);
        assert!((progress.fraction() - 1.0).abs() < 1e-9);
    }
}
