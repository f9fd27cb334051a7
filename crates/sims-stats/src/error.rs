//! What can be wrong with the numbers handed to this crate.

/// Why a statistic could not be computed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StatsError {
    /// There is nothing to compute the statistic from.
    #[error("{what}: no values")]
    Empty {
        /// The statistic or argument.
        what: &'static str,
    },
    /// A value is NaN or infinite.
    #[error("{what}: value {index} is {value}, not a finite number")]
    NonFinite {
        /// The statistic or argument.
        what: &'static str,
        /// Position of the value (for a bootstrap, the resample).
        index: usize,
        /// The value itself.
        value: f64,
    },
    /// Two arguments that belong together differ in length.
    #[error("{what}: {left} values on one side, {right} on the other")]
    Lengths {
        /// The statistic.
        what: &'static str,
        /// Length of the first argument.
        left: usize,
        /// Length of the second argument.
        right: usize,
    },
    /// A value lies outside the range in which the statistic means something.
    #[error("{what} is {value}; it must be {expected}")]
    OutOfRange {
        /// The argument.
        what: &'static str,
        /// What was given.
        value: f64,
        /// The legal range, in words.
        expected: &'static str,
    },
    /// The statistic needs more values.
    #[error("{what}: {found} given, at least {needed} needed")]
    TooFew {
        /// The values.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many it takes.
        needed: usize,
    },
    /// No item tells the two sides of a McNemar test apart.
    #[error(
        "McNemar's chi-square: the two sides agree on every item, so there is nothing to divide by; \
         use the exact test, whose p-value is then 1"
    )]
    NoDiscordance,
    /// The data do not vary, so the statistic (a correlation, a kappa) is undefined.
    #[error("{what}: undefined, because one side never varies")]
    Constant {
        /// The statistic.
        what: &'static str,
    },
    /// The comparisons fall into groups that never met.
    #[error(
        "the comparison graph has {components} unconnected groups; scores of different groups \
         cannot be compared"
    )]
    Disconnected {
        /// Number of connected components.
        components: usize,
    },
    /// Without a ridge the Bradley–Terry maximum lies at infinity.
    #[error(
        "some items won or lost every comparison against the rest, so their scores have no finite \
         maximum; use a ridge above zero"
    )]
    Separated,
    /// Newton's method stopped before the gradient vanished.
    #[error("no convergence after {steps} Newton steps: largest gradient entry {gradient:e}")]
    NotConverged {
        /// Steps taken.
        steps: usize,
        /// Largest absolute entry of the gradient at the end.
        gradient: f64,
    },
}

/// Refuses a value that is not strictly between 0 and 1.
pub(crate) fn within_unit(what: &'static str, value: f64) -> Result<f64, StatsError> {
    if value > 0.0 && value < 1.0 {
        return Ok(value);
    }
    Err(StatsError::OutOfRange {
        what,
        value,
        expected: "between 0 and 1",
    })
}

/// Refuses a value that is not finite and above zero.
pub(crate) fn positive(what: &'static str, value: f64) -> Result<f64, StatsError> {
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(StatsError::OutOfRange {
        what,
        value,
        expected: "a finite number above 0",
    })
}

/// Refuses an empty slice and the first entry that is not finite.
pub(crate) fn finite(what: &'static str, values: &[f64]) -> Result<(), StatsError> {
    if values.is_empty() {
        return Err(StatsError::Empty { what });
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(StatsError::NonFinite {
            what,
            index,
            value: values[index],
        }),
        None => Ok(()),
    }
}
