//! All that is known of the judge after a run, as rows of the `reliability` table.

use sims_artifact::tables::MetricRow;
use sims_stats::{Bootstrap, StatsError};

use crate::controls::{self, Control};
use crate::reliability::{JudgedPair, Reliability};
use crate::verdict::{BothOrders, Preference};
use crate::{biases, second_opinion};

/// What a run found out.
pub(crate) struct Evidence<'a> {
    /// The pairs judged, those of a prompt together.
    pub(crate) pairs: &'a [JudgedPair<'a>],
    /// The same pairs by another judge, where one was given.
    pub(crate) second: Vec<Option<BothOrders>>,
    /// What the members of an ensemble said, two entries a pair.
    pub(crate) members: &'a [(String, Vec<Preference>)],
    /// The first pairs, asked again.
    pub(crate) again: Vec<BothOrders>,
    /// The controls, and two answers to each.
    pub(crate) controls: (&'a [Control<'a>], &'a [Preference]),
}

impl Evidence<'_> {
    /// Returns one row a figure.
    pub(crate) fn rows(
        &self,
        min_coverage: f64,
        bootstrap: &Bootstrap,
    ) -> Result<Vec<MetricRow>, StatsError> {
        let pairs = self.pairs;
        let mut rows = Reliability::of(pairs, min_coverage).rows(bootstrap)?;
        rows.extend(biases::rows(pairs, min_coverage, bootstrap)?);
        let agreement = |what: &str, pairs: &[JudgedPair<'_>], others: &[Option<BothOrders>]| {
            second_opinion::rows(what, pairs, others, min_coverage, bootstrap)
        };
        rows.extend(agreement("second", pairs, &self.second)?);
        for (index, (_, left)) in self.members.iter().enumerate() {
            let by_left: Vec<JudgedPair<'_>> = pairs
                .iter()
                .zip(BothOrders::of(left))
                .map(|(pair, orders)| JudgedPair { orders, ..*pair })
                .collect();
            for (other, (_, right)) in self.members.iter().enumerate().skip(index + 1) {
                let right: Vec<Option<BothOrders>> = BothOrders::of(right).map(Some).collect();
                let what = format!("members_{}_{}", index + 1, other + 1);
                rows.extend(agreement(&what, &by_left, &right)?);
            }
        }
        let asked_again = &pairs[..self.again.len()];
        rows.extend(second_opinion::retest_rows(
            asked_again,
            &self.again,
            min_coverage,
            bootstrap,
        )?);
        let (controls, answers) = self.controls;
        rows.extend(controls::rows(controls, answers, min_coverage)?);
        Ok(rows)
    }
}
