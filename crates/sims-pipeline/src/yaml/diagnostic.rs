//! Messages about pipeline files: file, line, column, key, and the nearest right name.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A file that was read, kept to show its lines.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// The path, as people should see it.
    pub path: PathBuf,
    /// The whole text.
    pub text: String,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub file: Arc<SourceFile>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}",
            self.file.path.display(),
            self.line,
            self.column
        )
    }
}

/// One thing that is wrong with a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where it is.
    pub at: Location,
    /// What is wrong, naming the key.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Makes a message about the place `at`.
    pub fn new(at: &Location, message: impl Into<String>) -> Self {
        Self {
            at: at.clone(),
            message: message.into(),
            help: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean …" when a name is near `wrong`, else the list of names.
    #[must_use]
    pub fn suggest<'a>(self, wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.into_iter().collect();
        if let Some(name) = nearest(wrong, names.iter().copied()) {
            return self.help(format!("did you mean `{name}`?"));
        }
        if names.is_empty() {
            return self;
        }
        self.help(format!("known here: {}", names.join(", ")))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.message)?;
        if let Some(line) = self.at.file.text.lines().nth(self.at.line - 1) {
            let number = self.at.line.to_string();
            let margin = " ".repeat(number.len());
            let before = " ".repeat(self.at.column - 1);
            write!(
                f,
                "\n {margin} |\n {number} | {line}\n {margin} | {before}^"
            )?;
        }
        match &self.help {
            Some(help) => write!(f, "\n   = {help}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a pipeline; at least one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Self {
        Self(vec![one])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Returns the name most like `wrong`, when one is like it at all.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| {
            let longer = wrong.chars().count().max(name.chars().count());
            *distance * 5 <= longer * 2 || (name.len() > 2 && wrong.contains(name))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["samples", "temperature", "top-p", "top-k", "seed"];
        assert_eq!(nearest("sampels", names), Some("samples"));
        assert_eq!(nearest("temprature", names), Some("temperature"));
        assert_eq!(nearest("top_p", names), Some("top-p"));
        assert_eq!(nearest("zebra", names), None);
    }
}
