//! A condition made of extracted prompt states, in generation.

use crate::Bench;
use sims_model::generate::{BatchLimits, Generation, Request, SampleKey, SamplingParams, generate};
use sims_model::{Hook, LanguageModel};
use sims_steering::{Additive, Condition, ConditionBlock, Edit, Operator, Steering};
use sims_testkit::random_model::{HIDDEN, LAYERS, succeeded};
use std::ops::ControlFlow;

fn answers(
    model: &LanguageModel,
    prompts: &[Vec<u32>],
    limits: &BatchLimits,
    steering: Option<&Steering>,
) -> Vec<Vec<Generation>> {
    let requests: Vec<Request> = prompts
        .iter()
        .enumerate()
        .map(|(number, prompt)| Request {
            prompt: prompt.clone(),
            samples: (0..2)
                .map(|sample| SampleKey::new(3, 1, &format!("prompt {number}"), sample))
                .collect(),
        })
        .collect();
    let params = SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        max_new_tokens: 10,
        stop_tokens: vec![crate::END],
    };
    let mut hook = steering.map(Steering::hook);
    let hook = hook.as_mut().map(|hook| hook as &mut dyn Hook);
    generate(
        model.decoder(),
        &requests,
        &params,
        limits,
        hook,
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap()
}

/// T18: of the prompts of one run, those for which the condition holds are answered as by the steered model and the
/// others as by the base model, to the bit, in any batch; and the verdict is that of the extracted prompt states.
#[test]
fn each_prompt_is_steered_by_its_own_state() {
    let bench = Bench::new();
    let model = bench.open_model();
    let pairs = bench.pairs();
    succeeded(&bench.run(
        "states",
        &pairs,
        &["--positions", "prompt", "--layers", "0,1"],
    ));
    let states = bench.extracted("states");
    let rows: Vec<Vec<f32>> = (0..pairs.len())
        .map(|row| states.row(0, "positive", row))
        .collect();
    // Between the first two prompts; what the others are is theirs to say.
    let pick = |f: fn(f32, f32) -> f32| -> Vec<f32> {
        rows[0]
            .iter()
            .zip(&rows[1])
            .map(|(a, b)| f(*a, *b))
            .collect()
    };
    let center = pick(|a, b| (a + b) / 2.0);
    let block = ConditionBlock::new(0, center, pick(|a, b| a - b), 0.0).unwrap();
    let verdicts: Vec<bool> = rows
        .iter()
        .map(|row| block.holds(&row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()))
        .collect();
    assert!(verdicts[0] && !verdicts[1]);

    let vector = (0..HIDDEN).map(|i| 2.0 * (i as f32).sin()).collect();
    let mut always = Steering::identity(bench.digest(), HIDDEN, LAYERS);
    always
        .push(
            1,
            Edit::new(Operator::Additive(Additive::new(vector).unwrap())),
        )
        .unwrap();
    let condition = Condition::new(vec![block]).unwrap();
    let sometimes = always.clone().conditional(condition).unwrap();
    let prompts: Vec<Vec<u32>> = bench
        .prompts
        .iter()
        .map(|prompt| crate::prompt_tokens(&model, prompt))
        .collect();
    let whole = BatchLimits::default();
    let base = answers(&model, &prompts, &whole, None);
    let steered = answers(&model, &prompts, &whole, Some(&always));
    assert_ne!(base, steered);
    // One sequence and a few prompt rows at a time.
    let small = BatchLimits {
        max_sequences: 1,
        max_prefill_rows: 3,
        ..BatchLimits::default()
    };
    // Slots for two or three responses: others stop, prompts are computed again, and slots change hands.
    let longest = prompts.iter().map(Vec::len).max().unwrap();
    let tight = BatchLimits {
        max_prefill_rows: 7,
        max_slots: 2 * (longest + 10),
        slots_per_block: 4,
        ..BatchLimits::default()
    };
    for limits in [whole, small, tight] {
        let gated = answers(&model, &prompts, &limits, Some(&sometimes));
        for (number, &holds) in verdicts.iter().enumerate() {
            let expected = if holds { &steered } else { &base };
            assert_eq!(gated[number], expected[number], "prompt {number}");
        }
    }
}
