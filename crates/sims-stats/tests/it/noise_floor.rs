//! Scores that are pure noise behave as the noise floor's constants say.

use sims_stats::noise_range::{expected_noise_range, noise_range_quantile};
use sims_stats::random::Stream;

use crate::close;

/// A standard normal draw (Box and Muller).
fn normal(stream: &mut Stream) -> f64 {
    let radius = (-2.0 * (1.0 - stream.next_f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * stream.next_f64()).cos()
}

#[test]
fn best_minus_worst_of_noise_exceeds_the_quantile_in_one_case_of_twenty() {
    let (repeats, count) = (4000, 10);
    let (mut sum, mut above) = (0.0, 0);
    let limit = noise_range_quantile(count, 0.95);
    for repeat in 0..repeats {
        let mut stream = Stream::new(41, repeat);
        let draws: Vec<f64> = (0..count).map(|_| normal(&mut stream)).collect();
        let high = draws.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let low = draws.iter().copied().fold(f64::INFINITY, f64::min);
        sum += high - low;
        above += u32::from(high - low > limit);
    }
    // Standard error of the mean range: 0.8 / sqrt(4000) = 0.013.
    close(sum / repeats as f64, expected_noise_range(count), 0.05);
    close(f64::from(above) / repeats as f64, 0.05, 0.015);
}
