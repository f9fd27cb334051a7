//! Agreement beyond chance: with another judge, between the members of an ensemble, with oneself when
//! asked again. Rows of the `reliability` table.

use sims_artifact::tables::MetricRow;
use sims_stats::agreement::cohen_kappa_of_table;
use sims_stats::{Bootstrap, StatsError};

use crate::reliability::{BOOTSTRAP, JudgedPair, row, single};
use crate::verdict::{BothOrders, TIE};

/// `a`, `b` or neither.
const VERDICTS: usize = 3;

/// How often the first judge gave the verdict of the row and the second that of the column.
type Table = [[u64; VERDICTS]; VERDICTS];

/// Returns `WHAT_agreement`, the share of pairs with the same verdict over both orders, and `WHAT_kappa`,
/// Cohen's kappa of the same.
///
/// `others` has one entry a pair; pairs that one of the judges did not answer count in neither. Kappa has
/// no row where both always say the same one thing; a resample in which they do counts 0.
///
/// # Errors
/// None as long as there are as many `others` as pairs.
pub fn rows(
    what: &str,
    pairs: &[JudgedPair<'_>],
    others: &[Option<BothOrders>],
    min_coverage: f64,
    bootstrap: &Bootstrap,
) -> Result<Vec<MetricRow>, StatsError> {
    let mut tables: Vec<(&str, Table)> = Vec::new();
    for (pair, other) in pairs.iter().zip(others) {
        let Some(other) = other.filter(|other| other.is_valid(min_coverage)) else {
            continue;
        };
        if !pair.orders.is_valid(min_coverage) || pair.equal_texts {
            continue;
        }
        if tables.last().is_none_or(|(id, _)| *id != pair.prompt_id) {
            tables.push((pair.prompt_id, Table::default()));
        }
        if let Some((_, table)) = tables.last_mut() {
            table[verdict(&pair.orders)][verdict(&other)] += 1;
        }
    }
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let total = |drawn: &[u32]| {
        let mut total = vec![vec![0; VERDICTS]; VERDICTS];
        for &index in drawn {
            for (sums, counts) in total.iter_mut().zip(&tables[index as usize].1) {
                for (sum, count) in sums.iter_mut().zip(counts) {
                    *sum += count;
                }
            }
        }
        total
    };
    let agreement = bootstrap.statistic(tables.len(), |drawn| {
        let table = total(drawn);
        let same: u64 = (0..VERDICTS).map(|verdict| table[verdict][verdict]).sum();
        same as f64 / table.iter().flatten().sum::<u64>() as f64
    })?;
    let name = format!("{what}_agreement");
    let mut rows = vec![row(&name, agreement, tables.len(), BOOTSTRAP)];
    let all: Vec<u32> = (0..tables.len() as u32).collect();
    if cohen_kappa_of_table(&total(&all)).is_ok() {
        let kappa = bootstrap.statistic(tables.len(), |drawn| {
            cohen_kappa_of_table(&total(drawn)).map_or(0.0, |kappa| kappa.kappa)
        })?;
        let name = format!("{what}_kappa");
        rows.push(row(&name, kappa, tables.len(), BOOTSTRAP));
    }
    Ok(rows)
}

/// Returns the same rows for a judge asked twice, and `retest_max_difference`, the largest change of a
/// preference. Unit: nats. Zero for a judge that depends on its comparison alone.
///
/// # Errors
/// As [`rows`].
pub fn retest_rows(
    pairs: &[JudgedPair<'_>],
    again: &[BothOrders],
    min_coverage: f64,
    bootstrap: &Bootstrap,
) -> Result<Vec<MetricRow>, StatsError> {
    let others: Vec<Option<BothOrders>> = again.iter().copied().map(Some).collect();
    let mut rows = rows("retest", pairs, &others, min_coverage, bootstrap)?;
    let largest = pairs
        .iter()
        .zip(again)
        .map(|(pair, again)| (pair.orders.preference() - again.preference()).abs())
        .reduce(f64::max);
    if let Some(largest) = largest {
        let prompts = pairs.chunk_by(|left, right| left.prompt_id == right.prompt_id);
        rows.push(single(
            "retest_max_difference",
            largest,
            prompts.count(),
            "maximum",
        ));
    }
    Ok(rows)
}

fn verdict(orders: &BothOrders) -> usize {
    let preference = orders.preference();
    match preference {
        _ if preference > TIE => 0,
        _ if preference < -TIE => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Preference;

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

    fn pair(prompt_id: &str, preference: f64) -> JudgedPair<'_> {
        JudgedPair {
            prompt_id,
            a: "a",
            b: "b",
            equal_texts: false,
            lengths: None,
            policies: ["base", "base"],
            orders: orders(preference),
        }
    }

    fn bootstrap() -> Bootstrap {
        Bootstrap {
            resamples: 200,
            ..Bootstrap::seeded(1)
        }
    }

    fn values(rows: &[MetricRow]) -> Vec<(&str, f64)> {
        let of = |row| -> (&str, f64) {
            let row: &MetricRow = row;
            (&row.metric, row.value)
        };
        rows.iter().map(of).collect()
    }

    #[test]
    fn kappa_is_scikit_learns() {
        // sklearn.metrics.cohen_kappa_score([1,1,-1,-1,1,0,-1,1], [1,-1,-1,-1,1,0,1,1]) = 0.5789473684210527
        let left = [2.0, 1.0, -1.0, -0.5, 3.0, 0.0, -2.0, 1.0];
        let right = [1.0, -1.0, -2.0, -1.0, 1.0, 0.0, 0.5, 4.0];
        let prompts = ["p", "p", "p", "q", "q", "q", "s", "s"];
        let pairs: Vec<JudgedPair<'_>> = prompts
            .iter()
            .zip(left)
            .map(|(prompt, left)| pair(prompt, left))
            .collect();
        let others: Vec<Option<BothOrders>> = right.map(|right| Some(orders(right))).to_vec();
        let rows = rows("second", &pairs, &others, 0.5, &bootstrap()).expect("finite");
        let found = values(&rows);
        assert_eq!(found[0], ("second_agreement", 0.75));
        assert_eq!(found[1].0, "second_kappa");
        assert!((found[1].1 - 0.578_947_368_421_052_7).abs() < 1e-12);
        assert!(
            rows.iter()
                .all(|row| row.n == 3 && row.ci_low <= Some(row.value))
        );
    }

    #[test]
    fn pairs_that_one_of_them_did_not_answer_do_not_count() {
        let unanswered = Preference {
            logit: 3.0,
            coverage: 0.0,
        };
        let unanswered = BothOrders {
            ab: unanswered,
            ba: unanswered,
        };
        let pairs = [
            pair("p", 1.0),
            pair("p", -1.0),
            pair("q", 1.0),
            pair("q", 1.0),
        ];
        let others = [
            Some(orders(1.0)),
            Some(orders(-1.0)),
            None,
            Some(unanswered),
        ];
        let found = rows("second", &pairs, &others, 0.5, &bootstrap()).expect("finite");
        assert_eq!(
            values(&found),
            [("second_agreement", 1.0), ("second_kappa", 1.0)]
        );
        assert_eq!(found[0].n, 1);
        let found = rows("second", &pairs[2..], &others[2..], 0.5, &bootstrap()).expect("finite");
        assert!(found.is_empty());
    }

    #[test]
    fn the_largest_change_between_two_askings_is_told() {
        let pairs = [pair("p", 1.0), pair("q", -1.0)];
        let found = retest_rows(&pairs, &[orders(1.0), orders(1.5)], 0.5, &bootstrap());
        let found = found.expect("finite");
        assert_eq!(values(&found)[0], ("retest_agreement", 0.5));
        assert_eq!(values(&found).last(), Some(&("retest_max_difference", 2.5)));
    }
}
