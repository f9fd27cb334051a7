//! T41 of the test ladder: the closed loop on a model whose answer is known.
//!
//! A random model has a class of tokens whose embeddings, tied to its head, share a direction `g`: more of `g`
//! in the residual stream raises the odds of the class. The judge is the class's share of a response. Then the
//! loop has to find `g` and to raise the share, and with a judge or labels that mean nothing it must not.
//!
//! Where states are read matters. At the tokens of a response a state carries `g` trivially, through the
//! embedding of the very token it stands at, so a pair's difference would be `g` whatever the model does with
//! it. Here states are read at the last token of the same prompt asked again (`reask`): the token is the same in
//! both classes, so `g` is there only because the model remembers its response, and it is the position from
//! which the next answer is steered. The layer is the last but one, below the block whose output goes to the
//! head: what is added there is read by one more block, and by the head along `g`.
//!
//! Shares of the class on held-out prompts, before the loop and after its third round, where two draws of the base
//! model differ by up to 0.030: mean difference 0.126 to 0.378, capped rotation 0.214, rotation by the class gap
//! 0.275; coin 0.115, shuffled labels 0.131.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use sims_artifact::tables::{DecisionRow, JudgmentRow, Message, PromptRow, ResponseRow};
use sims_artifact::{read_table, write_table};
use sims_stats::Bootstrap;
use sims_stats::random::Stream;
use sims_steering::{Operator, Steering};
use sims_testkit::random_model::{LAYERS, PlantedClass, RandomModel, planted_direction};
use sims_testkit::{program, text_of};
use tempfile::TempDir;

const ROUNDS: usize = 3;
/// Prompts a round: enough that labels which mean nothing average out.
const SHARD: usize = 200;
const HELD_OUT: usize = 60;
/// The token that ends a turn.
const END: u32 = 1;
/// The last layer but one.
const LAYER: usize = LAYERS - 2;
/// How responses are sampled, for training and evaluation alike.
const SAMPLING: &str = "--max-new-tokens 16 --temperature 1";

/// Who says which of two responses is the better one.
#[derive(Debug, Clone, Copy)]
enum Judge {
    /// The one with the larger share of the class.
    Share,
    /// Either, by a coin.
    Coin,
}

/// A folder with the model and the prompts, in which stages run.
struct Bench {
    folder: TempDir,
    class: PlantedClass,
}

/// The loop after its rounds.
struct Outcome {
    /// Mean share of the class on held-out prompts: of the base model, then after each round.
    shares: Vec<f64>,
    /// Half the width of the interval in which two draws of the base model differ.
    noise: f64,
    /// The steering after each round.
    steerings: Vec<Steering>,
}

impl Bench {
    fn new() -> Self {
        Self::with(PlantedClass::default())
    }

    fn with(class: PlantedClass) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = RandomModel {
            planted: Some(class),
            ..RandomModel::default()
        };
        model.write(folder.path());
        let bench = Self { folder, class };
        let prompts: Vec<PromptRow> = (0..ROUNDS * SHARD + HELD_OUT)
            .map(|i| {
                let text = format!("sort w{} w{} w{}", 5 + i % 50, 5 + i * 7 % 50, 5 + i / 50);
                let split = if i < HELD_OUT { "eval" } else { "train" };
                PromptRow::new(vec![Message::user(text)], split, "test")
            })
            .collect();
        write_table(&bench.path("prompts.parquet"), &prompts).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a stage in the folder, with its outputs in the folder `out` there.
    fn stage(&self, name: &str, out: &str, arguments: &str) {
        let output = Command::new(program(name))
            .current_dir(self.folder.path())
            .args(["--out", out, "--progress", "none"])
            .args(arguments.split_whitespace())
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", text_of(&output));
    }

    fn responses(&self, out: &str) -> Vec<ResponseRow> {
        read_table(&self.path(out).join("responses.parquet")).unwrap()
    }

    /// Returns the class's share of a response, its end token left out.
    fn share(&self, response: &ResponseRow) -> f64 {
        let words: Vec<u32> = response
            .token_ids
            .iter()
            .copied()
            .filter(|&id| id != END)
            .collect();
        let members = words.iter().filter(|&&id| self.class.contains(id)).count();
        members as f64 / words.len().max(1) as f64
    }

    /// Returns the mean share of every held-out prompt, in the order of their ids.
    fn held_out_shares(&self, steering: Option<&str>, seed: u64) -> Vec<f64> {
        let steered = option("steering", steering);
        self.stage(
            "sims-sample",
            "evaluation",
            &format!(
                "--model model --prompts prompts.parquet --split eval --samples 4 --seed {seed} {SAMPLING} {steered}"
            ),
        );
        let mut shares: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for row in self.responses("evaluation") {
            let share = self.share(&row);
            shares.entry(row.prompt_id).or_default().push(share);
        }
        shares.values().map(|shares| mean(shares)).collect()
    }

    /// Writes the judgments of every two responses to a prompt, in both orders.
    fn judge(&self, judge: Judge, sampled: &str, round: usize) -> String {
        let mut coins = Stream::new(41, round as u64);
        let mut by_prompt: BTreeMap<String, Vec<ResponseRow>> = BTreeMap::new();
        for row in self.responses(sampled) {
            by_prompt
                .entry(row.prompt_id.clone())
                .or_default()
                .push(row);
        }
        let mut rows = Vec::new();
        for responses in by_prompt.values() {
            for (number, a) in responses.iter().enumerate() {
                for b in &responses[number + 1..] {
                    let log_odds = match judge {
                        Judge::Share => 8.0 * (self.share(a) - self.share(b)),
                        Judge::Coin => [1.0, -1.0][coins.below(2)],
                    };
                    rows.extend(["ab", "ba"].map(|order| judgment(a, b, order, log_odds)));
                }
            }
        }
        let name = format!("round-{round}-judgments.parquet");
        write_table(&self.path(&name), &rows).unwrap();
        name
    }

    /// Runs one round on top of `incumbent` and returns the file of its steering.
    fn round(&self, round: usize, judge: Judge, fit: &str, incumbent: Option<&str>) -> String {
        let [sampled, ranked, contrasted, extracted, fitted] =
            ["sample", "rank", "contrast", "extract", "fit"]
                .map(|stage| format!("round-{round}-{stage}"));
        let steered = option("steering", incumbent);
        self.stage(
            "sims-sample",
            &sampled,
            &format!(
                "--model model --prompts prompts.parquet --split train --shard-size {SHARD} --round {round} \
                 --samples 6 {SAMPLING} {steered}"
            ),
        );
        let responses = format!("{sampled}/responses.parquet");
        let judgments = self.judge(judge, &sampled, round);
        self.stage(
            "sims-rank",
            &ranked,
            &format!("--judgments {judgments} --responses {responses}"),
        );
        // Random words: most responses end by the limit, and no rule on text applies to them.
        self.stage(
            "sims-contrast",
            &contrasted,
            &format!(
                "--prompts prompts.parquet --responses {responses} --judgments {judgments} \
                 --ranking {ranked}/ranking.parquet --round {round} --truncated keep --loop-window 16 \
                 --min-content-tokens 1 --min-visible-characters 1 --min-unshared 0"
            ),
        );
        self.stage(
            "sims-extract",
            &extracted,
            &format!(
                "--model model --prompts prompts.parquet --pairs {contrasted}/pairs.parquet \
                 --positions reask --layers {LAYER} {steered}"
            ),
        );
        self.stage(
            "sims-fit",
            &fitted,
            &format!(
                "--states {extracted}/states.safetensors --index {extracted}/index.parquet --round {round} \
                 --compose stack --shuffles 5 {fit} {}",
                option("incumbent", incumbent)
            ),
        );
        format!("{fitted}/steering.safetensors")
    }

    /// Runs every round and measures the share after each.
    fn rounds(&self, judge: Judge, fit: &str) -> Outcome {
        let (base, again) = (self.held_out_shares(None, 1), self.held_out_shares(None, 2));
        let apart = Bootstrap::seeded(1).mean_difference(&again, &base).unwrap();
        let mut outcome = Outcome {
            shares: vec![mean(&base)],
            noise: (apart.high - apart.low) / 2.0,
            steerings: Vec::new(),
        };
        let mut incumbent: Option<String> = None;
        for round in 1..=ROUNDS {
            let steering = self.round(round, judge, fit, incumbent.as_deref());
            let shares = self.held_out_shares(Some(&steering), 1);
            outcome.shares.push(mean(&shares));
            outcome
                .steerings
                .push(Steering::load(&self.path(&steering)).unwrap());
            incumbent = Some(steering);
        }
        println!(
            "{judge:?} {fit}: {:.3?}, noise {:.3}",
            outcome.shares, outcome.noise
        );
        outcome
    }
}

/// Writes an option, or nothing.
fn option(name: &str, value: Option<&str>) -> String {
    value.map_or(String::new(), |value| format!("--{name} {value}"))
}

fn judgment(a: &ResponseRow, b: &ResponseRow, order: &str, log_odds: f64) -> JudgmentRow {
    let verdict = match log_odds {
        x if x > 0.0 => "a",
        x if x < 0.0 => "b",
        _ => "tie",
    };
    JudgmentRow {
        prompt_id: a.prompt_id.clone(),
        response_a: a.response_id.clone(),
        response_b: b.response_id.clone(),
        order: order.to_owned(),
        judge: "share".to_owned(),
        p_a: 1.0 / (1.0 + (-log_odds).exp()),
        verdict: verdict.to_owned(),
        raw: log_odds,
        coverage: 1.0,
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn cosine(vector: &[f32], direction: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y));
        products.sum()
    };
    dot(vector, direction) / (dot(vector, vector) * dot(direction, direction)).sqrt()
}

impl Outcome {
    fn change(&self) -> f64 {
        self.shares[ROUNDS] - self.shares[0]
    }

    /// Asserts that the share rose, by half or more in all, and in no round fell by more than base draws differ.
    fn assert_gain(&self) {
        let Self { shares, noise, .. } = self;
        assert!(
            shares[ROUNDS] >= 1.5 * shares[0] && self.change() > 2.0 * noise,
            "{shares:?}, noise {noise}"
        );
        for rounds in shares.windows(2) {
            assert!(rounds[1] >= rounds[0] - noise, "{shares:?}, noise {noise}");
        }
    }

    /// Asserts that the share stayed where two draws of the base model would put it.
    fn assert_no_change(&self) {
        let Self { shares, noise, .. } = self;
        assert!(self.change().abs() <= *noise, "{shares:?}, noise {noise}");
        // The loop did steer; it had nothing to steer by.
        assert!(
            self.steerings
                .iter()
                .all(|steering| !steering.is_identity())
        );
    }
}

/// Three steps of this size stay within the longest shift allowed, four fifths of a state's norm.
const MEAN_DIFFERENCE: &str = "--operator mean-difference --step 0.7 --max-shift 0.8";

#[test]
fn mean_difference_finds_the_direction_and_raises_the_share() {
    let outcome = Bench::new().rounds(Judge::Share, MEAN_DIFFERENCE);
    outcome.assert_gain();
    let direction = planted_direction();
    for (round, steering) in outcome.steerings.iter().enumerate() {
        assert_eq!(steering.layers(), [LAYER]);
        for edit in steering.edits(LAYER) {
            let Operator::Additive(additive) = &edit.operator else {
                panic!("round {round} added {edit:?}");
            };
            let cosine = cosine(additive.vector(), &direction);
            assert!(cosine > 0.8, "round {round}: cosine {cosine}");
        }
    }
}

#[test]
fn capped_rotation_raises_the_share() {
    // Pairs give one row each: at five epochs the angle network is still at its start, and the fit refused.
    let fit = "--operator hpr-capped --normal mean-difference --epochs 60";
    Bench::new().rounds(Judge::Share, fit).assert_gain();
}

#[test]
fn rotation_by_the_class_gap_raises_the_share() {
    let fit = "--operator hpr-target --normal mean-difference --step 0.7";
    Bench::new().rounds(Judge::Share, fit).assert_gain();
}

#[test]
fn a_judge_that_tosses_a_coin_changes_nothing() {
    let fit = format!("{MEAN_DIFFERENCE} --allow-low-signal true");
    Bench::new().rounds(Judge::Coin, &fit).assert_no_change();
}

#[test]
fn shuffled_labels_change_nothing() {
    let fit = format!("{MEAN_DIFFERENCE} --allow-low-signal true --labels shuffled");
    Bench::new().rounds(Judge::Share, &fit).assert_no_change();
}

#[test]
fn the_gates_take_back_a_step_that_ends_in_loops() {
    // A class of one token: what is steered toward it far enough says nothing else.
    let bench = Bench::with(PlantedClass {
        members: 1,
        component: 1.0,
        memory: 0.04,
        ..PlantedClass::default()
    });
    // Norms are kept, or the gate on norms would stop the step whatever the text is like.
    let fit = "--operator mean-difference --step 25 --max-shift 0 --preserve-norm true";
    let steering = bench.round(1, Judge::Share, fit, None);
    // The model's own verdicts are random: the gates on safety decide.
    bench.stage(
        "sims-steer-eval",
        "evaluated",
        &format!(
            "--model model --prompts prompts.parquet --split eval --steering {steering} {SAMPLING} \
             --loop-window 6 --resamples 500 --back-off 1,0.5,0.02 --min-coverage 0 --min-win-rate 0"
        ),
    );
    let decisions: Vec<DecisionRow> =
        read_table(&bench.path("evaluated/decision.parquet")).unwrap();
    let refused = |strength: f64| {
        let mut rows = decisions.iter();
        rows.any(|row| row.strength == strength && row.gate == "loops" && !row.passed)
    };
    assert!(refused(1.0) && refused(0.5), "{decisions:?}");
    let last = decisions.last().unwrap();
    assert_eq!(
        (last.action.as_str(), last.strength),
        ("accept", 0.02),
        "{decisions:?}"
    );
    let accepted = Steering::load(&bench.path("evaluated/accepted.safetensors")).unwrap();
    assert!(!accepted.is_identity());
}
