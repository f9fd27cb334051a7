//! The extract stage as a program, on a model with random weights.

mod broken;
mod centred;
mod conditional;

use sims_artifact::tables::{Message, PairRow, PromptRow, ResponseRow, StateIndexRow, pair_id};
use sims_artifact::{Digest, ModelManifest, TensorFile, read_table, write_table};
use sims_extract::PositionSet;
use sims_extract::sequence::Planner;
use sims_model::capture::{CaptureRequest, HiddenStates, hidden_states, states_at};
use sims_model::generate::{BatchLimits, SamplingParams};
use sims_model::score::{ScoreLimits, ScoreRequest, response_logprobs};
use sims_model::{ChatMessage, Hook, LanguageModel, LoadOptions, Site};
use sims_sample::Draws;
use sims_steering::{Additive, AngleRule, Edit, Householder, Operator, Steering};
use sims_testkit::random_model::{
    self, HIDDEN, LAYERS, RandomModel, prompts, refused, succeeded, summary,
};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

/// The token that ends a turn.
const END: u32 = 1;

struct Bench {
    folder: TempDir,
    model: PathBuf,
    prompts: Vec<PromptRow>,
}

impl Bench {
    fn new() -> Self {
        Self::with(&RandomModel::default())
    }

    fn with(model: &RandomModel) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = model.write(folder.path());
        let prompts = prompts(6);
        write_table(&folder.path().join("prompts.parquet"), &prompts).unwrap();
        Self {
            folder,
            model,
            prompts,
        }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Pairs of responses of different lengths that share their first two tokens; every third is unfinished.
    fn pairs(&self) -> Vec<PairRow> {
        (0..self.prompts.len() as u32)
            .map(|number| {
                let mut chosen = vec![10, 11, 20 + number, 21, 22, 23];
                let mut rejected = vec![10, 11, 40 + number, 41];
                if !number.is_multiple_of(3) {
                    chosen.push(END);
                    rejected.push(END);
                }
                self.pair(number as usize, chosen, rejected)
            })
            .collect()
    }

    fn pair(&self, prompt: usize, chosen: Vec<u32>, rejected: Vec<u32>) -> PairRow {
        let prompt_id = &self.prompts[prompt].prompt_id;
        PairRow {
            pair_id: pair_id(prompt_id, &format!("{chosen:?}"), &format!("{rejected:?}")),
            prompt_id: prompt_id.clone(),
            chosen_id: String::new(),
            rejected_id: String::new(),
            chosen: String::new(),
            rejected: String::new(),
            chosen_token_ids: chosen,
            rejected_token_ids: rejected,
            margin: 1.0,
            z: 0.0,
            weight: 1.0,
            origin_round: 1,
            judge: "test".to_owned(),
        }
    }

    fn run(&self, out: &str, pairs: &[PairRow], arguments: &[&str]) -> Output {
        let (pairs_path, prompts_path) = (
            self.out(&format!("{out}.pairs.parquet")),
            self.out("prompts.parquet"),
        );
        write_table(&pairs_path, pairs).unwrap();
        let mut all = vec![
            "--pairs",
            pairs_path.to_str().unwrap(),
            "--prompts",
            prompts_path.to_str().unwrap(),
        ];
        all.extend(arguments);
        let program = env!("CARGO_BIN_EXE_sims-extract");
        random_model::run(program, &self.model, &self.out(out), &all)
    }

    fn extracted(&self, out: &str) -> Extracted {
        Extracted {
            states: TensorFile::open(&self.out(out).join("states.safetensors")).unwrap(),
            index: read_table(&self.out(out).join("index.parquet")).unwrap(),
        }
    }

    fn steering(&self, name: &str, model: Digest) -> (String, Vec<f32>) {
        let vector: Vec<f32> = (0..HIDDEN).map(|i| (i as f32).sin()).collect();
        let mut steering = Steering::identity(model, HIDDEN, LAYERS);
        let additive = Additive::new(vector.clone()).unwrap();
        steering
            .push(1, Edit::new(Operator::Additive(additive)))
            .unwrap();
        let path = self.out(name);
        steering.save(&path).unwrap();
        (path.to_str().unwrap().to_owned(), vector)
    }

    fn digest(&self) -> Digest {
        ModelManifest::of_dir(&self.model).unwrap().digest
    }

    fn open_model(&self) -> LanguageModel {
        LanguageModel::load(&self.model, &LoadOptions::default()).unwrap()
    }
}

struct Extracted {
    states: TensorFile,
    index: Vec<StateIndexRow>,
}

impl Extracted {
    fn row(&self, layer: usize, class: &str, row: usize) -> Vec<f32> {
        self.states
            .read_rows(&format!("layer.{layer}.{class}"), row, 1)
            .unwrap()
    }
}

/// The state of one sequence at one position, run alone.
fn state(model: &LanguageModel, tokens: &[u32], position: usize, layer: usize) -> Vec<f32> {
    let request = CaptureRequest {
        tokens: tokens.to_vec(),
        positions: vec![position],
        edit_from: usize::MAX,
    };
    let mut captured = Vec::new();
    let mut sink = |states: HiddenStates| {
        captured = states.layers.into_iter().next().unwrap();
        ControlFlow::Continue(())
    };
    let limits = ScoreLimits::default();
    hidden_states(
        model.decoder(),
        &[request],
        &[layer],
        &limits,
        None,
        &mut sink,
    )
    .unwrap();
    captured
}

fn prompt_tokens(model: &LanguageModel, prompt: &PromptRow) -> Vec<u32> {
    sims_sample::prompt_tokens(model, &prompt.messages).unwrap()
}

/// The conversation with the answer in it and the question again, as the template writes it.
fn asked_again(model: &LanguageModel, prompt: &PromptRow, answer: &[u32]) -> Vec<u32> {
    let question = ChatMessage::new("user", &prompt.messages[0].content);
    let answer = ChatMessage::new("assistant", model.tokenizer().decode(answer).unwrap());
    let chat = [question.clone(), answer, question];
    let text = model.chat_template().unwrap().render(&chat, true).unwrap();
    model.tokenizer().encode(&text).unwrap()
}

#[test]
fn reasked_states_are_those_of_the_templated_conversation() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    succeeded(&bench.run("out", &pairs, &["--positions", "reask"]));
    let (model, extracted) = (bench.open_model(), bench.extracted("out"));
    assert_eq!(extracted.index.len(), pairs.len());
    assert_eq!(
        extracted.states.names(),
        [
            "layer.0.negative",
            "layer.0.positive",
            "layer.1.negative",
            "layer.1.positive"
        ]
    );
    for (row, pair) in pairs.iter().enumerate() {
        assert_eq!(extracted.index[row].pair_id, pair.pair_id);
        for (class, sampled) in [
            ("positive", &pair.chosen_token_ids),
            ("negative", &pair.rejected_token_ids),
        ] {
            // Finished or not, the answer is followed by the end of its turn.
            let answer: Vec<u32> = sampled.iter().copied().filter(|&id| id != END).collect();
            let tokens = asked_again(&model, &bench.prompts[row], &answer);
            for layer in [0, 1] {
                let expected = state(&model, &tokens, tokens.len() - 1, layer);
                assert_eq!(extracted.row(layer, class, row), expected, "{class} {row}");
            }
        }
    }
    let metadata = extracted.states.metadata();
    assert_eq!(metadata["model"], bench.digest().to_string());
    assert_eq!(metadata["positions"], "reask");
    assert_eq!(metadata["layers"], serde_json::json!([0, 1]));
    assert!(metadata["steering"].is_null());
}

#[test]
fn states_of_heads_are_what_their_projection_reads() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    let arguments = ["--positions", "end", "--layers", "0,1", "--site", "heads"];
    succeeded(&bench.run("out", &pairs, &arguments));
    let (model, extracted) = (bench.open_model(), bench.extracted("out"));
    let heads = serde_json::json!({"num_attention_heads": 4, "head_dim": HIDDEN / 4});
    assert_eq!(extracted.states.metadata()["heads"], heads);
    for (row, pair) in pairs.iter().enumerate() {
        let mut tokens = prompt_tokens(&model, &bench.prompts[row]);
        tokens.extend(pair.chosen_token_ids.iter().filter(|&&id| id != END));
        tokens.push(END);
        let request = CaptureRequest {
            positions: vec![tokens.len() - 1],
            tokens,
            edit_from: usize::MAX,
        };
        let mut sink = |states: HiddenStates| {
            for (layer, expected) in states.layers.iter().enumerate() {
                assert_eq!(&extracted.row(layer, "positive", row), expected);
            }
            ControlFlow::Continue(())
        };
        let (decoder, limits) = (model.decoder(), ScoreLimits::default());
        states_at(
            Site::Heads,
            decoder,
            &[request],
            &[0, 1],
            &limits,
            None,
            &mut sink,
        )
        .unwrap();
    }
}

#[test]
fn end_states_stand_at_the_token_that_ends_the_turn() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    succeeded(&bench.run("out", &pairs, &["--positions", "end", "--layers", "1"]));
    let (model, extracted) = (bench.open_model(), bench.extracted("out"));
    for (row, pair) in pairs.iter().enumerate() {
        let mut tokens = prompt_tokens(&model, &bench.prompts[row]);
        tokens.extend(pair.chosen_token_ids.iter().filter(|&&id| id != END));
        tokens.push(END);
        let expected = state(&model, &tokens, tokens.len() - 1, 1);
        assert_eq!(extracted.row(1, "positive", row), expected);
        let index = &extracted.index[row];
        assert_eq!((index.token_id, index.rejected_token_id), (END, END));
        assert_eq!(index.position, 6);
    }
}

#[test]
fn response_rows_share_their_index_and_skip_the_common_prefix() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    let (model, limit) = (bench.open_model(), ["--rows-per-pair", "1"]);
    for positions in ["response", "predictive"] {
        succeeded(&bench.run(positions, &pairs, &["--positions", positions]));
        let extracted = bench.extracted(positions);
        let mut row = 0;
        for (number, pair) in pairs.iter().enumerate() {
            let prompt = prompt_tokens(&model, &bench.prompts[number]);
            // Indices 2 and 3 differ and exist in both. Where the rejected response is unfinished, the state at
            // its last token produces nothing.
            let finished = pair.rejected_token_ids.last() == Some(&END);
            let indices = if positions == "response" || finished {
                2..4
            } else {
                2..3
            };
            for index in indices {
                let entry = &extracted.index[row];
                assert_eq!(entry.pair_id, pair.pair_id);
                assert_eq!(entry.position as usize, index);
                assert_eq!(entry.token_id, pair.chosen_token_ids[index]);
                assert_eq!(entry.rejected_token_id, pair.rejected_token_ids[index]);
                let tokens = [&prompt[..], &pair.rejected_token_ids].concat();
                let expected = state(&model, &tokens, prompt.len() + index, 0);
                assert_eq!(extracted.row(0, "negative", row), expected);
                row += 1;
            }
        }
        assert_eq!(extracted.index.len(), row);
        succeeded(&bench.run(
            "few",
            &pairs,
            &[&["--positions", positions][..], &limit].concat(),
        ));
        assert_eq!(bench.extracted("few").index.len(), pairs.len());
    }
}

/// One row a prompt: the mean of its states but the last, which a condition of a steering reads too.
#[test]
fn prompt_states_are_means_of_what_no_steering_edits() {
    let bench = Bench::new();
    let model = bench.open_model();
    let prompts_path = bench.out("prompts.parquet");
    let arguments = [
        "--prompts",
        prompts_path.to_str().unwrap(),
        "--positions",
        "prompt",
    ];
    let program = env!("CARGO_BIN_EXE_sims-extract");
    let run = random_model::run(program, &bench.model, &bench.out("all"), &arguments);
    succeeded(&run);
    let all = bench.extracted("all");
    assert_eq!(all.index.len(), bench.prompts.len());
    for (row, prompt) in bench.prompts.iter().enumerate() {
        assert_eq!(all.index[row].prompt_id, prompt.prompt_id);
        let tokens = prompt_tokens(&model, prompt);
        let last = tokens.len() - 1;
        assert_eq!(all.index[row].position as usize, last - 1);
        let mut mean = vec![0.0f64; HIDDEN];
        for position in 0..last {
            let state = state(&model, &tokens, position, 1);
            mean.iter_mut()
                .zip(&state)
                .for_each(|(m, &x)| *m += f64::from(x) / last as f64);
        }
        for class in ["positive", "negative"] {
            for (x, m) in all.row(1, class, row).iter().zip(&mean) {
                assert!((f64::from(*x) - m).abs() < 1e-5);
            }
        }
    }
    // With pairs, the prompts that they answer, each once; and the other positions do not go without.
    let pairs = &bench.pairs()[2..4];
    let pairs = [pairs, pairs].concat();
    succeeded(&bench.run("some", &pairs, &["--positions", "prompt"]));
    let some = bench.extracted("some");
    assert_eq!(some.index.len(), 2);
    assert_eq!(some.row(1, "positive", 0), all.row(1, "positive", 2));
    let arguments = ["--prompts", prompts_path.to_str().unwrap()];
    let run = random_model::run(program, &bench.model, &bench.out("none"), &arguments);
    let message = refused(&run, &bench.out("none"));
    assert!(
        message.contains("no pairs are given; only prompt can do without"),
        "{message}"
    );
}

#[test]
fn batch_size_and_threads_change_no_byte() {
    let bench = Bench::new();
    let (steering, _) = bench.steering("s.safetensors", bench.digest());
    let pairs = bench.pairs();
    let bytes = |out: &str, extra: &[&str]| {
        let arguments = ["--positions", "response", "--steering", &steering];
        succeeded(&bench.run(out, &pairs, &[&arguments[..], extra].concat()));
        ["states.safetensors", "index.parquet"]
            .map(|name| std::fs::read(bench.out(out).join(name)).unwrap())
    };
    let alone = bytes("a", &["--batch-size", "1", "--threads", "1"]);
    assert_eq!(alone, bytes("b", &["--batch-size", "0", "--threads", "3"]));
}

#[test]
fn states_are_read_after_the_steering() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    let (steering, vector) = bench.steering("s.safetensors", bench.digest());
    for positions in ["response", "reask"] {
        let arguments = ["--positions", positions];
        succeeded(&bench.run("base", &pairs, &arguments));
        let arguments = ["--positions", positions, "--steering", &steering];
        succeeded(&bench.run("steered", &pairs, &arguments));
        let (base, steered) = (bench.extracted("base"), bench.extracted("steered"));
        for row in 0..base.index.len() {
            // Block 0 is below the edit, block 1 is edited from the prompt's last token on.
            assert_eq!(
                base.row(0, "positive", row),
                steered.row(0, "positive", row)
            );
            let (plain, edited) = (
                base.row(1, "positive", row),
                steered.row(1, "positive", row),
            );
            for ((a, b), v) in plain.iter().zip(&edited).zip(&vector) {
                assert!(
                    (b - a - v).abs() < 1e-6,
                    "{positions}: {a} + {v} became {b}"
                );
            }
        }
        let digest = Digest::of_file(Path::new(&steering)).unwrap();
        let metadata = steered.states.metadata();
        assert_eq!(metadata["steering"], digest.to_string());
    }
}

#[test]
fn a_steering_that_changes_nothing_is_none() {
    let bench = Bench::new();
    let path = bench.out("identity.safetensors");
    Steering::identity(bench.digest(), HIDDEN, LAYERS)
        .save(&path)
        .unwrap();
    let arguments = ["--steering", path.to_str().unwrap()];
    succeeded(&bench.run("out", &bench.pairs(), &arguments));
    assert!(bench.extracted("out").states.metadata()["steering"].is_null());
}

#[test]
fn states_can_be_stored_at_half_the_size() {
    let bench = Bench::new();
    succeeded(&bench.run("full", &bench.pairs(), &[]));
    succeeded(&bench.run("half", &bench.pairs(), &["--states-dtype", "bf16"]));
    let (full, half) = (bench.extracted("full"), bench.extracted("half"));
    for (a, b) in full
        .row(1, "positive", 3)
        .iter()
        .zip(half.row(1, "positive", 3))
    {
        assert!((a - b).abs() <= a.abs() / 128.0, "{a} {b}");
    }
}

#[test]
fn pairs_without_a_comparable_position_are_counted() {
    let bench = Bench::new();
    let mut pairs = bench.pairs();
    pairs[2] = bench.pair(2, vec![10, 11], vec![10, 11, 12]);
    succeeded(&bench.run("out", &pairs, &["--positions", "response"]));
    let summary = summary(&bench.out("out"));
    assert_eq!(summary["counts"]["pairs_without_rows"], 1.0);
    assert!(
        summary["warnings"][0]
            .as_str()
            .unwrap()
            .contains("1 of 6 pairs")
    );
    let rows = bench.extracted("out").index;
    assert!(rows.iter().all(|row| row.pair_id != pairs[2].pair_id));
}

#[test]
fn bad_input_is_refused_by_name() {
    let bench = Bench::new();
    let good = bench.pairs();
    let refuse = |pairs: &[PairRow], arguments: &[&str], expected: &[&str]| {
        let message = refused(&bench.run("bad", pairs, arguments), &bench.out("bad"));
        for part in expected {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    };
    let with = |change: fn(&mut PairRow)| {
        let mut pairs = good.clone();
        change(&mut pairs[1]);
        pairs
    };
    let id = good[1].pair_id.as_str();
    refuse(&[], &[], &["no contrast pairs"]);
    refuse(
        &with(|p| p.prompt_id = "nobody".into()),
        &[],
        &[id, "nobody", "not in the prompts"],
    );
    refuse(
        &with(|p| p.chosen_token_ids = vec![END]),
        &[],
        &[id, "chosen response is empty"],
    );
    refuse(
        &with(|p| p.rejected_token_ids = vec![]),
        &[],
        &[id, "rejected response is empty"],
    );
    refuse(
        &with(|p| p.chosen_token_ids[2] = 999),
        &[],
        &[id, "token id 999", "vocabulary has 64"],
    );
    let long = with(|p| p.chosen_token_ids = vec![9; 300]);
    refuse(&long, &[], &[id, "`reask`", "the model's context is 256"]);
    refuse(&good, &["--layers", "2"], &["layer 2", "0 to 1"]);
    refuse(&good, &["--layers", "1,1"], &["layer 1 is asked for twice"]);
    refuse(&good, &["--rows-per-pair", "0"], &["rows-per-pair is 0"]);
    let same = [bench.pair(0, vec![10, 11], vec![10, 11])];
    refuse(
        &same,
        &["--positions", "response"],
        &["none of the 1 pairs"],
    );
    let (other, _) = bench.steering("other.safetensors", Digest::of_bytes(b"other"));
    refuse(
        &good,
        &["--steering", &other],
        &[
            &bench.digest().to_string(),
            &Digest::of_bytes(b"other").to_string(),
        ],
    );
}

#[test]
fn the_built_in_model_is_asked_again_in_its_own_template() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny");
    let model = LanguageModel::load(&tiny, &LoadOptions::default()).unwrap();
    let prompt = PromptRow::new(
        vec![Message::user("sort : dog , cat , dog")],
        "train",
        "test",
    );
    let answer = model.tokenizer().encode("cat , dog , dog").unwrap();
    let other = model.tokenizer().encode("dog , cat").unwrap();
    let stop = model.generation_config().eos_token_ids[0];
    let bench = Bench::new();
    let mut pair = bench.pair(0, [&answer[..], &[stop]].concat(), other.clone());
    pair.prompt_id.clone_from(&prompt.prompt_id);
    let prompts = [prompt];
    let planner = Planner::new(&model, &prompts, PositionSet::Reask, 1, 0);
    let planned = planner.plan(&[pair]).unwrap().remove(0);
    assert_eq!(
        planned.chosen.tokens,
        asked_again(&model, &prompts[0], &answer)
    );
    assert_eq!(
        planned.rejected.tokens,
        asked_again(&model, &prompts[0], &other)
    );
    let asked = prompt_tokens(&model, &prompts[0]);
    assert!(planned.chosen.tokens.ends_with(&asked));
    assert_eq!(planned.chosen.edit_from, asked.len() - 1);
}

/// T31: teacher forcing under the same mask gives the sampled tokens the probability that generation gave them.
#[test]
fn steered_generation_is_what_teacher_forcing_scores() {
    let bench = Bench::new();
    let model = bench.open_model();
    let mut steering = Steering::identity(bench.digest(), HIDDEN, LAYERS);
    let wave = |phase: f32| {
        (0..HIDDEN)
            .map(|i| (i as f32 + phase).sin())
            .collect::<Vec<_>>()
    };
    let rule = AngleRule::Remaining {
        target: 0.8,
        scale: 0.7,
    };
    let rotation = Householder::new(wave(2.0), 0.8, rule, None, None).unwrap();
    let additive = Additive::new(wave(0.0)).unwrap();
    for (layer, operator) in [
        (0, Operator::Additive(additive)),
        (1, Operator::Householder(rotation)),
    ] {
        steering.push(layer, Edit::new(operator)).unwrap();
    }
    let prompts = sims_sample::encode_prompts(&model, &bench.prompts, 12).unwrap();
    let draws = Draws {
        policy: "steered".to_owned(),
        indices: 0..4,
        seed: 1,
        round: 1,
        sampling: SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_new_tokens: 12,
            stop_tokens: vec![END],
        },
        limits: BatchLimits::default(),
    };
    let mut hook = steering.hook();
    let rows = draws
        .from(&model, &prompts, Some(&mut hook), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    hook.check_applied().unwrap();

    let score = |row: &ResponseRow, hook: Option<&mut dyn Hook>| -> f64 {
        let prompt = prompts
            .iter()
            .find(|p| p.prompt_id == row.prompt_id)
            .unwrap();
        let tokens = [&prompt.tokens[..], &row.token_ids].concat();
        let request = ScoreRequest::new(&tokens, prompt.tokens.len());
        let limits = ScoreLimits::default();
        let scored = response_logprobs(model.decoder(), &[request], &limits, hook, &mut |_| {
            ControlFlow::Continue(())
        });
        scored.unwrap().0[0].iter().map(|&x| f64::from(x)).sum()
    };
    let mut moved = 0;
    for row in &rows {
        let forced = score(row, Some(&mut steering.hook()));
        assert!((forced - row.logprob_sum).abs() < 1e-4 * row.token_ids.len() as f64);
        moved += usize::from((score(row, None) - row.logprob_sum).abs() > 0.05);
    }
    assert!(
        moved > rows.len() / 2,
        "the steering moved {moved} of {}",
        rows.len()
    );
}
