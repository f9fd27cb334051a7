//! Which column holds the prompts, the system prompts and the sources.

use std::fmt;
use std::path::Path;

use crate::ImportError;

/// Names of columns with one text a prompt, the likeliest first.
const TEXT: [&str; 3] = ["prompt", "instruction", "question"];
/// Names of columns with a list of turns.
const CHAT: [&str; 6] = [
    "prompt",
    "messages",
    "chosen",
    "conversations",
    "conversation",
    "turns",
];
/// Names of columns with a system prompt.
const SYSTEM: [&str; 2] = ["system", "system_prompt"];
/// Names of columns that say where a prompt came from.
const SOURCE: [&str; 3] = ["source", "dataset", "category"];

/// Columns that the user names; what is not named is looked for.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ColumnFlags {
    /// The column with one text a prompt; by default `prompt`, `instruction` or `question`
    #[arg(long, value_name = "NAME", conflicts_with = "messages_column")]
    pub prompt_column: Option<String>,
    /// The column with the turns of a chat, {role, content} each; answers at the end are cut off
    #[arg(long, value_name = "NAME")]
    pub messages_column: Option<String>,
    /// The column with the system prompt; by default `system` or `system_prompt`
    #[arg(long, value_name = "NAME")]
    pub system_column: Option<String>,
    /// The column that says where a prompt came from; by default `source`, `dataset` or `category`,
    /// else the file's name
    #[arg(long, value_name = "NAME")]
    pub source_column: Option<String>,
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text.
    Text,
    /// A list of turns.
    Turns,
    /// Something else, by its type's name.
    Other(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Turns => f.write_str("a list"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// A column of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// Which columns of a file are read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Mapping {
    /// The prompts.
    pub prompt: String,
    /// Whether they are lists of turns rather than text.
    pub chat: bool,
    /// The system prompts.
    pub system: Option<String>,
    /// Where the prompts came from.
    pub source: Option<String>,
    /// Columns that are not read.
    pub unused: Vec<String>,
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.chat { "chats" } else { "prompts" };
        write!(f, "{what} from `{}`", self.prompt)?;
        if let Some(system) = &self.system {
            write!(f, ", system prompts from `{system}`")?;
        }
        match &self.source {
            Some(source) => write!(f, ", sources from `{source}`")?,
            None => write!(f, ", the file's name as source")?,
        }
        if !self.unused.is_empty() {
            write!(f, "; not used: {}", self.unused.join(", "))?;
        }
        Ok(())
    }
}

impl Mapping {
    /// Chooses among the columns of the file at `path`.
    pub(crate) fn choose(
        path: &Path,
        columns: &[Column],
        flags: &ColumnFlags,
        cells_may_be_json: bool,
    ) -> Result<Self, ImportError> {
        let names = || {
            let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
            names.join(", ")
        };
        let named = |name: &str| {
            columns
                .iter()
                .find(|c| c.name == name)
                .ok_or_else(|| ImportError::NoColumn {
                    path: path.to_owned(),
                    column: name.to_owned(),
                    columns: names(),
                })
        };
        let typed = |name: &str, fits: &dyn Fn(&Kind) -> bool, expected: &'static str| {
            let column = named(name)?;
            if fits(&column.kind) {
                return Ok(name.to_owned());
            }
            let others: Vec<&str> = columns
                .iter()
                .filter(|c| fits(&c.kind))
                .map(|c| c.name.as_str())
                .collect();
            Err(ImportError::WrongType {
                path: path.to_owned(),
                column: name.to_owned(),
                found: column.kind.to_string(),
                expected,
                way_out: match others.as_slice() {
                    [] => "no column is".to_owned(),
                    others => format!("name another one; such are {}", others.join(", ")),
                },
            })
        };
        let is_text = |kind: &Kind| *kind == Kind::Text;
        let is_chat =
            |kind: &Kind| *kind == Kind::Turns || cells_may_be_json && *kind == Kind::Text;
        let first = |known: &[&str], fits: &dyn Fn(&Kind) -> bool| {
            known.iter().find_map(|name| {
                let column = columns.iter().find(|c| c.name == *name && fits(&c.kind))?;
                Some(column.name.clone())
            })
        };

        let (prompt, chat) = if let Some(name) = &flags.prompt_column {
            (typed(name, &is_text, "text")?, false)
        } else if let Some(name) = &flags.messages_column {
            (typed(name, &is_chat, "a list of turns")?, true)
        } else if let Some(name) = first(&TEXT, &is_text) {
            (name, false)
        } else if let Some(name) = first(&CHAT, &is_chat) {
            (name, true)
        } else if let Some(known) = columns.iter().find(|c| TEXT.contains(&c.name.as_str())) {
            (typed(&known.name, &is_text, "text")?, false)
        } else {
            let known: std::collections::BTreeSet<&str> = TEXT.into_iter().chain(CHAT).collect();
            return Err(ImportError::NoPromptColumn {
                path: path.to_owned(),
                looked_for: known.into_iter().collect::<Vec<_>>().join(", "),
                columns: names(),
            });
        };
        let system = match &flags.system_column {
            Some(name) => Some(named(name)?.name.clone()),
            // A chat brings its own system turn.
            None if chat => None,
            None => first(&SYSTEM, &is_text),
        };
        let source = match &flags.source_column {
            Some(name) => Some(named(name)?.name.clone()),
            None => first(&SOURCE, &is_text),
        };
        let used = [Some(&prompt), system.as_ref(), source.as_ref()];
        let unused = columns
            .iter()
            .map(|c| &c.name)
            .filter(|name| !used.contains(&Some(*name)))
            .cloned()
            .collect();
        Ok(Self {
            prompt,
            chat,
            system,
            source,
            unused,
        })
    }

    /// Whether a column is read.
    pub(crate) fn reads(&self, column: &str) -> bool {
        self.prompt == column
            || self.system.as_deref() == Some(column)
            || self.source.as_deref() == Some(column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(spec: &[(&str, Kind)]) -> Vec<Column> {
        spec.iter()
            .map(|(name, kind)| Column {
                name: (*name).to_owned(),
                kind: kind.clone(),
            })
            .collect()
    }

    fn choose(spec: &[(&str, Kind)], flags: &ColumnFlags) -> Result<Mapping, String> {
        Mapping::choose(Path::new("f"), &columns(spec), flags, false).map_err(|e| e.to_string())
    }

    #[test]
    fn known_data_sets_are_recognised() {
        let none = ColumnFlags::default();
        let ultrafeedback = [
            ("source", Kind::Text),
            ("instruction", Kind::Text),
            ("completions", Kind::Turns),
        ];
        let shown = choose(&ultrafeedback, &none).unwrap().to_string();
        assert_eq!(
            shown,
            "prompts from `instruction`, sources from `source`; not used: completions"
        );
        let binarized = [
            ("prompt", Kind::Text),
            ("chosen", Kind::Turns),
            ("messages", Kind::Turns),
        ];
        assert_eq!(choose(&binarized, &none).unwrap().prompt, "prompt");
        let chats = choose(&binarized[1..], &none).unwrap();
        assert_eq!((chats.prompt.as_str(), chats.chat), ("messages", true));
        let arena = [
            ("question_id", Kind::Text),
            ("category", Kind::Text),
            ("turns", Kind::Turns),
        ];
        let shown = choose(&arena, &none).unwrap().to_string();
        assert_eq!(
            shown,
            "chats from `turns`, sources from `category`; not used: question_id"
        );
    }

    #[test]
    fn flags_win_over_what_is_known() {
        let spec = [
            ("prompt", Kind::Text),
            ("ask", Kind::Text),
            ("rules", Kind::Text),
        ];
        let flags = ColumnFlags {
            prompt_column: Some("ask".to_owned()),
            system_column: Some("rules".to_owned()),
            ..ColumnFlags::default()
        };
        let mapping = choose(&spec, &flags).unwrap();
        assert_eq!(mapping.prompt, "ask");
        assert_eq!(mapping.system.as_deref(), Some("rules"));
        assert_eq!(mapping.unused, ["prompt"]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_columns() {
        let none = ColumnFlags::default();
        let other = |name: &str| Kind::Other(name.to_owned());
        let message = choose(&[("body", Kind::Text)], &none).unwrap_err();
        assert!(message.ends_with("the columns are body"), "{message}");
        let message = choose(&[("prompt", other("Int64")), ("text", Kind::Text)], &none);
        assert_eq!(
            message.unwrap_err(),
            "f: column `prompt` is Int64, not text; name another one; such are text"
        );
        let flags = ColumnFlags {
            messages_column: Some("prompt".to_owned()),
            ..ColumnFlags::default()
        };
        let message = choose(&[("prompt", Kind::Text)], &flags).unwrap_err();
        assert!(
            message.contains("is text, not a list of turns"),
            "{message}"
        );
        let flags = ColumnFlags {
            source_column: Some("origin".to_owned()),
            ..ColumnFlags::default()
        };
        let message = choose(&[("prompt", Kind::Text)], &flags).unwrap_err();
        assert!(
            message.contains("no column `origin`; its columns are prompt"),
            "{message}"
        );
    }
}
