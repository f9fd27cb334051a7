//! A whole run, its rerun, and a run with one parameter changed.

use sims_artifact::read_table;
use sims_artifact::tables::{MetricRow, PairRow, RankingRow, ResponseRow};
use sims_testkit::Workspace;

use crate::{artifacts, small_pipeline};

#[test]
fn a_second_run_does_nothing_and_a_change_runs_only_what_depends_on_it() {
    let workspace = Workspace::new();
    let pipeline = small_pipeline(&workspace, "");
    let pipeline = pipeline.to_str().expect("temporary paths are text");
    let first = workspace.json(&["run", pipeline]);
    let stages = first["executed"].as_u64().expect("executed is a count");
    assert_eq!(
        (first["cached"].as_u64(), first["failed"].as_u64()),
        (Some(0), Some(0))
    );
    let before = artifacts(&workspace);

    let second = workspace.json(&["run", pipeline]);
    assert_eq!(
        (second["executed"].as_u64(), second["cached"].as_u64()),
        (Some(0), Some(stages))
    );
    assert_eq!(artifacts(&workspace), before);

    // A longer step in the fit leaves everything before the first fit as it was.
    small_pipeline(&workspace, "round:\n  fit: {step: 0.35}\n");
    let third = workspace.json(&["run", pipeline]);
    // Four nodes run once; sample, judge, rank, contrast and extract of round 1 do not see the step.
    assert_eq!(third["cached"].as_u64(), Some(4 + 5));
    assert_eq!(third["executed"].as_u64(), Some(stages - 9));
    let after = artifacts(&workspace);
    let same = |name: &str| before[std::path::Path::new(name)] == after[std::path::Path::new(name)];
    assert!(same("round-1/states.safetensors"));
    assert!(!same("round-1/steering.safetensors"));

    let fsck = workspace.json(&["fsck"]);
    assert_eq!(fsck["bad"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_plan_tells_the_memory_of_the_model() {
    let workspace = Workspace::new();
    let pipeline = small_pipeline(&workspace, "rounds: 1\n");
    let plan = workspace.json(&["plan", pipeline.to_str().expect("temporary paths are text")]);
    let memory = |stage: &str| {
        let mut stages = plan.as_array().expect("one object a stage").iter();
        let found = stages.find(|found| found["stage"] == stage);
        found.expect("the stage is planned")["memory"].as_u64()
    };
    // 1.24 M parameters of 4 bytes, and at least one sequence of 256 tokens with 6 layers' keys and values.
    let least = 4_973_056 + 256 * 6 * 2 * 128 * 4;
    assert!(memory("sample").is_some_and(|bytes| (least..1 << 30).contains(&bytes)));
    assert_eq!(memory("rank"), None);
}

#[test]
fn the_tables_of_a_round_join() {
    let workspace = Workspace::new();
    let pipeline = small_pipeline(&workspace, "rounds: 1\n");
    workspace.json(&["run", pipeline.to_str().expect("temporary paths are text")]);
    let round = workspace.path().join("runs/small/round-1");
    let responses: Vec<ResponseRow> = read_table(&round.join("responses.parquet")).unwrap();
    let ranking: Vec<RankingRow> = read_table(&round.join("ranking.parquet")).unwrap();
    let pairs: Vec<PairRow> = read_table(&round.join("pairs.parquet")).unwrap();
    assert_eq!(responses.len(), 64 * 6);
    assert_eq!(ranking.len(), responses.len());
    assert!(!pairs.is_empty());
    for pair in &pairs {
        let chosen = ranking
            .iter()
            .find(|r| r.response_id == pair.chosen_id)
            .unwrap();
        let rejected = ranking
            .iter()
            .find(|r| r.response_id == pair.rejected_id)
            .unwrap();
        assert!(
            chosen.score > rejected.score,
            "the chosen response has the higher score"
        );
        let text = responses
            .iter()
            .find(|r| r.response_id == pair.chosen_id)
            .unwrap();
        assert_eq!(
            (&text.text, &text.token_ids),
            (&pair.chosen, &pair.chosen_token_ids)
        );
    }
    let metrics: Vec<MetricRow> = read_table(&round.join("gold/metrics.parquet")).unwrap();
    assert!(
        metrics
            .iter()
            .any(|m| m.metric == "gold_win_rate" && (0.0..=1.0).contains(&m.value))
    );
    let report = workspace.json(&["report", "pipelines/small.yaml"]);
    let rows = report.as_array().expect("the report is an array");
    assert!(
        rows.iter()
            .any(|row| row["round"] == 1 && row["metric"] == "gold_win_rate")
    );
}

#[test]
fn results_do_not_depend_on_threads_or_batch() {
    let one = Workspace::new();
    let pipeline = small_pipeline(&one, "rounds: 1\n");
    one.json(&[
        "run",
        pipeline.to_str().expect("temporary paths are text"),
        "--threads",
        "1",
    ]);
    let two = Workspace::new();
    let pipeline = small_pipeline(&two, "rounds: 1\n");
    two.json(&[
        "run",
        pipeline.to_str().expect("temporary paths are text"),
        "--threads",
        "2",
        "--jobs",
        "2",
    ]);
    assert_eq!(artifacts(&one), artifacts(&two));
}
