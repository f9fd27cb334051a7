//! How far the judge can be trusted, read from its own judgments.

use crate::verdict::BothOrders;

/// What both orders of many pairs say about the judge.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Diagnostics {
    /// Pairs judged.
    pub pairs: u64,
    /// Pairs of which an order is invalid; they count in nothing below.
    pub invalid: u64,
    /// Pairs without any preference, in either order.
    pub indifferent: u64,
    /// Pairs in which swapping the order keeps the same slot preferred.
    pub flips: u64,
    /// Sum of the position bias. Unit: nats.
    pub(crate) bias: f64,
    /// Sum of the squared preference. Unit: nats².
    squared_preference: f64,
}

impl Diagnostics {
    /// Takes in one pair.
    pub fn add(&mut self, judged: &BothOrders, min_coverage: f64) {
        self.pairs += 1;
        if !judged.is_valid(min_coverage) {
            self.invalid += 1;
            return;
        }
        self.indifferent += u64::from(judged.ab.logit == 0.0 && judged.ba.logit == 0.0);
        self.flips += u64::from(judged.flips());
        self.bias += judged.position_bias();
        self.squared_preference += judged.preference().powi(2);
    }

    /// Takes in what other pairs said.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.invalid += other.invalid;
        self.indifferent += other.indifferent;
        self.flips += other.flips;
        self.bias += other.bias;
        self.squared_preference += other.squared_preference;
    }

    pub(crate) fn valid(&self) -> f64 {
        (self.pairs - self.invalid) as f64
    }

    /// Returns the share of pairs with an invalid order; 0 without pairs.
    pub fn invalid_share(&self) -> f64 {
        share(self.invalid as f64, self.pairs as f64)
    }

    /// Returns the share of valid pairs in which the slot, not the response, decides.
    pub fn flip_rate(&self) -> f64 {
        share(self.flips as f64, self.valid())
    }

    /// Returns the share of valid pairs without any preference.
    pub fn indifferent_share(&self) -> f64 {
        share(self.indifferent as f64, self.valid())
    }

    /// Returns the mean log-odds in favour of the response shown first. Unit: nats.
    pub fn position_bias(&self) -> f64 {
        share(self.bias, self.valid())
    }

    /// Returns position bias squared as a share of itself plus the mean squared preference.
    pub fn position_bias_share(&self) -> f64 {
        let bias = self.position_bias().powi(2);
        share(bias, bias + share(self.squared_preference, self.valid()))
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Preference;

    fn read(pairs: &[(f64, f64)]) -> Diagnostics {
        let mut diagnostics = Diagnostics::default();
        for &(ab, ba) in pairs {
            let of = |logit| Preference {
                logit,
                coverage: 1.0,
            };
            diagnostics.add(
                &BothOrders {
                    ab: of(ab),
                    ba: of(ba),
                },
                0.5,
            );
        }
        diagnostics
    }

    #[test]
    fn a_judge_that_always_takes_the_first_is_all_bias() {
        let diagnostics = read(&[(3.0, 3.0); 7]);
        assert_eq!(diagnostics.position_bias(), 3.0);
        assert_eq!(diagnostics.flip_rate(), 1.0);
        assert_eq!(diagnostics.position_bias_share(), 1.0);
    }

    #[test]
    fn a_consistent_judge_has_none() {
        let diagnostics = read(&[(2.0, -2.0), (-1.0, 1.0)]);
        assert_eq!(diagnostics.position_bias(), 0.0);
        assert_eq!(diagnostics.flip_rate(), 0.0);
        assert_eq!(diagnostics.position_bias_share(), 0.0);
    }

    #[test]
    fn invalid_pairs_are_counted_and_left_out() {
        let mut diagnostics = read(&[(1.0, -1.0)]);
        let unsure = Preference {
            logit: 9.0,
            coverage: 0.1,
        };
        diagnostics.add(
            &BothOrders {
                ab: unsure,
                ba: unsure,
            },
            0.5,
        );
        assert_eq!(diagnostics.invalid_share(), 0.5);
        assert_eq!(diagnostics.position_bias(), 0.0);
    }

    #[test]
    fn pairs_read_apart_and_merged_are_the_pairs_read_together() {
        let mut merged = read(&[(3.0, 1.0), (-1.0, 1.0)]);
        merged.merge(&read(&[(0.0, 0.0)]));
        assert_eq!(merged, read(&[(3.0, 1.0), (-1.0, 1.0), (0.0, 0.0)]));
    }

    #[test]
    fn a_judge_without_preference_is_recognised() {
        let diagnostics = read(&[(0.0, 0.0); 3]);
        assert_eq!(diagnostics.indifferent_share(), 1.0);
        assert_eq!(Diagnostics::default().indifferent_share(), 0.0);
    }
}
