//! Feeds: what each input of each stage is fed with.

use sims_stage::RoleDescription;

use super::{Feed, PlannedNode};
use crate::parameters;
use crate::pipeline::{InputSpec, Pipeline, Repeat, Scope, Source};
use crate::wiring::{Fill, fill};
use crate::yaml::{Diagnostic, Diagnostics, Location};

/// Feeds by role, for one stage.
type Inputs = Vec<(String, Vec<Feed>)>;

/// Returns what feeds each stage, in the order of `nodes`.
pub(super) fn wire(pipeline: &Pipeline, nodes: &[PlannedNode]) -> Result<Vec<Inputs>, Diagnostics> {
    let mut problems = Vec::new();
    let mut wired = Vec::new();
    for index in 0..nodes.len() {
        let wirer = Wirer {
            pipeline,
            nodes,
            index,
            node: &nodes[index],
        };
        match wirer.inputs() {
            Ok(inputs) => wired.push(inputs),
            Err(mut more) => problems.append(&mut more),
        }
    }
    if problems.is_empty() {
        Ok(wired)
    } else {
        Err(Diagnostics(problems))
    }
}

/// Feeds the inputs of one stage.
struct Wirer<'a> {
    pipeline: &'a Pipeline,
    nodes: &'a [PlannedNode],
    index: usize,
    node: &'a PlannedNode,
}

impl Wirer<'_> {
    fn inputs(&self) -> Result<Inputs, Vec<Diagnostic>> {
        let roles = &self.node.program.description.inputs;
        let mut problems = Vec::new();
        for input in &self.node.spec.inputs {
            if !roles.contains_key(&input.role) {
                problems.push(
                    Diagnostic::new(
                        &input.at,
                        format!("`{}` has no input `{}`", self.node.spec.name, input.role),
                    )
                    .suggest(&input.role, roles.keys().map(String::as_str)),
                );
            }
        }
        let mut inputs = Inputs::new();
        for (role, description) in roles {
            match self.input(role, description) {
                Ok(feeds) if feeds.is_empty() => {}
                Ok(feeds) => inputs.push((role.clone(), feeds)),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            Ok(inputs)
        } else {
            Err(problems)
        }
    }

    fn input(&self, role: &str, description: &RoleDescription) -> Result<Vec<Feed>, Diagnostic> {
        let spec = &self.node.spec;
        let written = spec.inputs.iter().find(|input| input.role == role);
        let (feeds, at) = match written {
            Some(input) => (self.written(input, description)?, &input.at),
            None if spec.wired_by_role => (self.by_role(role)?, &spec.at),
            None => (Vec::new(), &spec.at),
        };
        let absent_in_round_1 = feeds.iter().any(|feed| {
            matches!(
                feed,
                Feed::Output {
                    scope: Scope::Previous,
                    ..
                }
            )
        });
        if description.required && absent_in_round_1 {
            return Err(Diagnostic::new(
                at,
                format!(
                    "`{}` requires `{role}`, but round 1 has no round before it",
                    spec.name
                ),
            )
            .help("`previous.…` can feed only inputs that may be left out"));
        }
        if description.required && feeds.is_empty() {
            return Err(self.missing(role, description));
        }
        Ok(feeds)
    }

    fn missing(&self, role: &str, description: &RoleDescription) -> Diagnostic {
        let spec = &self.node.spec;
        let problem = Diagnostic::new(
            &spec.at,
            format!(
                "`{}` needs an input `{role}` ({}), and nothing gives it",
                spec.name, description.schema
            ),
        );
        if !spec.wired_by_role {
            return problem.help(format!("add it under `stages.{}.inputs`", spec.name));
        }
        match fill(&self.node.program.description.stage, role) {
            Fill::Model => problem.help("add `model: FOLDER` at the top"),
            Fill::Prompts(splits) => {
                problem.help(format!("add `{}` under `prompts:` at the top", splits[0]))
            }
            _ => {
                let later = self.nodes[self.index..]
                    .iter()
                    .find(|later| later.program.description.outputs.contains_key(role));
                problem.help(match later {
                    Some(later) => format!(
                        "`{}` gives it, but comes later in the file",
                        later.spec.name
                    ),
                    None => {
                        "add a stage that gives it before this one, or name a file under `inputs`"
                            .to_owned()
                    }
                })
            }
        }
    }

    fn written(
        &self,
        input: &InputSpec,
        description: &RoleDescription,
    ) -> Result<Vec<Feed>, Diagnostic> {
        if input.sources.len() > 1 && !description.many {
            return Err(Diagnostic::new(
                &input.at,
                format!(
                    "`{}` takes one `{}`, but is given {}",
                    self.node.spec.name,
                    input.role,
                    input.sources.len()
                ),
            ));
        }
        input
            .sources
            .iter()
            .map(|(source, at)| self.feed(source, at, &input.role, description))
            .collect()
    }

    fn feed(
        &self,
        source: &Source,
        at: &Location,
        role: &str,
        description: &RoleDescription,
    ) -> Result<Feed, Diagnostic> {
        let external = |path: &std::path::Path| {
            Feed::External(crate::pipeline::FileRef {
                path: path.to_owned(),
                at: at.clone(),
            })
        };
        match source {
            Source::File(path) => Ok(external(path)),
            Source::Model => match &self.pipeline.model {
                Some(model) => Ok(external(&model.path)),
                None => Err(Diagnostic::new(at, "the pipeline has no `model`")
                    .help("add `model: FOLDER` at the top")),
            },
            Source::Prompts(split) => match self.pipeline.prompts.get(split) {
                Some(file) => Ok(external(&file.path)),
                None => Err(
                    Diagnostic::new(at, format!("the pipeline has no prompts `{split}`"))
                        .suggest(split, self.pipeline.prompts.keys().map(String::as_str)),
                ),
            },
            Source::Output {
                scope,
                node,
                role: output,
            } => {
                let target = self.output(*scope, node, output, at)?;
                let given = &self.nodes[target].program.description.outputs[output].schema;
                if *given != description.schema {
                    return Err(Diagnostic::new(
                        at,
                        format!(
                            "`{}` takes {} as `{role}`, but {node}.{output} is {given}",
                            self.node.spec.name, description.schema
                        ),
                    ));
                }
                Ok(Feed::Output {
                    scope: *scope,
                    node: target,
                    role: output.clone(),
                })
            }
        }
    }

    /// Finds the stage and output that a reference names.
    fn output(
        &self,
        scope: Scope,
        name: &str,
        output: &str,
        at: &Location,
    ) -> Result<usize, Diagnostic> {
        let names = || self.nodes.iter().map(|node| node.spec.name.as_str());
        let Some(target) = names().position(|known| known == name) else {
            return Err(
                Diagnostic::new(at, format!("no stage is named `{name}`")).suggest(name, names())
            );
        };
        let node = &self.nodes[target];
        let outputs = &node.program.description.outputs;
        if !outputs.contains_key(output) {
            return Err(
                Diagnostic::new(at, format!("`{name}` has no output `{output}`"))
                    .suggest(output, outputs.keys().map(String::as_str)),
            );
        }
        let own = self.node.spec.repeat;
        if own == Repeat::Once && (scope != Scope::Here || node.spec.repeat == Repeat::EachRound) {
            return Err(Diagnostic::new(
                at,
                format!(
                    "`{}` runs once, so it cannot use what a round makes",
                    self.node.spec.name
                ),
            )
            .help("move it to `round:`"));
        }
        if scope != Scope::Here && node.spec.repeat == Repeat::Once {
            return Err(
                Diagnostic::new(at, format!("`{name}` runs once, not in every round"))
                    .help(format!("write `{name}.{output}`")),
            );
        }
        Ok(target)
    }

    /// Fills a role by the table of default wiring.
    fn by_role(&self, role: &str) -> Result<Vec<Feed>, Diagnostic> {
        let in_round = self.node.spec.repeat == Repeat::EachRound;
        match fill(&self.node.program.description.stage, role) {
            Fill::Model => Ok(self
                .pipeline
                .model
                .iter()
                .cloned()
                .map(Feed::External)
                .collect()),
            Fill::Prompts(splits) => {
                let file = splits
                    .iter()
                    .find_map(|split| self.pipeline.prompts.get(*split));
                Ok(file.cloned().map(Feed::External).into_iter().collect())
            }
            Fill::Previous(outputs) if in_round => self.previous(role, outputs),
            Fill::PreviousWhen {
                roles: outputs,
                stage,
                parameter,
                value,
            } if in_round && self.round_has(stage, parameter, value) => {
                self.previous(role, outputs)
            }
            Fill::Previous(_) | Fill::PreviousWhen { .. } => Ok(Vec::new()),
            Fill::Earlier => self.one_of(role, role, Scope::Here, self.earlier()),
            Fill::From(stage) => {
                let of_stage = self
                    .earlier()
                    .filter(|index| self.nodes[*index].program.description.stage == stage);
                self.one_of(role, role, Scope::Here, of_stage)
            }
        }
    }

    /// Returns the stages before this one in the file that are repeated as often.
    fn earlier(&self) -> impl Iterator<Item = usize> {
        let repeat = self.node.spec.repeat;
        (0..self.index).filter(move |index| self.nodes[*index].spec.repeat == repeat)
    }

    /// Feeds `role` with the first of `outputs` that some stage of the round before has.
    fn previous(&self, role: &str, outputs: &[&str]) -> Result<Vec<Feed>, Diagnostic> {
        for output in outputs {
            let in_round = (0..self.nodes.len())
                .filter(|index| self.nodes[*index].spec.repeat == Repeat::EachRound);
            let feeds = self.one_of(role, output, Scope::Previous, in_round)?;
            if !feeds.is_empty() {
                return Ok(feeds);
            }
        }
        Ok(Vec::new())
    }

    /// Picks the stage that gives `output`, or none when none does.
    fn one_of(
        &self,
        role: &str,
        output: &str,
        scope: Scope,
        among: impl Iterator<Item = usize>,
    ) -> Result<Vec<Feed>, Diagnostic> {
        let all: Vec<usize> = among
            .filter(|index| {
                self.nodes[*index]
                    .program
                    .description
                    .outputs
                    .contains_key(output)
            })
            .collect();
        let named_alike = |index: &usize| {
            let node = &self.nodes[*index];
            node.spec.name == node.program.description.stage
        };
        let alike: Vec<usize> = all.iter().copied().filter(named_alike).collect();
        let candidates = if alike.is_empty() { all } else { alike };
        match candidates[..] {
            [] => Ok(Vec::new()),
            [node] => Ok(vec![Feed::Output {
                scope,
                node,
                role: output.to_owned(),
            }]),
            _ => {
                let spec = &self.node.spec;
                let names: Vec<String> = candidates
                    .iter()
                    .map(|index| format!("`{}.{output}`", self.nodes[*index].spec.name))
                    .collect();
                Err(Diagnostic::new(
                    &spec.at,
                    format!(
                        "the input `{role}` of `{}` could be {}",
                        spec.name,
                        names.join(" or ")
                    ),
                )
                .help("say which under `inputs`"))
            }
        }
    }

    fn round_has(&self, stage: &str, parameter: &str, value: &str) -> bool {
        self.nodes.iter().any(|node| {
            let description = &node.program.description;
            let set = node.set.get(parameter).cloned();
            description.stage == stage
                && node.spec.repeat == Repeat::EachRound
                && set.or_else(|| parameters::default(description, parameter)) == Some(value.into())
        })
    }
}
