//! Rows of many sequences, one after another, with what each attends.

use std::ops::Range;

use crate::{Config, ModelError, Result};

/// A run of consecutive positions of one sequence within a batch.
///
/// Row `i` of the segment attends the slots of `context` in order, then the segment's own rows up to
/// and including itself. `context` holds every earlier position of the sequence exactly once, so its
/// ranges add up to `position` slots; it may name slots that other segments of the same batch write,
/// since every block writes all keys and values before it attends: a tree of shared prefixes is one
/// batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The rows of the batch that the segment covers.
    pub rows: Range<usize>,
    /// The position, in its sequence, of the first row.
    pub position: usize,
    /// The KV slots attended before the segment itself, in the order of their positions.
    pub context: Vec<Range<usize>>,
    /// The KV slots that the rows' keys and values are written to, as many as there are rows.
    pub slots: Range<usize>,
    /// The first position whose hidden state a hook may edit; `usize::MAX` for none.
    pub edit_from: usize,
    /// Whether the rows ran before and run again because their slots were given up: a hook that counts passes over
    /// them.
    pub is_repeated: bool,
}

impl Segment {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether the segment has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the rows of the batch whose hidden states a hook may edit.
    pub fn edit_rows(&self) -> Range<usize> {
        let skipped = self.edit_from.saturating_sub(self.position).min(self.len());
        self.rows.start + skipped..self.rows.end
    }
}

/// The tokens of one forward pass and how they group into segments.
///
/// The segments' `rows` tile `0..tokens.len()` in order; no two segments share a slot.
/// There is no padding: sequences of different lengths simply have different numbers of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// One token id a row.
    pub tokens: Vec<u32>,
    /// The segments, in the order of their rows.
    pub segments: Vec<Segment>,
}

impl Batch {
    /// Appends a segment of `tokens`, giving it the next rows.
    ///
    /// `slots_start` is the first of the consecutive slots that its keys and values are written to;
    /// the position of its first row is the number of slots in `context`.
    pub fn push(
        &mut self,
        tokens: &[u32],
        context: Vec<Range<usize>>,
        slots_start: usize,
        edit_from: usize,
    ) {
        let row = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.segments.push(Segment {
            rows: row..row + tokens.len(),
            position: context.iter().map(|range| range.len()).sum(),
            context,
            slots: slots_start..slots_start + tokens.len(),
            edit_from,
            is_repeated: false,
        });
    }
}

impl Batch {
    /// Checks the rules that the type states, and that tokens and positions exist in the model.
    pub(crate) fn check(&self, config: &Config) -> Result<()> {
        if self.tokens.is_empty() {
            return Err(ModelError::Batch {
                segment: 0,
                message: "the batch has no tokens".to_owned(),
            });
        }
        let mut next_row = 0;
        for (index, segment) in self.segments.iter().enumerate() {
            let refuse = |message: String| {
                Err(ModelError::Batch {
                    segment: index,
                    message,
                })
            };
            let (rows, context) = (
                &segment.rows,
                segment
                    .context
                    .iter()
                    .map(|range| range.len())
                    .sum::<usize>(),
            );
            if rows.start != next_row || rows.is_empty() || rows.end > self.tokens.len() {
                return refuse(format!(
                    "rows {rows:?} do not follow on from row {next_row}"
                ));
            }
            if segment.slots.len() != rows.len() {
                return refuse(format!(
                    "{} rows have {} slots",
                    rows.len(),
                    segment.slots.len()
                ));
            }
            if context != segment.position {
                return refuse(format!(
                    "position {} has a context of {context}",
                    segment.position
                ));
            }
            let overlaps = |range: &&Range<usize>| {
                range.start < segment.slots.end && segment.slots.start < range.end
            };
            if let Some(range) = segment.context.iter().find(overlaps) {
                return refuse(format!(
                    "context {range:?} overlaps the segment's own slots {:?}",
                    segment.slots
                ));
            }
            let tokens = segment.position + segment.len();
            if tokens > config.max_position_embeddings {
                return Err(ModelError::TooLong {
                    tokens,
                    limit: config.max_position_embeddings,
                });
            }
            let unknown = |token: &&u32| **token as usize >= config.vocab_size;
            if let Some(token) = self.tokens[rows.clone()].iter().find(unknown) {
                return refuse(format!(
                    "token {token} is not below the vocab_size {}",
                    config.vocab_size
                ));
            }
            next_row = rows.end;
        }
        if next_row != self.tokens.len() {
            let message = format!(
                "{} tokens follow the last segment",
                self.tokens.len() - next_row
            );
            return Err(ModelError::Batch {
                segment: self.segments.len(),
                message,
            });
        }
        let mut slots: Vec<_> = self
            .segments
            .iter()
            .enumerate()
            .map(|(i, segment)| (&segment.slots, i))
            .collect();
        slots.sort_unstable_by_key(|(slots, _)| slots.start);
        match slots
            .windows(2)
            .find(|pair| pair[0].0.end > pair[1].0.start)
        {
            Some(pair) => {
                let message = format!(
                    "slots {:?} overlap those of segment {}",
                    pair[1].0, pair[0].1
                );
                Err(ModelError::Batch {
                    segment: pair[1].1,
                    message,
                })
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a context of one range")]
mod tests {
    use super::*;
    use std::path::Path;

    fn config() -> Config {
        let text = r#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4,
            "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 6, "rms_norm_eps": 1e-5}"#;
        Config::parse(text, Path::new("config.json")).expect("valid")
    }

    fn two_segments() -> Batch {
        let mut batch = Batch::default();
        batch.push(&[1, 2], vec![], 0, 0);
        batch.push(&[3], vec![0..2], 4, usize::MAX);
        batch
    }

    fn refusal(edit: impl Fn(&mut Batch)) -> String {
        let mut batch = two_segments();
        edit(&mut batch);
        batch.check(&config()).expect_err("refused").to_string()
    }

    #[test]
    fn pushed_segments_follow_the_rules() {
        let batch = two_segments();
        batch.check(&config()).expect("valid");
        assert_eq!(
            (batch.segments[1].rows.clone(), batch.segments[1].position),
            (2..3, 2)
        );
    }

    #[test]
    fn edit_rows_start_at_the_first_editable_position() {
        let mut batch = Batch::default();
        batch.push(&[1, 2, 3], vec![7..9], 0, 3);
        assert_eq!(batch.segments[0].edit_rows(), 1..3);
        batch.segments[0].edit_from = usize::MAX;
        assert_eq!(batch.segments[0].edit_rows(), 3..3);
        batch.segments[0].edit_from = 0;
        assert_eq!(batch.segments[0].edit_rows(), 0..3);
    }

    #[test]
    fn broken_rules_are_named() {
        assert_eq!(
            refusal(|b| b.segments[1].rows = 1..3),
            "segment 1: rows 1..3 do not follow on from row 2"
        );
        assert_eq!(
            refusal(|b| b.tokens.push(1)),
            "segment 2: 1 tokens follow the last segment"
        );
        assert_eq!(
            refusal(|b| b.segments[0].slots = 0..3),
            "segment 0: 2 rows have 3 slots"
        );
        assert_eq!(
            refusal(|b| b.segments[1].position = 3),
            "segment 1: position 3 has a context of 2"
        );
        assert_eq!(
            refusal(|b| b.segments[1].slots = 1..2),
            "segment 1: context 0..2 overlaps the segment's own slots 1..2"
        );
        assert_eq!(
            refusal(|b| b.tokens[0] = 8),
            "segment 0: token 8 is not below the vocab_size 8"
        );
        let shared = |b: &mut Batch| {
            (
                b.segments[1].context,
                b.segments[1].position,
                b.segments[1].slots,
            ) = (vec![], 0, 1..2);
        };
        assert_eq!(
            refusal(shared),
            "segment 1: slots 1..2 overlap those of segment 0"
        );
        let long = |b: &mut Batch| {
            (b.segments[1].context, b.segments[1].position) = (vec![0..2, 0..2, 0..2], 6)
        };
        assert_eq!(
            refusal(long),
            "a sequence of 7 tokens does not fit the model's context of 6"
        );
    }
}
