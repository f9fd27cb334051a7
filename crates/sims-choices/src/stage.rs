//! The stage: from tasks and a model to log-likelihoods and accuracies.

use std::ops::ControlFlow;

use anyhow::Context;
use sims_model::language_model::set_threads;
use sims_model::{memory, numerics_class};
use sims_stage::{Interrupted, Numerics, Role, Stage, StageIo};

use crate::ChoicesParams;
use crate::report::{metric_rows, score_rows};
use crate::session::{Session, Sources};

/// The choices stage.
pub struct Choices;

impl Stage for Choices {
    const NAME: &'static str = "choices";
    const ABOUT: &'static str =
        "Scores multiple choice by log-likelihood, as lm-evaluation-harness does";
    const EXAMPLES: &'static str = "Examples:
  sims-choices --tasks arc.jsonl --model data/tiny --out arc
  sims-choices --tasks mmlu.parquet --model llama --steering accepted.safetensors --shots 5 --chat true --out mmlu";
    const BEHAVIOUR: u32 = 2;
    const NUMERICS: Numerics = Numerics::Model(numerics_class);
    type Params = ChoicesParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required(
                "tasks",
                "choices@1",
                "Questions and their choices, as Parquet or JSON lines",
            ),
            Role::required("model", "model", "The model"),
            Role::optional(
                "steering",
                "steering@1",
                "Steers the model; the base model is scored beside it",
            ),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required(
                "choices-scores",
                "choices-scores@1",
                "One row a task, question, policy and choice",
            ),
            Role::required(
                "metrics",
                "metrics@1",
                "Accuracies of tasks and groups, and what the steering changes",
            ),
        ]
    }

    fn run(params: &ChoicesParams, io: &mut StageIo) -> anyhow::Result<()> {
        set_threads(io.threads()).ok(); // Fails only where threads run already; results do not depend on them.
        let sources = Sources {
            tasks: io.input("tasks")?,
            model: io.input("model")?,
            steering: io.optional_input("steering"),
        };
        let session = Session::open(params, &sources, io.device(), io.batch_size())?;
        let bar = io.progress("questions", session.questions() as u64);
        let mut report = |done: usize| {
            bar.set(done as u64);
            if io.interrupted() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let evaluated = match session.evaluate(&mut report) {
            Ok(evaluated) => evaluated,
            Err(_) if io.interrupted() => return Err(Interrupted.into()),
            Err(error) => return Err(error).context("scoring failed"),
        };
        let cost = evaluated.cost;
        io.count("tokens_computed", cost.computed as f64);
        io.count("tokens_without_sharing", cost.total as f64);
        // Two for each parameter and token: a multiplication and an addition.
        let parameters = session.model.decoder().config().parameters() as f64;
        io.count("estimated_flops", 2.0 * parameters * cost.computed as f64);
        let halved = memory::warning(cost.halvings);
        for warning in evaluated.warnings.into_iter().chain(halved) {
            io.warn(warning);
        }
        io.write("choices-scores", &score_rows(&session, &evaluated.scores))?;
        io.write("metrics", &metric_rows(&evaluated.figures))
    }
}
