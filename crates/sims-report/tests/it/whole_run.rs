//! A run with everything that the report shows, and one thing less at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrow_array::{RecordBatch, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sims_artifact::tables::{
    DecisionRow, DroppedRow, MetricRow, PairRow, RankingRow, ResponseRow, ScoreRow, SignalRow,
};
use sims_artifact::{Table, write_table};
use tempfile::TempDir;

/// What nobody wants to be read as markup.
const HOSTILE: &str = "</td></script><script>alert(\"1\")</script> & 'two' <!-- -->";

/// Two rounds, the first accepted, the second refused for its divergence.
struct Run {
    folder: TempDir,
}

impl Run {
    fn new() -> Self {
        let run = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for round in [1, 2] {
            run.round(round);
        }
        let record = serde_json::json!({"format": 1, "stages": {"round-1/judge": {
            "key": "ab".repeat(32),
            "outcome": "executed",
            "seconds": 1.5,
            "views": {"round-1/reliability.parquet": "cd".repeat(32)},
        }}});
        fs::write(run.path("run.json"), record.to_string()).unwrap();
        run
    }

    /// The run's folder has a name that is markup, too.
    fn root(&self) -> PathBuf {
        self.folder.path().join("a<b>&c")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn write<T: Table>(&self, name: &str, rows: &[T]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_table(&path, rows).unwrap();
    }

    fn round(&self, round: u32) {
        let at = |name: &str| format!("round-{round}/{name}");
        let rise = 0.05 * f64::from(round);
        self.write(
            &at("metrics.parquet"),
            &[
                metric("self_judge_win_rate", 0.6 + rise, "base"),
                metric("length_ratio", 1.1, "base"),
                metric("neutral_kl_per_token", 0.08 * f64::from(round), "base"),
            ],
        );
        self.write(
            &at("test/metrics.parquet"),
            &[metric("self_judge_win_rate", 0.58 + rise, "base")],
        );
        self.write(
            &at("gold/metrics.parquet"),
            &[
                metric("gold_win_rate", 0.55 + rise, "base"),
                metric("gold_score", 0.7, ""),
                metric("base_gold_score", 0.5, ""),
            ],
        );
        self.write(
            &at("reliability.parquet"),
            &[
                metric("flip_rate", 0.2, ""),
                metric("control_half_accuracy", 0.75, ""),
            ],
        );
        self.write(&at("decision.parquet"), &decision(round == 1));
        self.write(&at("signals.parquet"), &[signal(round)]);
        self.pairs(round);
        self.answers(round);
        let summary = serde_json::json!({
            "stage": "judge", "seconds": 12.5, "peak_memory_bytes": 1000, "threads": 2, "device": "cpu",
            "counts": {"tokens_computed": 5000.0, "estimated_flops": 2.5e9},
            "warnings": ["the judge is unreliable"],
        });
        fs::create_dir_all(self.path(&at("summaries"))).unwrap();
        fs::write(self.path(&at("summaries/judge.json")), summary.to_string()).unwrap();
    }

    fn pairs(&self, round: u32) {
        let pair = |number: u32, margin: f64| PairRow {
            pair_id: format!("pair-{number}"),
            prompt_id: format!("prompt-{number}"),
            chosen_id: format!("chosen-{number}"),
            rejected_id: format!("rejected-{number}"),
            chosen: String::new(),
            rejected: String::new(),
            chosen_token_ids: vec![1],
            rejected_token_ids: vec![2],
            margin,
            z: 0.0,
            weight: 1.0,
            origin_round: round,
            judge: "self".into(),
        };
        let pairs: Vec<PairRow> = (0..5).map(|i| pair(i, 0.1 * f64::from(i))).collect();
        let ranking: Vec<RankingRow> = pairs
            .iter()
            .flat_map(|pair| [(&pair.chosen_id, 0.9), (&pair.rejected_id, 0.2)])
            .map(|(id, score)| RankingRow {
                prompt_id: "p".into(),
                response_id: id.clone(),
                score,
                score_se: None,
                rank: 1,
                comparisons: 8,
                win_probability: 0.5,
                position_bias: 0.0,
                tie: false,
                noise_sigma: 0.1,
            })
            .collect();
        let dropped: Vec<DroppedRow> = vec![pair(7, 0.3).dropped("duplicate")];
        self.write(&format!("round-{round}/pairs.parquet"), &pairs);
        self.write(&format!("round-{round}/ranking.parquet"), &ranking);
        self.write(&format!("round-{round}/dropped.parquet"), &dropped);
    }

    /// Prompt 0 got better, prompt 1 worse, both by the gold score; prompt 2 has no score.
    fn answers(&self, round: u32) {
        let policy = format!("steered-{round}");
        let answer = |prompt: u32, policy: &str, text: &str| ResponseRow {
            prompt_id: format!("prompt-{prompt}"),
            response_id: format!("{policy}-{prompt}"),
            round,
            sample_index: 0,
            policy: policy.into(),
            text: text.into(),
            token_ids: vec![1],
            prompt_tokens: 1,
            finish_reason: "stop".into(),
            logprob_sum: -1.0,
            seed: 1,
        };
        let mut rows = Vec::new();
        for prompt in 0..3 {
            rows.push(answer(prompt, "base", "plain"));
            rows.push(answer(prompt, &policy, HOSTILE));
        }
        self.write(&format!("round-{round}/test/responses.parquet"), &rows);
        let score = |prompt: u32, policy: &str, value: f64| ScoreRow {
            prompt_id: format!("prompt-{prompt}"),
            policy: policy.into(),
            draw: Some(0),
            metric: "gold_score".into(),
            value,
        };
        self.write(
            &format!("round-{round}/gold/scores.parquet"),
            &[
                score(0, "base", 0.25),
                score(0, &policy, 0.75),
                score(1, "base", 0.75),
                score(1, &policy, 0.5),
            ],
        );
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sims-report"));
        command.arg(self.root());
        command
    }

    fn page(&self) -> String {
        let path = self.folder.path().join("report.html");
        succeed(self.command().arg("--html").arg(&path));
        fs::read_to_string(path).unwrap()
    }

    fn markdown(&self) -> String {
        let output = succeed(self.command().args(["--markdown", "-"]));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes the tables, and returns their folder.
    fn tables(&self) -> PathBuf {
        let folder = self.folder.path().join("tables");
        succeed(self.command().arg("--tables").arg(&folder));
        folder
    }

    fn remove(&self, name: &str) {
        for round in [1, 2] {
            let path = self.path(&format!("round-{round}/{name}"));
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    output
}

fn metric(name: &str, value: f64, baseline: &str) -> MetricRow {
    MetricRow {
        metric: name.into(),
        value,
        ci_low: Some(value - 0.02),
        ci_high: Some(value + 0.02),
        n: 40,
        method: "paired-bootstrap".into(),
        baseline: baseline.into(),
    }
}

/// One setting that was chosen and confirmed, or refused for its divergence.
fn decision(accepted: bool) -> Vec<DecisionRow> {
    let kl = if accepted { 0.085 } else { 0.16 };
    let row = |attempt, part: &str, gate: &str, value: f64, limit: f64, passed, action: &str| {
        DecisionRow {
            attempt,
            part: part.into(),
            layers: vec![3, 4],
            strength: 1.0,
            gate: gate.into(),
            value,
            ci_low: Some(value - 0.01),
            ci_high: Some(value + 0.01),
            limit,
            passed,
            action: action.into(),
        }
    };
    let mut rows = vec![
        row(1, "selection", "neutral-kl", kl, 0.1, accepted, "continue"),
        row(1, "selection", "gain", 0.6, 0.5, true, "continue"),
    ];
    if accepted {
        rows.push(row(
            2,
            "confirmation",
            "neutral-kl",
            kl,
            0.1,
            true,
            "accept",
        ));
        rows.push(row(2, "confirmation", "gain", 0.62, 0.5, true, "accept"));
    } else {
        rows.iter_mut()
            .for_each(|row| row.action = "roll-back".into());
    }
    rows
}

fn signal(round: u32) -> SignalRow {
    SignalRow {
        round,
        signature: "over-steering".into(),
        detector: "hard-gates".into(),
        value: f64::from(round - 1),
        ci_low: None,
        ci_high: None,
        reference: None,
        limit: 0.5,
        fired: round == 2,
        action: if round == 2 { "back-off" } else { "" }.into(),
    }
}

fn read(folder: &Path, table: &str) -> RecordBatch {
    let file = fs::File::open(folder.join(format!("{table}.parquet"))).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    reader.build().unwrap().next().unwrap().unwrap()
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<String> {
    let column = batch.column_by_name(column).unwrap();
    let column = column.as_any().downcast_ref::<StringArray>().unwrap();
    column
        .iter()
        .map(|value| value.unwrap().to_owned())
        .collect()
}

#[test]
fn the_headline_is_about_the_last_accepted_round() {
    let page = Run::new().page();
    for expected in [
        "<h1>Steering helped</h1>",
        "In round 1, the last accepted one, steered answers win 60.0 % [58.0, 62.0] of their comparisons with the \
         base model by the gold score, and 63.0 % [61.0, 65.0] as judged in the loop.",
        "All 2 gates passed; near the limit: neutral-kl at 85 % of the way.",
        "2 rounds took 25 s of computing, 10.0 k tokens and about 5.00 GFLOP, measurements included.",
        "2 warnings of the stages",
        "✗ failed · 160 %",
    ] {
        assert!(page.contains(expected), "{expected} is not in the page");
    }
}

#[test]
fn a_page_is_the_same_twice_and_loads_nothing() {
    let run = Run::new();
    let page = run.page();
    assert_eq!(page, run.page());
    for part in ["http:", "https:", "@import", "url(", " src="] {
        assert!(!page.contains(part), "{part} is in the page");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn text_of_a_run_is_never_markup() {
    let page = Run::new().page();
    assert!(page.contains("&lt;/td&gt;&lt;/script&gt;&lt;script&gt;alert(&quot;1&quot;)"));
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("</script").count(), 1);
    assert!(page.contains("a&lt;b&gt;&amp;c") && !page.contains("a<b>"));
    assert!(!page.contains("<!--"));
}

#[test]
fn every_row_is_there_without_a_script() {
    let page = Run::new().page();
    assert_eq!(page.matches("data-change=").count(), 6);
    assert_eq!(page.matches("data-change=\"improved\"").count(), 2);
    assert_eq!(page.matches("data-change=\"worsened\"").count(), 2);
    // The filters need the script, which shows them.
    assert!(page.contains("<form id=\"filters\" hidden"));
}

#[test]
fn what_a_run_does_not_have_is_said_in_its_place() {
    for (file, expected) in [
        ("gold", "no gold score checks the judge"),
        ("decision.parquet", "No decision was taken in this run."),
        ("pairs.parquet", "No round has contrast pairs."),
        (
            "reliability.parquet",
            "No judge of this run says anything of itself.",
        ),
        ("signals.parquet", "No guard watched this run."),
        ("test/responses.parquet", "No round has answers of both"),
        ("summaries", "The stages left no summaries."),
        ("dropped.parquet", "<th scope=\"row\">kept</th>"),
        ("ranking.parquet", "<h3>Margins</h3>"),
        ("test", "63.0, 67.0"),
    ] {
        let run = Run::new();
        run.remove(file);
        let page = run.page();
        assert!(
            page.contains(expected),
            "without {file}: {expected} is not in the page"
        );
        run.tables();
        run.markdown();
    }
    let run = Run::new();
    fs::remove_file(run.path("run.json")).unwrap();
    assert!(run.page().contains("no record of its files"));
}

#[test]
fn one_round_and_an_unfinished_one_are_reports_too() {
    let run = Run::new();
    fs::remove_dir_all(run.path("round-2")).unwrap();
    assert!(run.page().contains("In round 1, which was accepted,"));
    fs::create_dir(run.path("round-2")).unwrap();
    let page = run.page();
    assert!(
        page.contains("Without a decision so far: round 2."),
        "{page}"
    );
    assert!(page.contains("Round 2: no decision so far."));
}

#[test]
fn tables_hold_what_the_page_shows() {
    let run = Run::new();
    let (page, folder) = (run.page(), run.tables());
    for table in page.split("<code>").skip(1) {
        if let Some((name, _)) = table.split_once(".parquet</code>") {
            assert!(folder.join(format!("{name}.parquet")).is_file(), "{name}");
        }
    }
    let answers = read(&folder, "answers");
    let changes = ["improved", "worsened", "unknown"];
    assert_eq!(texts(&answers, "change"), [changes, changes].concat());
    assert_eq!(texts(&answers, "steered")[0], HOSTILE);
    let curves = read(&folder, "curves");
    assert_eq!(
        texts(&curves, "series")[..3],
        ["gold", "held-out prompts", "gate prompts"]
    );
    let effects = read(&folder, "side_effects");
    assert_eq!(
        texts(&effects, "verdict"),
        ["near", "within", "failed", "within"]
    );
    assert_eq!(read(&folder, "dropped_pairs").num_rows(), 2);
    assert_eq!(read(&folder, "decisions").num_rows(), 6);
}

#[test]
fn markdown_has_the_figures_and_the_failed_gates() {
    let text = Run::new().markdown();
    for expected in [
        "## a&lt;b&gt;&amp;c: Steering helped",
        "| Win rate against the base | gold | 0.600 [0.580, 0.620] | 0.650 [0.630, 0.670] |",
        "Refused: round 2.",
        "| neutral-kl | 2 | 0.160 [0.150, 0.170] | ≤ 0.100 |",
        "- round 2: hard-gates (1.000, limit 0.500)",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
}

#[test]
fn a_gain_that_gold_does_not_confirm_is_called_so() {
    let run = Run::new();
    let name = "round-1/gold/metrics.parquet";
    run.write(name, &[metric("gold_win_rate", 0.51, "base")]);
    let page = run.page();
    assert!(page.contains("<h1>No effect that is certain</h1>"));
    assert!(page.contains("The judge sees a gain that gold does not confirm."));
    run.write(name, &[metric("gold_win_rate", 0.4, "base")]);
    assert!(run.page().contains("<h1>Steering did harm</h1>"));
}

#[test]
fn damaged_files_and_several_runs_are_refused() {
    let run = Run::new();
    fs::write(run.path("round-1/summaries/judge.json"), "{").unwrap();
    let output = run.command().args(["--markdown", "-"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        message.contains("round-1/summaries/judge.json is not a stage's summary"),
        "{message}"
    );
    let mut several = run.command();
    let output = several
        .arg(run.root())
        .args(["--markdown", "-"])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("are about one run, but 2 are named"),
        "{message}"
    );
}
