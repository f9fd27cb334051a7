//! Actions: what one run of a stage computes, and whether the store has it already.
//!
//! The *action document* says everything that the output bytes depend on, and nothing else: the
//! stage and its behaviour, the parameters after defaults, the seed, the digests and schemas of
//! the inputs by role, the schemas of the outputs, the numerics class, and the text of the stage
//! when it is a script. Its digest is the key. No path, host, time, thread count or device name
//! is in it, and no name of a pipeline or stage: two pipelines that compute the same share it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use sims_artifact::Digest;
use sims_artifact::store::{ActionKey, ActionResult, Store, StoreError};

use crate::PipelineError;
use crate::input_digests::{ExternalInput, InputDigests};
use crate::parameters::{self, Parameters};
use crate::plan::{InstanceFeed, InstanceName, Plan};
use crate::programs::Program;

/// The version of the action document.
const FORMAT: u32 = 1;

/// One run of a stage with all that it depends on.
#[derive(Debug)]
pub(crate) struct Action {
    /// The instance of the plan.
    pub(crate) index: usize,
    /// Its identity.
    pub(crate) key: ActionKey,
    /// What is computed.
    pub(crate) document: Value,
    /// The inputs by role.
    pub(crate) inputs: Vec<(String, Vec<ActionInput>)>,
}

/// One input of an action.
#[derive(Debug)]
pub(crate) enum ActionInput {
    /// A file or model from outside.
    External(ExternalInput),
    /// An output of another action.
    Blob {
        digest: Digest,
        /// The file name that the stage that made it gave it.
        file: String,
    },
}

impl ActionInput {
    fn digest(&self) -> Digest {
        match self {
            Self::External(input) => input.digest,
            Self::Blob { digest, .. } => *digest,
        }
    }
}

impl Action {
    /// Returns what it reads from outside, by path; relative to the plan's workspace where it lies in that.
    pub(crate) fn sources(&self, plan: &Plan) -> BTreeMap<PathBuf, Digest> {
        let workspace = &plan.pipeline.workspace;
        let inputs = self.inputs.iter().flat_map(|(_, here)| here);
        inputs
            .filter_map(|input| match input {
                ActionInput::External(input) => {
                    let path = input.path.strip_prefix(workspace).unwrap_or(&input.path);
                    Some((path.to_owned(), input.digest))
                }
                ActionInput::Blob { .. } => None,
            })
            .collect()
    }
}

/// What the store knows of an action.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// It was computed and its outputs are whole.
    Hit(ActionResult),
    /// It has to be computed.
    Miss,
    /// It was computed, but bytes are damaged or gone: it has to be computed again.
    Damaged {
        /// What it made, where that is still known.
        result: Option<ActionResult>,
        /// What is wrong, for people.
        message: String,
    },
}

/// Turns instances of a plan into actions, as their inputs get known.
pub(crate) struct Resolver<'a> {
    plan: &'a Plan,
    digests: InputDigests,
    results: Vec<Option<ActionResult>>,
    end: Option<EndOfLoop>,
}

/// A round after which no further one runs, because one of its stages asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndOfLoop {
    /// The stage that asked.
    pub stage: InstanceName,
    /// The last round.
    pub round: u32,
    /// Why.
    pub reason: String,
}

impl<'a> Resolver<'a> {
    /// Starts with no result known.
    pub(crate) fn new(plan: &'a Plan, store: &Store) -> Self {
        Self {
            plan,
            digests: InputDigests::new(store.cache_folder().join("inputs.json")),
            results: vec![None; plan.len()],
            end: None,
        }
    }

    /// Hashes every input from outside and checks what it is, before anything runs.
    pub(crate) fn check_inputs(&mut self) -> Result<(), PipelineError> {
        for instance in &self.plan.instances {
            let roles = &self.plan.nodes[instance.node].program.description.inputs;
            for (role, feeds) in &instance.inputs {
                for feed in feeds {
                    if let InstanceFeed::External(file) = feed {
                        self.digests.get(file, &roles[role].schema)?;
                    }
                }
            }
        }
        self.digests.save();
        Ok(())
    }

    /// Tells whether the results of everything that the instance depends on are known.
    pub(crate) fn is_ready(&self, index: usize) -> bool {
        let depends = &self.plan.instances[index].depends;
        depends.iter().all(|before| self.results[*before].is_some())
    }

    /// Tells whether the result of the instance itself is known.
    pub(crate) fn has_result(&self, index: usize) -> bool {
        self.results[index].is_some()
    }

    /// Makes the action of an instance that is ready.
    pub(crate) fn action(&mut self, index: usize) -> Result<Action, PipelineError> {
        let plan = self.plan;
        let program = plan.program(index);
        let mut inputs = Vec::new();
        for (role, feeds) in &plan.instances[index].inputs {
            let schema = &program.description.inputs[role].schema;
            let mut here = Vec::new();
            for feed in feeds {
                here.push(match feed {
                    InstanceFeed::External(file) => {
                        ActionInput::External(self.digests.get(file, schema)?)
                    }
                    InstanceFeed::Output { instance, role } => self.output(*instance, role)?,
                });
            }
            inputs.push((role.clone(), here));
        }
        let document = document(program, &plan.set_parameters(index), &inputs);
        Ok(Action {
            index,
            key: ActionKey::of_document(&document),
            document,
            inputs,
        })
    }

    /// Returns a key for each instance that is known before anything runs: of what it would compute, with
    /// the recipes of the stages that feed it in place of their results.
    ///
    /// Two plans with the same recipe compute the same, so that a job that was submitted for the one can
    /// serve the other.
    pub(crate) fn recipes(&mut self) -> Result<Vec<ActionKey>, PipelineError> {
        let plan = self.plan;
        let mut recipes: Vec<ActionKey> = Vec::with_capacity(plan.len());
        for (index, instance) in plan.instances.iter().enumerate() {
            let program = plan.program(index);
            let mut inputs = Vec::new();
            for (role, feeds) in &instance.inputs {
                let schema = &program.description.inputs[role].schema;
                let mut here = Vec::new();
                for feed in feeds {
                    here.push(match feed {
                        InstanceFeed::External(file) => {
                            ActionInput::External(self.digests.get(file, schema)?)
                        }
                        InstanceFeed::Output { instance, role } => ActionInput::Blob {
                            digest: Digest::of_bytes(
                                format!("{}/{role}", recipes[*instance]).as_bytes(),
                            ),
                            file: String::new(),
                        },
                    });
                }
                inputs.push((role.clone(), here));
            }
            let document = document(program, &plan.set_parameters(index), &inputs);
            recipes.push(ActionKey::of_document(&document));
        }
        Ok(recipes)
    }

    fn output(&self, instance: usize, role: &str) -> Result<ActionInput, PipelineError> {
        let outputs = self.results[instance]
            .as_ref()
            .map(|result| &result.outputs);
        match outputs.and_then(|outputs| outputs.get(role)) {
            Some(output) => Ok(ActionInput::Blob {
                digest: output.digest,
                file: output.file.clone(),
            }),
            None => Err(PipelineError::Usage(format!(
                "{} is done, but its stored result has no output `{role}`: raise the `behaviour` of its stage",
                self.plan.name(instance)
            ))),
        }
    }

    /// Records what an instance made, so that its dependents can be resolved.
    pub(crate) fn finish(&mut self, index: usize, result: ActionResult) {
        if let (Some(reason), Some(round)) = (&result.stop, self.plan.instances[index].round)
            && self.end.as_ref().is_none_or(|end| round < end.round)
        {
            self.end = Some(EndOfLoop {
                stage: self.plan.name(index),
                round,
                reason: reason.clone(),
            });
        }
        self.results[index] = Some(result);
    }

    /// Returns where the loop ended before its last planned round, as far as results are known.
    pub(crate) fn end(&self) -> Option<&EndOfLoop> {
        self.end.as_ref()
    }

    /// Tells whether an instance belongs to a round after the end of the loop.
    pub(crate) fn is_beyond_end(&self, index: usize) -> bool {
        let round = self.plan.instances[index].round;
        self.end
            .as_ref()
            .is_some_and(|end| round.is_some_and(|round| round > end.round))
    }
}

/// Keeps an action from `gc` as long as the store is open, and asks for it, in the trash as well.
pub(crate) fn claim(store: &Store, key: &ActionKey) -> Result<Lookup, PipelineError> {
    store.hold(key)?;
    match look_up(store, key)? {
        Lookup::Miss if store.restore(key)? => look_up(store, key),
        lookup => Ok(lookup),
    }
}

/// Asks the store for an action; every output of a hit, and its summary, has been verified.
pub(crate) fn look_up(store: &Store, key: &ActionKey) -> Result<Lookup, PipelineError> {
    let result = match store.action_result(key) {
        Ok(Some(result)) => result,
        Ok(None) => return Ok(Lookup::Miss),
        Err(error @ StoreError::DamagedRecord { .. }) => {
            return Ok(Lookup::Damaged {
                result: None,
                message: error.to_string(),
            });
        }
        Err(error) => return Err(error.into()),
    };
    let mut damage = None;
    for (what, digest) in result.blobs() {
        match store.blob(&digest) {
            Ok(_) => {}
            Err(error @ (StoreError::MissingBlob(_) | StoreError::DamagedBlob { .. })) => {
                damage = Some(format!("{what}: {error}"));
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(match damage {
        None => Lookup::Hit(result),
        Some(message) => Lookup::Damaged {
            result: Some(result),
            message,
        },
    })
}

/// Writes down what an action computes.
fn document(program: &Program, set: &Parameters, inputs: &[(String, Vec<ActionInput>)]) -> Value {
    let description = &program.description;
    let mut parameters = parameters::with_defaults(description, set);
    let seed = parameters.shift_remove("seed").unwrap_or(Value::Null);
    let inputs: serde_json::Map<String, Value> = inputs
        .iter()
        .map(|(role, here)| {
            let schema = &description.inputs[role].schema;
            let list = here
                .iter()
                .map(|input| json!({"schema": schema, "digest": input.digest()}))
                .collect();
            (role.clone(), Value::Array(list))
        })
        .collect();
    let outputs: serde_json::Map<String, Value> = description
        .outputs
        .iter()
        .map(|(role, output)| (role.clone(), Value::from(output.schema.as_str())))
        .collect();
    let mut document = json!({
        "format": FORMAT,
        "stage": description.stage,
        "behaviour": description.behaviour,
        "numerics": description.numerics,
        "params": parameters,
        "seed": seed,
        "inputs": inputs,
        "outputs": outputs,
    });
    if let Some(script) = program.script {
        document["script"] = json!(script);
    }
    document
}
