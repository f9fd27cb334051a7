//! Numbers as people read them.

/// Three decimals for shares and ratios, fewer for large figures, the magnitude of what they would hide.
pub(crate) fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.0005 {
        format!("{value:.0e}")
    } else if value.abs() < 100.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.0}")
    }
}

/// The figure with its interval, where it has one: `0.625 [0.500, 0.750]`.
pub(crate) fn with_interval(value: f64, low: Option<f64>, high: Option<f64>) -> String {
    match (low, high) {
        (Some(low), Some(high)) => {
            format!("{} [{}, {}]", number(value), number(low), number(high))
        }
        _ => number(value),
    }
}

/// A share in per cent: `62.5 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A duration: `0.34 s`, `12 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.2} s");
    }
    // A report says nothing of more seconds than fit in 64 bits.
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// A count with a metric prefix: `950`, `37.9 k`, `1.23 T`.
pub(crate) fn count(value: f64) -> String {
    const PREFIXES: [(f64, &str); 6] = [
        (1e18, " E"),
        (1e15, " P"),
        (1e12, " T"),
        (1e9, " G"),
        (1e6, " M"),
        (1e3, " k"),
    ];
    let prefix = PREFIXES.iter().find(|(unit, _)| value >= *unit);
    match prefix {
        None => format!("{value:.0}"),
        Some((unit, name)) => {
            let scaled = value / unit;
            let decimals = usize::from(scaled < 100.0) + usize::from(scaled < 10.0);
            format!("{scaled:.decimals$}{name}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_their_magnitude() {
        assert_eq!(number(0.0), "0.000");
        assert_eq!(number(0.0001), "1e-4");
        assert_eq!(number(1234.5), "1234");
        assert_eq!(
            with_interval(0.625, Some(0.5), Some(0.75)),
            "0.625 [0.500, 0.750]"
        );
        assert_eq!(with_interval(0.625, None, None), "0.625");
        assert_eq!(percent(0.6858), "68.6 %");
    }

    #[test]
    fn durations_and_counts_are_short() {
        let durations = [0.337, 12.4, 185.0, 7810.0].map(duration);
        assert_eq!(durations, ["0.34 s", "12 s", "3 min 05 s", "2 h 10 min"]);
        let counts = [950.0, 37_951.0, 228_809.0, 1.234e12].map(count);
        assert_eq!(counts, ["950", "38.0 k", "229 k", "1.23 T"]);
    }
}
