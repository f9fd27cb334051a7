//! Every failure signature, induced on the built-in model: its detector fires, and its action contains it.

use std::path::PathBuf;

use sims_artifact::read_table;
use sims_artifact::tables::{HistoryRow, ResponseRow, SettingsRow, SignalRow};
use sims_steering::Steering;
use sims_testkit::{Workspace, text_of};

/// The sweeps' pipeline, cut down: 80 prompts a round, eight responses to each, a quarter of the gate's draws.
const LOOP: &str = "
extends: REPOSITORY/pipelines/sweeps/development.yaml
name: watched
rounds: 2
round:
  sample: {samples: 8, shard-size: 80}
  judge: {controls: 0}
  fit: {allow-low-signal: true}
  steer-eval: {with: {draws: 2, shard-size: 160, resamples: 500, back-off: [1.0, 0.5]}}
  guard: {resamples: 500}
  gold: null
";

/// A run of the loop with something planted in it.
struct Watched {
    workspace: Workspace,
    report: serde_json::Value,
}

impl Watched {
    fn run(planted: &str) -> Self {
        let workspace = Workspace::new();
        let repository = sims_testkit::repository();
        let base = LOOP.replace("REPOSITORY", &repository.display().to_string());
        workspace.pipeline("watched-base", &base);
        let pipeline = workspace.pipeline(
            "watched",
            &format!("extends: watched-base.yaml\nname: watched\n{planted}"),
        );
        let report = workspace.json(&["run", pipeline.to_str().expect("temporary paths are text")]);
        Self { workspace, report }
    }

    fn view(&self, round: u32, file: &str) -> PathBuf {
        let run = self.workspace.path().join("runs/watched");
        run.join(format!("round-{round}")).join(file)
    }

    /// Returns the detectors that fired in a round, each with what followed.
    fn fired(&self, round: u32) -> Vec<(String, String)> {
        let rows: Vec<SignalRow> =
            read_table(&self.view(round, "signals.parquet")).expect("the guard ran");
        let fired = rows.into_iter().filter(|row| row.fired);
        fired.map(|row| (row.detector, row.action)).collect()
    }

    fn figure(&self, round: u32, name: &str) -> HistoryRow {
        let rows: Vec<HistoryRow> =
            read_table(&self.view(round, "history.parquet")).expect("the guard ran");
        let mut found = rows.into_iter();
        found
            .find(|row| row.round == round && row.figure == name)
            .unwrap_or_else(|| panic!("{name} of round {round} is known"))
    }

    fn settings(&self, round: u32) -> SettingsRow {
        let mut rows: Vec<SettingsRow> =
            read_table(&self.view(round, "settings.parquet")).expect("the guard ran");
        rows.pop().expect("one row")
    }

    fn steering(&self, round: u32, role: &str) -> Steering {
        Steering::load(&self.view(round, &format!("{role}.safetensors"))).expect("a steering")
    }

    fn policies(&self, round: u32) -> Vec<String> {
        let rows: Vec<ResponseRow> =
            read_table(&self.view(round, "responses.parquet")).expect("sampled");
        let mut policies: Vec<String> = rows.into_iter().map(|row| row.policy).collect();
        policies.dedup();
        policies
    }
}

fn pair(detector: &str, action: &str) -> (String, String) {
    (detector.to_owned(), action.to_owned())
}

#[test]
fn a_healthy_run_is_left_alone() {
    let run = Watched::run("");
    assert_eq!(run.fired(1), []);
    assert_eq!(run.figure(1, "accepted").value, 1.0);
    assert_eq!(
        (run.settings(1).strikes, run.settings(1).temperature_rise),
        (0, 0.0)
    );
    // What was kept is what the next round sampled with.
    assert_eq!(
        run.steering(1, "kept").layers(),
        run.steering(1, "accepted").layers()
    );
    assert!(run.policies(2)[0].starts_with("steered-"));
    assert!(!run.steering(2, "champion").is_identity());
    assert!(run.report["ended_after_round"].is_null());
}

/// A reward for length alone: the loop's judge sees a gain, another judge a loss, and the round is rolled back.
#[test]
fn a_judge_that_loves_length_is_a_feedback_loop() {
    let run = Watched::run(
        "round:
  judge: {judge: planted-length, length-weight: 1.0}
  fit: {step: 1.2, max-shift: 2.0}
  steer-eval:
    with:
      judge: planted-length
      length-weight: 1.0
      second-judge: self
      gate: none
  guard: {max-strikes: 0}
",
    );
    let fired = run.fired(1);
    assert!(
        fired.contains(&pair("longer_preferred", "roll-back, drop-pairs")),
        "{fired:?}"
    );
    let own = run.figure(1, "win_rate");
    assert!(own.ci_low > Some(0.5), "the judge is pleased: {own:?}");
    assert!(run.steering(1, "kept").is_identity());
    assert!(!run.steering(1, "accepted").is_identity());
    assert_eq!(run.policies(2), ["base"]);
    // The next round keeps pairs of like length alone.
    assert!(run.settings(1).length_balance);
    let gap = |round| run.figure(round, "pair_length_gap").value;
    assert!(gap(1) > 0.5 && gap(2) < 0.23, "{} {}", gap(1), gap(2));
}

/// The judge turns from round to round: it is seen against the first one.
#[test]
fn a_growing_love_of_length_is_seen_against_the_first_round() {
    let run = Watched::run(
        "round:
  judge: {length-bias: 0.0, length-bias-growth: 1.2}
  steer-eval: {with: {length-bias: 0.0, length-bias-growth: 1.2, second-judge: self}}
",
    );
    assert_eq!(run.fired(1), []);
    let fired = run.fired(2);
    let detectors: Vec<&str> = fired
        .iter()
        .map(|(detector, _)| detector.as_str())
        .collect();
    assert!(detectors.contains(&"longer_preferred_rise"), "{fired:?}");
    assert!(run.settings(2).length_balance);
}

/// Cold sampling gives the same answer over and over, and no gain; the next round is hotter, and is accepted.
#[test]
fn identical_answers_are_asked_for_hotter() {
    let run = Watched::run(
        "round:
  sample: {temperature: 0.3}
  guard: {temperature-step: 0.3, max-identical-share: 0.3}
",
    );
    assert_eq!(run.fired(1), [pair("identical_share", "hotter")]);
    assert_eq!(run.settings(1).temperature_rise, 0.3);
    assert_eq!(run.fired(2), []);
    let identical = |round| run.figure(round, "identical_share").value;
    assert!(
        identical(2) < 0.5 * identical(1),
        "{} {}",
        identical(1),
        identical(2)
    );
    let accepted = |round| run.figure(round, "accepted").value;
    assert_eq!((accepted(1), accepted(2)), (0.0, 1.0));
}

/// Labels that mean nothing bring no gain: the loop ends before its last round.
#[test]
fn rounds_without_a_gain_end_the_loop() {
    let run = Watched::run(
        "rounds: 4
round:
  fit: {labels: shuffled}
",
    );
    let fired = run.fired(2);
    assert!(
        fired.contains(&pair("rounds_without_gain", "stop")),
        "{fired:?}"
    );
    assert!(fired.contains(&pair("refused_rounds", "stop")), "{fired:?}");
    assert_eq!(run.report["ended_after_round"], 2);
    assert_eq!(run.report["failed"], 0);
    assert!(!run.view(3, "responses.parquet").exists());
    assert!(run.steering(2, "champion").is_identity());
    // A rerun knows where the loop ended.
    let pipeline = run.workspace.path().join("pipelines/watched.yaml");
    let pipeline = pipeline.to_str().expect("temporary paths are text");
    let again = run.workspace.json(&["run", pipeline]);
    assert_eq!(
        (&again["executed"], &again["ended_after_round"]),
        (&0.into(), &2.into())
    );
    let status = run.workspace.json(&["status", pipeline]);
    let states = status.as_array().expect("one object a stage").iter();
    let left_out = states.filter(|stage| stage["state"] == "left-out");
    assert!(
        left_out.clone().count() > 0
            && left_out
                .clone()
                .all(|stage| stage["round"].as_u64() > Some(2))
    );
    let explained = run
        .workspace
        .sims(&["explain", "sample", "--round", "3", "--pipeline", pipeline])
        .output()
        .expect("sims starts");
    assert!(
        text_of(&explained).contains("round-2/guard ended the loop"),
        "{}",
        text_of(&explained)
    );
}

/// A step far too long is unsafe at every strength: the judge is not asked, and the next round steps half as far.
#[test]
fn a_step_that_is_unsafe_at_every_strength_is_halved() {
    let run = Watched::run("round:\n  fit: {step: 4.0, max-shift: 0}\n");
    let fired = run.fired(1);
    assert!(
        fired.contains(&pair("unsafe_share", "back-off")),
        "{fired:?}"
    );
    assert!(run.steering(1, "kept").is_identity());
    assert_eq!(run.settings(1).step_factor, 0.5);
    assert_eq!(run.settings(1).strikes, 1);
    assert_eq!(run.policies(2), ["base"]);
}

/// A judge that nearly always names the slot it sees first: nothing it says is acted on, and the loop ends.
#[test]
fn a_judge_that_collapses_ends_the_loop() {
    let run = Watched::run(
        "round:
  judge: {first-bias: 12.0}
  steer-eval: {with: {gate: none}}
",
    );
    let fired = run.fired(1);
    assert!(
        fired.contains(&pair("first_slot_share", "roll-back, stop")),
        "{fired:?}"
    );
    assert!(run.steering(1, "kept").is_identity());
    assert_eq!(run.report["ended_after_round"], 1);
}
