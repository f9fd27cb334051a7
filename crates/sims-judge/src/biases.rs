//! What sways the judge beside the better answer, and whether it agrees with itself: rows of the
//! `reliability` table.

use std::collections::BTreeMap;

use sims_artifact::tables::MetricRow;
use sims_stats::win_rate::{logistic, win};
use sims_stats::{Bootstrap, Interval, StatsError, normal_quantile};

use crate::reliability::{BOOTSTRAP, JudgedPair, row};

/// The policy whose model also judges, where the judge is the model itself.
const BASE_POLICY: &str = "base";

/// Most Newton steps of the fit; it takes a handful.
const STEPS: usize = 100;

/// Returns one row a figure that the pairs say something of; those of a prompt stand together.
///
/// - `length_bias`: log-odds per token by which the longer answer is preferred. It is a fact about the
///   preferences: longer answers may be better ones.
/// - `self_preference`: the share of pairs between the base and a steered policy that the base wins. One
///   half is no preference as long as neither policy is better.
/// - `transitivity_violations`: the share of triples that go round in a circle (a over b over c over a);
///   chance makes it one quarter.
///
/// # Errors
/// [`StatsError::NonFinite`] for log-odds that are not finite.
pub fn rows(
    pairs: &[JudgedPair<'_>],
    min_coverage: f64,
    bootstrap: &Bootstrap,
) -> Result<Vec<MetricRow>, StatsError> {
    let valid: Vec<JudgedPair<'_>> = pairs
        .iter()
        .filter(|pair| pair.orders.is_valid(min_coverage) && !pair.equal_texts)
        .copied()
        .collect();
    let prompts: Vec<&[JudgedPair<'_>]> = valid
        .chunk_by(|left, right| left.prompt_id == right.prompt_id)
        .collect();
    let mut rows = Vec::new();
    rows.extend(length_bias(&prompts));
    let shares: [(&str, Count); 2] = [
        ("self_preference", base_wins),
        ("transitivity_violations", circles),
    ];
    for (metric, count) in shares {
        let (parts, wholes): (Vec<f64>, Vec<f64>) = prompts
            .iter()
            .map(|pairs| count(pairs))
            .filter(|[_, whole]| *whole > 0.0)
            .map(|[part, whole]| (part, whole))
            .unzip();
        if !wholes.is_empty() {
            let interval = bootstrap.ratio_of_means(&parts, &wholes)?;
            rows.push(row(metric, interval, wholes.len(), BOOTSTRAP));
        }
    }
    Ok(rows)
}

/// Counts something in the pairs of a prompt: a part, and the whole that it is of.
type Count = fn(&[JudgedPair<'_>]) -> [f64; 2];

/// Fits log-odds of the preferred answer that are proportional to how much longer it is.
///
/// The fit is a logistic regression on the judge's probabilities, without an intercept since the order of
/// the two names means nothing; the interval comes from the sandwich estimate with prompts as clusters.
/// None where no lengths differ, some are unknown, or the longer answer always wins outright.
fn length_bias(prompts: &[&[JudgedPair<'_>]]) -> Option<MetricRow> {
    let prompts: Vec<Vec<(f64, f64)>> = prompts
        .iter()
        .map(|pairs| pairs.iter().map(longer_and_preferred).collect())
        .collect::<Option<_>>()?;
    let mut slope = 0.0;
    for _ in 0..STEPS {
        let (mut gradient, mut curvature) = (0.0, 0.0);
        for &(longer, preferred) in prompts.iter().flatten() {
            let predicted = logistic(slope * longer);
            gradient += longer * (preferred - predicted);
            curvature += longer * longer * predicted * (1.0 - predicted);
        }
        if !(curvature > 0.0 && f64::is_finite(gradient / curvature)) {
            return None;
        }
        // A step that leaves the range in which the fit is curved would not come back.
        let step = (gradient / curvature).clamp(-1.0, 1.0);
        slope += step;
        if step.abs() <= 1e-12 * (1.0 + slope.abs()) {
            let score = |pairs: &Vec<(f64, f64)>| -> f64 {
                let of = |&(longer, preferred): &(f64, f64)| {
                    longer * (preferred - logistic(slope * longer))
                };
                pairs.iter().map(of).sum::<f64>()
            };
            let spread: f64 = prompts.iter().map(|pairs| score(pairs).powi(2)).sum();
            let half = normal_quantile(0.975) * spread.sqrt() / curvature;
            let interval = Interval {
                estimate: slope,
                low: slope - half,
                high: slope + half,
            };
            let method = "fractional logit, clustered sandwich";
            return Some(row("length_bias", interval, prompts.len(), method));
        }
    }
    None
}

/// Returns by how many tokens the first answer is longer, and the probability that it is preferred.
fn longer_and_preferred(pair: &JudgedPair<'_>) -> Option<(f64, f64)> {
    let [a, b] = pair.lengths?;
    Some((a as f64 - b as f64, logistic(pair.orders.preference())))
}

/// Returns how many pairs between the base and another policy the base wins, and how many there are.
fn base_wins(pairs: &[JudgedPair<'_>]) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for pair in pairs {
        let [a, b] = pair.policies.map(|policy| policy == BASE_POLICY);
        if a != b {
            let preference = pair.orders.preference();
            sums[0] += win(if a { preference } else { -preference }, 0.0);
            sums[1] += 1.0;
        }
    }
    sums
}

/// Returns how many triples of responses go round in a circle, and how many there are without a tie.
fn circles(pairs: &[JudgedPair<'_>]) -> [f64; 2] {
    let beats: BTreeMap<(&str, &str), bool> = pairs
        .iter()
        .filter(|pair| pair.orders.preference() != 0.0)
        .flat_map(|pair| {
            let won = pair.orders.preference() > 0.0;
            [((pair.a, pair.b), won), ((pair.b, pair.a), !won)]
        })
        .collect();
    let mut sums = [0.0; 2];
    for (&(a, b), &ab) in beats.iter().filter(|((a, b), _)| a < b) {
        for (&(_, c), &bc) in beats
            .range((b, "")..)
            .take_while(|((first, _), _)| *first == b)
        {
            if let Some(&ca) = beats.get(&(c, a)).filter(|_| b < c) {
                sums[0] += f64::from(u8::from(ab == bc && bc == ca));
                sums[1] += 1.0;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{BothOrders, Preference};

    const NAMES: [&str; 4] = ["r0", "r1", "r2", "r3"];

    fn orders(preference: f64) -> BothOrders {
        let of = |logit| Preference {
            logit,
            coverage: 1.0,
        };
        BothOrders {
            ab: of(preference),
            ba: of(-preference),
        }
    }

    fn pair<'a>(prompt_id: &'a str, a: usize, b: usize, preference: f64) -> JudgedPair<'a> {
        JudgedPair {
            prompt_id,
            a: NAMES[a],
            b: NAMES[b],
            equal_texts: false,
            lengths: Some([10 * (a + 1), 10 * (b + 1)]),
            policies: ["base", "base"],
            orders: orders(preference),
        }
    }

    fn figures(pairs: &[JudgedPair<'_>]) -> BTreeMap<String, MetricRow> {
        let bootstrap = Bootstrap {
            resamples: 200,
            ..Bootstrap::seeded(1)
        };
        let rows = rows(pairs, 0.5, &bootstrap).expect("finite");
        rows.into_iter()
            .map(|row| (row.metric.clone(), row))
            .collect()
    }

    #[test]
    fn a_planted_bias_for_length_is_found_exactly() {
        let weight = 0.03;
        let judged =
            |prompt, a: usize, b: usize| pair(prompt, a, b, weight * 10.0 * (a as f64 - b as f64));
        let found = figures(&[judged("p", 0, 1), judged("p", 0, 3), judged("q", 1, 2)]);
        let row = &found["length_bias"];
        assert!((row.value - weight).abs() < 1e-12, "{}", row.value);
        assert!((row.ci_high.expect("an interval") - weight).abs() < 1e-9);
    }

    /// scikit-learn's logistic regression and numpy's sandwich: `tests/length_bias.py`.
    #[test]
    fn the_fit_is_scikit_learns() {
        let preferences = [1.2, -0.4, 0.3, 2.0, -1.1, 0.7, -0.2, 0.9];
        let pairs = [
            (0, 1),
            (0, 2),
            (1, 3),
            (0, 3),
            (1, 2),
            (2, 3),
            (0, 1),
            (1, 3),
        ];
        let prompts = ["p", "p", "p", "q", "q", "s", "s", "s"];
        let judged: Vec<JudgedPair<'_>> = preferences
            .iter()
            .zip(pairs)
            .zip(prompts)
            .map(|((&preference, (a, b)), prompt)| pair(prompt, a, b, preference))
            .collect();
        let row = &figures(&judged)["length_bias"];
        assert!((row.value - LENGTH_BIAS[0]).abs() < 1e-6, "{}", row.value);
        assert!((row.ci_low.expect("an interval") - LENGTH_BIAS[1]).abs() < 1e-6);
        assert!((row.ci_high.expect("an interval") - LENGTH_BIAS[2]).abs() < 1e-6);
    }

    /// Estimate and ends of its interval, as `tests/length_bias.py` prints them.
    const LENGTH_BIAS: [f64; 3] = [
        -0.027_296_248_849_043_386,
        -0.043_577_880_453_234_21,
        -0.011_014_617_244_852_556,
    ];

    #[test]
    fn a_judge_that_is_sure_of_the_longer_one_has_no_finite_bias_and_unknown_lengths_none() {
        let sure = pair("p", 0, 3, -800.0);
        assert!(!figures(&[sure]).contains_key("length_bias"));
        let unknown = JudgedPair {
            lengths: None,
            ..pair("p", 0, 1, 1.0)
        };
        assert!(!figures(&[unknown, pair("p", 0, 2, 1.0)]).contains_key("length_bias"));
    }

    #[test]
    fn circles_are_counted_among_triples() {
        // r0 over r1 over r2 over r0; with r3 below all, three of four triples are in order.
        let mut pairs = vec![
            pair("p", 0, 1, 1.0),
            pair("p", 1, 2, 1.0),
            pair("p", 0, 2, -1.0),
        ];
        pairs.extend((0..3).map(|a| pair("p", a, 3, 1.0)));
        assert_eq!(figures(&pairs)["transitivity_violations"].value, 0.25);
        pairs[2].orders = orders(1.0);
        assert_eq!(figures(&pairs)["transitivity_violations"].value, 0.0);
        // A tie leaves only the triple without it, and those with it say nothing.
        pairs[0].orders = orders(0.0);
        let row = &figures(&pairs)["transitivity_violations"];
        assert_eq!((row.value, row.n), (0.0, 1));
        assert!(!figures(&pairs[..2]).contains_key("transitivity_violations"));
    }

    #[test]
    fn the_base_is_held_against_other_policies_only() {
        let mixed = |a, b, preference, policies| JudgedPair {
            policies,
            ..pair("p", a, b, preference)
        };
        let found = figures(&[
            mixed(0, 1, 1.0, ["base", "steered-1"]),
            mixed(0, 2, 1.0, ["steered-1", "base"]),
            mixed(1, 2, 0.0, ["base", "steered-1"]),
            mixed(1, 3, -2.0, ["steered-1", "base"]),
            mixed(2, 3, 5.0, ["base", "base"]),
        ]);
        assert_eq!(found["self_preference"].value, 2.5 / 4.0);
        assert!(!figures(&[pair("p", 0, 1, 1.0)]).contains_key("self_preference"));
    }
}
