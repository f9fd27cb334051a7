//! The sampler against known answers and against a plain transcription of transformers' definitions.

use super::*;
use crate::rng::SampleKey;

fn params() -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        ..SamplingParams::default()
    }
}

fn choose(params: &SamplingParams, logits: &[f32], seen: &[u32], uniform: f64) -> Choice {
    let mut tokens = SeenTokens::default();
    tokens.extend(seen);
    Sampler::new(params)
        .unwrap()
        .choose(logits, &tokens, uniform)
        .unwrap()
}

/// Tokens that can come out of `logits` at all, by trying many uniform numbers.
fn support(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
    let mut seen: Vec<u32> = (0..10_000)
        .map(|i| choose(params, logits, &[], f64::from(i) / 10_000.0).token)
        .collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

/// Log of 0.5, 0.25, 0.15, 0.1.
fn quarter_row() -> Vec<f32> {
    [0.25_f32, 0.5, 0.1, 0.15].map(f32::ln).to_vec()
}

#[test]
fn inverse_cumulative_runs_in_token_order() {
    let logits = quarter_row();
    for (uniform, token) in [
        (0.0, 0),
        (0.249, 0),
        (0.251, 1),
        (0.749, 1),
        (0.751, 2),
        (0.849, 2),
        (0.851, 3),
    ] {
        assert_eq!(
            choose(&params(), &logits, &[], uniform).token,
            token,
            "{uniform}"
        );
    }
    assert_eq!(choose(&params(), &logits, &[], 1.0 - f64::EPSILON).token, 3);
}

#[test]
fn greedy_takes_the_lowest_id_of_equals() {
    let greedy = SamplingParams::greedy(1, Vec::new());
    assert_eq!(choose(&greedy, &[1.0, 3.0, 3.0, 2.0], &[], 0.9).token, 1);
    assert_eq!(choose(&greedy, &[0.0; 5], &[], 0.9).token, 0);
}

#[test]
fn log_probability_is_the_plain_models() {
    let logits = quarter_row();
    let shaped = SamplingParams {
        temperature: 0.3,
        top_k: 1,
        repetition_penalty: 2.0,
        ..params()
    };
    let choice = choose(&shaped, &logits, &[0], 0.5);
    assert_eq!(choice.token, 1);
    assert!((choice.log_probability - 0.5_f64.ln()).abs() < 1e-6);
    let greedy = choose(&SamplingParams::greedy(1, Vec::new()), &logits, &[], 0.5);
    assert!((greedy.log_probability - 0.5_f64.ln()).abs() < 1e-6);
}

#[test]
fn temperature_sharpens() {
    // At temperature 1/2 the probabilities are squared: 0.0625, 0.25, 0.01, 0.0225 of 0.345.
    let cold = SamplingParams {
        temperature: 0.5,
        ..params()
    };
    let logits = quarter_row();
    let edge = 0.0625 / 0.345;
    assert_eq!(choose(&cold, &logits, &[], edge - 1e-4).token, 0);
    assert_eq!(choose(&cold, &logits, &[], edge + 1e-4).token, 1);
}

#[test]
fn filters_have_known_supports() {
    let logits = quarter_row();
    assert_eq!(
        support(
            &SamplingParams {
                top_k: 2,
                ..params()
            },
            &logits
        ),
        [0, 1]
    );
    assert_eq!(
        support(
            &SamplingParams {
                top_k: 99,
                ..params()
            },
            &logits
        ),
        [0, 1, 2, 3]
    );
    // 0.5 alone reaches 0.5; 0.51 needs the next one; 0.75 holds after two, 0.76 needs three.
    assert_eq!(
        support(
            &SamplingParams {
                top_p: 0.499,
                ..params()
            },
            &logits
        ),
        [1]
    );
    assert_eq!(
        support(
            &SamplingParams {
                top_p: 0.51,
                ..params()
            },
            &logits
        ),
        [0, 1]
    );
    assert_eq!(
        support(
            &SamplingParams {
                top_p: 0.76,
                ..params()
            },
            &logits
        ),
        [0, 1, 3]
    );
    assert_eq!(
        support(
            &SamplingParams {
                top_p: 1e-6,
                ..params()
            },
            &logits
        ),
        [1]
    );
    assert_eq!(
        support(
            &SamplingParams {
                min_p: 0.29,
                ..params()
            },
            &logits
        ),
        [0, 1, 3]
    );
    assert_eq!(
        support(
            &SamplingParams {
                min_p: 1.0,
                ..params()
            },
            &logits
        ),
        [1]
    );
}

#[test]
fn top_k_keeps_ties_and_top_p_takes_the_lower_id() {
    let logits = [2.0, 1.0, 1.0, 0.0];
    assert_eq!(
        support(
            &SamplingParams {
                top_k: 2,
                ..params()
            },
            &logits
        ),
        [0, 1, 2]
    );
    // Probabilities 0.534, 0.197, 0.197, 0.072.
    assert_eq!(
        support(
            &SamplingParams {
                top_p: 0.7,
                ..params()
            },
            &logits
        ),
        [0, 1]
    );
}

#[test]
fn repetition_penalty_divides_and_multiplies_once() {
    let greedy = SamplingParams {
        repetition_penalty: 2.0,
        ..SamplingParams::greedy(1, Vec::new())
    };
    // 3 becomes 1.5 once, however often seen; −1 becomes −2.
    assert_eq!(choose(&greedy, &[3.0, 1.6, 0.0], &[0, 0, 0], 0.0).token, 1);
    assert_eq!(choose(&greedy, &[3.0, 1.4, 0.0], &[0, 0, 0], 0.0).token, 0);
    assert_eq!(choose(&greedy, &[-1.0, -1.9], &[0], 0.0).token, 1);
    assert_eq!(choose(&greedy, &[-1.0, -2.1], &[0], 0.0).token, 0);
}

#[test]
fn masked_tokens_are_never_chosen() {
    let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
    assert_eq!(support(&params(), &logits), [1, 3]);
    assert_eq!(choose(&params(), &logits, &[], 0.0).token, 1);
}

#[test]
fn bad_logits_and_parameters_are_errors() {
    let mut sampler = Sampler::new(&params()).unwrap();
    let seen = SeenTokens::default();
    assert_eq!(
        sampler.choose(&[0.0, f32::NAN], &seen, 0.5),
        Err(LogitsError::NotFinite { token: 1 })
    );
    for bad in [
        SamplingParams {
            temperature: -1.0,
            ..params()
        },
        SamplingParams {
            temperature: f32::NAN,
            ..params()
        },
        SamplingParams {
            top_p: 0.0,
            ..params()
        },
        SamplingParams {
            min_p: 1.5,
            ..params()
        },
        SamplingParams {
            repetition_penalty: 0.0,
            ..params()
        },
        SamplingParams {
            max_new_tokens: 0,
            ..params()
        },
    ] {
        assert!(Sampler::new(&bad).is_err(), "{bad:?}");
    }
    let error = Sampler::new(&SamplingParams {
        top_p: 1.5,
        ..params()
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "top-p: must be above 0 and at most 1, not 1.5"
    );
}

/// transformers' processors written out with whole sorts, in f64; returns the normalised probabilities.
fn reference(params: &SamplingParams, logits: &[f32], seen: &[u32]) -> Vec<f64> {
    let mut scores: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    let mut unique = seen.to_vec();
    unique.sort_unstable();
    unique.dedup();
    for token in unique {
        let score = &mut scores[token as usize];
        let penalty = f64::from(params.repetition_penalty);
        *score = if *score < 0.0 {
            *score * penalty
        } else {
            *score / penalty
        };
    }
    scores
        .iter_mut()
        .for_each(|score| *score /= f64::from(params.temperature));
    let softmax = |scores: &[f64]| {
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        scores
            .iter()
            .map(|score| (score - max).exp() / total)
            .collect::<Vec<f64>>()
    };
    if params.top_k > 0 {
        let mut sorted = scores.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let threshold = sorted[params.top_k.min(sorted.len()) - 1];
        scores
            .iter_mut()
            .filter(|score| **score < threshold)
            .for_each(|score| *score = f64::NEG_INFINITY);
    }
    if params.top_p < 1.0 {
        // TopPLogitsWarper: ascending order, drop where the cumulative probability is at most 1 − top_p, keep the last.
        let probabilities = softmax(&scores);
        let mut ascending: Vec<usize> = (0..scores.len()).collect();
        ascending.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        let mut cumulative = 0.0;
        for &token in &ascending[..ascending.len() - 1] {
            cumulative += probabilities[token];
            if cumulative <= 1.0 - f64::from(params.top_p) {
                scores[token] = f64::NEG_INFINITY;
            }
        }
    }
    if params.min_p > 0.0 {
        let probabilities = softmax(&scores);
        let max = probabilities.iter().copied().fold(0.0, f64::max);
        for (score, probability) in scores.iter_mut().zip(probabilities) {
            if probability < f64::from(params.min_p) * max {
                *score = f64::NEG_INFINITY;
            }
        }
    }
    softmax(&scores)
}

#[test]
fn draws_follow_the_reference_distribution() {
    for case in 0..300_u32 {
        let random = |n: u64| SampleKey::new(11, 0, "sampler", case).uniform(n);
        let vocab = 5 + (random(0) * 400.0) as u64;
        let logits: Vec<f32> = (0..vocab)
            .map(|i| (random(100 + i) * 12.0 - 6.0) as f32)
            .collect();
        let seen: Vec<u32> = (0..10)
            .map(|i| (random(600 + i) * vocab as f64) as u32)
            .collect();
        let params = SamplingParams {
            temperature: (0.2 + random(1) * 1.5) as f32,
            top_k: if case % 2 == 0 {
                1 + (random(2) * 60.0) as usize
            } else {
                0
            },
            top_p: if case % 3 == 0 {
                (0.3 + 0.69 * random(3)) as f32
            } else {
                1.0
            },
            min_p: if case % 5 == 0 {
                (random(4) * 0.2) as f32
            } else {
                0.0
            },
            repetition_penalty: if case % 4 == 0 {
                (0.7 + random(5)) as f32
            } else {
                1.0
            },
            ..SamplingParams::default()
        };
        let expected = reference(&params, &logits, &seen);
        let mut edge = 0.0;
        for (token, &probability) in expected.iter().enumerate() {
            // Just inside each end of the token's stretch of the cumulative distribution.
            if probability > 1e-4 {
                for uniform in [edge + 1e-5, edge + probability - 1e-5] {
                    assert_eq!(
                        choose(&params, &logits, &seen, uniform).token as usize,
                        token,
                        "case {case} {params:?}"
                    );
                }
            }
            edge += probability;
        }
    }
}

/// A row of `tests/fixtures/sampler/cases.json`, made by transformers.
#[derive(serde::Deserialize)]
struct Case {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    logits: Vec<f32>,
    seen: Vec<u32>,
    probabilities: Vec<f64>,
}

#[test]
fn draws_follow_what_transformers_draws_from() {
    #[derive(serde::Deserialize)]
    struct Cases {
        cases: Vec<Case>,
    }
    let text = include_str!("../../tests/fixtures/sampler/cases.json");
    let Cases { cases } = serde_json::from_str(text).unwrap();
    assert!(cases.len() > 40);
    for (index, case) in cases.iter().enumerate() {
        let params = SamplingParams {
            temperature: case.temperature,
            top_k: case.top_k,
            top_p: case.top_p,
            min_p: case.min_p,
            repetition_penalty: case.repetition_penalty,
            ..SamplingParams::default()
        };
        let mut edge = 0.0;
        for (token, &probability) in case.probabilities.iter().enumerate() {
            if probability > 1e-4 {
                for uniform in [edge + 1e-5, edge + probability - 1e-5] {
                    let found = choose(&params, &case.logits, &case.seen, uniform).token;
                    assert_eq!(found as usize, token, "case {index}, {params:?}");
                }
            }
            edge += probability;
        }
    }
}
