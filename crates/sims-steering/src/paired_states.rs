//! The input of every fit: chosen and rejected hidden states of one layer, row by row, and their split.

use crate::FitError;
use crate::device_states::DeviceStates;
use crate::random::stream;
use crate::real::norm;
use candle_core::Tensor;
use sims_stats::split::held_out_by_group;

/// Chosen and rejected states of one layer, paired row by row.
///
/// Rows of one contrast pair lie one after another, as extraction writes them.
#[derive(Debug, Clone, Copy)]
pub struct PairedStates<'a> {
    hidden: usize,
    positive: &'a [f32],
    negative: &'a [f32],
    pairs: &'a [u32],
    prompts: &'a [u32],
    flipped: &'a [bool],
    weights: &'a [f64],
    device: Option<&'a DeviceStates>,
}

impl<'a> PairedStates<'a> {
    /// Wraps the states of a layer.
    ///
    /// `positive` and `negative`: `[rows, hidden]`, f32, of the chosen and the rejected response; `pairs`
    /// and `prompts`: `[rows]`, the number of each row's contrast pair and prompt.
    ///
    /// # Errors
    /// [`FitError::EmptyClass`] without rows, [`FitError::NonFinite`] for a NaN or an infinity.
    ///
    /// # Panics
    /// If the lengths do not agree: the caller has checked the file.
    pub fn new(
        hidden: usize,
        positive: &'a [f32],
        negative: &'a [f32],
        pairs: &'a [u32],
        prompts: &'a [u32],
    ) -> Result<Self, FitError> {
        for (class, values) in [("chosen", positive), ("rejected", negative)] {
            if values.is_empty() {
                return Err(FitError::EmptyClass { class });
            }
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                return Err(FitError::NonFinite {
                    row: (at / hidden) as u64,
                });
            }
        }
        assert_eq!(
            positive.len(),
            pairs.len() * hidden,
            "chosen states and index disagree"
        );
        assert_eq!(
            negative.len(),
            positive.len(),
            "chosen and rejected states disagree"
        );
        assert_eq!(prompts.len(), pairs.len(), "pairs and prompts disagree");
        Ok(Self {
            hidden,
            positive,
            negative,
            pairs,
            prompts,
            flipped: &[],
            weights: &[],
            device: None,
        })
    }

    /// Returns the same states with chosen and rejected exchanged in the flipped pairs.
    ///
    /// `flipped`: one entry a pair; missing entries are not flipped.
    #[must_use]
    pub fn with_flipped(self, flipped: &'a [bool]) -> Self {
        Self { flipped, ..self }
    }

    /// Returns the same states with weights for the pairs, read by the mean difference.
    ///
    /// `weights`: one entry a pair, at least 0; without any, all pairs weigh the same.
    #[must_use]
    pub fn with_weights(self, weights: &'a [f64]) -> Self {
        Self { weights, ..self }
    }

    /// Returns the same states with their copy on a device, where fits then compute; without one they stay on the host.
    #[must_use]
    pub fn on_device(self, device: Option<&'a DeviceStates>) -> Self {
        Self { device, ..self }
    }

    /// Returns the copy on a device.
    pub(crate) fn device(&self) -> Option<&'a DeviceStates> {
        self.device
    }

    /// Returns the products of every row with a direction, computed on the device: of chosen and of rejected states.
    pub(crate) fn projected(
        &self,
        device: &DeviceStates,
        direction: &[f64],
    ) -> Result<[Vec<f64>; 2], FitError> {
        let mut along = device.project(direction)?;
        self.exchange(&mut along);
        Ok(along)
    }

    /// Returns the sum of all rows with weights for chosen and rejected states, computed on the device: `[hidden]`.
    ///
    /// `weights`: `[rows]` of both classes; 0 for rows to leave out.
    pub(crate) fn combined(
        &self,
        device: &DeviceStates,
        mut weights: [Vec<f64>; 2],
    ) -> Result<Vec<f64>, FitError> {
        self.exchange(&mut weights);
        Ok(device.combine(&weights)?)
    }

    /// Returns columns of the given rows on the device, chosen and rejected: `[columns, rows]`, f64.
    pub(crate) fn columns(
        &self,
        device: &DeviceStates,
        rows: &[usize],
        first: usize,
        columns: usize,
    ) -> Result<[Tensor; 2], FitError> {
        let flipped: Vec<u8> = rows
            .iter()
            .map(|&row| u8::from(self.is_flipped(row)))
            .collect();
        let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        Ok(device.columns(&rows, &flipped, first, columns)?)
    }

    /// Exchanges the classes' entries of flipped rows.
    fn exchange(&self, classes: &mut [Vec<f64>; 2]) {
        let [first, second] = classes;
        for (row, (a, b)) in first.iter_mut().zip(second).enumerate() {
            if self.is_flipped(row) {
                std::mem::swap(a, b);
            }
        }
    }

    /// Returns the weight of the row's pair; none if all weigh the same.
    pub fn weight(&self, row: usize) -> Option<f64> {
        self.weights.get(self.pairs[row] as usize).copied()
    }

    /// Returns the number of rows of each class.
    pub fn rows(&self) -> usize {
        self.pairs.len()
    }

    /// Returns the hidden size.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Returns the number of the row's contrast pair.
    pub fn pair(&self, row: usize) -> u32 {
        self.pairs[row]
    }

    /// Returns the number of the row's prompt.
    pub fn prompt(&self, row: usize) -> u32 {
        self.prompts[row]
    }

    /// Returns the chosen state of a row, `[hidden]`.
    pub fn chosen(&self, row: usize) -> &'a [f32] {
        let class = if self.is_flipped(row) {
            self.negative
        } else {
            self.positive
        };
        &class[row * self.hidden..(row + 1) * self.hidden]
    }

    /// Returns the rejected state of a row, `[hidden]`.
    pub fn rejected(&self, row: usize) -> &'a [f32] {
        let class = if self.is_flipped(row) {
            self.positive
        } else {
            self.negative
        };
        &class[row * self.hidden..(row + 1) * self.hidden]
    }

    /// Returns the mean norm of the given rows of both classes.
    pub fn mean_norm(&self, rows: &[usize]) -> f64 {
        let both = |&row: &usize| match self.device {
            Some(device) => device.norm(0, row) + device.norm(1, row),
            None => norm(self.chosen(row)) + norm(self.rejected(row)),
        };
        let sum: f64 = rows.iter().map(both).sum();
        sum / (2 * rows.len()).max(1) as f64
    }

    /// Calls `visit` with the mean chosen and the mean rejected state of each pair, `[hidden]`, over the given rows.
    ///
    /// `rows`: ascending. Each mean is a sum in the order of the rows, so pairs may be visited in any chunks.
    pub fn each_response(&self, rows: &[usize], mut visit: impl FnMut(&[f64], &[f64])) {
        for pair in rows.chunk_by(|&a, &b| self.pairs[a] == self.pairs[b]) {
            let mean = |state: &dyn Fn(usize) -> &'a [f32]| -> Vec<f64> {
                let mut mean = vec![0.0; self.hidden];
                for &row in pair {
                    for (sum, &x) in mean.iter_mut().zip(state(row)) {
                        *sum += f64::from(x);
                    }
                }
                mean.iter_mut().for_each(|sum| *sum /= pair.len() as f64);
                mean
            };
            visit(
                &mean(&|row| self.chosen(row)),
                &mean(&|row| self.rejected(row)),
            );
        }
    }

    fn is_flipped(&self, row: usize) -> bool {
        self.flipped
            .get(self.pairs[row] as usize)
            .copied()
            .unwrap_or(false)
    }
}

/// Draws for each pair whether its labels are exchanged, with probability one half.
///
/// Depends on the seed, the label of the draw and the pair's id alone.
pub fn shuffled_labels<'a>(
    pair_ids: impl Iterator<Item = &'a str>,
    seed: u64,
    draw: &str,
) -> Vec<bool> {
    pair_ids
        .map(|id| stream(seed, &format!("shuffled-labels|{draw}|{id}")).below(2) == 1)
        .collect()
}

/// Which prompts are fitted and which are held out.
///
/// The split is by prompt: states of one response, or of two responses to one prompt, resemble each other,
/// and in both halves they would lift every held-out figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSplit {
    held_out: Vec<bool>,
}

/// Least number of prompts in the fit half.
pub const MIN_FIT_PROMPTS: usize = 32;
/// Least number of prompts held out.
pub const MIN_HELD_OUT_PROMPTS: usize = 8;

impl PromptSplit {
    /// Holds out the given share of the prompts; which ones depends on the ids and the seed alone.
    ///
    /// `prompt_ids`: the distinct prompts; their position is the prompt number of [`PairedStates`].
    ///
    /// # Errors
    /// [`FitError::TooFewPrompts`] if fewer than [`MIN_FIT_PROMPTS`] or [`MIN_HELD_OUT_PROMPTS`] are left.
    pub fn new(prompt_ids: &[&str], share: f64, seed: u64) -> Result<Self, FitError> {
        let split = Self {
            held_out: held_out_by_group(prompt_ids, share, seed),
        };
        let (fit, held_out) = split.counts();
        if fit < MIN_FIT_PROMPTS || held_out < MIN_HELD_OUT_PROMPTS {
            return Err(FitError::TooFewPrompts {
                fit,
                held_out,
                min_fit: MIN_FIT_PROMPTS,
                min_held_out: MIN_HELD_OUT_PROMPTS,
            });
        }
        Ok(split)
    }

    /// Returns the numbers of prompts to fit and held out.
    pub fn counts(&self) -> (usize, usize) {
        let held_out = self.held_out.iter().filter(|&&held_out| held_out).count();
        (self.held_out.len() - held_out, held_out)
    }

    /// Returns the rows to fit and the rows held out, each in ascending order.
    pub fn rows(&self, prompts: &[u32]) -> (Vec<usize>, Vec<usize>) {
        (0..prompts.len()).partition(|&row| !self.held_out[prompts[row] as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("prompt-{n}")).collect()
    }

    fn split(count: usize, seed: u64) -> Result<PromptSplit, FitError> {
        let ids = ids(count);
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        PromptSplit::new(&ids, 0.2, seed)
    }

    /// T42, in part: no prompt is in both halves, and the split repeats.
    #[test]
    fn prompts_are_in_one_half_only() {
        let split_a = split(100, 1).unwrap();
        assert_eq!(split_a.counts(), (80, 20));
        assert_eq!(split_a, split(100, 1).unwrap());
        assert_ne!(split_a, split(100, 2).unwrap());
        let prompts: Vec<u32> = (0..300).map(|row| row / 3).collect();
        let (fit, held_out) = split_a.rows(&prompts);
        assert_eq!((fit.len(), held_out.len()), (240, 60));
        for row in &fit {
            assert!(
                held_out
                    .iter()
                    .all(|other| prompts[*other] != prompts[*row])
            );
        }
    }

    /// T04, in part: five prompts are too few.
    #[test]
    fn few_prompts_are_refused() {
        assert!(matches!(
            split(5, 1),
            Err(FitError::TooFewPrompts {
                fit: 4,
                held_out: 1,
                ..
            })
        ));
        assert!(split(40, 1).is_ok());
        assert!(split(39, 1).is_err());
    }

    #[test]
    fn flips_exchange_the_classes() {
        let (positive, negative) = ([1.0f32, 2.0, 3.0], [-1.0f32, -2.0, -3.0]);
        let (pairs, prompts) = ([0, 0, 1], [0, 0, 1]);
        let states = PairedStates::new(1, &positive, &negative, &pairs, &prompts).unwrap();
        let flipped = states.with_flipped(&[true, false]);
        assert_eq!(
            (states.chosen(0), states.rejected(0)),
            (&[1.0][..], &[-1.0][..])
        );
        assert_eq!(
            (flipped.chosen(1), flipped.rejected(1)),
            (&[-2.0][..], &[2.0][..])
        );
        assert_eq!(flipped.chosen(2), [3.0]);
        assert_eq!(states.mean_norm(&[0, 2]), 2.0);
    }

    #[test]
    fn shuffles_are_fair_and_repeat() {
        let ids = ids(2000);
        let draw = |name: &str| shuffled_labels(ids.iter().map(String::as_str), 3, name);
        let flips = draw("0").iter().filter(|&&flip| flip).count();
        assert!((900..1100).contains(&flips), "{flips}");
        assert_eq!(draw("0"), draw("0"));
        assert_ne!(draw("0"), draw("1"));
    }

    #[test]
    fn bad_states_are_refused() {
        let make = |values: &[f32]| {
            PairedStates::new(
                1,
                values,
                values,
                &[0, 1][..values.len()],
                &[0, 1][..values.len()],
            )
            .map(|_| ())
        };
        assert!(matches!(
            make(&[]),
            Err(FitError::EmptyClass { class: "chosen" })
        ));
        assert!(matches!(
            make(&[0.0, f32::NAN]),
            Err(FitError::NonFinite { row: 1 })
        ));
    }
}
