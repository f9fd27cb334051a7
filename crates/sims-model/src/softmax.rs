//! Softmax and log-sum-exp of a logits row, with the same bits on every machine.
//!
//! The exponential is a polynomial in plain f32 additions and multiplications (no fused operation, no system maths
//! library), sums run in f64 in index order, and the logarithm is that of the `libm` crate. Rows stay f32.

/// Log-sum-exp parts of a row: `log Σ exp(x) = max + ln(total)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogSumExp {
    /// Largest entry of the row.
    pub max: f32,
    /// `Σ exp(x − max)`, at least 1.
    pub total: f64,
}

impl LogSumExp {
    /// The normaliser `log Σ exp(x)`.
    pub fn log_normaliser(self) -> f64 {
        f64::from(self.max) + libm::log(self.total)
    }

    /// Log-probability of an entry of the row whose logit is `logit`.
    pub fn log_probability(self, logit: f32) -> f64 {
        (f64::from(logit) - f64::from(self.max)) - libm::log(self.total)
    }
}

/// Why a row of logits has no softmax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogitsError {
    /// NaN or positive infinity at this token.
    #[error("logit of token {token} is not a number or infinite")]
    NotFinite {
        /// First bad token id.
        token: usize,
    },
    /// Every token is at minus infinity, or the row is empty.
    #[error("no token of the row has a finite logit")]
    NothingLeft,
}

/// Returns the log-sum-exp of `logits`; minus infinity is allowed (a token that cannot be chosen).
///
/// # Errors
/// A NaN, a positive infinity, or no finite entry at all.
pub fn log_sum_exp(logits: &[f32]) -> Result<LogSumExp, LogitsError> {
    let max = finite_max(logits)?;
    // Whole blocks let the compiler vectorise the exponentials; the sum keeps index order.
    let mut block = [0.0_f32; 64];
    let mut total = 0.0;
    for chunk in logits.chunks(block.len()) {
        for (weight, &logit) in block.iter_mut().zip(chunk) {
            *weight = exp_non_positive(logit - max);
        }
        total = block[..chunk.len()]
            .iter()
            .fold(total, |sum, &weight| sum + f64::from(weight));
    }
    Ok(LogSumExp { max, total })
}

/// Writes `exp((x − max) / temperature)` of every entry into `weights` and returns the largest entry and the sum.
///
/// # Errors
/// As [`log_sum_exp`].
pub(crate) fn softmax_weights(
    logits: &[f32],
    temperature: f32,
    weights: &mut Vec<f32>,
) -> Result<LogSumExp, LogitsError> {
    let max = finite_max(logits)?;
    weights.clear();
    weights.extend(
        logits
            .iter()
            .map(|&logit| exp_non_positive((logit - max) / temperature)),
    );
    let total = weights
        .iter()
        .fold(0.0, |sum, &weight| sum + f64::from(weight));
    Ok(LogSumExp { max, total })
}

/// Largest entry of a row, refusing NaN, `+inf` and rows without a finite entry.
fn finite_max(logits: &[f32]) -> Result<f32, LogitsError> {
    // A NaN makes `x < inf` false, so one comparison covers both bad values.
    let all_below_infinity = logits
        .iter()
        .fold(true, |fine, &logit| fine & (logit < f32::INFINITY));
    if !all_below_infinity {
        let token = logits
            .iter()
            .position(|&logit| logit.is_nan() || logit == f32::INFINITY);
        return Err(LogitsError::NotFinite {
            token: token.unwrap_or(0),
        });
    }
    let max = logits.iter().fold(
        f32::NEG_INFINITY,
        |max, &logit| if logit > max { logit } else { max },
    );
    if max == f32::NEG_INFINITY {
        Err(LogitsError::NothingLeft)
    } else {
        Ok(max)
    }
}

/// `exp(x)` for `x ≤ 0`: relative error below 2·10⁻⁷, 0 below −87.
///
/// Cephes `expf`: `x = n ln 2 + r` with `|r| ≤ ln 2 / 2`, a polynomial in `r`, and `2ⁿ` through the exponent bits.
#[expect(clippy::excessive_precision, reason = "the published coefficients")]
fn exp_non_positive(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it rounds to an integer that then sits in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * 0.693_359_375) + n * 2.121_944_40e-4;
    let mut p = 1.987_569_150_0e-4;
    p = p * r + 1.398_199_950_7e-3;
    p = p * r + 8.333_451_907_3e-3;
    p = p * r + 4.166_579_589_4e-2;
    p = p * r + 1.666_666_545_9e-1;
    p = p * r + 5.000_000_120_1e-1;
    let mantissa = p * (r * r) + r + 1.0;
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { mantissa * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_accurate() {
        assert_eq!(exp_non_positive(0.0), 1.0);
        assert_eq!(exp_non_positive(-100.0), 0.0);
        assert_eq!(exp_non_positive(f32::NEG_INFINITY), 0.0);
        for i in 0..870_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_non_positive(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}): relative error {error}");
        }
    }

    #[test]
    fn log_sum_exp_has_known_values() {
        let uniform = log_sum_exp(&[3.0; 8]).unwrap();
        assert!((uniform.log_normaliser() - (3.0 + 8.0_f64.ln())).abs() < 1e-12);
        assert!((uniform.log_probability(3.0) + 8.0_f64.ln()).abs() < 1e-12);
        let masked = log_sum_exp(&[f32::NEG_INFINITY, 5.0, f32::NEG_INFINITY]).unwrap();
        assert_eq!(masked.log_probability(5.0), 0.0);
    }

    #[test]
    fn both_forms_agree_to_the_bit() {
        let logits: Vec<f32> = (0..301)
            .map(|i| ((i * 37) % 101) as f32 * 0.13 - 4.0)
            .collect();
        let mut weights = Vec::new();
        let from_weights = softmax_weights(&logits, 1.0, &mut weights).unwrap();
        assert_eq!(from_weights, log_sum_exp(&logits).unwrap());
    }

    #[test]
    fn bad_rows_are_refused() {
        assert_eq!(
            log_sum_exp(&[0.0, f32::NAN]),
            Err(LogitsError::NotFinite { token: 1 })
        );
        assert_eq!(
            log_sum_exp(&[f32::INFINITY, 0.0]),
            Err(LogitsError::NotFinite { token: 0 })
        );
        assert_eq!(
            log_sum_exp(&[f32::NEG_INFINITY; 3]),
            Err(LogitsError::NothingLeft)
        );
        assert_eq!(log_sum_exp(&[]), Err(LogitsError::NothingLeft));
    }
}
