//! Judgments that were made elsewhere, read from a file: by people, or by a model asked before.

use std::collections::HashMap;
use std::path::Path;

use sims_artifact::tables::{JudgmentRow, RatingRow};
use sims_artifact::{Digest, read_table};

use crate::JudgeError;
use crate::comparison::{Comparison, Judged, PairJudge, Progress, report};
use crate::verdict::Preference;

/// Answers from annotated pairs, one row a pair and order.
///
/// A pair that is annotated in one order only gets the opposite log-odds in the other.
pub struct AnnotatedPairs {
    /// By prompt, the response shown first and the one shown second.
    preferences: HashMap<[String; 3], Preference>,
    id: String,
}

impl AnnotatedPairs {
    /// Reads a `judgments@1` table; a row whose verdict is `invalid` has no coverage.
    ///
    /// # Errors
    /// A file that is no such table, a row that means nothing, or a pair and order that occur twice.
    pub fn read(path: &Path) -> Result<Self, JudgeError> {
        let rows: Vec<JudgmentRow> = read_table(path)?;
        let mut preferences = HashMap::with_capacity(rows.len());
        for (index, row) in rows.into_iter().enumerate() {
            let refuse = |message: String| JudgeError::Annotation {
                file: path.to_owned(),
                row: index,
                message,
            };
            if !(row.raw.is_finite() && (0.0..=1.0).contains(&row.coverage)) {
                return Err(refuse(format!(
                    "raw is {} and coverage {}, but log-odds are finite (write 10 for certainty) and \
                     coverage is between 0 and 1",
                    row.raw, row.coverage
                )));
            }
            let (logit, first, second) = match row.order.as_str() {
                "ab" => (row.raw, row.response_a, row.response_b),
                "ba" => (-row.raw, row.response_b, row.response_a),
                other => {
                    return Err(refuse(format!("the order is `{other}`; write ab or ba")));
                }
            };
            let coverage = if row.verdict == "invalid" {
                0.0
            } else {
                row.coverage
            };
            let message = format!(
                "prompt {} has {first} shown before {second} a second time; keep one row a pair and order",
                row.prompt_id
            );
            let preference = Preference { logit, coverage };
            if preferences
                .insert([row.prompt_id, first, second], preference)
                .is_some()
            {
                return Err(refuse(message));
            }
        }
        Ok(Self {
            preferences,
            id: format!("file/pairs/{}", Digest::of_file(path)?.short(12)),
        })
    }

    /// Returns the annotation of a comparison, from the other order where only that is annotated.
    pub fn find(&self, prompt_id: &str, first: &str, second: &str) -> Option<Preference> {
        let annotated = |first: &str, second: &str| {
            let key = [prompt_id, first, second].map(str::to_owned);
            self.preferences.get(&key).copied()
        };
        annotated(first, second).or_else(|| {
            annotated(second, first).map(|other| Preference {
                logit: -other.logit,
                ..other
            })
        })
    }
}

impl PairJudge for AnnotatedPairs {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        look_up(comparisons, progress, |asked| {
            self.find(
                asked.prompt_id,
                asked.first.response_id,
                asked.second.response_id,
            )
        })
    }

    fn reads_texts(&self) -> bool {
        false
    }

    fn knows(&self, comparison: &Comparison<'_>) -> bool {
        let (first, second) = (&comparison.first, &comparison.second);
        self.find(comparison.prompt_id, first.response_id, second.response_id)
            .is_some()
    }
}

/// Answers from ratings of single responses: the log-odds are the scaled difference of two ratings.
pub struct AnnotatedRatings {
    /// By prompt and response.
    ratings: HashMap<[String; 2], f64>,
    scale: f64,
    id: String,
}

impl AnnotatedRatings {
    /// Reads a `ratings@1` table; a difference of 1 between two ratings counts `scale` nats.
    ///
    /// # Errors
    /// A file that is no such table, a rating that is not finite, or a response that occurs twice.
    pub fn read(path: &Path, scale: f64) -> Result<Self, JudgeError> {
        let rows: Vec<RatingRow> = read_table(path)?;
        let mut ratings = HashMap::with_capacity(rows.len());
        for (index, row) in rows.into_iter().enumerate() {
            let Some(rating) = row.rating else { continue };
            let refuse = |message: String| JudgeError::Annotation {
                file: path.to_owned(),
                row: index,
                message,
            };
            if !rating.is_finite() {
                return Err(refuse(format!(
                    "the rating is {rating}; write a finite number, or null where there is none"
                )));
            }
            let message = format!(
                "response {} to prompt {} has a second rating; keep one",
                row.response_id, row.prompt_id
            );
            if ratings
                .insert([row.prompt_id, row.response_id], rating)
                .is_some()
            {
                return Err(refuse(message));
            }
        }
        Ok(Self {
            ratings,
            scale,
            id: format!("file/ratings/{}/{scale}", Digest::of_file(path)?.short(12)),
        })
    }

    fn find(&self, asked: &Comparison<'_>) -> Option<Preference> {
        let rating = |response_id: &str| {
            let key = [asked.prompt_id, response_id].map(str::to_owned);
            self.ratings.get(&key)
        };
        let (first, second) = (
            rating(asked.first.response_id)?,
            rating(asked.second.response_id)?,
        );
        Some(Preference {
            logit: self.scale * (first - second),
            coverage: 1.0,
        })
    }
}

impl PairJudge for AnnotatedRatings {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        look_up(comparisons, progress, |asked| self.find(asked))
    }

    fn reads_texts(&self) -> bool {
        false
    }

    fn knows(&self, comparison: &Comparison<'_>) -> bool {
        self.find(comparison).is_some()
    }
}

/// Answers comparisons from `find`; the error about missing ones names the first and counts the rest.
fn look_up(
    comparisons: &[Comparison<'_>],
    progress: Progress<'_>,
    find: impl Fn(&Comparison<'_>) -> Option<Preference>,
) -> Result<Judged, JudgeError> {
    let found: Vec<Option<Preference>> = comparisons.iter().map(&find).collect();
    let mut missing = comparisons
        .iter()
        .zip(&found)
        .filter(|(_, found)| found.is_none())
        .map(|(asked, _)| asked);
    if let Some(asked) = missing.next() {
        return Err(JudgeError::NotAnnotated {
            prompt_id: asked.prompt_id.to_owned(),
            first: asked.first.response_id.to_owned(),
            second: asked.second.response_id.to_owned(),
            others: missing.count(),
        });
    }
    report(progress, comparisons.len())?;
    Ok(Judged::free(found.into_iter().flatten().collect()))
}
