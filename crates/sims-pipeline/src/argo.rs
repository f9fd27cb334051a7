//! A plan as an Argo Workflow: one task a stage, each a container that runs a worker.
//!
//! The workflow has one template a stage of the pipeline, with its resources, and a graph of tasks over all rounds.
//! Tasks hand on nothing: results are in the store, which is on a volume that all mount, or behind a remote cache.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::pipeline::Resources;
use crate::plan::Plan;

/// The name of the template with the graph; those of stages begin otherwise.
const GRAPH: &str = "plan";
/// The name of the volume with the workspace.
const VOLUME: &str = "workspace";

/// Where and how the tasks of a workflow run.
#[derive(Debug, Clone)]
pub struct ArgoOptions {
    /// The image, with `sims` and the stages on its `PATH`.
    pub image: String,
    /// The claim of the volume that holds the workspace; without it the image holds that.
    pub claim: Option<String>,
    /// The folder of the workspace in a container.
    pub workspace: PathBuf,
    /// The worker's arguments behind `sims work`, paths as in a container; the stage is added.
    pub arguments: Vec<String>,
    /// The URL of a remote cache.
    pub remote: Option<String>,
    /// A secret whose entries become environment variables.
    pub secret: Option<String>,
    /// How often a task that fails is tried again.
    pub retries: u32,
}

/// A workflow, and what it could not say.
#[derive(Debug, Clone, PartialEq)]
pub struct ArgoWorkflow {
    /// The text for `argo submit` or `kubectl create`.
    pub yaml: String,
    /// What the user has to see to.
    pub notes: Vec<String>,
}

impl Plan {
    /// Writes the plan as an Argo Workflow (`argoproj.io/v1alpha1`).
    pub fn argo_workflow(&self, options: &ArgoOptions) -> ArgoWorkflow {
        let mut templates = vec![json!({"name": GRAPH, "dag": {"tasks": self.tasks()}})];
        for (node, planned) in self.nodes.iter().enumerate() {
            let Some(index) = self
                .instances
                .iter()
                .position(|instance| instance.node == node)
            else {
                continue;
            };
            let resources = &planned.spec.resources;
            for is_part in [true, false] {
                if is_part && self.parts(index) == 1 {
                    continue;
                }
                templates.push(template(
                    &self.template_name(node, is_part),
                    resources,
                    is_part.then(|| self.parts(index)),
                    options,
                ));
            }
        }
        let mut spec = json!({"entrypoint": GRAPH, "templates": templates});
        if let Some(claim) = &options.claim {
            spec["volumes"] =
                json!([{"name": VOLUME, "persistentVolumeClaim": {"claimName": claim}}]);
        }
        let workflow = json!({
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {"generateName": format!("{}-", object_name(&self.pipeline.name))},
            "spec": spec,
        });
        ArgoWorkflow {
            yaml: serde_yaml::to_string(&workflow).expect("a workflow is plain data"),
            notes: self.argo_notes(),
        }
    }

    /// Returns the tasks of the graph.
    fn tasks(&self) -> Vec<Value> {
        let mut tasks = Vec::new();
        for (index, instance) in self.instances.iter().enumerate() {
            let mut before: Vec<String> = instance
                .depends
                .iter()
                .map(|before| self.task_name(*before))
                .collect();
            let stage = json!({"name": "stage", "value": self.name(index).to_string()});
            let parts = self.parts(index);
            if parts > 1 {
                let name = format!("{}-parts", self.task_name(index));
                let part = json!({"name": "part", "value": format!("{{{{item}}}}/{parts}")});
                let mut task = json!({
                    "name": name,
                    "template": self.template_name(instance.node, true),
                    "arguments": {"parameters": [stage, part]},
                    "withSequence": {"start": "1", "end": parts.to_string()},
                });
                depend(&mut task, &before);
                tasks.push(task);
                before = vec![name];
            }
            let mut task = json!({
                "name": self.task_name(index),
                "template": self.template_name(instance.node, false),
                "arguments": {"parameters": [stage]},
            });
            depend(&mut task, &before);
            tasks.push(task);
        }
        tasks
    }

    fn task_name(&self, index: usize) -> String {
        let round = match self.instances[index].round {
            Some(round) => format!("round-{round}"),
            None => "once".to_owned(),
        };
        format!("{round}-{}", self.stage_name(self.instances[index].node))
    }

    fn template_name(&self, node: usize, is_part: bool) -> String {
        let kind = if is_part { "part" } else { "stage" };
        format!("{kind}-{}", self.stage_name(node))
    }

    /// Returns a stage's name as Argo takes it: without `_`, and told apart from others by its place where need be.
    fn stage_name(&self, node: usize) -> String {
        let plain = |node: usize| self.nodes[node].spec.name.replace('_', "-");
        let name = plain(node);
        let is_taken = (0..node).any(|other| plain(other) == name);
        match is_taken {
            true => format!("{name}-{node}"),
            false => name,
        }
    }

    /// Says what of the plan has no counterpart in a workflow.
    fn argo_notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for node in &self.nodes {
            let Resources {
                partition,
                account,
                qos,
                extra,
                gpus,
                ..
            } = &node.spec.resources;
            let without: Vec<&str> = [
                ("partition", partition.is_some()),
                ("account", account.is_some()),
                ("qos", qos.is_some()),
                ("extra", !extra.is_empty()),
                (
                    "the kind of `gpus`",
                    gpus.as_ref().is_some_and(|gpus| gpus.kind.is_some()),
                ),
            ]
            .iter()
            .filter(|(_, is_set)| *is_set)
            .map(|(name, _)| *name)
            .collect();
            if !without.is_empty() {
                let name = &node.spec.name;
                notes.push(format!(
                    "{name}: Argo has nothing for {}",
                    without.join(", ")
                ));
            }
        }
        let mut outside: Vec<&Path> = (0..self.len())
            .flat_map(|index| self.files(index))
            .map(|(_, path)| path)
            .filter(|path| !path.starts_with(&self.pipeline.workspace))
            .collect();
        outside.sort_unstable();
        outside.dedup();
        for path in outside {
            notes.push(format!(
                "{} lies outside the workspace and has to be at the same path in the image",
                path.display()
            ));
        }
        notes
    }
}

fn depend(task: &mut Value, before: &[String]) {
    if !before.is_empty() {
        task["depends"] = json!(before.join(" && "));
    }
}

/// Returns the template of a stage, or of a part of its work.
fn template(name: &str, resources: &Resources, parts: Option<u32>, options: &ArgoOptions) -> Value {
    let mut parameters = vec![json!({"name": "stage"})];
    let mut arguments = options.arguments.clone();
    arguments.extend(["--stage", "{{inputs.parameters.stage}}"].map(str::to_owned));
    if parts.is_some() {
        parameters.push(json!({"name": "part"}));
        arguments.extend(["--part", "{{inputs.parameters.part}}"].map(str::to_owned));
    }
    if let Some(cpus) = resources.cpus {
        arguments.extend(["--threads".to_owned(), cpus.to_string()]);
    }
    let mut container = json!({
        "image": options.image,
        "command": ["sims", "work"],
        "args": arguments,
        "workingDir": options.workspace,
    });
    let amounts = amounts(resources);
    if !amounts.is_empty() {
        container["resources"] = json!({"requests": amounts, "limits": amounts});
    }
    if options.claim.is_some() {
        container["volumeMounts"] = json!([{"name": VOLUME, "mountPath": options.workspace}]);
    }
    if let Some(remote) = &options.remote {
        container["env"] = json!([{"name": "SIMS_REMOTE", "value": remote}]);
    }
    if let Some(secret) = &options.secret {
        container["envFrom"] = json!([{"secretRef": {"name": secret}}]);
    }
    let mut template = json!({
        "name": name,
        "inputs": {"parameters": parameters},
        "container": container,
    });
    if let Some(time) = resources.time {
        template["activeDeadlineSeconds"] = json!(time.as_secs().max(1));
    }
    if options.retries > 0 {
        template["retryStrategy"] =
            json!({"limit": options.retries.to_string(), "retryPolicy": "Always"});
    }
    template
}

/// Returns resources as Kubernetes counts them.
fn amounts(resources: &Resources) -> Map<String, Value> {
    let mut amounts = Map::new();
    if let Some(cpus) = resources.cpus {
        amounts.insert("cpu".to_owned(), json!(cpus.to_string()));
    }
    if let Some(mib) = resources.memory_mib {
        amounts.insert("memory".to_owned(), json!(format!("{mib}Mi")));
    }
    if let Some(gpus) = &resources.gpus {
        amounts.insert("nvidia.com/gpu".to_owned(), json!(gpus.count.to_string()));
    }
    amounts
}

/// Makes of a name what Kubernetes calls an object: lower case, digits and `-`.
fn object_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let name: String = name
        .to_ascii_lowercase()
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .collect();
    // Kubernetes adds five characters, and takes 63.
    let short: String = name.trim_matches('-').chars().take(50).collect();
    match short.trim_matches('-') {
        "" => "sims".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::object_name;

    #[test]
    fn names_of_objects_are_as_kubernetes_wants_them() {
        assert_eq!(object_name("My_Run.v2"), "my-run-v2");
        assert_eq!(object_name("__"), "sims");
        assert_eq!(object_name(&"a-".repeat(40)).len(), 49);
    }
}
