//! Scoring through shared prefixes equals scoring each sequence by itself.

use std::ops::ControlFlow;

use sims_model::ModelError;
use sims_model::score::{
    ScoreLimits, ScoreRequest, TokenCount, next_token_logits, response_logprobs, response_scores,
};

use crate::random_model::{CONTEXT, Push, VOCAB, decoder, log_softmax, plain_logits, tokens};

/// Six sequences like those of a judge: a common head, three first answers, two second answers each.
fn comparisons() -> Vec<Vec<u32>> {
    let head = tokens(0, 15);
    let pair = |first: u32, second: u32| {
        [
            head.clone(),
            tokens(10 + first, 6 + first as usize),
            tokens(20 + second, 4),
            vec![7],
        ]
        .concat()
    };
    (0..3)
        .flat_map(|first| (0..2).map(move |second| (first, second)))
        .map(|(a, b)| pair(a, b))
        .collect()
}

#[test]
fn shared_prefixes_do_not_change_next_token_logits() {
    let decoder = decoder();
    let mut sequences = comparisons();
    sequences.push(sequences[1][..10].to_vec());
    sequences.push(sequences[4].clone());
    let asked = [5, 60, 0];
    for max_rows in [1, 4, 20, 1000] {
        let limits = ScoreLimits { max_rows };
        let mut last = TokenCount::default();
        let (scores, count) =
            next_token_logits(&decoder, &sequences, &asked, &limits, &mut |count| {
                assert!(count.computed > last.computed);
                last = count;
                ControlFlow::Continue(())
            })
            .unwrap();
        for (sequence, score) in sequences.iter().zip(&scores) {
            let logits = plain_logits(&decoder, sequence, usize::MAX, None)
                .pop()
                .unwrap();
            assert_eq!(score.logits, asked.map(|token| logits[token as usize]));
            let expected = f64::from(logits[5]) - log_softmax(&logits)[5];
            assert!((f64::from(score.log_normaliser) - expected).abs() < 1e-5);
        }
        // Head once, first answers once, second answers and the question six times.
        assert_eq!(count.computed, 15 + (6 + 7 + 8) + 6 * 5);
        assert_eq!((count.computed, count.unique), (last.computed, last.unique));
        assert_eq!(count.total, sequences.iter().map(Vec::len).sum::<usize>());
    }
}

#[test]
fn response_logprobs_are_the_log_softmax_of_a_plain_pass() {
    let decoder = decoder();
    let prompt = tokens(1, 12);
    let responses: Vec<Vec<u32>> = (0..5)
        .map(|i| [prompt.clone(), tokens(30 + i, 3 + 2 * i as usize)].concat())
        .collect();
    let mut requests: Vec<ScoreRequest<'_>> = responses
        .iter()
        .map(|tokens| ScoreRequest::new(tokens, 12))
        .collect();
    requests.push(ScoreRequest {
        edit_from: 0,
        ..requests[2]
    });
    requests.push(ScoreRequest::new(&responses[0], 1));
    requests.push(ScoreRequest::new(&prompt, 12));
    for max_rows in [1, 6, 1000] {
        let mut hook = Push { layer: 1, by: 0.3 };
        let limits = ScoreLimits { max_rows };
        let (scores, count) =
            response_logprobs(&decoder, &requests, &limits, Some(&mut hook), &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(count.computed < count.total);
        for (request, scores) in requests.iter().zip(&scores) {
            let logits = plain_logits(&decoder, request.tokens, request.edit_from, Some(&mut hook));
            assert_eq!(scores.len(), request.tokens.len() - request.response_start);
            for (position, &score) in (request.response_start..).zip(scores) {
                let expected =
                    log_softmax(&logits[position - 1])[request.tokens[position] as usize];
                assert!((f64::from(score) - expected).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn response_scores_are_logprobs_with_greedy_flags_and_run_one_token_less() {
    let decoder = decoder();
    let mut sequence = tokens(1, 12);
    // A greedy token, then one that is not.
    let logits = plain_logits(&decoder, &sequence, usize::MAX, None)
        .pop()
        .unwrap();
    let best = (0..VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    sequence.push(best.unwrap() as u32);
    let logits = plain_logits(&decoder, &sequence, usize::MAX, None)
        .pop()
        .unwrap();
    let worst = (0..VOCAB).min_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    sequence.push(worst.unwrap() as u32);
    let single = tokens(3, 1);
    let requests = [
        ScoreRequest::new(&sequence, 12),
        ScoreRequest {
            edit_from: usize::MAX,
            ..ScoreRequest::new(&sequence, 5)
        },
        ScoreRequest::new(&single, 1),
    ];
    let limits = ScoreLimits::default();
    let mut hook = Push { layer: 1, by: 0.0 };
    let go_on = &mut |_: TokenCount| ControlFlow::Continue(());
    let (logprobs, all) =
        response_logprobs(&decoder, &requests, &limits, Some(&mut hook), go_on).unwrap();
    let (scores, count) =
        response_scores(&decoder, &requests, &limits, Some(&mut hook), go_on).unwrap();
    for (scores, logprobs) in scores.iter().zip(&logprobs) {
        let found: Vec<f32> = scores.iter().map(|score| score.logprob).collect();
        assert_eq!(&found, logprobs);
    }
    let greedy: Vec<bool> = scores[0].iter().map(|score| score.is_greedy).collect();
    assert_eq!(greedy, [true, false]);
    assert!(scores[2].is_empty());
    assert_eq!(count.total, all.total - 2);

    let full = tokens(2, CONTEXT + 1);
    let request = [ScoreRequest::new(&full, CONTEXT)];
    let (scores, _) = response_scores(&decoder, &request, &limits, None, go_on).unwrap();
    assert_eq!(scores[0].len(), 1);
    assert!(response_logprobs(&decoder, &request, &limits, None, go_on).is_err());
}

#[test]
fn bad_sequences_are_named() {
    let decoder = decoder();
    let next = |sequences: &[Vec<u32>], asked: &[u32]| {
        next_token_logits(
            &decoder,
            sequences,
            asked,
            &ScoreLimits::default(),
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap_err()
        .to_string()
    };
    assert_eq!(next(&[vec![1], Vec::new()], &[0]), "sequence 1 is empty");
    assert_eq!(
        next(&[vec![1; CONTEXT + 1]], &[0]),
        "sequence 0 of 129 tokens does not fit the model's context of 128"
    );
    assert_eq!(
        next(&[vec![1]], &[VOCAB as u32]),
        "token ids: 61 is outside the vocabulary of 61"
    );
    let request = ScoreRequest {
        tokens: &[1, 2],
        response_start: 3,
        edit_from: 0,
    };
    let error = response_logprobs(
        &decoder,
        &[request],
        &ScoreLimits::default(),
        None,
        &mut |_| ControlFlow::Continue(()),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "response_start: 3 of sequence 0 is not within 1..=2"
    );
    let stopped = next_token_logits(
        &decoder,
        &comparisons(),
        &[0],
        &ScoreLimits { max_rows: 4 },
        &mut |_| ControlFlow::Break(()),
    );
    assert!(matches!(stopped, Err(ModelError::Interrupted)));
}
