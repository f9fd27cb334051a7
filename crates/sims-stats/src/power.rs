//! Power: how many prompts it takes to see a difference, and which difference a set of prompts shows.
//!
//! - [`Design::prompts_for_mean`]: a paired mean difference (a reward, a length), by the noncentral t
//!   distribution.
//! - [`Design::prompts_for_flips`]: the difference of two shares of right answers on the same prompts, for
//!   McNemar's test (Connor 1987).
//! - [`Design::prompts_for_win_rate`]: a win rate against one half; a tie counts half and says nothing.
//!
//! All tests are two-sided.

use crate::error::{positive, within_unit};
use crate::normal::bisect;
use crate::quadrature::simpson;
use crate::student_t::quantile;
use crate::{StatsError, normal_cdf, normal_quantile};

/// The two errors that a comparison may make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Design {
    /// Chance of seeing a difference where there is none (two-sided), within `(0, 1)`.
    pub alpha: f64,
    /// Chance of seeing the difference when it is there, above `alpha` and below 1.
    pub power: f64,
}

impl Default for Design {
    /// The usual 5 % and 80 %.
    fn default() -> Self {
        Self {
            alpha: 0.05,
            power: 0.8,
        }
    }
}

/// More prompts than a double counts one by one.
const TOO_MANY: f64 = 9e15;
/// Degrees of freedom from which the normal distribution is near enough to the noncentral t.
const NORMAL_FROM: f64 = 1e5;

impl Design {
    /// Returns how many prompts show a mean difference of `difference`, when the differences of single
    /// prompts have standard deviation `sd` (same unit).
    ///
    /// # Errors
    /// `difference` zero or not finite, `sd` not above 0, levels out of range, or more than 2^53 prompts.
    pub fn prompts_for_mean(&self, difference: f64, sd: f64) -> Result<u64, StatsError> {
        self.check()?;
        positive("standard deviation", sd)?;
        let effect = positive("difference to detect", difference.abs())? / sd;
        // Fewest first guess: the normal approximation needs fewer than the t-test.
        let normal = (self.z_alpha() + self.z_power()).powi(2) / (effect * effect);
        fewest(normal, |prompts| {
            power_of_effect(effect, prompts, self.alpha) >= self.power
        })
    }

    /// Returns the smallest mean difference that `prompts` prompts show, in the unit of `sd`.
    ///
    /// # Errors
    /// Fewer than two prompts, `sd` not above 0, levels out of range.
    pub fn detectable_mean(&self, prompts: u64, sd: f64) -> Result<f64, StatsError> {
        self.check()?;
        positive("standard deviation", sd)?;
        at_least_two(prompts)?;
        let missed = |effect| power_of_effect(effect, prompts as f64, self.alpha) < self.power;
        let mut high = 1.0;
        while missed(high) {
            high *= 2.0;
        }
        Ok(sd * bisect(0.0, high, missed))
    }

    /// Returns how many prompts show a difference of two shares of right answers.
    ///
    /// `difference`: share that only the first gets right minus share that only the second does.
    /// `discordance`: their sum, the share of prompts on which the two differ.
    ///
    /// # Errors
    /// `discordance` outside `(0, 1]`, `difference` zero or larger than it, levels out of range, or more
    /// than 2^53 prompts.
    pub fn prompts_for_flips(&self, difference: f64, discordance: f64) -> Result<u64, StatsError> {
        self.check()?;
        let difference = flips(difference, discordance)?;
        let needed = self.z_alpha() * discordance.sqrt()
            + self.z_power() * (discordance - difference * difference).sqrt();
        whole((needed / difference).powi(2))
    }

    /// Returns the smallest difference of two shares that `prompts` prompts show.
    ///
    /// # Errors
    /// Fewer than two prompts, `discordance` outside `(0, 1]`, levels out of range, or a discordance so
    /// small that even a completely one-sided difference goes unseen.
    pub fn detectable_flips(&self, prompts: u64, discordance: f64) -> Result<f64, StatsError> {
        self.check()?;
        at_least_two(prompts)?;
        check_discordance(discordance)?;
        let missed = |difference: f64| {
            flip_power(difference, discordance, prompts as f64, self.alpha) < self.power
        };
        if missed(discordance) {
            return Err(StatsError::OutOfRange {
                what: "discordance",
                value: discordance,
                expected: "larger, or the prompts more: even if one side won every prompt on which \
                           they differ, it would go unseen",
            });
        }
        Ok(bisect(0.0, discordance, missed))
    }

    /// Returns how many prompts show a win rate, when a share `ties` of the prompts ends in a tie.
    ///
    /// # Errors
    /// `win_rate` one half or out of reach of that many ties, `ties` outside `[0, 1)`, levels out of range.
    pub fn prompts_for_win_rate(&self, win_rate: f64, ties: f64) -> Result<u64, StatsError> {
        // Wins minus losses is twice the win rate's distance from one half.
        self.prompts_for_flips(2.0 * (win_rate - 0.5), decided(ties)?)
    }

    /// Returns the smallest win rate above one half that `prompts` prompts show.
    ///
    /// # Errors
    /// As [`Design::detectable_flips`], `ties` outside `[0, 1)`.
    pub fn detectable_win_rate(&self, prompts: u64, ties: f64) -> Result<f64, StatsError> {
        Ok(0.5 + 0.5 * self.detectable_flips(prompts, decided(ties)?)?)
    }

    fn check(&self) -> Result<(), StatsError> {
        within_unit("alpha", self.alpha)?;
        if self.power > self.alpha && self.power < 1.0 {
            return Ok(());
        }
        Err(StatsError::OutOfRange {
            what: "power",
            value: self.power,
            expected: "above alpha and below 1",
        })
    }

    fn z_alpha(&self) -> f64 {
        -normal_quantile(0.5 * self.alpha)
    }

    fn z_power(&self) -> f64 {
        normal_quantile(self.power)
    }
}

/// Returns the chance that a two-sided paired t-test on `prompts` prompts sees a mean difference.
///
/// # Errors
/// Fewer than two prompts, `sd` not above 0, `difference` not finite, `alpha` outside `(0, 1)`.
pub fn power_of_mean(
    difference: f64,
    sd: f64,
    prompts: u64,
    alpha: f64,
) -> Result<f64, StatsError> {
    within_unit("alpha", alpha)?;
    positive("standard deviation", sd)?;
    at_least_two(prompts)?;
    crate::finite("power", &[difference])?;
    Ok(power_of_effect(
        difference.abs() / sd,
        prompts as f64,
        alpha,
    ))
}

/// Returns the chance that McNemar's test on `prompts` prompts sees a difference of two shares; the
/// normal approximation that [`Design::prompts_for_flips`] inverts.
///
/// # Errors
/// `discordance` outside `(0, 1]`, `difference` zero or larger than it, no prompts, `alpha` outside `(0, 1)`.
pub fn power_of_flips(
    difference: f64,
    discordance: f64,
    prompts: u64,
    alpha: f64,
) -> Result<f64, StatsError> {
    within_unit("alpha", alpha)?;
    let difference = flips(difference, discordance)?;
    at_least_two(prompts)?;
    Ok(flip_power(difference, discordance, prompts as f64, alpha))
}

/// Power at an effect in units of the standard deviation: the noncentral t beyond its critical values.
fn power_of_effect(effect: f64, prompts: f64, alpha: f64) -> f64 {
    let degrees = prompts - 1.0;
    let shift = effect * prompts.sqrt();
    let critical = -quantile(0.5 * alpha, degrees);
    if degrees > NORMAL_FROM {
        // Abramowitz and Stegun 26.7.10.
        let scale = (1.0 + critical * critical / (2.0 * degrees)).sqrt();
        let centre = critical * (1.0 - 0.25 / degrees);
        return normal_cdf((shift - centre) / scale) + normal_cdf((-shift - centre) / scale);
    }
    // Given the sample's standard deviation, s times the true one, the mean is normal; integrate over s.
    let log_constant =
        std::f64::consts::LN_2 + 0.5 * degrees * (0.5 * degrees).ln() - libm::lgamma(0.5 * degrees);
    let density = |s: f64| {
        if s == 0.0 && degrees > 1.0 {
            return 0.0;
        }
        let power_term = if degrees > 1.0 {
            (degrees - 1.0) * s.ln()
        } else {
            0.0
        };
        (log_constant + power_term - 0.5 * degrees * s * s).exp()
    };
    // s has standard deviation below 1 / sqrt(2 degrees); thirteen of those leave out less than 1e-20.
    let reach = 13.0 / (2.0 * degrees).sqrt();
    let from = (1.0 - reach).max(0.0);
    // Where s is larger than this, the mean would have to lie nine standard errors off.
    let to = (1.0 + reach).min((shift + 9.0) / critical);
    if to <= from {
        return 0.0;
    }
    simpson(from, to, 2000, |s| {
        density(s) * (normal_cdf(shift - critical * s) + normal_cdf(-shift - critical * s))
    })
}

fn flip_power(difference: f64, discordance: f64, prompts: f64, alpha: f64) -> f64 {
    let spread = (discordance - difference * difference).sqrt();
    let beyond = difference * prompts.sqrt() + normal_quantile(0.5 * alpha) * discordance.sqrt();
    // Every prompt falls to the same side: there is no spread, and no chance.
    if spread == 0.0 {
        return f64::from(u8::from(beyond >= 0.0));
    }
    normal_cdf(beyond / spread)
}

/// Returns the fewest prompts that are `enough`, looking upwards from a number that is nearly enough.
fn fewest(guess: f64, enough: impl Fn(f64) -> bool) -> Result<u64, StatsError> {
    whole(guess)?;
    let mut low = (0.5 * guess).floor().max(1.0);
    let mut high = guess.ceil().max(2.0);
    while !enough(high) {
        low = high;
        high *= 2.0;
        whole(high)?;
    }
    if low > 1.0 && enough(low) {
        low = 1.0;
    }
    while high - low > 1.0 {
        let middle = (0.5 * (low + high)).floor();
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high as u64)
}

/// Rounds a number of prompts up.
fn whole(prompts: f64) -> Result<u64, StatsError> {
    if prompts < TOO_MANY {
        return Ok(prompts.ceil().max(2.0) as u64);
    }
    Err(StatsError::OutOfRange {
        what: "number of prompts needed",
        value: prompts,
        expected: "below 2^53; ask for a larger difference",
    })
}

fn at_least_two(prompts: u64) -> Result<(), StatsError> {
    if prompts >= 2 {
        return Ok(());
    }
    Err(StatsError::TooFew {
        what: "prompts",
        found: prompts as usize,
        needed: 2,
    })
}

fn check_discordance(discordance: f64) -> Result<(), StatsError> {
    if discordance > 0.0 && discordance <= 1.0 {
        return Ok(());
    }
    Err(StatsError::OutOfRange {
        what: "discordance",
        value: discordance,
        expected: "above 0 and at most 1",
    })
}

/// Checks the two figures of a McNemar test, and returns the difference without its sign.
fn flips(difference: f64, discordance: f64) -> Result<f64, StatsError> {
    check_discordance(discordance)?;
    let size = difference.abs();
    if size > 0.0 && size <= discordance {
        return Ok(size);
    }
    Err(StatsError::OutOfRange {
        what: "difference to detect",
        value: difference,
        expected: "not zero, and no larger than the share of prompts on which the two differ",
    })
}

fn decided(ties: f64) -> Result<f64, StatsError> {
    if (0.0..1.0).contains(&ties) {
        return Ok(1.0 - ties);
    }
    Err(StatsError::OutOfRange {
        what: "share of ties",
        value: ties,
        expected: "at least 0 and below 1",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESIGN: Design = Design {
        alpha: 0.05,
        power: 0.8,
    };

    #[test]
    fn textbook_numbers() {
        // Cohen 1988: 34 pairs show half a standard deviation at 80 %.
        assert_eq!(DESIGN.prompts_for_mean(0.5, 1.0), Ok(34));
        // Both signs, any unit.
        assert_eq!(DESIGN.prompts_for_mean(-50.0, 100.0), Ok(34));
        // 3 points with a tenth of the prompts flipping.
        assert_eq!(DESIGN.prompts_for_flips(0.03, 0.1), Ok(870));
        // A win rate of 0.55 without ties: (1.96 + 0.8416 * sqrt(0.99))^2 / 0.01.
        assert_eq!(DESIGN.prompts_for_win_rate(0.55, 0.0), Ok(783));
    }

    #[test]
    fn the_detectable_difference_inverts_the_number_of_prompts() {
        for prompts in [3, 10, 200, 5000, 2_000_000] {
            let difference = DESIGN.detectable_mean(prompts, 0.4).expect("valid input");
            let back = DESIGN.prompts_for_mean(difference * (1.0 + 1e-9), 0.4);
            assert_eq!(back, Ok(prompts));
        }
        for prompts in [50, 805, 100_000] {
            let difference = DESIGN.detectable_flips(prompts, 0.3).expect("valid input");
            let back = DESIGN.prompts_for_flips(difference * (1.0 + 1e-9), 0.3);
            assert_eq!(back, Ok(prompts));
            let rate = DESIGN
                .detectable_win_rate(prompts, 0.7)
                .expect("valid input");
            assert!((rate - 0.5 - 0.5 * difference).abs() < 1e-9);
        }
    }

    #[test]
    fn without_a_difference_the_power_is_alpha() {
        for (prompts, alpha) in [2, 3, 30, 100_000, 200_000]
            .into_iter()
            .flat_map(|n| [(n, 0.05), (n, 1e-6)])
        {
            let power = power_of_mean(0.0, 1.0, prompts, alpha).expect("valid input");
            assert!((power / alpha - 1.0).abs() < 1e-7, "{prompts}: {power}");
        }
    }

    #[test]
    fn the_change_to_the_normal_approximation_is_not_seen() {
        let at = |prompts| power_of_mean(0.008, 1.0, prompts, 0.05).expect("valid input");
        let step = at(100_001) - at(100_000);
        let change = at(100_002) - at(100_001);
        assert!((change - step).abs() < 1e-7, "{change} {step}");
    }

    #[test]
    fn bad_input_is_refused() {
        let message = |result: Result<u64, StatsError>| result.expect_err("bad").to_string();
        assert!(
            message(DESIGN.prompts_for_mean(0.0, 1.0)).starts_with("difference to detect is 0")
        );
        assert!(message(DESIGN.prompts_for_mean(f64::NAN, 1.0)).starts_with("difference"));
        assert!(message(DESIGN.prompts_for_mean(0.1, 0.0)).starts_with("standard deviation is 0"));
        assert!(message(DESIGN.prompts_for_mean(1e-9, 1.0)).contains("ask for a larger"));
        assert!(message(DESIGN.prompts_for_flips(0.2, 0.1)).contains("no larger than the share"));
        assert!(message(DESIGN.prompts_for_flips(0.1, 1.1)).starts_with("discordance is 1.1"));
        assert!(message(DESIGN.prompts_for_win_rate(0.5, 0.0)).contains("not zero"));
        assert!(message(DESIGN.prompts_for_win_rate(0.6, 1.0)).starts_with("share of ties is 1"));
        let silly = Design {
            alpha: 0.05,
            power: 0.01,
        };
        assert!(message(silly.prompts_for_mean(0.1, 1.0)).starts_with("power is 0.01"));
        assert!(DESIGN.detectable_mean(1, 1.0).is_err());
        let unseen = DESIGN.detectable_flips(20, 0.01).expect_err("too little");
        assert!(unseen.to_string().contains("would go unseen"), "{unseen}");
        assert!(power_of_flips(0.1, 0.2, 100, 0.0).is_err());
        assert!(power_of_mean(f64::INFINITY, 1.0, 10, 0.05).is_err());
    }
}
