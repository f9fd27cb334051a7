//! Why questions could not be scored.

use std::path::PathBuf;

use sims_artifact::ArtifactError;
use sims_model::ModelError;

/// A file of tasks, a model or a setting that choices cannot be scored with.
#[derive(Debug, thiserror::Error)]
pub enum ChoicesError {
    /// The table of tasks cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A line of a JSON file is not a row of tasks.
    #[error("{path}, line {line}: {message}; docs/choices.md lists the keys")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The file has no question.
    #[error("{path} has no rows with the split `test`, so nothing is asked")]
    NoQuestions {
        /// The file.
        path: PathBuf,
    },
    /// A row breaks a rule of the format.
    #[error("task `{task}`, {split} row `{doc_id}`: {message}")]
    Row {
        /// The task.
        task: String,
        /// The split.
        split: String,
        /// The row's name.
        doc_id: String,
        /// The rule, with the values, and a way out.
        message: String,
    },
    /// A task has fewer examples than are to be shown.
    #[error(
        "task `{task}` has {found} rows with the split `fewshot`, but --shots asks for {shots}; add examples or show fewer"
    )]
    FewExamples {
        /// The task.
        task: String,
        /// Examples that there are.
        found: usize,
        /// Examples asked for.
        shots: usize,
    },
    /// A group has the name of a task.
    #[error("`{name}` is the name of a task and of a group; rename one of them")]
    SharedName {
        /// The name.
        name: String,
    },
    /// An empty context needs a token to stand for it.
    #[error(
        "task `{task}`, row `{doc_id}` has an empty context, but the model's tokenizer names neither a bos_token nor an \
         eos_token that could stand in its place; give the question a context or a description"
    )]
    NoDocumentStart {
        /// The task.
        task: String,
        /// The question.
        doc_id: String,
    },
    /// Nothing of a choice is left to score.
    #[error("task `{task}`, row `{doc_id}`, choice {choice}: {message}")]
    Choice {
        /// The task.
        task: String,
        /// The question.
        doc_id: String,
        /// Index of the choice.
        choice: usize,
        /// What is wrong, and a way out.
        message: String,
    },
    /// A parameter is out of its range.
    #[error("{name}: {message}")]
    Setting {
        /// The parameter.
        name: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}
