//! T38 of the test ladder: how often the gain gate decides rightly.

use sims_stats::Bootstrap;
use sims_stats::random::Stream;

use crate::SteerEvalParams;

/// Wins on 500 prompts, each with probability `rate`.
fn wins(rate: f64, repeat: u64) -> Vec<f64> {
    let mut stream = Stream::new((1000.0 * rate) as u64, repeat);
    let mut win = || f64::from(u8::from(stream.next_f64() < rate));
    (0..500).map(|_| win()).collect()
}

#[test]
fn the_gain_gate_passes_three_wins_in_five_and_refuses_one_in_two() {
    let limits = SteerEvalParams::default().limits();
    let passes = |rate: f64| {
        let passed = |&repeat: &u64| {
            // The stage's resampling, with a tenth of the resamples.
            let bootstrap = Bootstrap {
                resamples: 1000,
                ..Bootstrap::seeded(repeat)
            };
            let interval = bootstrap.mean(&wins(rate, repeat)).unwrap();
            limits.gain_gate(interval).passed
        };
        (0..400).filter(passed).count()
    };
    let (better, equal) = (passes(0.6), passes(0.5));
    assert!(better >= 368, "{better} of 400 passed at 0.6");
    assert!(equal <= 32, "{equal} of 400 passed at 0.5");
}
