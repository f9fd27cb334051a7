//! The work of a round, counted by hand.

use serde_json::{Value, json};

use super::*;
use crate::model::assumed_prompts;

fn model() -> ModelSize {
    ModelSize {
        parameters: 1.0,
        active_parameters: 1.0,
        layers: 1.0,
        context: 100.0,
        footprints: BTreeMap::new(),
        counted: true,
        judge: [7.0, 3.0, 2.0, 5.0],
        prompts: BTreeMap::new(),
    }
}

struct Round {
    model: ModelSize,
    prompts: Vec<PromptLength>,
}

impl Round {
    fn new() -> Self {
        Self {
            model: model(),
            prompts: assumed_prompts(30, 32.0),
        }
    }

    fn work(&self, stage: &str, params: &Value, fed: &[(&'static str, Table)]) -> StageWork {
        let tables = fed.iter().map(|(role, table)| (*role, vec![*table]));
        work_of(&StageInputs {
            stage,
            params: params.as_object().unwrap(),
            files: [("prompts", &self.prompts[..])].into(),
            tables: tables.collect(),
            fed: fed.iter().map(|(role, _)| *role).collect(),
            model: Some(&self.model),
            response_tokens: 11.0,
        })
    }
}

#[test]
fn a_round_is_counted_as_by_hand() {
    let round = Round::new();
    let sampled =
        json!({"samples": 4, "max-new-tokens": 40, "shard-size": 10, "shard": 0, "round": 3});
    let sampled = round.work("sample", &sampled, &[]);
    let work = sampled.work.unwrap();
    // 10 prompts of 32 tokens, 40 responses of 11.
    assert_eq!(
        (work.read, work.written, work.sequences),
        (320.0, 440.0, 40.0)
    );
    assert_eq!(work.flops(2.0), 4.0 * 760.0);
    let responses = sampled.output.unwrap();

    // Four responses that meet two others are four pairs, eight comparisons; a judge reads ten tokens of each.
    let judged = json!({"judge": "self", "schedule": "circulant", "meets": 2, "controls": 0});
    let judged = round.work("judge", &judged, &[("responses", responses)]);
    let expected = 7.0 + 10.0 * (20.0 + 3.0 + 4.0 * (10.0 + 2.0) + 8.0 * (10.0 + 5.0));
    assert_eq!(judged.work.unwrap().read, expected);

    let pairs = round.work(
        "contrast",
        &json!({}),
        &[("judgments", judged.output.unwrap())],
    );
    assert_eq!(pairs.work, None);
    let pairs = pairs.output.unwrap();
    let read = |positions: &str| {
        let extracted = round.work(
            "extract",
            &json!({"positions": positions}),
            &[("pairs", pairs)],
        );
        extracted.work.unwrap().read
    };
    assert_eq!(read("response"), 10.0 * (32.0 + 22.0));
    assert_eq!(read("reask"), 10.0 * (3.0 * 32.0 + 22.0));
    assert_eq!(read("prompt"), 10.0 * 32.0);

    // Two passes over eight pairs, two held out; a backward pass counts as two forward ones.
    let tuned = round.work(
        "dpo",
        &json!({"epochs": 2, "held-out": 0.2}),
        &[("pairs", pairs)],
    );
    let work = tuned.work.unwrap();
    assert_eq!(work.learned, 2.0 * 8.0 * 52.0);
    assert_eq!(work.read, (16.0 + 10.0 + 4.0) * 52.0);
    assert_eq!(work.flops(1.0), 2.0 * (3.0 * 16.0 + 14.0) * 52.0);
}

#[test]
fn the_gates_search_draws_every_strength_and_confirms_one() {
    let round = Round::new();
    let table = Table::default();
    let params = json!({"judge": "planted-length", "draws": 2, "gate": "standard", "back-off": [1.0, 0.5],
        "selection-share": 0.4, "max-new-tokens": 5, "shard-size": 0});
    let written = |params: &Value, fed: &[(&'static str, Table)]| {
        round.work("steer-eval", params, fed).work.unwrap().written
    };
    // The base on 30 prompts, two strengths on 12, the confirmation on 18; two draws of five tokens.
    assert_eq!(written(&params, &[]), 10.0 * (30.0 + 2.0 * 12.0 + 18.0));
    let fed = [("base-responses", table), ("incumbent", table)];
    assert_eq!(written(&params, &fed), 10.0 * (2.0 * 12.0 + 2.0 * 18.0));
    let measured =
        json!({"judge": "planted-length", "draws": 2, "gate": "none", "max-new-tokens": 5});
    assert_eq!(
        written(&measured, &[("base-responses", table)]),
        10.0 * 30.0
    );
}

#[test]
fn what_is_not_known_is_said() {
    let round = Round::new();
    let unknown = round.work("my_stage", &json!({}), &[]);
    assert_eq!(unknown.work, None);
    assert!(unknown.notes[0].contains("my_stage"));
    let elsewhere = round.work(
        "judge",
        &json!({"judge": "http"}),
        &[("responses", Table::default())],
    );
    assert!(elsewhere.notes[0].contains("http"), "{elsewhere:?}");
}
