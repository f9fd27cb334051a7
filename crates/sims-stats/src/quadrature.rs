//! Integrals of smooth functions.

/// Integrates over `[from, to]` by Simpson's rule with an even number of steps.
pub(crate) fn simpson(from: f64, to: f64, steps: u32, f: impl Fn(f64) -> f64) -> f64 {
    let step = (to - from) / f64::from(steps);
    let inner: f64 = (1..steps)
        .map(|index| {
            let weight = if index % 2 == 1 { 4.0 } else { 2.0 };
            weight * f(from + step * f64::from(index))
        })
        .sum();
    (f(from) + inner + f(to)) * step / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cubics_are_exact() {
        let got = simpson(-1.0, 3.0, 2, |x| x * x * x - x + 1.0);
        assert!((got - 20.0).abs() < 1e-12, "{got}");
    }
}
