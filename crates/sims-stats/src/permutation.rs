//! Sign-flip permutation test and Holm's correction.

use crate::{StatsError, finite, random::Stream};

/// Returns the two-sided p-value of "the differences have mean zero".
///
/// Under that hypothesis every difference could as well have had the other sign. With few enough
/// values all `2^n` sign patterns are counted; otherwise `resamples` random ones, and the observed
/// pattern is counted among them, so that p is never zero (Phipson and Smyth 2010). The result does
/// not depend on the order of the values.
///
/// # Errors
/// Empty or non-finite values, no resamples.
pub fn sign_flip_p_value(
    differences: &[f64],
    resamples: usize,
    seed: u64,
) -> Result<f64, StatsError> {
    finite("sign-flip test", differences)?;
    if resamples == 0 {
        return Err(StatsError::OutOfRange {
            what: "number of resamples",
            value: 0.0,
            expected: "at least 1",
        });
    }
    let mut sorted: Vec<f64> = differences.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Sums that differ by rounding only count as equal.
    let slack = 1e-12 * sorted.iter().map(|value| value.abs()).sum::<f64>();
    let observed = sorted.iter().sum::<f64>().abs() - slack;

    let n = sorted.len();
    if n < 40 && (1u64 << n) <= resamples as u64 {
        let patterns = 1u64 << n;
        let extreme = (0..patterns)
            .filter(|&pattern| flipped_sum(&sorted, |_| pattern).abs() >= observed)
            .count();
        return Ok(extreme as f64 / patterns as f64);
    }
    let extreme = (0..resamples)
        .filter(|&resample| {
            let mut stream = Stream::new(seed, resample as u64);
            flipped_sum(&sorted, |_| stream.next_u64()).abs() >= observed
        })
        .count();
    Ok((extreme + 1) as f64 / (resamples + 1) as f64)
}

/// Sums the values, negating those whose bit is set in the word of their block of 64.
fn flipped_sum(values: &[f64], mut word_of_block: impl FnMut(usize) -> u64) -> f64 {
    let mut sum = 0.0;
    for (block, chunk) in values.chunks(64).enumerate() {
        let word = word_of_block(block);
        for (bit, value) in chunk.iter().enumerate() {
            let sign = (word >> bit) << 63;
            sum += f64::from_bits(value.to_bits() ^ sign);
        }
    }
    sum
}

/// Returns p-values corrected for a family of tests (Holm 1979), in the order given.
///
/// Rejecting whatever is at most alpha keeps the chance of any false rejection at alpha. Equal p-values
/// get equal corrections; a family of none gives none.
///
/// # Errors
/// A p-value outside `[0, 1]`, NaN included.
pub fn holm(p_values: &[f64]) -> Result<Vec<f64>, StatsError> {
    if let Some(&value) = p_values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(StatsError::OutOfRange {
            what: "p-value",
            value,
            expected: "between 0 and 1",
        });
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&l, &r| p_values[l].total_cmp(&p_values[r]).then(l.cmp(&r)));
    let mut corrected = vec![0.0; p_values.len()];
    let mut running = 0.0f64;
    for (place, &index) in order.iter().enumerate() {
        let tests_left = (p_values.len() - place) as f64;
        running = running.max((tests_left * p_values[index]).min(1.0));
        corrected[index] = running;
    }
    Ok(corrected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_equal_signs_give_one_in_sixteen() {
        // Only the all-plus and all-minus patterns of 32 are as extreme.
        let p = sign_flip_p_value(&[1.0, 2.0, 3.0, 4.0, 5.0], 10_000, 0).expect("valid input");
        assert_eq!(p, 2.0 / 32.0);
    }

    #[test]
    fn no_difference_is_certain_to_be_chance() {
        assert_eq!(sign_flip_p_value(&[0.0; 100], 1000, 0), Ok(1.0));
    }

    #[test]
    fn a_strong_effect_reaches_the_floor() {
        let p = sign_flip_p_value(&[1.0; 100], 999, 0).expect("valid input");
        assert_eq!(p, 1.0 / 1000.0);
    }

    #[test]
    fn random_patterns_agree_with_all_patterns() {
        let values: Vec<f64> = (0..16).map(|i| f64::from(i * i % 11) - 3.2).collect();
        let exact = sign_flip_p_value(&values, 1 << 16, 0).expect("valid input");
        let runs = 20;
        let mean = (0..runs)
            .map(|seed| sign_flip_p_value(&values, 5000, seed).expect("valid input"))
            .sum::<f64>()
            / runs as f64;
        // 100,000 draws in all: three standard errors of a proportion are at most 0.0048.
        assert!((mean - exact).abs() < 0.0048, "{mean} {exact}");
    }

    #[test]
    fn order_does_not_matter() {
        let values: Vec<f64> = (0..90).map(|i| f64::from(i).sin() + 0.1).collect();
        let backwards: Vec<f64> = values.iter().rev().copied().collect();
        assert_eq!(
            sign_flip_p_value(&values, 2000, 4),
            sign_flip_p_value(&backwards, 2000, 4)
        );
    }

    #[test]
    fn p_values_are_uniform_without_an_effect() {
        let below = (0..400)
            .filter(|&repeat| {
                let mut stream = Stream::new(77, repeat);
                let values: Vec<f64> = (0..60).map(|_| stream.next_f64() - 0.5).collect();
                sign_flip_p_value(&values, 400, repeat).expect("valid input") < 0.1
            })
            .count();
        // Binomial(400, 0.1): 40 with standard deviation 6.
        assert!((22..=58).contains(&below), "{below}");
    }

    #[test]
    fn holm_steps_down_and_never_decreases() {
        let corrected = holm(&[0.01, 0.04, 0.03, 0.005]).expect("valid input");
        for (got, expected) in corrected.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((got - expected).abs() < 1e-12, "{corrected:?}");
        }
        assert_eq!(holm(&[0.9, 0.8]), Ok(vec![1.0, 1.0]));
        assert_eq!(holm(&[0.25, 0.25]), Ok(vec![0.5, 0.5]));
        assert_eq!(holm(&[]), Ok(vec![]));
    }

    #[test]
    fn what_is_no_probability_is_refused() {
        for bad in [-0.1, 1.5, f64::NAN] {
            let error = holm(&[0.5, bad]).expect_err("no probability");
            assert!(error.to_string().starts_with("p-value is"), "{error}");
        }
        assert!(sign_flip_p_value(&[1.0], 0, 0).is_err());
    }
}
