//! Little memory makes a run slower and changes nothing else.

use std::ops::ControlFlow;

use sims_model::capture::{CaptureRequest, HiddenStates, hidden_states};
use sims_model::generate::{
    BatchLimits, Generation, Progress, Request, SampleKey, SamplingParams, generate,
};
use sims_model::score::{ScoreLimits, ScoreRequest, TokenCount, response_logprobs};
use sims_model::{Batch, Decoder, Hook, KvCache, ModelError, Segment, Tensor};

use crate::random_model::{Push, VOCAB, decoder, decoder_with_context, tokens};

/// Prompts of different lengths, some alike, with 1 to 5 samples each.
fn requests(shared: usize) -> Vec<Request> {
    let lengths = [5, 1, 40, 17, 17, 3, 29, 8, 2, 45, 11, 33];
    let request = |(i, length): (u32, usize)| Request {
        prompt: [tokens(99, shared), tokens(i / 2, length)].concat(),
        samples: (0..1 + i % 5)
            .map(|sample| SampleKey::new(17, 1, &i.to_string(), sample))
            .collect(),
    };
    (0..).zip(lengths).map(request).collect()
}

fn sampling(max_new_tokens: usize) -> SamplingParams {
    SamplingParams {
        max_new_tokens,
        stop_tokens: vec![3, 14],
        repetition_penalty: 1.1,
        ..SamplingParams::default()
    }
}

fn run(
    decoder: &Decoder,
    requests: &[Request],
    params: &SamplingParams,
    limits: &BatchLimits,
    hook: Option<&mut dyn Hook>,
) -> Result<(Vec<Vec<Generation>>, Progress), ModelError> {
    let mut last = Progress::default();
    let generations = generate(decoder, requests, params, limits, hook, &mut |progress| {
        assert!(progress.finished >= last.finished && progress.new_tokens >= last.new_tokens);
        last = progress;
        ControlFlow::Continue(())
    })?;
    Ok((generations, last))
}

/// Steers as [`Push`] does, and has no memory for passes of more rows than it says.
struct Scarce {
    push: Push,
    rows: usize,
}

impl Scarce {
    fn new(rows: usize) -> Self {
        Self {
            push: Push { layer: 1, by: 0.5 },
            rows,
        }
    }
}

impl Hook for Scarce {
    fn wants(&self, layer: usize) -> bool {
        self.push.wants(layer)
    }

    fn on_block(
        &mut self,
        layer: usize,
        segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>, ModelError> {
        let rows = hidden.dim(0)?;
        if rows > self.rows {
            return Err(ModelError::OutOfMemory {
                message: format!("{rows} rows"),
            });
        }
        self.push.on_block(layer, segments, hidden)
    }
}

#[test]
fn neither_blocks_nor_preemption_change_responses() {
    let decoder = decoder();
    let mut preempted = 0;
    for (shared, max_new_tokens) in [(0, 40), (20, 40), (0, 7), (0, 1)] {
        let requests = requests(shared);
        let params = sampling(max_new_tokens);
        let mut hook = Push { layer: 1, by: 0.5 };
        let mut run = |limits: &BatchLimits| {
            let hook = Some(&mut hook as &mut dyn Hook);
            run(&decoder, &requests, &params, limits, hook).unwrap()
        };
        let alone = BatchLimits {
            max_sequences: 1,
            max_prefill_rows: 9,
            ..BatchLimits::default()
        };
        let (expected, plain) = run(&alone);
        assert_eq!(plain.repeated_tokens, 0);
        let needed = shared + 45 + max_new_tokens - 1;
        for slots_per_block in [1, 3, 16, 32, 500] {
            for (max_sequences, max_prefill_rows, slots) in [
                (64, 1024, needed),
                (64, 5, needed + 10),
                (7, 1024, needed + 50),
                (64, 1, 2 * needed),
                (64, 1024, 5 * needed),
                (64, 1024, 1_000_000),
            ] {
                let limits = BatchLimits {
                    max_sequences,
                    max_prefill_rows,
                    max_slots: slots,
                    slots_per_block,
                };
                let (generations, progress) = run(&limits);
                assert_eq!(generations, expected, "{limits:?}");
                assert_eq!(progress.finished, progress.total);
                assert_eq!(progress.prompt_tokens, plain.prompt_tokens);
                assert_eq!(progress.new_tokens, plain.new_tokens);
                if progress.preemptions == 0 {
                    assert_eq!(progress.repeated_tokens, 0);
                }
                if slots == 1_000_000 {
                    assert_eq!(progress.preemptions, 0, "{limits:?}");
                }
                preempted += progress.preemptions;
            }
        }
    }
    assert!(preempted > 100, "the test needs responses that stop");
}

/// Counts the rows that run for the first time.
#[derive(Default)]
struct Count {
    rows: usize,
}

impl Hook for Count {
    fn wants(&self, layer: usize) -> bool {
        layer == 0
    }

    fn on_block(
        &mut self,
        _: usize,
        segments: &[Segment],
        _: &Tensor,
    ) -> Result<Option<Tensor>, ModelError> {
        let first = segments.iter().filter(|segment| !segment.is_repeated);
        self.rows += first.map(Segment::len).sum::<usize>();
        Ok(None)
    }
}

#[test]
fn rows_that_run_again_are_marked() {
    let decoder = decoder();
    for shared in [0, 20] {
        let requests = requests(shared);
        for slots_per_block in [1, 16] {
            let limits = BatchLimits {
                max_slots: 120,
                slots_per_block,
                max_prefill_rows: 11,
                ..BatchLimits::default()
            };
            let mut hook = Count::default();
            let params = sampling(40);
            let (generations, progress) =
                run(&decoder, &requests, &params, &limits, Some(&mut hook)).unwrap();
            assert!(progress.repeated_tokens > 0);
            // The last token of a response is sampled and never runs.
            let responses = generations.iter().flatten();
            let sampled: usize = responses.map(|response| response.token_ids.len() - 1).sum();
            assert_eq!(hook.rows, progress.prompt_tokens + sampled);
        }
    }
}

#[test]
fn a_run_short_of_slots_repeats_little() {
    let decoder = decoder();
    let requests = requests(0);
    let params = SamplingParams {
        stop_tokens: Vec::new(),
        ..sampling(60)
    };
    // Room for five of the longest; up to 36 would run at once.
    let limits = BatchLimits {
        max_slots: 5 * 104,
        ..BatchLimits::default()
    };
    let (_, progress) = run(&decoder, &requests, &params, &limits, None).unwrap();
    assert!(progress.preemptions > 0);
    assert!(
        progress.repeated_tokens < (progress.prompt_tokens + progress.new_tokens) / 2,
        "{progress:?}"
    );
}

#[test]
fn memory_that_runs_out_halves_the_batch_and_changes_no_response() {
    let decoder = decoder();
    let requests = requests(20);
    let params = sampling(30);
    let defaults = BatchLimits::default();
    let expected = {
        let mut hook = Scarce::new(usize::MAX);
        run(&decoder, &requests, &params, &defaults, Some(&mut hook)).unwrap()
    };
    assert_eq!(expected.1.halvings, 0);
    for rows in [100, 20, 3, 1] {
        let mut hook = Scarce::new(rows);
        let (generations, progress) =
            run(&decoder, &requests, &params, &defaults, Some(&mut hook)).unwrap();
        assert_eq!(generations, expected.0, "{rows} rows");
        assert!((1..20).contains(&progress.halvings), "{progress:?}");
        assert_eq!(progress.new_tokens, expected.1.new_tokens);
    }
}

#[test]
fn one_sequence_without_memory_is_an_error_that_names_what_was_tried() {
    let decoder = decoder();
    let mut hook = Scarce::new(0);
    let requests = &requests(0)[2..];
    let limits = BatchLimits::default();
    let error = run(&decoder, requests, &sampling(30), &limits, Some(&mut hook)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "out of memory: 1 rows; the smallest batch tried has 1 row and 80 KV slots, which one sequence needs"
    );

    let tokens = tokens(1, 30);
    let requests = [ScoreRequest::new(&tokens, 20)];
    let limits = ScoreLimits::default();
    let error = response_logprobs(&decoder, &requests, &limits, Some(&mut hook), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "out of memory: 1 rows; the smallest batch tried has 1 row and 30 KV slots, which one sequence needs"
    );
}

#[test]
fn a_cache_beyond_all_memory_is_halved_until_it_fits() {
    let length = 1 << 20;
    let decoder = decoder_with_context(2 * length);
    // 2 048 responses of up to a million tokens: more than a tebibyte, of which almost nothing is used.
    let requests = [Request {
        prompt: tokens(0, 20),
        samples: (0..2048)
            .map(|sample| SampleKey::new(1, 1, "long", sample))
            .collect(),
    }];
    let params = SamplingParams {
        max_new_tokens: length,
        stop_tokens: (0..VOCAB as u32 / 2).collect(),
        ..SamplingParams::default()
    };
    let limits = BatchLimits {
        max_sequences: 2048,
        max_slots: usize::MAX,
        ..BatchLimits::default()
    };
    let (generations, progress) = run(&decoder, &requests, &params, &limits, None).unwrap();
    let roomy = BatchLimits {
        max_slots: 2 * length,
        ..BatchLimits::default()
    };
    let (expected, plain) = run(&decoder, &requests, &params, &roomy, None).unwrap();
    assert_eq!(generations, expected);
    assert_eq!(plain.halvings, 0);
    assert!(progress.halvings > 0);

    let mut batch = Batch::default();
    batch.push(&[1], Vec::new(), 0, 0);
    let mut cache = KvCache::new(&decoder, usize::MAX);
    let error = decoder.forward(&batch, &mut cache, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "out of memory: more bytes than there are addresses for keys and values"
    );
}

#[test]
fn scores_survive_memory_that_runs_out() {
    let decoder = decoder();
    let sequences: Vec<Vec<u32>> = (0..9)
        .map(|i| [tokens(50, 20), tokens(i, 4 + i as usize)].concat())
        .collect();
    // The last request scores nothing.
    let starts = [20, 22, 15, 24, 20, 20, 21, 20, 32];
    let requests: Vec<ScoreRequest<'_>> = sequences
        .iter()
        .zip(starts)
        .map(|(tokens, start)| ScoreRequest::new(tokens, start))
        .collect();
    let score = |rows: usize| {
        let mut hook = Scarce::new(rows);
        let mut last = TokenCount::default();
        let limits = ScoreLimits::default();
        let scored = response_logprobs(
            &decoder,
            &requests,
            &limits,
            Some(&mut hook),
            &mut |count| {
                assert!(count.computed > last.computed);
                last = count;
                ControlFlow::Continue(())
            },
        );
        scored.unwrap()
    };
    let (expected, plain) = score(usize::MAX);
    assert_eq!((plain.halvings, plain.computed), (0, plain.unique));
    for rows in [60, 25, 7, 1] {
        let (scores, count) = score(rows);
        assert_eq!(scores, expected, "{rows} rows");
        assert!(count.halvings > 0);
        assert_eq!((count.computed, count.total), (count.unique, plain.total));
    }
}

#[test]
fn states_survive_memory_that_runs_out() {
    let decoder = decoder();
    let requests: Vec<CaptureRequest> = (0..12)
        .map(|i| {
            let tokens = tokens(i, 5 + 2 * i as usize);
            CaptureRequest {
                positions: (2..tokens.len()).collect(),
                tokens,
                edit_from: 3,
            }
        })
        .collect();
    let capture = |rows: usize| {
        let mut hook = Scarce::new(rows);
        let mut captured: Vec<HiddenStates> = Vec::new();
        let count = hidden_states(
            &decoder,
            &requests,
            &[2, 1],
            &ScoreLimits::default(),
            Some(&mut hook),
            &mut |states| {
                captured.push(states);
                ControlFlow::Continue(())
            },
        );
        (captured, count.unwrap().halvings)
    };
    let (expected, halvings) = capture(usize::MAX);
    assert_eq!(halvings, 0);
    for rows in [60, 10, 1] {
        let (states, halvings) = capture(rows);
        assert_eq!(states, expected, "{rows} rows");
        assert!(halvings > 0);
    }
}

#[test]
fn ten_samples_of_a_long_prompt_cost_one_prefill() {
    let decoder = decoder_with_context(1024);
    let request = Request {
        prompt: tokens(0, 512),
        samples: (0..10)
            .map(|sample| SampleKey::new(1, 1, "long", sample))
            .collect(),
    };
    let limits = BatchLimits::for_decoder(&decoder);
    let (_, progress) = run(&decoder, &[request], &sampling(100), &limits, None).unwrap();
    let computed = progress.prompt_tokens + progress.repeated_tokens;
    assert!(computed as f64 <= 1.1 * 512.0, "{computed}");
}
