//! The schedule `adaptive`.

use std::fs;

use sims_artifact::read_table;
use sims_artifact::tables::MetricRow;
use sims_testkit::random_model::{RandomModel, refused, succeeded, summary};

use super::{ANY_COVERAGE, Bench};

fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&ANY_COVERAGE[..], &["--schedule", "adaptive"], more].concat()
}

#[test]
fn the_budget_is_kept_in_rounds_and_says_how_sure_it_is() {
    let bench = Bench::new(&RandomModel::default());
    succeeded(&bench.run(
        "out",
        &bench.responses(3, 8),
        &arguments(&["--budget", "14"]),
    ));
    let rows = bench.judgments("out");
    assert_eq!(rows.len(), 3 * 2 * 14);
    // 8 pairs in the opening, then 4 and 2.
    assert_eq!(summary(&bench.path("out"))["counts"]["rounds"], 3.0);
    let figures: Vec<MetricRow> =
        read_table(&bench.path("out").join("reliability.parquet")).unwrap();
    for metric in ["best_confidence", "worst_confidence"] {
        let row = figures.iter().find(|row| row.metric == metric).unwrap();
        assert!((0.5..=1.0).contains(&row.value) && row.n == 3, "{row:?}");
    }
}

#[test]
fn a_budget_of_all_pairs_gives_the_table_of_all_pairs() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(3, 6);
    succeeded(&bench.run("rounds", &responses, &arguments(&["--budget", "15"])));
    succeeded(&bench.run(
        "all",
        &responses,
        &[&ANY_COVERAGE[..], &["--schedule", "all"]].concat(),
    ));
    let bytes = |out: &str| fs::read(bench.path(out).join("judgments.parquet")).unwrap();
    assert_eq!(bytes("rounds"), bytes("all"));
}

#[test]
fn neither_batches_nor_other_prompts_nor_the_order_of_rows_change_the_pairs() {
    let bench = Bench::new(&RandomModel::default());
    let mut responses = bench.responses(4, 7);
    let run = |out: &str, responses: &[_], batch: &str| {
        succeeded(&bench.run(
            out,
            responses,
            &arguments(&["--budget", "11", "--batch-size", batch]),
        ));
        bench.judgments(out)
    };
    let together = run("together", &responses, "50");
    assert_eq!(together, run("small", &responses, "1"));
    responses.reverse();
    assert_eq!(together, run("reversed", &responses, "50"));
    let first = together[0].prompt_id.clone();
    responses.retain(|response| response.prompt_id == first);
    let alone: Vec<_> = together
        .iter()
        .filter(|row| row.prompt_id == first)
        .cloned()
        .collect();
    assert_eq!(alone, run("alone", &responses, "50"));
}

#[test]
fn budgets_that_connect_nothing_are_refused() {
    let bench = Bench::new(&RandomModel::default());
    let message = |more: &[&str]| {
        let output = bench.run("out", &bench.responses(2, 8), &arguments(more));
        refused(&output, &bench.path("out"))
    };
    let short = message(&["--budget", "7"]);
    assert!(
        short.contains("budget is 7 pairs a prompt, but prompt"),
        "{short}"
    );
    assert!(message(&["--round-pairs", "0"]).contains("round-pairs is 0"));
}
