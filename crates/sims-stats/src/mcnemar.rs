//! McNemar's test: two policies answered the same prompts, each right or wrong.
//!
//! Only the prompts on which they differ say anything; under "no difference" each of those falls to
//! either side with probability one half (McNemar 1947).

use statrs::function::beta::beta_reg;

use crate::StatsError;

/// The prompts that tell two policies apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Discordance {
    /// Prompts that only the first got right.
    pub first_only: u64,
    /// Prompts that only the second got right.
    pub second_only: u64,
}

/// A test's statistic and its two-sided p-value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TestResult {
    /// The statistic; what it is, the test says.
    pub statistic: f64,
    /// The two-sided p-value.
    pub p_value: f64,
}

impl Discordance {
    /// Counts the prompts on which two policies differ; one entry a prompt, in the same order.
    ///
    /// # Errors
    /// Different lengths, no prompts.
    pub fn of(first: &[bool], second: &[bool]) -> Result<Self, StatsError> {
        let what = "McNemar's test";
        if first.len() != second.len() {
            return Err(StatsError::Lengths {
                what,
                left: first.len(),
                right: second.len(),
            });
        }
        if first.is_empty() {
            return Err(StatsError::Empty { what });
        }
        let count = |wanted: (bool, bool)| {
            let pairs = first.iter().zip(second);
            pairs.filter(|&(&l, &r)| (l, r) == wanted).count() as u64
        };
        Ok(Self {
            first_only: count((true, false)),
            second_only: count((false, true)),
        })
    }

    /// Tests by the binomial distribution; the statistic is the smaller count.
    ///
    /// Valid for any counts. Without discordant prompts the p-value is 1.
    #[must_use]
    pub fn exact(self) -> TestResult {
        let fewer = self.first_only.min(self.second_only) as f64;
        let n = self.total();
        // P(X <= k) of n fair coins is the incomplete beta function at one half.
        let tail = if fewer < n {
            beta_reg(n - fewer, fewer + 1.0, 0.5)
        } else {
            1.0
        };
        TestResult {
            statistic: fewer,
            p_value: (2.0 * tail).min(1.0),
        }
    }

    /// Tests by chi-square with one degree of freedom; fit for 25 discordant prompts and more.
    ///
    /// `corrected` takes Edwards' continuity correction (1948), which never makes the statistic larger:
    /// equal counts give 0.
    ///
    /// # Errors
    /// No discordant prompts.
    pub fn chi_square(self, corrected: bool) -> Result<TestResult, StatsError> {
        if self.total() == 0.0 {
            return Err(StatsError::NoDiscordance);
        }
        let gap = self.first_only.abs_diff(self.second_only) as f64;
        let gap = (gap - f64::from(u8::from(corrected))).max(0.0);
        let statistic = gap * gap / self.total();
        Ok(TestResult {
            statistic,
            p_value: libm::erfc((0.5 * statistic).sqrt()),
        })
    }

    fn total(self) -> f64 {
        self.first_only as f64 + self.second_only as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_hand() {
        let first = [true, true, false, false, true];
        let second = [true, false, true, false, false];
        let counts = Discordance::of(&first, &second).expect("valid input");
        assert_eq!((counts.first_only, counts.second_only), (2, 1));
    }

    #[test]
    fn five_to_none_is_one_in_sixteen() {
        let exact = Discordance {
            first_only: 5,
            second_only: 0,
        }
        .exact();
        assert!((exact.p_value - 2.0 / 32.0).abs() < 1e-15);
        assert_eq!(exact.statistic, 0.0);
    }

    #[test]
    fn sides_can_be_swapped() {
        let one = Discordance {
            first_only: 7,
            second_only: 19,
        };
        let other = Discordance {
            first_only: 19,
            second_only: 7,
        };
        assert_eq!(one.exact(), other.exact());
        assert_eq!(one.chi_square(true), other.chi_square(true));
    }

    #[test]
    fn equal_counts_are_certain_to_be_chance() {
        let even = Discordance {
            first_only: 6,
            second_only: 6,
        };
        assert_eq!(even.exact().p_value, 1.0);
        assert_eq!(even.chi_square(true).expect("discordant").p_value, 1.0);
    }

    #[test]
    fn without_discordance_only_the_exact_test_answers() {
        let none = Discordance::of(&[true], &[true]).expect("valid input");
        assert_eq!(none.exact().p_value, 1.0);
        let error = none.chi_square(false).expect_err("nothing to divide by");
        assert!(error.to_string().contains("use the exact test"), "{error}");
    }

    #[test]
    fn bad_input_is_refused() {
        assert!(matches!(
            Discordance::of(&[true], &[]),
            Err(StatsError::Lengths { .. })
        ));
        assert!(matches!(
            Discordance::of(&[], &[]),
            Err(StatsError::Empty { .. })
        ));
    }
}
