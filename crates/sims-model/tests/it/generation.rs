//! Ragged generation: nothing about the batch shows in a response.

use std::ops::ControlFlow;

use sims_model::decoder::Kernels;
use sims_model::generate::{
    BatchLimits, FinishReason, Generation, Progress, Request, SampleKey, SamplingParams, generate,
};
use sims_model::score::{ScoreLimits, ScoreRequest, response_logprobs};
use sims_model::{Batch, Decoder, Dtype, Hook, KvCache, ModelError, Segment, Tensor};

use crate::fixtures::{Fixture, NAMES};
use crate::random_model::{CONTEXT, HIDDEN, Push, decoder, log_softmax, plain_logits, tokens};

fn keys(prompt: u32, samples: u32) -> Vec<SampleKey> {
    (0..samples)
        .map(|sample| SampleKey::new(17, 1, &prompt.to_string(), sample))
        .collect()
}

/// Prompts of 1 to 45 tokens; some begin alike, two are the same.
fn requests() -> Vec<Request> {
    let lengths = [5, 1, 40, 17, 17, 3, 29, 8, 2, 45, 11];
    let mut requests: Vec<Request> = (0..)
        .zip(lengths)
        .map(|(i, length)| {
            let shared = if i % 3 == 0 {
                tokens(99, length / 2)
            } else {
                Vec::new()
            };
            let own = tokens(i, length - shared.len());
            Request {
                prompt: [shared, own].concat(),
                samples: keys(i, 1 + i % 4),
            }
        })
        .collect();
    requests.push(Request {
        prompt: requests[3].prompt.clone(),
        samples: keys(90, 2),
    });
    requests
}

fn run(
    decoder: &Decoder,
    requests: &[Request],
    params: &SamplingParams,
    limits: &BatchLimits,
) -> Vec<Vec<Generation>> {
    generate(decoder, requests, params, limits, None, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

fn sampled() -> SamplingParams {
    SamplingParams {
        max_new_tokens: 20,
        stop_tokens: vec![3, 14],
        ..SamplingParams::default()
    }
}

fn one_at_a_time() -> BatchLimits {
    BatchLimits {
        max_sequences: 1,
        max_prefill_rows: 7,
        max_slots: 70,
        slots_per_block: 1,
    }
}

#[test]
fn batch_limits_do_not_change_responses() {
    let decoder = decoder();
    let requests = requests();
    let shaped = SamplingParams {
        temperature: 0.8,
        top_k: 20,
        top_p: 0.9,
        min_p: 0.01,
        repetition_penalty: 1.2,
        ..sampled()
    };
    for params in [
        sampled(),
        shaped,
        SamplingParams {
            max_new_tokens: 1,
            ..sampled()
        },
    ] {
        let expected = run(&decoder, &requests, &params, &one_at_a_time());
        for (max_sequences, max_prefill_rows, max_slots) in [
            (3, 1, 100),
            (3, 64, 90),
            (8, 13, 300),
            (64, 1024, 32_768),
            (64, 3, 65),
            (1000, 1_000_000, 1_000_000),
        ] {
            let limits = BatchLimits {
                max_sequences,
                max_prefill_rows,
                max_slots,
                ..BatchLimits::default()
            };
            assert_eq!(
                run(&decoder, &requests, &params, &limits),
                expected,
                "{limits:?}"
            );
        }
    }
}

#[test]
fn request_order_does_not_change_responses() {
    let decoder = decoder();
    let requests = requests();
    let forwards = run(&decoder, &requests, &sampled(), &BatchLimits::default());
    let reversed: Vec<Request> = requests.iter().rev().cloned().collect();
    let limits = BatchLimits {
        max_sequences: 5,
        ..BatchLimits::default()
    };
    let mut backwards = run(&decoder, &reversed, &sampled(), &limits);
    backwards.reverse();
    assert_eq!(forwards, backwards);
    // A prompt by itself, too.
    for (request, expected) in requests.iter().zip(&forwards) {
        let alone = run(
            &decoder,
            std::slice::from_ref(request),
            &sampled(),
            &BatchLimits::default(),
        );
        assert_eq!(&alone[0], expected);
    }
}

#[test]
fn samples_of_a_prompt_equal_separate_requests() {
    let decoder = decoder();
    let prompt = tokens(4, 30);
    let together = Request {
        prompt: prompt.clone(),
        samples: keys(4, 10),
    };
    let apart: Vec<Request> = keys(4, 10)
        .into_iter()
        .map(|key| Request {
            prompt: prompt.clone(),
            samples: vec![key],
        })
        .collect();
    let mut last = Progress::default();
    let generations = generate(
        &decoder,
        &[together],
        &sampled(),
        &BatchLimits::default(),
        None,
        &mut |progress| {
            last = progress;
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert_eq!(
        generations[0],
        run(&decoder, &apart, &sampled(), &one_at_a_time()).concat()
    );
    assert_eq!(last.prompt_tokens, 30);
    assert_eq!((last.finished, last.total), (10, 10));
    assert_eq!(
        last.new_tokens,
        generations[0]
            .iter()
            .map(|g| g.token_ids.len())
            .sum::<usize>()
    );
    // Ten streams, ten responses.
    let distinct: std::collections::HashSet<_> =
        generations[0].iter().map(|g| &g.token_ids).collect();
    assert!(distinct.len() > 5);
}

#[test]
fn a_prefix_of_all_prompts_is_computed_once() {
    let decoder = decoder();
    let head = tokens(50, 20);
    let requests: Vec<Request> = (0..6)
        .map(|i| Request {
            prompt: [head.clone(), tokens(i, 3 + i as usize)].concat(),
            samples: keys(i, 2),
        })
        .collect();
    let mut last = Progress::default();
    let shared = generate(
        &decoder,
        &requests,
        &sampled(),
        &BatchLimits::default(),
        None,
        &mut |progress| {
            last = progress;
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert_eq!(last.prompt_tokens, 20 + (3..9).sum::<usize>());
    for (request, expected) in requests.iter().zip(&shared) {
        let alone = run(
            &decoder,
            std::slice::from_ref(request),
            &sampled(),
            &BatchLimits::default(),
        );
        assert_eq!(&alone[0], expected);
    }
}

/// The token with the largest logit, the first of equals.
fn most_probable(logits: &[f32]) -> u32 {
    let best = (0..logits.len())
        .rev()
        .max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.unwrap() as u32
}

#[test]
fn greedy_takes_the_most_probable_token_of_a_whole_pass() {
    let decoder = decoder();
    let requests = requests();
    let params = SamplingParams::greedy(12, Vec::new());
    for (request, generations) in
        requests
            .iter()
            .zip(run(&decoder, &requests, &params, &BatchLimits::default()))
    {
        let mut sequence = request.prompt.clone();
        let mut logprob_sum = 0.0;
        for _ in 0..12 {
            let logits = plain_logits(&decoder, &sequence, usize::MAX, None)
                .pop()
                .unwrap();
            let best = most_probable(&logits);
            logprob_sum += log_softmax(&logits)[best as usize];
            sequence.push(best);
        }
        for generation in generations {
            assert_eq!(generation.token_ids, sequence[request.prompt.len()..]);
            assert_eq!(generation.finish_reason, FinishReason::Length);
            assert!((generation.logprob_sum - logprob_sum).abs() < 1e-4);
        }
    }
}

#[test]
fn greedy_responses_are_those_of_transformers() {
    const NEAR_TIE: f32 = 1e-4;
    for name in NAMES {
        let fixture = Fixture::open(name);
        let decoder = fixture.decoder(Dtype::F32, Kernels::Fastest);
        let requests: Vec<Request> = fixture
            .prompts()
            .into_iter()
            .map(|prompt| Request {
                prompt,
                samples: keys(0, 1),
            })
            .collect();
        let params = SamplingParams::greedy(fixture.tokens("greedy.0").len(), Vec::new());
        let responses = run(&decoder, &requests, &params, &BatchLimits::default());
        for (i, response) in responses.concat().into_iter().enumerate() {
            let expected = fixture.tokens(&format!("greedy.{i}"));
            let gaps = &fixture.rows(&format!("greedy_gaps.{i}")).unwrap()[0];
            let sure = gaps.iter().take_while(|&&gap| gap >= NEAR_TIE).count();
            assert_eq!(
                response.token_ids[..sure],
                expected[..sure],
                "{name}, prompt {i}"
            );
        }
    }
}

#[test]
fn a_stop_token_ends_a_response_and_is_kept() {
    let decoder = decoder();
    let requests = requests();
    let free = SamplingParams {
        stop_tokens: Vec::new(),
        ..sampled()
    };
    let unstopped = run(&decoder, &requests, &free, &BatchLimits::default()).concat();
    let stopped = run(&decoder, &requests, &sampled(), &BatchLimits::default()).concat();
    let mut stops = 0;
    for (stopped, unstopped) in stopped.iter().zip(&unstopped) {
        assert_eq!(unstopped.token_ids.len(), 20);
        let end = unstopped
            .token_ids
            .iter()
            .position(|token| [3, 14].contains(token));
        let kept = end.map_or(20, |end| end + 1);
        assert_eq!(stopped.token_ids, unstopped.token_ids[..kept]);
        let expected = if end.is_some() {
            FinishReason::Stop
        } else {
            FinishReason::Length
        };
        assert_eq!(stopped.finish_reason, expected);
        stops += usize::from(end.is_some());
    }
    assert!(stops > 3, "the test needs responses that stop");
}

#[test]
fn generation_equals_scoring_under_a_hook() {
    // method T31: the mask of teacher-forced scoring is that of generation.
    let decoder = decoder();
    let requests = requests();
    for params in [
        SamplingParams::greedy(12, Vec::new()),
        SamplingParams {
            stop_tokens: Vec::new(),
            ..sampled()
        },
    ] {
        let mut hook = Push { layer: 1, by: 0.6 };
        let limits = BatchLimits {
            max_sequences: 7,
            max_prefill_rows: 11,
            ..BatchLimits::default()
        };
        let steered = generate(
            &decoder,
            &requests,
            &params,
            &limits,
            Some(&mut hook),
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
        let mut sequences = Vec::new();
        let mut expected = Vec::new();
        for (request, generations) in requests.iter().zip(&steered) {
            for generation in generations {
                sequences.push((
                    [&request.prompt[..], &generation.token_ids].concat(),
                    request.prompt.len(),
                ));
                expected.push(generation.logprob_sum);
            }
        }
        let score = |edit_from: Option<usize>, hook: Option<&mut dyn Hook>| -> Vec<f64> {
            let requests: Vec<ScoreRequest<'_>> = sequences
                .iter()
                .map(|(tokens, start)| {
                    let request = ScoreRequest::new(tokens, *start);
                    ScoreRequest {
                        edit_from: edit_from.unwrap_or(request.edit_from),
                        ..request
                    }
                })
                .collect();
            let (scores, _) = response_logprobs(
                &decoder,
                &requests,
                &ScoreLimits::default(),
                hook,
                &mut |_| ControlFlow::Continue(()),
            )
            .unwrap();
            scores
                .iter()
                .map(|tokens| tokens.iter().map(|&x| f64::from(x)).sum())
                .collect()
        };
        let gap = |scores: Vec<f64>| {
            scores
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max)
        };
        assert!(gap(score(None, Some(&mut hook))) < 1e-4);
        assert!(
            gap(score(Some(0), Some(&mut hook))) > 1e-2,
            "editing the prompt too must show"
        );
        assert!(gap(score(None, None)) > 1e-2, "the hook must show");
    }
}

#[test]
fn cached_steps_have_the_logits_of_a_teacher_forced_pass() {
    // method T31, every logit of every step: an edit that reached a cached key or value of one way and not of the
    // other would show here before it shows in a token.
    const STEPS: usize = 12;
    let decoder = decoder();
    let mut hook = Push { layer: 1, by: 0.6 };
    let requests = requests();
    let params = SamplingParams::greedy(STEPS, Vec::new());
    let generated = generate(
        &decoder,
        &requests,
        &params,
        &BatchLimits::default(),
        Some(&mut hook),
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap();
    for (request, generations) in requests.iter().zip(&generated) {
        let last = request.prompt.len() - 1;
        let mut sequence = request.prompt.clone();
        let mut cache = KvCache::new(&decoder, sequence.len() + STEPS);
        let (mut cached, mut steps) = (0, Vec::new());
        while steps.len() < STEPS {
            let mut batch = Batch::default();
            let context = (cached > 0).then_some(0..cached).into_iter().collect();
            batch.push(&sequence[cached..], context, cached, last);
            cached = sequence.len();
            let hidden = decoder
                .forward(&batch, &mut cache, Some(&mut hook))
                .unwrap();
            let rows: Vec<Vec<f32>> = decoder.logits(&hidden).unwrap().to_vec2().unwrap();
            let logits = rows[rows.len() - 1].clone();
            sequence.push(most_probable(&logits));
            steps.push(logits);
        }
        assert_eq!(generations[0].token_ids, sequence[last + 1..]);

        let mut gap = |edit_from: usize| {
            let tokens = &sequence[..sequence.len() - 1];
            let forced = plain_logits(&decoder, tokens, edit_from, Some(&mut hook));
            let pairs = forced[last..].iter().flatten().zip(steps.iter().flatten());
            pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        assert!(gap(last) < 1e-4, "{}", gap(last));
        // A prompt of one token has nothing before its last.
        assert!(
            last == 0 || gap(0) > 1e-2,
            "editing the prompt too must show"
        );
    }
}

#[test]
fn steered_responses_do_not_depend_on_the_batch() {
    let decoder = decoder();
    let requests = requests();
    let steered = |limits: BatchLimits| {
        let mut hook = Push { layer: 0, by: 0.4 };
        generate(
            &decoder,
            &requests,
            &sampled(),
            &limits,
            Some(&mut hook),
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap()
    };
    let alone = steered(one_at_a_time());
    assert_eq!(alone, steered(BatchLimits::default()));
    assert_ne!(
        alone,
        run(&decoder, &requests, &sampled(), &BatchLimits::default())
    );
}

/// Makes one block's output NaN.
struct Poison;

impl Hook for Poison {
    fn wants(&self, layer: usize) -> bool {
        layer == 2
    }

    fn on_block(
        &mut self,
        _: usize,
        _: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>, ModelError> {
        Ok(Some(Tensor::full(
            f32::NAN,
            (hidden.dim(0)?, HIDDEN),
            hidden.device(),
        )?))
    }
}

#[test]
fn bad_requests_are_named() {
    let decoder = decoder();
    let try_run = |requests: &[Request],
                   params: &SamplingParams,
                   limits: &BatchLimits,
                   hook: Option<&mut dyn Hook>| {
        generate(&decoder, requests, params, limits, hook, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err()
        .to_string()
    };
    let request = |prompt: Vec<u32>| Request {
        prompt,
        samples: keys(0, 1),
    };
    let fine = request(vec![1, 2, 3]);
    let defaults = BatchLimits::default();
    let empty = [fine.clone(), request(Vec::new())];
    assert_eq!(
        try_run(&empty, &sampled(), &defaults, None),
        "sequence 1 is empty"
    );
    let long = [fine.clone(), request(tokens(0, CONTEXT - 19))];
    assert_eq!(
        try_run(&long, &sampled(), &defaults, None),
        "prompt 1 of 109 tokens and 20 new ones do not fit the model's context of 128"
    );
    let small = BatchLimits {
        max_slots: 21,
        ..defaults
    };
    assert_eq!(
        try_run(std::slice::from_ref(&fine), &sampled(), &small, None),
        "max_slots: 21 slots are too few: the longest prompt with its response needs 22"
    );
    let cold = SamplingParams {
        temperature: -1.0,
        ..sampled()
    };
    assert_eq!(
        try_run(std::slice::from_ref(&fine), &cold, &defaults, None),
        "temperature: must be 0 or more, not -1"
    );
    assert_eq!(
        try_run(
            std::slice::from_ref(&fine),
            &sampled(),
            &defaults,
            Some(&mut Poison)
        ),
        "request 0, sample 0, new token 0"
    );
}

#[test]
fn the_callback_can_stop_a_run() {
    let decoder = decoder();
    let mut calls = 0;
    let result = generate(
        &decoder,
        &requests(),
        &sampled(),
        &BatchLimits::default(),
        None,
        &mut |_| {
            calls += 1;
            if calls == 3 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    assert!(matches!(result, Err(ModelError::Interrupted)));
    assert_eq!(calls, 3);
}

#[test]
fn nothing_asked_gives_nothing() {
    let decoder = decoder();
    assert!(run(&decoder, &[], &sampled(), &BatchLimits::default()).is_empty());
    let none = Request {
        prompt: vec![1],
        samples: Vec::new(),
    };
    assert_eq!(
        run(&decoder, &[none], &sampled(), &BatchLimits::default()),
        [Vec::new()]
    );
}
