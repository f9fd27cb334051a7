//! The plan: every stage of every round, and what feeds it.

mod inputs;
mod order;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::PipelineError;
use crate::parameters::{self, Parameters};
use crate::pipeline::{AbsentFiles, FileRef, NodeSpec, Pipeline, Repeat, Resources, Scope};
use crate::programs::{Program, ProgramSearch, Programs};
use crate::run_record::FedBy;
use crate::yaml::{Diagnostic, Diagnostics, nearest};

/// The schema id of an input that is a model folder.
pub(crate) const MODEL: &str = "model";

/// A pipeline whose every stage is known and fed.
#[derive(Debug)]
pub struct Plan {
    /// The pipeline as written.
    pub pipeline: Pipeline,
    /// How many rounds are planned.
    pub rounds: u32,
    /// The device that stages run on: `auto`, `cpu` or `cuda[:N[,M]]`.
    pub(crate) device: String,
    /// The stages, each once.
    pub(crate) nodes: Vec<PlannedNode>,
    /// The stages, each as often as it runs, in an order in which they can run.
    pub(crate) instances: Vec<Instance>,
}

/// A stage whose program is known.
#[derive(Debug)]
pub(crate) struct PlannedNode {
    pub(crate) spec: NodeSpec,
    pub(crate) program: Arc<Program>,
    /// The parameters that are set, by the file or by the pipeline's seed.
    pub(crate) set: Parameters,
    /// What feeds each input role; roles that nothing feeds are not listed.
    pub(crate) inputs: Vec<(String, Vec<Feed>)>,
}

/// What feeds an input, for any round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Feed {
    External(FileRef),
    Output {
        scope: Scope,
        node: usize,
        role: String,
    },
}

/// One run of a stage: in one round, or once.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) node: usize,
    pub(crate) round: Option<u32>,
    pub(crate) inputs: Vec<(String, Vec<InstanceFeed>)>,
    /// The instances that have to be done before.
    pub(crate) depends: Vec<usize>,
}

/// What feeds an input of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InstanceFeed {
    External(FileRef),
    Output { instance: usize, role: String },
}

/// A stage's name and round, for people and for file names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceName {
    /// The round, from 1; `None` for a stage that runs once.
    pub round: Option<u32>,
    /// The stage's name in the pipeline.
    pub stage: String,
}

impl InstanceName {
    /// Returns the name as a relative path: `round-3/sample`, `once/base-test`.
    pub fn path(&self) -> PathBuf {
        self.folder().join(&self.stage)
    }

    /// Returns the folder of the round: `round-3`, or `once`.
    pub fn folder(&self) -> PathBuf {
        match self.round {
            Some(round) => format!("round-{round}").into(),
            None => "once".into(),
        }
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

/// What a plan is made for.
#[derive(Debug, Clone)]
pub struct PlanOptions<'a> {
    /// Rounds to run instead of the file's.
    pub rounds: Option<u32>,
    /// The root seed instead of the file's; the results get a folder of their own.
    pub seed: Option<u64>,
    /// Where programs are looked for.
    pub search: &'a ProgramSearch,
    /// The device that stages will run on: `auto`, `cpu` or `cuda[:N[,M]]`.
    pub device: &'a str,
    /// The folder that relative paths are also looked up from.
    pub current: &'a Path,
    /// What follows when an input is not there.
    pub absent: AbsentFiles,
    /// A folder for what can be forgotten: descriptions of programs, digests of inputs.
    pub cache: &'a Path,
}

impl Plan {
    /// Reads the pipeline file at `path` and plans every stage of every round: one plan for each pipeline
    /// that the file stands for.
    ///
    /// # Errors
    /// With every mistake found in the file, its programs' parameters, or the graph.
    pub fn load(path: &Path, options: &PlanOptions<'_>) -> Result<Vec<Self>, PipelineError> {
        let pipelines = Pipeline::load(path, options.seed, options.current, options.absent)?;
        let mut programs = Programs::new(
            options.search,
            options.device,
            options.current,
            options.cache.join("programs.json"),
        );
        let plans = pipelines
            .into_iter()
            .map(|pipeline| Self::of(pipeline, options, &mut programs))
            .collect();
        programs.save();
        plans
    }

    fn of(
        pipeline: Pipeline,
        options: &PlanOptions<'_>,
        programs: &mut Programs<'_>,
    ) -> Result<Self, PipelineError> {
        let rounds = options.rounds.unwrap_or(pipeline.rounds);
        let mut problems = Vec::new();
        let mut nodes = Vec::new();
        for spec in &pipeline.nodes {
            match planned(spec, &pipeline, programs) {
                Ok(node) => nodes.push(node),
                Err(mut more) => problems.append(&mut more),
            }
        }
        if !problems.is_empty() {
            return Err(Diagnostics(problems).into());
        }
        let feeds = inputs::wire(&pipeline, &nodes)?;
        for (node, inputs) in nodes.iter_mut().zip(feeds) {
            node.inputs = inputs;
        }
        order::refuse_cycles(&nodes)?;
        let instances = order::expand(&nodes, rounds);
        Ok(Self {
            pipeline,
            rounds,
            device: options.device.to_owned(),
            nodes,
            instances,
        })
    }

    /// Returns how many stages the plan runs.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Tells whether the plan runs nothing.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// Returns the name of the instance at `index` in the order of the plan.
    pub fn name(&self, index: usize) -> InstanceName {
        let instance = &self.instances[index];
        InstanceName {
            round: instance.round,
            stage: self.nodes[instance.node].spec.name.clone(),
        }
    }

    /// Returns the program that the instance at `index` runs.
    pub fn program(&self, index: usize) -> &Program {
        &self.node(index).program
    }

    /// Returns what the instance at `index` asks of a cluster.
    pub fn resources(&self, index: usize) -> &Resources {
        &self.node(index).spec.resources
    }

    /// Tells whether the work of the instance at `index` splits into parts.
    pub(crate) fn splits(&self, index: usize) -> bool {
        self.program(index).description.units.is_some()
    }

    /// Returns in how many parts a cluster computes the instance at `index`; 1 where its work does not split.
    pub fn parts(&self, index: usize) -> u32 {
        match self.splits(index) {
            true => self.resources(index).parts.unwrap_or(1),
            false => 1,
        }
    }

    /// Returns the model that the instance at `index` reads, if it reads one.
    pub fn model(&self, index: usize) -> Option<&Path> {
        let roles = &self.node(index).program.description.inputs;
        let inputs = self.instances[index].inputs.iter();
        inputs
            .filter(|(role, _)| roles[role].schema == MODEL)
            .flat_map(|(_, feeds)| feeds)
            .find_map(|feed| match feed {
                InstanceFeed::External(file) => Some(file.path.as_path()),
                InstanceFeed::Output { .. } => None,
            })
    }

    /// Returns the outputs of other stages that the instance at `index` reads, by role.
    pub fn fed_by(&self, index: usize) -> BTreeMap<String, Vec<FedBy>> {
        let mut fed = BTreeMap::new();
        for (role, feeds) in &self.instances[index].inputs {
            let here: Vec<FedBy> = feeds
                .iter()
                .filter_map(|feed| match feed {
                    InstanceFeed::External(_) => None,
                    InstanceFeed::Output { instance, role } => Some(FedBy {
                        stage: self.name(*instance).path(),
                        output: role.clone(),
                    }),
                })
                .collect();
            if !here.is_empty() {
                fed.insert(role.clone(), here);
            }
        }
        fed
    }

    /// Returns the instances that feed the one at `index`, by role, with the role of their output.
    pub fn fed_by_instances(&self, index: usize) -> Vec<(&str, usize, &str)> {
        let inputs = self.instances[index].inputs.iter();
        inputs
            .flat_map(|(role, feeds)| feeds.iter().map(move |feed| (role.as_str(), feed)))
            .filter_map(|(role, feed)| match feed {
                InstanceFeed::External(_) => None,
                InstanceFeed::Output {
                    instance,
                    role: output,
                } => Some((role, *instance, output.as_str())),
            })
            .collect()
    }

    /// Returns the files from outside that the instance at `index` reads, by role.
    pub fn files(&self, index: usize) -> Vec<(&str, &Path)> {
        let inputs = self.instances[index].inputs.iter();
        inputs
            .flat_map(|(role, feeds)| feeds.iter().map(move |feed| (role.as_str(), feed)))
            .filter_map(|(role, feed)| match feed {
                InstanceFeed::External(file) => Some((role, file.path.as_path())),
                InstanceFeed::Output { .. } => None,
            })
            .collect()
    }

    /// Returns the parameters of the instance at `index`, defaults and its round included.
    pub fn parameters(&self, index: usize) -> serde_json::Map<String, Value> {
        let description = &self.program(index).description;
        parameters::with_defaults(description, &self.set_parameters(index))
    }

    /// Returns the instance called `name`, such as `round-2/fit`.
    ///
    /// # Errors
    /// If there is none, with the nearest that there is.
    pub fn find(&self, name: &str) -> Result<usize, PipelineError> {
        let names: Vec<String> = (0..self.len())
            .map(|index| self.name(index).to_string())
            .collect();
        names.iter().position(|known| known == name).ok_or_else(|| {
            let near = nearest(name, names.iter().map(String::as_str));
            let near = near.map(|near| format!("; did you mean `{near}`?"));
            PipelineError::Usage(format!(
                "the plan has no `{name}`{}",
                near.unwrap_or_else(|| "; `sims plan` lists what it has".to_owned())
            ))
        })
    }

    /// Returns the stage that the instance at `index` is a run of.
    pub(crate) fn node(&self, index: usize) -> &PlannedNode {
        &self.nodes[self.instances[index].node]
    }

    /// Returns the parameters that the instance sets, its round included.
    pub(crate) fn set_parameters(&self, index: usize) -> Parameters {
        let node = self.node(index);
        let mut set = node.set.clone();
        if let Some(round) = self.instances[index].round
            && parameters::has(&node.program.description, "round")
        {
            set.entry("round").or_insert_with(|| Value::from(round));
        }
        set
    }

    /// Returns the instances that `index` depends on, directly or not, in order.
    pub(crate) fn ancestors(&self, index: usize) -> Vec<usize> {
        let mut needed = vec![false; index + 1];
        needed[index] = true;
        for later in (0..=index).rev() {
            if needed[later] {
                for before in &self.instances[later].depends {
                    needed[*before] = true;
                }
            }
        }
        (0..index).filter(|before| needed[*before]).collect()
    }

    /// Returns the instances that depend on `index`, directly or not, in order.
    pub(crate) fn dependents(&self, index: usize) -> Vec<usize> {
        let mut reached = vec![false; self.instances.len()];
        reached[index] = true;
        for (later, instance) in self.instances.iter().enumerate() {
            reached[later] |= instance.depends.iter().any(|before| reached[*before]);
        }
        (0..reached.len())
            .filter(|other| reached[*other] && *other != index)
            .collect()
    }
}

/// Finds the program of a stage and checks its parameters.
fn planned(
    spec: &NodeSpec,
    pipeline: &Pipeline,
    programs: &mut Programs<'_>,
) -> Result<PlannedNode, Vec<Diagnostic>> {
    let program = programs
        .get(&spec.uses, &spec.uses_at)
        .map_err(|problem| vec![problem])?;
    let description = &program.description;
    if let (Some(at), None) = (&spec.parts_at, &description.units) {
        let message = format!(
            "`{}` does not work in chunks, so that it has no parts",
            spec.name
        );
        let help = "`parts` is for stages that work prompt by prompt: sample, judge, extract; at the top of the \
                    file it is for all of those";
        return Err(vec![Diagnostic::new(at, message).help(help)]);
    }
    let mut set = parameters::check(description, &spec.params, &spec.params_key)?;
    if parameters::has(description, "seed") {
        set.entry("seed")
            .or_insert_with(|| Value::from(pipeline.seed));
    }
    let mut given = set.clone();
    if spec.repeat == Repeat::EachRound {
        given.entry("round").or_insert(Value::Null);
    }
    let missing: Vec<Diagnostic> = parameters::missing(description, &given)
        .into_iter()
        .map(|name| {
            Diagnostic::new(
                &spec.at,
                format!(
                    "`{}` needs a parameter `{name}`, which has no default",
                    spec.name
                ),
            )
            .help(format!("set `{}.{name}`", spec.params_key))
        })
        .collect();
    if !missing.is_empty() {
        return Err(missing);
    }
    Ok(PlannedNode {
        spec: spec.clone(),
        program,
        set,
        inputs: Vec::new(),
    })
}
