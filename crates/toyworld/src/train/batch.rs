//! Training examples and their packing into micro-batches.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

/// What a document teaches; losses are logged apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Exchanges of questions and answers by one writer.
    Chat,
    /// Two answers, a verdict and marks.
    Comparison,
    /// One answer and its marks.
    Check,
}

impl Kind {
    /// All kinds, in the order of the log's columns.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Comparison, Self::Check];

    /// Position in [`Self::ALL`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::Chat => 0,
            Self::Comparison => 1,
            Self::Check => 2,
        }
    }
}

/// One training document.
#[derive(Clone, Debug)]
pub struct Example {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Loss weight of predicting each token from those before it; the first is not used.
    pub weights: Vec<f32>,
    /// What the document teaches.
    pub kind: Kind,
}

/// Where examples come from: a pure function of a seed and an index.
pub trait Source: Sync {
    /// Returns example `index` of the stream of `seed`.
    fn example(&self, seed: u64, index: u64) -> Example;
}

impl<F: Fn(u64, u64) -> Example + Sync> Source for F {
    fn example(&self, seed: u64, index: u64) -> Example {
        self(seed, index)
    }
}

/// Examples laid one after another, without padding.
///
/// Row `i` holds token `i` and predicts token `i + 1` of the same document; the last row of a
/// document has weight 0.
pub(super) struct Batch {
    /// Token ids, `[rows]`, u32.
    pub(super) tokens: Tensor,
    /// Rows of each document, in order.
    pub(super) documents: Arc<[Range<usize>]>,
    /// Token to be predicted by each row.
    pub(super) targets: Arc<[u32]>,
    /// Loss weight of each row.
    pub(super) weights: Arc<[f32]>,
    /// Kind of each document.
    pub(super) kinds: Vec<Kind>,
}

impl Batch {
    /// Packs examples of at least one token each.
    ///
    /// # Errors
    /// When an example is empty, or its weights do not match its tokens.
    pub(super) fn pack(examples: &[Example]) -> Result<Self> {
        let rows = examples.iter().map(|e| e.tokens.len()).sum();
        let mut tokens = Vec::with_capacity(rows);
        let (mut targets, mut weights) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut documents = Vec::with_capacity(examples.len());
        for example in examples {
            if example.tokens.is_empty() || example.tokens.len() != example.weights.len() {
                candle_core::bail!(
                    "an example has {} tokens and {} weights",
                    example.tokens.len(),
                    example.weights.len()
                );
            }
            documents.push(tokens.len()..tokens.len() + example.tokens.len());
            tokens.extend_from_slice(&example.tokens);
            targets.extend_from_slice(&example.tokens[1..]);
            targets.push(0);
            weights.extend_from_slice(&example.weights[1..]);
            weights.push(0.0);
        }
        Ok(Self {
            tokens: Tensor::from_vec(tokens, rows, &Device::Cpu)?,
            documents: documents.into(),
            targets: targets.into(),
            weights: weights.into(),
            kinds: examples.iter().map(|e| e.kind).collect(),
        })
    }

    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.targets.len()
    }

    /// Returns the sum of the loss weights.
    pub(super) fn weight(&self) -> f64 {
        self.weights.iter().map(|&w| f64::from(w)).sum()
    }
}

/// Takes examples from `next` on until `tokens` would be exceeded, at least one.
///
/// `next` advances past the examples taken.
pub(super) fn take(source: &dyn Source, seed: u64, next: &mut u64, tokens: usize) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut total = 0;
    loop {
        let example = source.example(seed, *next);
        total += example.tokens.len();
        if total > tokens && !examples.is_empty() {
            return examples;
        }
        *next += 1;
        examples.push(example);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(_: u64, index: u64) -> Example {
        let n = 2 + index as usize % 3;
        Example {
            tokens: vec![index as u32; n],
            weights: vec![1.0; n],
            kind: Kind::Chat,
        }
    }

    #[test]
    fn rows_predict_the_next_token_of_their_document() -> Result<()> {
        let mut examples = vec![example(0, 1), example(0, 2)];
        examples[0].tokens = vec![5, 6, 7];
        examples[0].weights = vec![9.0, 0.1, 3.0];
        let batch = Batch::pack(&examples)?;
        assert_eq!(batch.documents[..], [0..3, 3..7]);
        assert_eq!(batch.targets[..], [6, 7, 0, 2, 2, 2, 0]);
        assert_eq!(batch.weights[..], [0.1, 3.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(batch.rows(), 7);
        Ok(())
    }

    #[test]
    fn taking_fills_the_budget_and_loses_no_example() {
        let mut next = 0;
        let first = take(&example, 0, &mut next, 9);
        assert_eq!(
            first.iter().map(|e| e.tokens.len()).collect::<Vec<_>>(),
            [2, 3, 4]
        );
        assert_eq!(next, 3);
        assert_eq!(take(&example, 0, &mut next, 1).len(), 1);
        assert_eq!(next, 4);
    }

    #[test]
    fn weights_of_another_length_are_an_error() {
        let mut bad = example(0, 0);
        bad.weights.pop();
        assert!(Batch::pack(&[bad]).is_err());
    }
}
