//! What a training learns from, and how its result does on held-out prompts.

use crate::params::TrainParams;
use crate::{SplitPairs, TrainError};
use sims_extract::sequence::PlannedPair;
use sims_stats::Interval;
use sims_steering::bipo::{Trained, times};
use sims_steering::paired_states::shuffled_labels;
use sims_steering::preference::{Preference, PreferenceOdds, PreparedPair};
use sims_steering::separation::Scores;
use sims_steering::{FitError, Signal};

/// Prepared pairs, split by prompt.
pub struct Trial {
    fit: Vec<PreparedPair>,
    held_out: Vec<PreparedPair>,
    /// By held-out pair: its id, and the number of its prompt.
    held_out_ids: Vec<(String, u32)>,
    counts: (usize, usize),
}

/// How the vectors do.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Mean loss of the held-out pairs, of both signs.
    pub loss: f64,
    /// Share of held-out pairs whose log-odds the vectors raise.
    pub raised: Interval,
    /// Share whose log-odds the negated vectors lower.
    pub lowered: Interval,
    /// Share that the implicit reward orders rightly: half the log-ratio of `v` to `−v`.
    pub pair_accuracy: Interval,
    /// Area under the curve of that reward, held-out chosen responses against rejected ones.
    pub auroc: Interval,
    /// The same with held-out labels exchanged by coins.
    pub shuffled: Vec<f64>,
    /// One entry a layer.
    pub layers: Vec<LayerFigures>,
}

/// What the fit half's states are like at a steered layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerFigures {
    /// Mean norm of the states that predict responses.
    pub state_norm: f64,
    /// Mean difference of chosen and rejected ones, `[hidden]`.
    pub difference: Vec<f64>,
}

impl Figures {
    /// Returns what the signal gate reads.
    pub fn signal(&self) -> Signal {
        let area = self.auroc;
        Signal {
            auroc: area.estimate,
            ci_low: area.low,
            ci_high: area.high,
            shuffled: self.shuffled.iter().sum::<f64>() / self.shuffled.len().max(1) as f64,
            beats_shuffled: self.shuffled.iter().all(|&other| area.estimate > other),
        }
    }
}

impl Trial {
    /// Splits the pairs by prompt and runs each once without the vectors.
    ///
    /// Pairs of two identical responses are left out: nothing can prefer one to the other. `progress` is called after
    /// every pair.
    ///
    /// # Errors
    /// [`FitError::TooFewPrompts`], and what the preparation says.
    pub fn new(
        odds: &PreferenceOdds<'_>,
        planned: &[PlannedPair],
        params: &TrainParams,
        progress: &(dyn Fn() + Sync),
    ) -> Result<Self, TrainError> {
        let split = SplitPairs::new(planned, params.labels, params.held_out, params.seed)?;
        let prepare = |pairs: &[Preference]| odds.prepare_all(pairs, progress);
        let ids = split.held_out.iter().map(|pair| pair.pair_id.clone());
        Ok(Self {
            fit: prepare(&split.fit)?,
            held_out: prepare(&split.held_out)?,
            held_out_ids: ids.zip(split.held_out_prompts).collect(),
            counts: split.prompts,
        })
    }

    /// Returns the pairs to learn from.
    pub fn fit(&self) -> Vec<&PreparedPair> {
        self.fit.iter().collect()
    }

    /// Returns the pairs held out.
    pub fn held_out(&self) -> Vec<&PreparedPair> {
        self.held_out.iter().collect()
    }

    /// Returns the numbers of pairs: fit and held out.
    pub fn pairs(&self) -> (usize, usize) {
        (self.fit.len(), self.held_out.len())
    }

    /// Returns the numbers of prompts: fit and held out.
    pub fn prompts(&self) -> (usize, usize) {
        self.counts
    }

    /// Measures trained vectors on the held-out pairs.
    ///
    /// # Errors
    /// What the model or the statistics say.
    pub fn figures(
        &self,
        odds: &PreferenceOdds<'_>,
        trained: &Trained,
        params: &TrainParams,
    ) -> Result<Figures, FitError> {
        let held_out = self.held_out();
        let plus = odds.log_ratios(&held_out, &trained.vectors)?;
        let minus = odds.log_ratios(&held_out, &times(&trained.vectors, -1.0))?;
        let prompts: Vec<u32> = self
            .held_out_ids
            .iter()
            .map(|(_, prompt)| *prompt)
            .collect();
        let of = |class: usize, value: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            (0..held_out.len()).map(|pair| value(pair, class)).collect()
        };
        let scores = |value: &dyn Fn(usize, usize) -> f64| {
            Scores::new(of(0, value), of(1, value), prompts.clone())
        };
        let reward = |pair: usize, class: usize| (plus[pair][class] - minus[pair][class]) / 2.0;
        let rewards = scores(&reward);
        let shuffled = (0..params.shuffles).map(|shuffle| {
            let ids = self.held_out_ids.iter().map(|(id, _)| id.as_str());
            let exchanged = shuffled_labels(ids, params.seed, &format!("check-{shuffle}"));
            let swapped =
                |pair: usize, class: usize| reward(pair, class ^ usize::from(exchanged[pair]));
            Ok(scores(&swapped).auroc()?.estimate)
        });
        let layers = (0..odds.layers().len()).map(|layer| self.layer(layer, odds.hidden_size()));
        Ok(Figures {
            loss: trained.losses[trained.best_epoch].held_out,
            raised: scores(&|pair, class| plus[pair][class]).pair_accuracy()?,
            lowered: scores(&|pair, class| -minus[pair][class]).pair_accuracy()?,
            pair_accuracy: rewards.pair_accuracy()?,
            auroc: rewards.auroc()?,
            shuffled: shuffled.collect::<Result<_, FitError>>()?,
            layers: layers.collect(),
        })
    }

    /// Averages over the pairs of the fit half.
    fn layer(&self, index: usize, width: usize) -> LayerFigures {
        let mut average = LayerFigures {
            state_norm: 0.0,
            difference: vec![0.0; width],
        };
        for pair in &self.fit {
            let figures = &pair.figures()[index];
            average.state_norm += figures.state_norm / self.fit.len() as f64;
            for (sum, x) in average.difference.iter_mut().zip(&figures.difference) {
                *sum += x / self.fit.len() as f64;
            }
        }
        average
    }
}
