//! Arena-Hard (Li and others 2024, arXiv 2406.11939): every question is judged twice against a
//! baseline, once in each order.
//!
//! [`verdict`] turns a judgment into a label, [`battles`] reads files of them, [`score`] gives the
//! leaderboard's figures, [`style`] those that length and markdown do not move, [`position`] how far
//! the judge contradicts itself.

pub mod battles;
pub mod markdown;
pub mod position;
pub mod score;
pub mod style;
pub mod style_counts;
pub mod verdict;

/// Which edition's rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 500 questions, Bradley–Terry scores, 95 % intervals.
    V01,
    /// Means of bootstrap means, 90 % intervals.
    V20,
}

impl Version {
    /// Returns the coverage of the edition's intervals.
    #[must_use]
    pub fn confidence(self) -> f64 {
        match self {
            Self::V01 => 0.95,
            Self::V20 => 0.90,
        }
    }
}
