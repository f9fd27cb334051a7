//! Time and memory of work on a card.

use crate::card::{
    Card, FEWEST_ROWS, LAUNCH, LAUNCHES_A_BLOCK, LOADING, MEMORY_SHARE, MOST_ROWS, MOST_SEQUENCES,
    READING, WRITING,
};
use crate::model::{Footprint, ModelSize};
use crate::work::Work;

/// What work takes on a card.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Floating point operations.
    pub flops: f64,
    /// Bytes of the weights.
    pub weight_bytes: f64,
    /// Bytes of keys and values at the most.
    pub kv_bytes: f64,
    /// Bytes of all, activations included.
    pub memory_bytes: f64,
    /// Whether the weights and one sequence fit.
    pub fits: bool,
    /// Responses written at once.
    pub batch: f64,
    /// Reading: bound by arithmetic. Unit: seconds.
    pub reading: f64,
    /// Writing: bound by the memory, or by arithmetic in very large batches. Unit: seconds.
    pub writing: f64,
    /// Bringing the weights to the card. Unit: seconds.
    pub loading: f64,
}

impl Estimate {
    /// Estimates `work` of `model` on `card`.
    pub fn of(work: &Work, model: &ModelSize, card: &Card) -> Self {
        let footprint = model.footprint(work.dtype);
        let batch = Batch::fitting(work, &footprint, card);
        let peak = card.peak(work.dtype) * READING;
        let flops = work.flops(model.active_parameters);
        let reading = flops - 2.0 * model.active_parameters * work.written;
        Self {
            flops,
            weight_bytes: footprint.weights,
            kv_bytes: batch.kv_bytes,
            memory_bytes: footprint.weights + batch.kv_bytes + batch.activations,
            fits: batch.fits,
            batch: batch.sequences,
            reading: reading / peak,
            writing: writing(work, model, card, &batch),
            loading: footprint.weights / LOADING,
        }
    }

    /// Returns all of its time. Unit: hours.
    pub fn hours(&self) -> f64 {
        (self.reading + self.writing + self.loading) / 3600.0
    }
}

/// Every step reads the weights once for the whole batch, and every response's cache.
fn writing(work: &Work, model: &ModelSize, card: &Card, batch: &Batch) -> f64 {
    if work.written == 0.0 {
        return 0.0;
    }
    let footprint = model.footprint(work.dtype);
    let steps = work.written / batch.sequences;
    let bytes = steps * footprint.weights + work.attended * footprint.kv_slot;
    let arithmetic = 2.0 * model.active_parameters * work.written;
    let bound =
        (bytes / (card.bandwidth * WRITING)).max(arithmetic / (card.peak(work.dtype) * READING));
    bound + steps * LAUNCHES_A_BLOCK * model.layers * LAUNCH
}

/// What runs at once.
struct Batch {
    sequences: f64,
    kv_bytes: f64,
    activations: f64,
    fits: bool,
}

impl Batch {
    /// Chooses it as the engine does: activations take a quarter of the memory at most, keys and values the rest.
    fn fitting(work: &Work, footprint: &Footprint, card: &Card) -> Self {
        let budget = (card.memory - footprint.weights) * MEMORY_SHARE;
        let (mut rows, mut sequences) = (MOST_ROWS, MOST_SEQUENCES.min(work.sequences));
        let activations = |rows: f64, sequences: f64| {
            rows * footprint.row + sequences * (footprint.row + footprint.logits_row)
        };
        while activations(rows, sequences) > budget / 4.0 {
            if rows > FEWEST_ROWS {
                rows /= 2.0;
            } else if sequences > 1.0 {
                sequences = (sequences / 2.0).floor();
            } else {
                break;
            }
        }
        let activations = activations(rows, sequences);
        let room = ((budget - activations) / footprint.kv_slot.max(1.0)).max(0.0);
        let (read, written) = (work.longest_read, work.longest_written.max(1.0));
        if sequences > 0.0 {
            sequences = sequences.min((room / written).floor()).max(1.0);
        }
        // What is only read keeps the slots of the rows that run, and of the beginning that they share.
        let reading = if read > 0.0 { rows + read } else { 0.0 };
        let slots = (sequences * written).max(reading);
        Self {
            sequences,
            kv_bytes: slots * footprint.kv_slot,
            activations,
            fits: budget > 0.0 && room >= read.max(written),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::{CARDS, Dtype};

    /// Llama-3-8B: 8.03e9 parameters, 131,072 bytes of cache a token in bf16.
    fn llama() -> ModelSize {
        let footprint = |bytes: f64| Footprint {
            weights: bytes * 8.03e9,
            kv_slot: bytes * 65_536.0,
            row: bytes * 100_000.0,
            logits_row: (4.0 + bytes) * 128_256.0,
        };
        ModelSize {
            parameters: 8.03e9,
            active_parameters: 8.03e9,
            layers: 32.0,
            context: 8192.0,
            footprints: [("f32", 4.0), ("bf16", 2.0)]
                .map(|(name, bytes)| (name.to_owned(), footprint(bytes)))
                .into(),
            counted: true,
            judge: [0.0; 4],
            prompts: Default::default(),
        }
    }

    #[test]
    fn reading_is_bound_by_arithmetic() {
        let mut work = Work::none(Dtype::Bf16);
        work.read(1e6, 500.0);
        let [h100, h200] = CARDS.map(|card| Estimate::of(&work, &llama(), &card));
        // 2 x 8.03e9 x 1e6 operations at 0.4 of 989e12 a second.
        assert!((h100.reading - 1.606e16 / 3.956e14).abs() < 1e-9);
        assert_eq!((h100.writing, h100.reading), (0.0, h200.reading));
        assert_eq!(h100.flops, 1.606e16);
    }

    #[test]
    fn writing_is_bound_by_the_memory() {
        let mut work = Work::none(Dtype::Bf16);
        work.draw(256.0, 150.0, 1.0, 256.0);
        let card = CARDS[0];
        let estimate = Estimate::of(&work, &llama(), &card);
        assert_eq!((estimate.batch, estimate.fits), (256.0, true));
        // 256 steps: 16.06 GB of weights, and 256 caches of 278 tokens on average.
        let step = 16.06e9 + 256.0 * 278.0 * 131_072.0;
        let expected = 256.0 * (step / (3.35e12 * 0.5) + 320.0 * 10e-6);
        assert!((estimate.writing - expected).abs() < 1e-9 * expected);
        // Twice the responses take twice the steps, since the batch is full.
        work.draw(256.0, 150.0, 1.0, 256.0);
        work.sequences = 512.0;
        let twice = Estimate::of(&work, &llama(), &card);
        assert!((twice.writing - 2.0 * expected).abs() < 1e-9 * expected);
        let h200 = Estimate::of(&work, &llama(), &CARDS[1]);
        assert!(h200.writing < twice.writing);
    }

    #[test]
    fn the_batch_is_what_fits_and_a_model_that_does_not_is_said() {
        let mut work = Work::none(Dtype::F32);
        work.draw(1000.0, 4000.0, 10.0, 4000.0);
        let estimate = Estimate::of(&work, &llama(), &CARDS[0]);
        assert!(estimate.fits && estimate.batch < 256.0 && estimate.batch > 1.0);
        assert!(estimate.memory_bytes < CARDS[0].memory);
        let mut large = llama();
        if let Some(footprint) = large.footprints.get_mut("f32") {
            footprint.weights = 282e9;
        }
        assert!(!Estimate::of(&work, &large, &CARDS[0]).fits);
    }
}
