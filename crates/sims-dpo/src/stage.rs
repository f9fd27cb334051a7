//! The stage: contrast pairs and a model in, an adapter and the figures of its training out.

use crate::error::DpoError;
use crate::params::DpoParams;
use crate::report;
use sims_artifact::{Digest, ModelManifest, read_prompts};
use sims_extract::PositionSet;
use sims_extract::sequence::Planner;
use sims_model::gguf::is_gguf;
use sims_model::{LanguageModel, numerics_class};
use sims_stage::{Interrupted, Numerics, Role, Stage, StageIo};
use sims_steering::dpo::{AdaptedOdds, FineTuned, ReferencedPair, train};
use sims_steering::preference::Preference;
use sims_steering::separation::Scores;
use sims_steering::{AdapterFile, FineTuning, FitError, initial_adapter};
use sims_train::{SplitPairs, bad_input, traced_model, warn_of_identical};
use std::ops::ControlFlow;

/// The fine-tuning stage.
pub struct Dpo;

impl Stage for Dpo {
    const NAME: &'static str = "dpo";
    const ABOUT: &'static str =
        "Fine-tunes a low-rank adapter on preferences (LoRA, DPO): the baseline for steering";
    const EXAMPLES: &'static str = "Examples:
  sims-dpo --pairs pairs.parquet --prompts train.parquet --model data/tiny --learning-rate 0.0004 --epochs 2 --out tuned
  sims-sample --prompts eval.parquet --model data/tiny --adapter tuned/adapter.safetensors --out answers";
    const BEHAVIOUR: u32 = 1;
    const NUMERICS: Numerics = Numerics::Model(numerics_class);
    type Params = DpoParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required("pairs", "pairs@1", "The contrast pairs"),
            Role::required("prompts", "prompts@1", "The prompts that the pairs answer"),
            Role::required("model", "model", "The model to adapt"),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required("adapter", "adapter@1", "The best epoch's adapter"),
            Role::required("training", "metrics@1", "Figures of the training, by epoch"),
        ]
    }

    fn run(params: &DpoParams, io: &mut StageIo) -> anyhow::Result<()> {
        params.check().map_err(bad_input)?;
        let pairs = io.read("pairs")?;
        let prompts = read_prompts(io.input("prompts")?)?;
        if is_gguf(io.input("model")?) {
            return Err(bad_input(DpoError::Gguf).into());
        }
        let model = traced_model(io)?;
        let manifest = ModelManifest::of_dir(io.input("model")?)?.digest;
        let planned = Planner::new(&model, &prompts, PositionSet::Response, 1, params.seed)
            .plan(&pairs)
            .map_err(bad_input)?;
        warn_of_identical(&planned, io);
        let job = Job {
            params,
            odds: AdaptedOdds::new(model.decoder()).map_err(classified)?,
            split: SplitPairs::new(&planned, params.labels, params.held_out, params.seed)
                .map_err(classified)?,
        };
        let (fit, held_out) = job.prepare(io)?;
        let tuned = job.train(&model, &fit, &held_out, io)?;
        job.publish(manifest, &held_out, tuned, io)
    }
}

/// The settings, the model and what it learns from.
struct Job<'a> {
    params: &'a DpoParams,
    odds: AdaptedOdds<'a>,
    split: SplitPairs,
}

impl Job<'_> {
    /// Runs every pair once through the model itself: those to learn from, those held out.
    fn prepare(
        &self,
        io: &mut StageIo,
    ) -> anyhow::Result<(Vec<ReferencedPair>, Vec<ReferencedPair>)> {
        let pairs = self.split.fit.len() + self.split.held_out.len();
        io.count("pairs", pairs as f64);
        let bar = io.progress("prepare", pairs as u64);
        let prepare = |pairs: &[Preference]| self.odds.prepare_all(pairs, &|| bar.inc(1));
        let fit = prepare(&self.split.fit).map_err(classified)?;
        io.check_interrupted()?;
        Ok((fit, prepare(&self.split.held_out).map_err(classified)?))
    }

    fn train(
        &self,
        model: &LanguageModel,
        fit: &[ReferencedPair],
        held_out: &[ReferencedPair],
        io: &mut StageIo,
    ) -> anyhow::Result<FineTuned> {
        let params = self.params;
        let start = initial_adapter(
            model.decoder().config(),
            &params.targets.0,
            params.rank as usize,
            params.alpha,
            params.seed,
        )
        .map_err(bad_input)?;
        let sizes = start
            .modules
            .values()
            .map(|change| change.a.len() + change.b.len());
        io.count("trained_parameters", sizes.sum::<usize>() as f64);
        let batches = fit.len().div_ceil(params.batch_pairs as usize);
        let bar = io.progress("train", (batches * params.epochs as usize) as u64);
        let mut progress = || {
            bar.inc(1);
            match io.interrupted() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let (fit, held_out): (Vec<_>, Vec<_>) = (fit.iter().collect(), held_out.iter().collect());
        let tuned = train(
            &self.odds,
            &fit,
            &held_out,
            start,
            &params.options(),
            &mut progress,
        );
        let tuned = match tuned {
            Err(FitError::Interrupted) => return Err(Interrupted.into()),
            tuned => tuned.map_err(classified)?,
        };
        self.report_cost(model, tuned.epochs.len(), io);
        Ok(tuned)
    }

    /// Counts the tokens of all passes: forward ones, of which those to learn from had a backward one too.
    fn report_cost(&self, model: &LanguageModel, epochs: usize, io: &mut StageIo) {
        // A response's last token is predicted and not read.
        let rows = |pair: &Preference| {
            (pair.prompt.len() + pair.chosen.len() + pair.rejected.len()).saturating_sub(2)
        };
        let sum = |pairs: &[Preference]| pairs.iter().map(rows).sum::<usize>();
        let (fit, held_out) = (sum(&self.split.fit), sum(&self.split.held_out));
        let trained = epochs * fit;
        let scored = fit + held_out + epochs * held_out;
        io.count("trained_tokens", trained as f64);
        io.count("scored_tokens", scored as f64);
        // Two for each parameter and token, and twice that again for a backward pass.
        let passes = (3 * trained + scored) as f64;
        let parameters = model.decoder().config().parameters() as f64;
        io.count("estimated_flops", 2.0 * parameters * passes);
    }

    fn publish(
        &self,
        model: Digest,
        held_out: &[ReferencedPair],
        tuned: FineTuned,
        io: &mut StageIo,
    ) -> anyhow::Result<()> {
        let (params, split) = (self.params, &self.split);
        let pairs: Vec<&ReferencedPair> = held_out.iter().collect();
        let ratios = self
            .odds
            .log_ratios(&pairs, &tuned.adapter)
            .map_err(classified)?;
        let of = |class: usize| ratios.iter().map(|ratios| ratios[class]).collect();
        let scores = Scores::new(of(0), of(1), split.held_out_prompts.clone());
        let rows = report::rows(
            &tuned,
            split.prompts,
            scores.pair_accuracy()?,
            scores.auroc()?,
        );
        let best = tuned.epochs[tuned.best_epoch];
        let file = AdapterFile {
            model,
            method: "lora-dpo".to_owned(),
            targets: params.targets.0.clone(),
            fit: FineTuning {
                beta: params.beta,
                learning_rate: params.learning_rate,
                seed: params.seed,
                labels: params.labels.to_string(),
                pairs: split.fit.len() + split.held_out.len(),
                fit_prompts: split.prompts.0,
                held_out_prompts: split.prompts.1,
                epochs: tuned.epochs.len(),
                best_epoch: tuned.best_epoch + 1,
                held_out_loss: best.held_out_loss,
                held_out_accuracy: best.held_out_accuracy,
            },
            adapter: tuned.adapter,
        };
        file.save(&io.output("adapter"))?;
        io.write("training", &rows)
    }
}

/// Tells the user's mistakes from failures of the training itself.
fn classified(error: FitError) -> anyhow::Error {
    match error {
        FitError::Diverged { .. } => error.into(),
        error => bad_input(error).into(),
    }
}
