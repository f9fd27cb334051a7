//! Opens what is evaluated, and evaluates it: what the stage and the command have in common.

use std::ops::ControlFlow;
use std::path::Path;

use sims_artifact::{Digest, ModelManifest};
use sims_model::score::{ScoreLimits, TokenCount};
use sims_model::{DeviceChoice, Hook, LanguageModel, LoadOptions, ModelError};
use sims_sample::BASE_POLICY;
use sims_stage::BadInput;
use sims_stats::Bootstrap;
use sims_steering::Steering;

use crate::encode::Encoder;
use crate::evaluate::{ChoiceScore, Evaluator, Steered, TaskScores};
use crate::metrics::{Figures, figures};
use crate::prompt::Prompter;
use crate::tasks::{Task, read_tasks};
use crate::{ChoicesError, ChoicesParams};

/// A model, tasks, and a steering if there is one.
pub(crate) struct Session<'a> {
    params: &'a ChoicesParams,
    pub(crate) tasks: Vec<Task>,
    pub(crate) model: LanguageModel,
    steering: Option<Steering>,
    /// Name of the steered policy.
    pub(crate) policy: Option<String>,
    limits: ScoreLimits,
}

/// The files that a session is opened from.
pub(crate) struct Sources<'a> {
    pub(crate) tasks: &'a Path,
    pub(crate) model: &'a Path,
    pub(crate) steering: Option<&'a Path>,
}

/// What was found.
pub(crate) struct Evaluated {
    /// By task.
    pub(crate) scores: Vec<TaskScores>,
    pub(crate) figures: Vec<Figures>,
    pub(crate) cost: TokenCount,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

impl<'a> Session<'a> {
    /// Opens the files; with `sequences` of full length at once, 0 takes what fits the memory.
    pub(crate) fn open(
        params: &'a ChoicesParams,
        sources: &Sources<'_>,
        device: &str,
        sequences: usize,
    ) -> anyhow::Result<Self> {
        params.check().map_err(bad_input)?;
        let tasks = read_tasks(sources.tasks).map_err(given)?;
        let device: DeviceChoice = device.parse().map_err(bad_input)?;
        let options = LoadOptions {
            devices: device.open().map_err(bad_input)?,
            dtype: params.dtype.to_string().parse().map_err(bad_input)?,
        };
        let model = LanguageModel::load(sources.model, &options).map_err(bad_input)?;
        let (mut steering, mut policy) = (None, None);
        if let Some(path) = sources.steering {
            let opened = Steering::load(path).map_err(bad_input)?;
            opened
                .check_model(&ModelManifest::of_dir(sources.model)?.digest)
                .map_err(bad_input)?;
            steering = Some(opened);
            policy = Some(format!("steered-{}", Digest::of_file(path)?.short(12)));
        }
        let limits = match sequences {
            0 => ScoreLimits::for_decoder(model.decoder()),
            n => ScoreLimits {
                max_rows: n * model.decoder().config().max_position_embeddings,
            },
        };
        Ok(Self {
            params,
            tasks,
            model,
            steering,
            policy,
            limits,
        })
    }

    /// Returns the number of questions.
    pub(crate) fn questions(&self) -> usize {
        self.tasks.iter().map(|task| task.questions.len()).sum()
    }

    /// Returns the policies by name: the base and, if there is one, the steered model.
    pub(crate) fn policies<'s>(
        &'s self,
        scores: &'s TaskScores,
    ) -> Vec<(&'s str, &'s [Vec<ChoiceScore>])> {
        let steered = self.policy.as_deref().zip(scores.steered.as_deref());
        std::iter::once((BASE_POLICY, &scores.base[..]))
            .chain(steered)
            .collect()
    }

    /// Scores every question; `progress` is called with the number done and may stop the run.
    ///
    /// # Errors
    /// [`ModelError::Interrupted`] when it does.
    pub(crate) fn evaluate(
        &self,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> anyhow::Result<Evaluated> {
        let params = self.params;
        let context = self.model.decoder().config().max_position_embeddings;
        let max_length = params.max_length(context).map_err(bad_input)?;
        let plain = Prompter {
            shots: params.shots as usize,
            system: (!params.system.is_empty()).then(|| params.system.clone()),
            ..Prompter::plain()
        };
        let evaluator = Evaluator {
            model: &self.model,
            prompter: match params.chat {
                true => {
                    let chat = self.model.chat_template().map_err(bad_input)?;
                    plain.with_chat(chat, params.multiturn)
                }
                false => plain,
            },
            encoder: Encoder::new(self.model.tokenizer(), max_length),
            unconditional: params.mutual_information,
            edit: params.edit,
            limits: self.limits,
        };
        let mut hook = self.steering.as_ref().map(Steering::hook);
        let mut steered = match &mut hook {
            None => Steered::Absent,
            Some(hook) if hook.is_identity() => Steered::Idle,
            Some(hook) => Steered::By(hook as &mut dyn Hook),
        };
        let mut scores = Vec::with_capacity(self.tasks.len());
        let mut cost = TokenCount::default();
        let mut done = 0;
        for task in &self.tasks {
            let mut report = |questions: usize| progress(done + questions);
            let (scored, tokens) = evaluator
                .score(task, &mut steered, &mut report)
                .map_err(given)?;
            scores.push(scored);
            cost.add(tokens);
            done += task.questions.len();
        }
        if let Some(hook) = &hook {
            hook.check_applied()?;
        }
        let bootstrap = Bootstrap {
            resamples: params.resamples as usize,
            ..Bootstrap::seeded(params.seed)
        };
        let figures = figures(&self.tasks, &scores, params.mutual_information, &bootstrap)?;
        let warnings = warnings(&self.tasks, &scores, evaluator.prompter.system_refused());
        Ok(Evaluated {
            scores,
            figures,
            cost,
            warnings,
        })
    }
}

/// Returns what the user should know although every question was scored.
fn warnings(tasks: &[Task], scores: &[TaskScores], system_refused: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for (task, scores) in tasks.iter().zip(scores) {
        let is_cut = |choices: &&Vec<ChoiceScore>| choices.iter().any(|score| score.cut > 0);
        let cut = scores.base.iter().filter(is_cut).count();
        if cut > 0 {
            warnings.push(format!(
                "task `{}`: {cut} of {} questions are longer than the context and lost their beginning",
                task.name,
                task.questions.len()
            ));
        }
    }
    if system_refused {
        warnings.push(
            "the chat template takes no system message, so description and system text were left out, as \
             lm-evaluation-harness does"
                .to_owned(),
        );
    }
    warnings
}

/// Sorts out whose fault an error is: what files and settings say is the user's.
fn given(error: ChoicesError) -> anyhow::Error {
    match error {
        ChoicesError::Artifact(error) => error.into(),
        ChoicesError::Model(error @ (ModelError::Template { .. } | ModelError::Setting { .. })) => {
            bad_input(error).into()
        }
        ChoicesError::Model(error) => error.into(),
        error => bad_input(error).into(),
    }
}

fn bad_input<E: std::error::Error + Send + Sync + 'static>(error: E) -> BadInput {
    BadInput::new(format!("{:#}", anyhow::Error::new(error)))
}
