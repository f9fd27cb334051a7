//! Where every file comes from: action keys, digests, parameters, and how to make them again.

use sims_pipeline::shell_word;

use crate::data_table::DataTable;
use crate::run::Run;

/// One file of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct FileOrigin {
    /// The stage's instance, such as `round-1/sample`.
    pub instance: String,
    /// The action that made it.
    pub action: String,
    /// The path within the run's folder.
    pub path: String,
    /// The digest of its bytes.
    pub digest: String,
}

/// One parameter as the pipeline sets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// The node of the pipeline; `pipeline` for what stands at its top.
    pub node: String,
    /// The program.
    pub stage: String,
    /// The parameter.
    pub name: String,
    /// Its value, as JSON.
    pub value: String,
}

/// Where a run comes from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lineage {
    /// The files.
    pub files: Vec<FileOrigin>,
    /// The parameters that are set; empty when only a folder was named.
    pub parameters: Vec<Parameter>,
    /// What makes the run again; none when only a folder was named.
    pub command: Option<String>,
}

impl Lineage {
    pub(super) fn of(run: &Run) -> Self {
        let mut lineage = Self::default();
        for (instance, record) in &run.record.stages {
            for (path, digest) in &record.views {
                lineage.files.push(FileOrigin {
                    instance: instance.display().to_string(),
                    action: record.key.to_string(),
                    path: path.display().to_string(),
                    digest: digest.to_string(),
                });
            }
        }
        let Some(pipeline) = &run.pipeline else {
            return lineage;
        };
        let mut command = format!("sims run {}", shell_word(&run.target.display().to_string()));
        if let Some(seed) = run.seed {
            command.push_str(&format!(" --seed {seed}"));
        }
        lineage.command = Some(command);
        let mut top = |name: &str, value: String| {
            lineage.parameters.push(Parameter {
                node: "pipeline".to_owned(),
                stage: String::new(),
                name: name.to_owned(),
                value,
            });
        };
        // Paths are shown from the workspace on: the report is the same wherever that lies.
        let file = |path: &std::path::Path| {
            let shown = path.strip_prefix(&pipeline.workspace).unwrap_or(path);
            shown.display().to_string()
        };
        top("seed", pipeline.seed.to_string());
        top("rounds", pipeline.rounds.to_string());
        if let Some(model) = &pipeline.model {
            top("model", file(&model.path));
        }
        for (split, prompts) in &pipeline.prompts {
            top(&format!("prompts.{split}"), file(&prompts.path));
        }
        for node in &pipeline.nodes {
            for entry in &node.params.entries {
                lineage.parameters.push(Parameter {
                    node: node.name.clone(),
                    stage: node.uses.clone(),
                    name: entry.key.clone(),
                    value: entry.value.to_json().to_string(),
                });
            }
        }
        lineage
    }

    pub(super) fn files_table(&self) -> DataTable {
        DataTable::of("files", &self.files)
            .text("instance", |file| file.instance.as_str())
            .text("action", |file| file.action.as_str())
            .text("path", |file| file.path.as_str())
            .text("digest", |file| file.digest.as_str())
            .done()
    }

    pub(super) fn parameters_table(&self) -> DataTable {
        DataTable::of("parameters", &self.parameters)
            .text("node", |parameter| parameter.node.as_str())
            .text("stage", |parameter| parameter.stage.as_str())
            .text("parameter", |parameter| parameter.name.as_str())
            .text("value", |parameter| parameter.value.as_str())
            .done()
    }
}
