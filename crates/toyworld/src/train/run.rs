//! The training loop: steps, workers, checkpoints, validation.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::adamw::{AdamW, Optimization};
use super::batch::{Batch, Kind, Source, take};
use super::checkpoint::{self, Progress, write_json};
use super::network::{Network, NetworkSize, Parameter};
use super::record::{LossLog, Row, Totals, Validation, first_answer_row};
use super::tensors::with_elements;
use super::{Example, TrainError};

/// What a run computes; two runs with equal settings give equal weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Name of the world.
    pub world: String,
    /// Seed of weights and text.
    pub seed: u64,
    /// Tokens to train on.
    pub tokens: u64,
    /// Largest number of tokens a step.
    pub tokens_per_step: usize,
    /// Parts of a step whose gradients are computed apart and summed in order.
    pub micro_batches: usize,
    /// Sizes of the network.
    pub network: NetworkSize,
    /// Optimizer and schedule.
    pub optimization: Optimization,
    /// Steps between rows of the log.
    pub log_every: u64,
    /// Steps between validations.
    pub validate_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

impl Settings {
    /// Returns the recipe of the built-in model.
    pub fn new(world: &str, seed: u64, tokens: u64, network: NetworkSize) -> Self {
        Self {
            world: world.to_owned(),
            seed,
            tokens,
            tokens_per_step: 2048,
            micro_batches: 2,
            network,
            optimization: Optimization::default(),
            log_every: 50,
            validate_every: 250,
            checkpoint_every: 250,
        }
    }
}

/// A run: what to compute, from which text, and where to put it.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// What the result depends on.
    pub settings: &'a Settings,
    /// The text.
    pub source: &'a dyn Source,
    /// Output directory, created when missing.
    pub dir: &'a Path,
    /// Threads; they do not change the result.
    pub workers: usize,
    /// End-of-turn token, written to `config.json`.
    pub end: u32,
    /// The command line, written to `training.json`.
    pub command: &'a str,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All tokens were seen and the model is written.
    Finished,
    /// Stopped on request; the checkpoint holds the state.
    Interrupted,
}

/// Validation documents of each kind.
const VALIDATION_DOCUMENTS: usize = 150;
/// Changes the seed of the text for validation.
const VALIDATION_SEED: u64 = 0x7661_6c69_6461_7465;

/// Trains a model into the job's directory, resuming from a checkpoint found there.
///
/// Writes `loss.csv` and `checkpoint.safetensors` as it goes, and at the end `model.safetensors`,
/// `config.json`, `loss.svg` and `training.json`. Setting `stop` saves and returns after the step
/// under way. `report` is called with one line on the state of the run every few seconds.
///
/// # Errors
/// When a file cannot be written, a checkpoint does not fit, or the loss stops being a number.
pub fn train(
    job: &Job<'_>,
    stop: &AtomicBool,
    report: &mut dyn FnMut(&str),
) -> Result<Outcome, TrainError> {
    let Job {
        settings,
        source,
        dir,
        workers,
        end,
        command,
    } = *job;
    fs::create_dir_all(dir).map_err(|e| TrainError::Io {
        path: dir.to_owned(),
        source: e,
    })?;
    let network = Network::new(settings.network, settings.seed)?;
    let mut run = Run::open(settings, &network, dir, workers.max(1))?;
    let validation = validation_batches(settings, source)?;
    let outcome = run.steps(source, &validation, stop, report)?;
    run.save()?;
    if outcome == Outcome::Finished {
        checkpoint::write_model(dir, &network, end)?;
        run.log.draw(&dir.join("loss.svg"))?;
        let last = run.log.rows.last();
        write_json(
            &dir.join("training.json"),
            &serde_json::json!({
                "command": command,
                "settings": settings,
                "workers": workers,
                "parameters": run.parameters.iter().map(|p| p.var.elem_count()).sum::<usize>(),
                "steps": run.progress.step,
                "tokens": run.progress.tokens,
                "documents": run.progress.next_document,
                "seconds": run.progress.seconds.round(),
                "core-seconds": run.progress.core_seconds.round(),
                "training-loss": last.map(|r| by_kind(r.loss)),
                "validation-loss": last.and_then(|r| r.validation).map(|v| by_kind(v.loss)),
                "verdict-accuracy": last.and_then(|r| r.validation).map(|v| v.verdict),
                "first-mark-accuracy": last.and_then(|r| r.validation).map(|v| v.first_mark),
            }),
        )?;
    }
    Ok(outcome)
}

fn by_kind(loss: [f64; 3]) -> serde_json::Value {
    serde_json::json!({ "chat": loss[0], "comparison": loss[1], "check": loss[2] })
}

/// Packs the first validation documents of each kind, one batch a kind.
fn validation_batches(settings: &Settings, source: &dyn Source) -> Result<[Batch; 3], TrainError> {
    let mut examples: [Vec<Example>; 3] = Default::default();
    // A world may lack a kind, so the search has an end.
    for index in 0..20 * VALIDATION_DOCUMENTS as u64 {
        let example = source.example(settings.seed ^ VALIDATION_SEED, index);
        let of_kind = &mut examples[example.kind.index()];
        if of_kind.len() < VALIDATION_DOCUMENTS {
            of_kind.push(example);
        }
    }
    let [chat, comparison, check] = examples;
    Ok([
        Batch::pack(&chat)?,
        Batch::pack(&comparison)?,
        Batch::pack(&check)?,
    ])
}

struct Run<'a> {
    settings: &'a Settings,
    network: &'a Network,
    parameters: Vec<Parameter>,
    adamw: AdamW,
    progress: Progress,
    log: LossLog,
    dir: &'a Path,
    workers: usize,
    started: Instant,
    /// Processor seconds of this process when the run was opened.
    core_started: f64,
    /// Counters when the run was opened.
    opened: Progress,
}

impl<'a> Run<'a> {
    fn open(
        settings: &'a Settings,
        network: &'a Network,
        dir: &'a Path,
        workers: usize,
    ) -> Result<Self, TrainError> {
        let parameters = network.parameters();
        let mut adamw = AdamW::new(settings.optimization, &parameters);
        let progress =
            checkpoint::restore(dir, settings, &parameters, &mut adamw)?.unwrap_or(Progress {
                settings: settings.clone(),
                step: 0,
                tokens: 0,
                next_document: 0,
                seconds: 0.0,
                core_seconds: 0.0,
                totals: Totals::default(),
            });
        let log = LossLog::read(&dir.join("loss.csv"), progress.step);
        Ok(Self {
            settings,
            network,
            parameters,
            adamw,
            opened: progress.clone(),
            progress,
            log,
            dir,
            workers,
            started: Instant::now(),
            core_started: core_seconds(),
        })
    }

    /// Runs steps until the tokens are used up or `stop` is set.
    fn steps(
        &mut self,
        source: &dyn Source,
        validation: &[Batch; 3],
        stop: &AtomicBool,
        report: &mut dyn FnMut(&str),
    ) -> Result<Outcome, TrainError> {
        let mut reported = Instant::now();
        while self.progress.tokens < self.settings.tokens {
            if stop.load(Ordering::Relaxed) {
                return Ok(Outcome::Interrupted);
            }
            let rate = self.step(source)?;
            let step = self.progress.step;
            let last = self.progress.tokens >= self.settings.tokens;
            if last || step.is_multiple_of(self.settings.log_every) {
                let validate = last || step.is_multiple_of(self.settings.validate_every);
                self.log_row(rate, if validate { Some(validation) } else { None })?;
            }
            if step.is_multiple_of(self.settings.checkpoint_every) {
                self.save()?;
            }
            if last || reported.elapsed().as_secs() >= 5 {
                reported = Instant::now();
                report(&self.describe());
            }
        }
        Ok(Outcome::Finished)
    }

    /// Runs one step and returns its learning rate.
    fn step(&mut self, source: &dyn Source) -> Result<f64, TrainError> {
        let budget = self.settings.tokens_per_step / self.settings.micro_batches;
        let batches = (0..self.settings.micro_batches)
            .map(|_| {
                let next = &mut self.progress.next_document;
                Batch::pack(&take(source, self.settings.seed, next, budget))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let weight: f64 = batches.iter().map(Batch::weight).sum();
        let network = self.network;
        let results = in_parallel(self.workers, &batches, |batch| {
            gradients(network, batch, weight)
        })?;

        let mut results = batches.iter().zip(results);
        let (batch, mut sum) = results.next().expect("a step has a micro-batch");
        self.progress.totals.add(batch, &sum.losses);
        for (batch, part) in results {
            self.progress.totals.add(batch, &part.losses);
            for (sum, part) in sum.gradients.iter_mut().zip(&part.gradients) {
                sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
            }
        }
        let step = self.progress.step;
        let tokens = self.progress.tokens + batches.iter().map(|b| b.rows() as u64).sum::<u64>();
        let rate = self
            .settings
            .optimization
            .learning_rate(step, tokens, self.settings.tokens);
        let norm = self
            .adamw
            .update(&self.parameters, &sum.gradients, step, rate)?;
        if !norm.is_finite() {
            return Err(TrainError::NotFinite { step });
        }
        self.progress.step += 1;
        self.progress.tokens = tokens;
        Ok(rate)
    }

    fn log_row(&mut self, rate: f64, validation: Option<&[Batch; 3]>) -> Result<(), TrainError> {
        let validation = match validation {
            Some(batches) => Some(self.validate(batches)?),
            None => None,
        };
        let totals = std::mem::take(&mut self.progress.totals);
        self.log.rows.push(Row {
            step: self.progress.step,
            tokens: self.progress.tokens,
            learning_rate: rate,
            loss: totals.means(),
            validation,
        });
        self.log.write(&self.dir.join("loss.csv"))
    }

    fn validate(&self, batches: &[Batch; 3]) -> Result<Validation, TrainError> {
        let network = self.network;
        let results = in_parallel(self.workers, batches, |batch| {
            validate_batch(network, batch)
        })?;
        let mut totals = Totals::default();
        for (batch, (losses, _)) in batches.iter().zip(&results) {
            totals.add(batch, losses);
        }
        Ok(Validation {
            loss: totals.means(),
            verdict: results[Kind::Comparison.index()].1,
            first_mark: results[Kind::Check.index()].1,
        })
    }

    fn save(&mut self) -> Result<(), TrainError> {
        self.progress.seconds = self.opened.seconds + self.started.elapsed().as_secs_f64();
        self.progress.core_seconds = self.opened.core_seconds + core_seconds() - self.core_started;
        checkpoint::save(self.dir, &self.progress, &self.parameters, &self.adamw)
    }

    /// Returns one line: share done, losses, speed, time to go.
    fn describe(&self) -> String {
        let done = (self.progress.tokens - self.opened.tokens) as f64;
        let speed = done / self.started.elapsed().as_secs_f64();
        let core_speed = done / (core_seconds() - self.core_started).max(0.01);
        let to_go = self.settings.tokens.saturating_sub(self.progress.tokens) as f64 / speed;
        let losses = self.log.rows.last().map_or([f64::NAN; 3], |r| r.loss);
        format!(
            "step {} {:.2} of {:.1} M tokens, losses {:.3} {:.3} {:.3}, {speed:.0} tokens/s \
             ({core_speed:.0} a core), {:.0} min to go",
            self.progress.step,
            self.progress.tokens as f64 / 1e6,
            self.settings.tokens as f64 / 1e6,
            losses[0],
            losses[1],
            losses[2],
            to_go / 60.0
        )
    }
}

/// What one micro-batch contributes to a step.
struct Contribution {
    /// Gradient of each parameter.
    gradients: Vec<Vec<f32>>,
    /// Weighted loss of each row.
    losses: Vec<f32>,
}

/// Differentiates a micro-batch's loss, divided by the `weight` of the whole step.
fn gradients(network: &Network, batch: &Batch, weight: f64) -> Result<Contribution, TrainError> {
    let losses = network.losses(batch)?;
    let store = (losses.sum_all()? / weight)?.backward()?;
    let gradients = network
        .parameters()
        .iter()
        .map(|p| match store.get(p.var.as_tensor()) {
            Some(grad) => with_elements(grad, <[f32]>::to_vec),
            None => Ok(vec![0.0; p.var.elem_count()]),
        })
        .collect::<Result<_, _>>()?;
    Ok(Contribution {
        gradients,
        losses: with_elements(&losses, <[f32]>::to_vec)?,
    })
}

/// Returns the weighted losses, and the share of documents whose first answer token is the
/// likeliest one.
fn validate_batch(network: &Network, batch: &Batch) -> Result<(Vec<f32>, f64), TrainError> {
    if batch.rows() == 0 {
        return Ok((Vec::new(), f64::NAN));
    }
    let losses = with_elements(&network.losses(batch)?, <[f32]>::to_vec)?;
    let logits = network.logits(batch)?;
    let (mut right, mut counted) = (0, 0);
    with_elements(&logits, |logits| {
        let vocab = logits.len() / batch.rows();
        for document in 0..batch.documents.len() {
            if let Some(row) = first_answer_row(batch, document) {
                let row_logits = &logits[row * vocab..(row + 1) * vocab];
                let best = (0..vocab).max_by(|&a, &b| row_logits[a].total_cmp(&row_logits[b]));
                right += usize::from(best == Some(batch.targets[row] as usize));
                counted += 1;
            }
        }
    })?;
    Ok((losses, f64::from(right as u32) / f64::from(counted)))
}

/// Calls `work` for every item on up to `workers` threads and returns the results in order.
fn in_parallel<T: Sync, R: Send>(
    workers: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R, TrainError> + Sync,
) -> Result<Vec<R>, TrainError> {
    let workers = workers.min(items.len()).max(1);
    let work = &work;
    let share = move |worker: usize| {
        items
            .iter()
            .skip(worker)
            .step_by(workers)
            .map(work)
            .collect::<Result<Vec<R>, _>>()
    };
    let mut shares = std::thread::scope(|scope| {
        let others: Vec<_> = (1..workers)
            .map(|w| scope.spawn(move || share(w)))
            .collect();
        let mut shares = vec![share(0)];
        shares.extend(others.into_iter().map(|handle| match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }));
        shares
            .into_iter()
            .map(|s| s.map(Vec::into_iter))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok((0..items.len())
        .filter_map(|i| shares[i % workers].next())
        .collect())
}

/// Returns the processor seconds this process has used, all threads together; 0 if unknown.
fn core_seconds() -> f64 {
    // Fields 14 and 15 of the line, counted after the command in parentheses, in ticks of 10 ms.
    let Ok(stat) = fs::read_to_string("/proc/self/stat") else {
        return 0.0;
    };
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return 0.0;
    };
    fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|f| f.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> NetworkSize {
        NetworkSize {
            vocab_size: 12,
            hidden_size: 32,
            num_hidden_layers: 2,
            intermediate_size: 48,
            max_position_embeddings: 16,
            rope_theta: 1e4,
            rms_norm_eps: 1e-5,
        }
    }

    /// Three numbers, then the same three again: copying is learned by attention alone.
    fn copies(seed: u64, index: u64) -> Example {
        let mut z = seed.wrapping_mul(0x9e37_79b9) ^ index.wrapping_mul(0xd134_2543_de82_ef95);
        let numbers: Vec<u32> = (0..3)
            .map(|_| {
                z = z
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (z >> 40) as u32 % 10 + 2
            })
            .collect();
        let tokens = [&[0], &numbers[..], &[1], &numbers[..]].concat();
        let kind = Kind::ALL[(index % 3) as usize];
        Example {
            tokens,
            weights: vec![0.0, 0.1, 0.1, 0.1, 0.1, 1.0, 1.0, 1.0],
            kind,
        }
    }

    fn settings(tokens: u64) -> Settings {
        let mut settings = Settings::new("copies", 5, tokens, size());
        settings.tokens_per_step = 256;
        settings.optimization.peak = 1e-2;
        settings.optimization.warmup_steps = 20;
        settings.log_every = 5;
        settings.validate_every = 10;
        settings.checkpoint_every = 10;
        settings
    }

    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("toyworld-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Self(dir)
        }

        fn bytes(&self, name: &str) -> Vec<u8> {
            fs::read(self.0.join(name)).expect("the run wrote the file")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Trains until done, or until the text has been read up to document `stop_at`.
    fn go(
        dir: &Dir,
        settings: &Settings,
        workers: usize,
        stop_at: u64,
    ) -> Result<Outcome, TrainError> {
        let stop = AtomicBool::new(false);
        let source = |seed, index| {
            if seed == 5 && index >= stop_at {
                stop.store(true, Ordering::Relaxed);
            }
            copies(seed, index)
        };
        let job = Job {
            settings,
            source: &source,
            dir: &dir.0,
            workers,
            end: 1,
            command: "test",
        };
        train(&job, &stop, &mut |_| ())
    }

    #[test]
    fn copying_is_learned_and_the_files_are_written() -> Result<(), TrainError> {
        let dir = Dir::new("learn");
        assert_eq!(
            go(&dir, &settings(150_000), 2, u64::MAX)?,
            Outcome::Finished
        );
        let log = LossLog::read(&dir.0.join("loss.csv"), u64::MAX);
        let last = log.rows.last().expect("rows");
        assert_eq!(last.learning_rate, 0.0);
        // Chance is ln 10 = 2.3.
        assert!(
            last.validation.expect("validated").loss[0] < 0.5,
            "{last:?}"
        );
        for name in [
            "model.safetensors",
            "config.json",
            "training.json",
            "loss.svg",
        ] {
            assert!(!dir.bytes(name).is_empty());
        }
        Ok(())
    }

    #[test]
    fn interrupted_run_and_other_worker_counts_give_the_same_bytes() -> Result<(), TrainError> {
        let settings = settings(6_000);
        let (whole, parts) = (Dir::new("whole"), Dir::new("parts"));
        assert_eq!(go(&whole, &settings, 1, u64::MAX)?, Outcome::Finished);
        assert_eq!(go(&parts, &settings, 2, 300)?, Outcome::Interrupted);
        assert_eq!(go(&parts, &settings, 2, u64::MAX)?, Outcome::Finished);
        for name in ["model.safetensors", "loss.csv"] {
            assert!(whole.bytes(name) == parts.bytes(name), "{name}");
        }
        Ok(())
    }

    #[test]
    fn checkpoint_of_other_settings_or_cut_short_is_refused() -> Result<(), TrainError> {
        let dir = Dir::new("refuse");
        go(&dir, &settings(2_000), 1, 60)?;
        let other = go(&dir, &settings(3_000), 1, u64::MAX);
        assert!(
            matches!(other, Err(TrainError::OtherSettings { .. })),
            "{other:?}"
        );
        let path = dir.0.join(checkpoint::CHECKPOINT);
        let bytes = fs::read(&path).expect("checkpoint");
        fs::write(&path, &bytes[..bytes.len() / 2]).expect("temporary file");
        let cut = go(&dir, &settings(2_000), 1, u64::MAX);
        assert!(matches!(cut, Err(TrainError::Checkpoint { .. })), "{cut:?}");
        Ok(())
    }
}
