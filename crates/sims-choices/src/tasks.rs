//! Files of tasks: Parquet or JSON lines, read, checked and sorted by task.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use sims_artifact::tables::ChoicesRow;
use sims_artifact::{ArtifactError, read_table};

use crate::ChoicesError;

/// The split of questions that are asked.
pub const TEST: &str = "test";
/// The split of examples that may be shown before them.
pub const FEWSHOT: &str = "fewshot";

/// A task: its questions, and examples to show before them.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The task's name.
    pub name: String,
    /// The groups that it counts in.
    pub groups: Vec<String>,
    /// Worked examples, in the order of the file; the first are shown first.
    pub examples: Vec<ChoicesRow>,
    /// The questions, in the order of the file; one or more.
    pub questions: Vec<ChoicesRow>,
}

impl Task {
    /// Returns whether the right choice of every question is known.
    pub fn has_gold(&self) -> bool {
        self.questions[0].gold.is_some()
    }

    /// Returns whether every choice of every question is known to be right or wrong.
    pub fn has_labels(&self) -> bool {
        self.questions[0].labels.is_some()
    }
}

/// Reads the tasks at `path`, in the order in which the file first names them.
///
/// A file that does not begin as Parquet is read as JSON lines, one object a row; keys that have a default may be left out.
///
/// # Errors
/// A file that cannot be read, a row that breaks a rule of `docs/choices.md`, or no question at all.
pub fn read_tasks(path: &Path) -> Result<Vec<Task>, ChoicesError> {
    let bytes = fs::read(path).map_err(|source| ArtifactError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let rows = if bytes.starts_with(b"PAR1") {
        read_table(path)?
    } else {
        read_lines(path, &bytes)?
    };
    let tasks = sorted_by_task(rows)?;
    if tasks.is_empty() {
        return Err(ChoicesError::NoQuestions {
            path: path.to_owned(),
        });
    }
    Ok(tasks)
}

/// A row as JSON, with the defaults of what most tasks leave alone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRow {
    task: String,
    #[serde(default)]
    groups: Vec<String>,
    doc_id: Id,
    #[serde(default = "test_split")]
    split: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    context: String,
    #[serde(default)]
    contexts: Option<Vec<String>>,
    choices: Vec<String>,
    #[serde(default)]
    gold: Option<u32>,
    #[serde(default)]
    labels: Option<Vec<u32>>,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default = "space")]
    target_delimiter: String,
    #[serde(default = "blank_line")]
    fewshot_delimiter: String,
}

/// An id that may be written as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(u64),
}

fn test_split() -> String {
    TEST.to_owned()
}

fn space() -> String {
    " ".to_owned()
}

fn blank_line() -> String {
    "\n\n".to_owned()
}

impl From<JsonRow> for ChoicesRow {
    fn from(row: JsonRow) -> Self {
        Self {
            task: row.task,
            groups: row.groups,
            doc_id: match row.doc_id {
                Id::Text(text) => text,
                Id::Number(number) => number.to_string(),
            },
            split: row.split,
            description: row.description,
            context: row.context,
            contexts: row.contexts,
            choices: row.choices,
            gold: row.gold,
            labels: row.labels,
            prefix: row.prefix,
            target_delimiter: row.target_delimiter,
            fewshot_delimiter: row.fewshot_delimiter,
        }
    }
}

fn read_lines(path: &Path, bytes: &[u8]) -> Result<Vec<ChoicesRow>, ChoicesError> {
    let refuse = |line: usize, message: String| ChoicesError::Line {
        path: path.to_owned(),
        line,
        message,
    };
    let mut rows = Vec::new();
    for (line, bytes) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let row: JsonRow = serde_json::from_slice(bytes).map_err(|error| {
            // The position within the line is kept, the line itself is the file's.
            let text = error.to_string();
            refuse(line, text.replace("at line 1 column", "at column"))
        })?;
        rows.push(row.into());
    }
    Ok(rows)
}

/// Sorts rows by task, checking them on the way; tasks without a question are left out.
fn sorted_by_task(rows: Vec<ChoicesRow>) -> Result<Vec<Task>, ChoicesError> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut seen = HashSet::new();
    for row in rows {
        check(&row)?;
        if !seen.insert((row.task.clone(), row.split.clone(), row.doc_id.clone())) {
            return Err(refuse(
                &row,
                "its doc_id is there twice; rename one of them",
            ));
        }
        let known = tasks.iter().position(|task| task.name == row.task);
        let index = known.unwrap_or_else(|| {
            tasks.push(Task {
                name: row.task.clone(),
                groups: row.groups.clone(),
                examples: Vec::new(),
                questions: Vec::new(),
            });
            tasks.len() - 1
        });
        let task = &mut tasks[index];
        if task.groups != row.groups {
            return Err(refuse(
                &row,
                "its groups differ from those of the task's first row; a task counts in its groups as a whole",
            ));
        }
        if row.split == FEWSHOT {
            task.examples.push(row);
        } else {
            if let Some(first) = task.questions.first() {
                check_alike(first, &row)?;
            }
            task.questions.push(row);
        }
    }
    tasks.retain(|task| !task.questions.is_empty());
    let groups: HashSet<&String> = tasks.iter().flat_map(|task| &task.groups).collect();
    match tasks.iter().find(|task| groups.contains(&task.name)) {
        Some(task) => Err(ChoicesError::SharedName {
            name: task.name.clone(),
        }),
        None => Ok(tasks),
    }
}

/// Checks the rules that a row can break by itself.
fn check(row: &ChoicesRow) -> Result<(), ChoicesError> {
    let count = row.choices.len();
    if row.split != TEST && row.split != FEWSHOT {
        return Err(refuse(row, "its split is neither `test` nor `fewshot`"));
    }
    if count == 0 {
        return Err(refuse(row, "it has no choices; list one or more"));
    }
    if let Some(empty) = row.choices.iter().position(String::is_empty) {
        return Err(refuse(row, format!("choice {empty} is an empty text")));
    }
    if let Some(contexts) = &row.contexts {
        if contexts.len() != count {
            let message = format!(
                "{} contexts for {count} choices; give one context a choice",
                contexts.len()
            );
            return Err(refuse(row, message));
        }
        if let Some(empty) = contexts.iter().position(String::is_empty) {
            return Err(refuse(row, format!("context {empty} is an empty text")));
        }
        if !row.context.is_empty() {
            return Err(refuse(
                row,
                "it has a context and contexts; put all of the text into one of them",
            ));
        }
    }
    if let Some(gold) = row.gold.filter(|&gold| gold as usize >= count) {
        let message = format!("gold is {gold}, but its {count} choices are numbered from 0");
        return Err(refuse(row, message));
    }
    if let Some(labels) = &row.labels {
        if labels.len() != count {
            let message = format!(
                "{} labels for {count} choices; give one label a choice",
                labels.len()
            );
            return Err(refuse(row, message));
        }
        if let Some(label) = labels.iter().find(|&&label| label > 1) {
            return Err(refuse(row, format!("label {label} is neither 0 nor 1")));
        }
        if row.gold.is_some_and(|gold| labels[gold as usize] != 1) {
            return Err(refuse(row, "the gold choice is labelled 0; label it 1"));
        }
    }
    if row.split == FEWSHOT && row.gold.is_none() {
        return Err(refuse(row, "an example needs a gold choice to be shown"));
    }
    if row.gold.is_none() && row.labels.is_none() {
        return Err(refuse(
            row,
            "it has neither gold nor labels, so that no choice is right; give one of them",
        ));
    }
    Ok(())
}

/// Checks that a question says of its choices what the task's first question says.
fn check_alike(first: &ChoicesRow, row: &ChoicesRow) -> Result<(), ChoicesError> {
    for (column, is_given, expected) in [
        ("gold", row.gold.is_some(), first.gold.is_some()),
        ("labels", row.labels.is_some(), first.labels.is_some()),
    ] {
        if is_given != expected {
            let message = format!(
                "{column} is given in some rows of the task and absent in others; a metric is over all of them"
            );
            return Err(refuse(row, message));
        }
    }
    Ok(())
}

fn refuse(row: &ChoicesRow, message: impl Into<String>) -> ChoicesError {
    ChoicesError::Row {
        task: row.task.clone(),
        split: row.split.clone(),
        doc_id: row.doc_id.clone(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Task>, ChoicesError> {
        let folder = tempfile::tempdir().expect("temporary folders can be made");
        let path = folder.path().join("tasks.jsonl");
        fs::write(&path, text).expect("the folder is writable");
        read_tasks(&path)
    }

    fn refused(text: &str) -> String {
        read(text).expect_err("refused").to_string()
    }

    #[test]
    fn left_out_keys_have_the_defaults_of_the_harness() {
        let tasks = read(
            "{\"task\": \"b\", \"doc_id\": 3, \"context\": \"q\", \"choices\": [\"x\", \"y\"], \"gold\": 1}\n\n\
             {\"task\": \"a\", \"doc_id\": \"n\", \"choices\": [\"x\"], \"labels\": [1], \"groups\": [\"g\"]}\n\
             {\"task\": \"b\", \"doc_id\": 3, \"split\": \"fewshot\", \"choices\": [\"x\"], \"gold\": 0}\n",
        )
        .expect("valid");
        assert_eq!([&tasks[0].name, &tasks[1].name], ["b", "a"]);
        let row = &tasks[0].questions[0];
        assert_eq!((row.doc_id.as_str(), row.split.as_str()), ("3", TEST));
        assert_eq!(row.target_delimiter, " ");
        assert_eq!(row.fewshot_delimiter, "\n\n");
        assert_eq!(tasks[0].examples.len(), 1);
        assert!(tasks[0].has_gold() && !tasks[0].has_labels());
        assert!(!tasks[1].has_gold() && tasks[1].has_labels());
    }

    #[test]
    fn what_is_wrong_with_a_row_is_named() {
        let row = |rest: &str| format!("{{\"task\": \"t\", \"doc_id\": \"7\", {rest}}}");
        for (rest, expected) in [
            ("\"choices\": [], \"gold\": 0", "it has no choices"),
            (
                "\"choices\": [\"\"], \"gold\": 0",
                "choice 0 is an empty text",
            ),
            (
                "\"choices\": [\"a\"], \"gold\": 1",
                "gold is 1, but its 1 choices",
            ),
            ("\"choices\": [\"a\"]", "neither gold nor labels"),
            (
                "\"choices\": [\"a\"], \"labels\": [1, 0]",
                "2 labels for 1 choices",
            ),
            (
                "\"choices\": [\"a\"], \"labels\": [2]",
                "label 2 is neither 0 nor 1",
            ),
            (
                "\"choices\": [\"a\"], \"labels\": [0], \"gold\": 0",
                "labelled 0",
            ),
            (
                "\"choices\": [\"a\"], \"gold\": 0, \"split\": \"dev\"",
                "its split is neither",
            ),
            (
                "\"choices\": [\"a\"], \"labels\": [1], \"split\": \"fewshot\"",
                "needs a gold",
            ),
            (
                "\"choices\": [\"a\"], \"gold\": 0, \"contexts\": []",
                "0 contexts for 1 choices",
            ),
            (
                "\"choices\": [\"a\"], \"gold\": 0, \"contexts\": [\"c\"], \"context\": \"c\"",
                "a context and contexts",
            ),
        ] {
            let message = refused(&row(rest));
            assert!(message.starts_with("task `t`, "), "{message}");
            assert!(message.contains("row `7`: "), "{message}");
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named() {
        let good = "{\"task\": \"t\", \"doc_id\": \"7\", \"choices\": [\"a\"], \"gold\": 0}";
        let message = refused(&format!("{good}\n{}", good.replace("gold", "golden")));
        assert!(
            message.contains("tasks.jsonl, line 2: unknown field `golden`"),
            "{message}"
        );
        assert!(message.contains("docs/choices.md"), "{message}");
        assert!(refused(&good.replace("\"task\": \"t\", ", "")).contains("missing field `task`"));
        assert!(refused("[").contains("line 1"));
        assert!(refused("").contains("no rows with the split `test`"));
        let example = good.replace("\"gold\"", "\"split\": \"fewshot\", \"gold\"");
        assert!(refused(&example).contains("no rows with the split `test`"));
    }

    #[test]
    fn rows_that_do_not_fit_together_are_named() {
        let row =
            |rest: &str| format!("{{\"task\": \"t\", \"choices\": [\"a\", \"b\"], {rest}}}\n");
        let two = |a: &str, b: &str| refused(&(row(a) + &row(b)));
        let message = two("\"doc_id\": 1, \"gold\": 0", "\"doc_id\": 1, \"gold\": 1");
        assert!(
            message.contains("row `1`: its doc_id is there twice"),
            "{message}"
        );
        let message = two(
            "\"doc_id\": 1, \"gold\": 0",
            "\"doc_id\": 2, \"labels\": [0, 1]",
        );
        assert!(
            message.contains("row `2`: gold is given in some rows"),
            "{message}"
        );
        let message = two(
            "\"doc_id\": 1, \"gold\": 0",
            "\"doc_id\": 2, \"gold\": 0, \"groups\": [\"g\"]",
        );
        assert!(message.contains("row `2`: its groups differ"), "{message}");
        let message = refused(&row("\"doc_id\": 1, \"gold\": 0, \"groups\": [\"t\"]"));
        assert!(
            message.contains("`t` is the name of a task and of a group"),
            "{message}"
        );
    }
}
