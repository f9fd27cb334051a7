//! The judge's reliability, measured on its own comparisons: rows of the `reliability` table.
//!
//! Prompts are what is resampled, since the comparisons of one prompt depend on each other. A figure
//! that nothing is known of (the flip rate where all texts are identical) has no row.

use sims_artifact::tables::MetricRow;
use sims_stats::{Bootstrap, Interval, StatsError};

use crate::diagnostics::Diagnostics;
use crate::order_split::{order_split, spearman_brown};
use crate::verdict::BothOrders;

/// The metric that `max-flip-rate` limits.
pub const FLIP_RATE: &str = "flip_rate";

/// Over prompts, all comparisons of a prompt resampled together.
pub(crate) const BOOTSTRAP: &str = "bootstrap";
const ORDER_SPLIT: &str = "spearman, chance-corrected, spearman-brown, bootstrap";

/// Two responses to one prompt, judged in both orders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgedPair<'a> {
    /// The prompt.
    pub prompt_id: &'a str,
    /// The id of the response that is first in the order `ab`.
    pub a: &'a str,
    /// The id of the other.
    pub b: &'a str,
    /// Whether both responses have the same text.
    pub equal_texts: bool,
    /// Lengths of `a` and `b`; none where one has a text but no tokens. Unit: tokens.
    pub lengths: Option<[usize; 2]>,
    /// Who answered: the policies of `a` and `b`.
    pub policies: [&'a str; 2],
    /// What the judge made of them.
    pub orders: BothOrders,
}

/// What the comparisons of one prompt say about the judge.
#[derive(Debug, Clone, Default)]
struct OfPrompt {
    all: Diagnostics,
    /// Of the pairs with different texts: with equal ones, only the slot can decide.
    distinct: Diagnostics,
    /// Summed over both orders of all pairs.
    coverage: f64,
    order_split: Option<f64>,
}

/// What all comparisons say about the judge.
#[derive(Debug, Clone, Default)]
pub struct Reliability {
    prompts: Vec<OfPrompt>,
}

impl Reliability {
    /// Reads the comparisons; those of one prompt stand together, in a fixed order of prompts.
    pub fn of(pairs: &[JudgedPair<'_>], min_coverage: f64) -> Self {
        let of_prompt = |pairs: &[JudgedPair<'_>]| {
            let mut read = OfPrompt::default();
            for pair in pairs {
                read.all.add(&pair.orders, min_coverage);
                if !pair.equal_texts {
                    read.distinct.add(&pair.orders, min_coverage);
                }
                read.coverage += pair.orders.ab.coverage + pair.orders.ba.coverage;
            }
            read.order_split = order_split(pairs, min_coverage);
            read
        };
        let prompts = pairs
            .chunk_by(|left, right| left.prompt_id == right.prompt_id)
            .map(of_prompt)
            .collect();
        Self { prompts }
    }

    /// Returns the counts over all pairs, those with equal texts among them.
    pub fn diagnostics(&self) -> Diagnostics {
        let mut total = Diagnostics::default();
        for prompt in &self.prompts {
            total.merge(&prompt.all);
        }
        total
    }

    /// Returns the number of pairs whose texts are equal.
    pub fn equal_texts(&self) -> u64 {
        self.prompts.iter().map(OfPrompt::equal_texts).sum()
    }

    /// Returns one row a figure, each with its 95 % interval.
    ///
    /// # Errors
    /// [`StatsError::NonFinite`] for log-odds that are not finite.
    pub fn rows(&self, bootstrap: &Bootstrap) -> Result<Vec<MetricRow>, StatsError> {
        let all = |p: &OfPrompt| p.all.pairs as f64;
        let valid = |p: &OfPrompt| p.all.valid();
        let ratios: [(&str, Part<'_>, Part<'_>); 5] = [
            ("position_bias", &|p| p.all.bias, &valid),
            (FLIP_RATE, &|p| p.distinct.flips as f64, &|p| {
                p.distinct.valid()
            }),
            ("invalid_share", &|p| p.all.invalid as f64, &all),
            ("mean_coverage", &|p| p.coverage / 2.0, &all),
            ("identical_share", &|p| p.equal_texts() as f64, &all),
        ];
        let mut rows = Vec::new();
        for (metric, part, whole) in ratios {
            rows.extend(self.ratio(metric, part, whole, bootstrap)?);
            if metric == "position_bias" {
                rows.extend(self.position_bias_share(bootstrap)?);
            }
        }
        rows.extend(self.order_split_reliability(bootstrap)?);
        Ok(rows)
    }

    /// Returns the sum of `part` over the sum of `whole`; none where that is zero.
    fn ratio(
        &self,
        metric: &str,
        part: Part<'_>,
        whole: Part<'_>,
        bootstrap: &Bootstrap,
    ) -> Result<Option<MetricRow>, StatsError> {
        let (parts, wholes): (Vec<f64>, Vec<f64>) = self
            .prompts
            .iter()
            .map(|prompt| (part(prompt), whole(prompt)))
            .filter(|(_, whole)| *whole > 0.0)
            .unzip();
        if wholes.is_empty() {
            return Ok(None);
        }
        let interval = bootstrap.ratio_of_means(&parts, &wholes)?;
        Ok(Some(row(metric, interval, wholes.len(), BOOTSTRAP)))
    }

    fn position_bias_share(&self, bootstrap: &Bootstrap) -> Result<Option<MetricRow>, StatsError> {
        let prompts: Vec<&Diagnostics> = self
            .prompts
            .iter()
            .map(|prompt| &prompt.all)
            .filter(|all| all.valid() > 0.0)
            .collect();
        if prompts.is_empty() {
            return Ok(None);
        }
        let interval = bootstrap.statistic(prompts.len(), |drawn| {
            let mut total = Diagnostics::default();
            for &index in drawn {
                total.merge(prompts[index as usize]);
            }
            total.position_bias_share()
        })?;
        let metric = "position_bias_share";
        Ok(Some(row(metric, interval, prompts.len(), BOOTSTRAP)))
    }

    fn order_split_reliability(
        &self,
        bootstrap: &Bootstrap,
    ) -> Result<Option<MetricRow>, StatsError> {
        let found: Vec<f64> = self
            .prompts
            .iter()
            .filter_map(|prompt| prompt.order_split)
            .collect();
        if found.is_empty() {
            return Ok(None);
        }
        let interval = bootstrap.statistic(found.len(), |drawn| {
            let sum: f64 = drawn.iter().map(|&index| found[index as usize]).sum();
            spearman_brown(sum / drawn.len() as f64)
        })?;
        let metric = "order_split_reliability";
        Ok(Some(row(metric, interval, found.len(), ORDER_SPLIT)))
    }
}

/// Something that is summed over prompts.
type Part<'a> = &'a dyn Fn(&OfPrompt) -> f64;

impl OfPrompt {
    fn equal_texts(&self) -> u64 {
        self.all.pairs - self.distinct.pairs
    }
}

/// Returns a row of the table, which rests on `n` prompts.
pub(crate) fn row(metric: &str, interval: Interval, n: usize, method: &str) -> MetricRow {
    MetricRow {
        metric: metric.to_owned(),
        value: interval.estimate,
        ci_low: Some(interval.low),
        ci_high: Some(interval.high),
        n: n as u64,
        method: method.to_owned(),
        baseline: String::new(),
    }
}

/// Returns a row without an interval.
pub(crate) fn single(metric: &str, value: f64, n: usize, method: &str) -> MetricRow {
    let interval = Interval {
        estimate: value,
        low: value,
        high: value,
    };
    MetricRow {
        ci_low: None,
        ci_high: None,
        ..row(metric, interval, n, method)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sims_stats::random::Stream;

    use super::*;
    use crate::verdict::Preference;

    const NAMES: [&str; 6] = ["r0", "r1", "r2", "r3", "r4", "r5"];

    fn orders(ab: f64, ba: f64) -> BothOrders {
        let of = |logit| Preference {
            logit,
            coverage: 0.9,
        };
        BothOrders {
            ab: of(ab),
            ba: of(ba),
        }
    }

    /// Judges every pair of `count` responses to one prompt; `judge` gives the log-odds for the first.
    fn judged<'a>(
        prompt_id: &'a str,
        count: usize,
        mut judge: impl FnMut(usize, usize) -> f64,
    ) -> Vec<JudgedPair<'a>> {
        let mut pairs = Vec::new();
        for (i, a) in NAMES.into_iter().enumerate().take(count) {
            for (j, b) in NAMES.into_iter().enumerate().take(count).skip(i + 1) {
                pairs.push(JudgedPair {
                    prompt_id,
                    a,
                    b,
                    equal_texts: false,
                    lengths: None,
                    policies: ["base"; 2],
                    orders: orders(judge(i, j), judge(j, i)),
                });
            }
        }
        pairs
    }

    fn rows(pairs: &[JudgedPair<'_>]) -> BTreeMap<String, MetricRow> {
        let bootstrap = Bootstrap {
            resamples: 200,
            ..Bootstrap::seeded(1)
        };
        let rows = Reliability::of(pairs, 0.5)
            .rows(&bootstrap)
            .expect("finite");
        rows.into_iter()
            .map(|row| (row.metric.clone(), row))
            .collect()
    }

    #[test]
    fn a_judge_that_reads_the_slot_alone_always_flips() {
        let rows = rows(&judged("p", 4, |_, _| 3.0));
        let value = |metric: &str| rows[metric].value;
        assert_eq!(value("flip_rate"), 1.0);
        assert_eq!(value("position_bias"), 3.0);
        assert_eq!(value("position_bias_share"), 1.0);
        assert_eq!(value("invalid_share"), 0.0);
        assert_eq!(value("identical_share"), 0.0);
        assert!((value("mean_coverage") - 0.9).abs() < 1e-12);
        assert_eq!(rows["flip_rate"].n, 1);
        // No response is above another in either slot.
        assert!(!rows.contains_key("order_split_reliability"));
    }

    #[test]
    fn a_judge_that_knows_the_order_is_fully_reliable_with_and_without_bias() {
        for bias in [0.0, 0.5, 20.0] {
            let rows = rows(&judged("p", 5, |i, j| j as f64 - i as f64 + bias));
            let split = &rows["order_split_reliability"];
            // Rounding of a correlation.
            assert!((split.value - 1.0).abs() < 1e-12, "bias {bias}");
            assert_eq!(
                (split.ci_low, split.ci_high),
                (Some(split.value), Some(split.value))
            );
            assert!((rows["position_bias"].value - bias).abs() < 1e-12);
        }
        let rows = rows(&judged("p", 5, |i, j| j as f64 - i as f64));
        assert_eq!(rows["flip_rate"].value, 0.0);
        assert_eq!(rows["position_bias_share"].value, 0.0);
    }

    #[test]
    fn bias_is_weighed_against_the_mean_squared_preference() {
        // Preferences 1 and -1, bias 1 and 0: mean bias 0.5, mean square 1.
        let pair = |a, orders| JudgedPair {
            prompt_id: "p",
            a,
            b: "z",
            equal_texts: false,
            lengths: None,
            policies: ["base"; 2],
            orders,
        };
        let rows = rows(&[pair("x", orders(2.0, 0.0)), pair("y", orders(-1.0, 1.0))]);
        assert_eq!(rows["position_bias"].value, 0.5);
        assert!((rows["position_bias_share"].value - 0.25 / 1.25).abs() < 1e-12);
    }

    #[test]
    fn a_judge_of_pure_noise_is_not_reliable_at_all() {
        let names: Vec<String> = (0..2000).map(|i| format!("p{i}")).collect();
        let mut stream = Stream::new(7, 0);
        let pairs: Vec<JudgedPair<'_>> = names
            .iter()
            .flat_map(|name| judged(name, 6, |_, _| stream.next_f64() - 0.5))
            .collect();
        let split = &rows(&pairs)["order_split_reliability"];
        // Standard error 0.03; without the correction for chance it is 0.33.
        assert!(split.value.abs() < 0.1, "{}", split.value);
        assert_eq!(split.n, 2000);
    }

    #[test]
    fn equal_texts_are_counted_apart_from_the_flips() {
        let mut pairs = judged("p", 3, |i, j| if i > j { 1.0 } else { -1.0 });
        pairs[0].equal_texts = true;
        pairs[0].orders = orders(0.4, 0.4);
        let rows = rows(&pairs);
        assert_eq!(rows["flip_rate"].value, 0.0);
        assert!((rows["identical_share"].value - 1.0 / 3.0).abs() < 1e-12);

        pairs.iter_mut().for_each(|pair| pair.equal_texts = true);
        assert_eq!(Reliability::of(&pairs, 0.5).equal_texts(), 3);
    }

    #[test]
    fn figures_without_a_basis_have_no_row() {
        let mut pairs = judged("p", 2, |_, _| 1.0);
        pairs[0].equal_texts = true;
        let found = rows(&pairs);
        assert!(!found.contains_key("flip_rate"));
        // Two responses always agree between the slots, so they say nothing.
        assert!(!found.contains_key("order_split_reliability"));

        pairs[0].orders.ab.coverage = 0.1;
        let found = rows(&pairs);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["identical_share", "invalid_share", "mean_coverage"]);
        assert_eq!(found["invalid_share"].value, 1.0);
        assert_eq!(found["mean_coverage"].value, 0.5);
    }

    #[test]
    fn prompts_are_what_is_resampled() {
        // One prompt of three flips and one of none: shares over pairs, intervals over prompts.
        let mut pairs = judged("p", 3, |_, _| 1.0);
        pairs.extend(judged("q", 2, |i, j| if i < j { 1.0 } else { -1.0 }));
        let flip_rate = &rows(&pairs)["flip_rate"];
        assert_eq!(flip_rate.value, 0.75);
        assert_eq!(
            (flip_rate.ci_low, flip_rate.ci_high),
            (Some(0.0), Some(1.0))
        );
        assert_eq!(flip_rate.n, 2);
    }
}
