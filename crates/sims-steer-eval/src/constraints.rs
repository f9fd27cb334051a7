//! What prompts ask of the form of a response, checked by rule, as IFEval does (Zhou and others 2023, arXiv 2311.07911).

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use sims_artifact::tables::{ConstraintRow, Message, PromptRow};
use sims_artifact::{ArtifactError, read_table};
use sims_stage::BadInput;

/// Where the kinds are described, for messages.
const DOCS: &str = "docs/side-effects.md";

/// What one constraint asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// So many words: runs of letters, digits and underscores.
    Words(Count),
    /// So many sentences: pieces that end with `.`, `!`, `?` or their like before white space, or at the end.
    Sentences(Count),
    /// So many paragraphs: blocks of lines between blank ones.
    Paragraphs(Count),
    /// So many bullet points: lines that begin with `*`, `-` or `•` and have something behind it.
    Bullets(Count),
    /// One JSON value and nothing else; a code fence around it does not matter.
    Json,
    /// No capital letter, and at least one small one.
    Lowercase,
    /// No small letter, and at least one capital one.
    Uppercase,
    /// Double quotation marks around the whole.
    Quoted,
    /// These words, next to each other, in any case.
    Includes(String),
    /// Not these words.
    Excludes(String),
    /// These words at the end, in any case; quotation marks behind them do not matter.
    EndsWith(String),
}

/// How many there have to be, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The fewest.
    pub least: usize,
    /// The most; none for any number.
    pub most: Option<usize>,
}

impl Count {
    fn holds(self, count: usize) -> bool {
        count >= self.least && self.most.is_none_or(|most| count <= most)
    }
}

impl FromStr for Count {
    type Err = String;

    /// Reads `5`, `5..`, `..10` or `3..5`.
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is no number of them; write 5, 5.., ..10 or 3..5");
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| refuse());
        let (least, most) = match text.split_once("..") {
            None => (number(text)?, Some(number(text)?)),
            Some(("", "")) => return Err(refuse()),
            Some(("", most)) => (0, Some(number(most)?)),
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        match most {
            Some(most) if most < least => Err(format!(
                "`{text}` leaves no number: {most} is below {least}"
            )),
            _ => Ok(Self { least, most }),
        }
    }
}

impl Constraint {
    /// Reads a kind and its value.
    ///
    /// # Errors
    /// A kind that does not exist, a value that it does not take.
    pub fn new(kind: &str, value: &str) -> Result<Self, String> {
        let count = || value.parse::<Count>();
        let words = || match value.trim() {
            "" => Err("the value is empty, but the words have to be given".to_owned()),
            words => Ok(words.to_owned()),
        };
        let alone = |constraint: Self| match value.trim() {
            "" => Ok(constraint),
            value => Err(format!("the value is `{value}`, but {kind} takes none")),
        };
        let constraint = match kind {
            "words" => count().map(Self::Words),
            "sentences" => count().map(Self::Sentences),
            "paragraphs" => count().map(Self::Paragraphs),
            "bullets" => count().map(Self::Bullets),
            "json" => alone(Self::Json),
            "lowercase" => alone(Self::Lowercase),
            "uppercase" => alone(Self::Uppercase),
            "quoted" => alone(Self::Quoted),
            "includes" => words().map(Self::Includes),
            "excludes" => words().map(Self::Excludes),
            "ends-with" => words().map(Self::EndsWith),
            _ => {
                return Err(format!(
                    "there is no kind `{kind}`; choose words, sentences, paragraphs, bullets, json, lowercase, uppercase, \
                     quoted, includes, excludes or ends-with ({DOCS})"
                ));
            }
        };
        constraint.map_err(|message| format!("kind {kind}: {message}"))
    }

    /// Tells whether a response keeps it; an empty one keeps none.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        let text = text.trim();
        if text.is_empty() {
            return false;
        }
        match self {
            Self::Words(count) => count.holds(words(text).count()),
            Self::Sentences(count) => count.holds(sentences(text)),
            Self::Paragraphs(count) => count.holds(paragraphs(text)),
            Self::Bullets(count) => {
                count.holds(text.lines().filter(|line| is_bullet(line)).count())
            }
            Self::Json => serde_json::from_str::<serde_json::Value>(without_fence(text)).is_ok(),
            Self::Lowercase => is_in_case(text, char::is_lowercase, char::is_uppercase),
            Self::Uppercase => is_in_case(text, char::is_uppercase, char::is_lowercase),
            Self::Quoted => text.len() > 1 && text.starts_with('"') && text.ends_with('"'),
            Self::Includes(phrase) => has_words(text, phrase),
            Self::Excludes(phrase) => !has_words(text, phrase),
            Self::EndsWith(phrase) => {
                let text = text.trim_matches('"').trim_end().to_lowercase();
                text.ends_with(&phrase.to_lowercase())
            }
        }
    }
}

fn is_of_word(sign: char) -> bool {
    sign.is_alphanumeric() || sign == '_'
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|sign| !is_of_word(sign))
        .filter(|word| !word.is_empty())
}

fn sentences(text: &str) -> usize {
    let (mut count, mut has_word) = (0, false);
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        has_word |= sign.is_alphanumeric();
        let ends = match sign {
            '.' | '!' | '?' | '…' => {
                // What closes belongs to the sentence; `3.5` and `e.g.x` go on.
                while signs
                    .next_if(|next| ".!?…\"'”’»)]*_".contains(*next))
                    .is_some()
                {}
                signs.peek().is_none_or(|next| next.is_whitespace())
            }
            '。' | '！' | '？' => true,
            _ => false,
        };
        if ends && has_word {
            (count, has_word) = (count + 1, false);
        }
    }
    count + usize::from(has_word)
}

fn paragraphs(text: &str) -> usize {
    let mut was_blank = true;
    let begins = |line: &str| {
        let is_blank = line.trim().is_empty();
        std::mem::replace(&mut was_blank, is_blank) && !is_blank
    };
    text.lines().map(begins).filter(|begins| *begins).count()
}

fn is_bullet(line: &str) -> bool {
    let rest = line.trim_start().strip_prefix(['*', '-', '•']);
    // Two of them make bold text or a rule.
    rest.is_some_and(|rest| !rest.trim().is_empty() && !rest.starts_with(['*', '-']))
}

fn without_fence(text: &str) -> &str {
    let Some(inner) = text
        .strip_prefix("```")
        .and_then(|text| text.strip_suffix("```"))
    else {
        return text;
    };
    // The rest of the first line names the language.
    match inner.split_once('\n') {
        Some((language, inner)) if language.trim().chars().all(char::is_alphanumeric) => inner,
        _ => inner,
    }
}

fn is_in_case(text: &str, own: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    text.chars().any(own) && !text.chars().any(other)
}

/// Tells whether the words of `phrase` are in `text`, next to each other.
fn has_words(text: &str, phrase: &str) -> bool {
    let (text, phrase) = (text.to_lowercase(), phrase.to_lowercase());
    let is_apart = |sign: Option<char>, own: Option<char>| {
        // Only where the phrase itself ends in a word can a word go on.
        !(sign.is_some_and(is_of_word) && own.is_some_and(is_of_word))
    };
    text.match_indices(&phrase).any(|(start, found)| {
        let (before, after) = (&text[..start], &text[start + found.len()..]);
        is_apart(before.chars().next_back(), phrase.chars().next())
            && is_apart(after.chars().next(), phrase.chars().next_back())
    })
}

/// The constraints of prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraints {
    by_prompt: HashMap<String, Vec<Constraint>>,
}

/// A row as JSON: the prompt's id, or its text where it is one message by the user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRow {
    prompt_id: Option<String>,
    prompt: Option<String>,
    kind: String,
    #[serde(default)]
    value: Value,
}

/// A value that may be written as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Number(u64),
}

impl Default for Value {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Constraints {
    /// Reads a table `constraints@1`, or JSON lines of the same.
    ///
    /// # Errors
    /// A file that cannot be read, a row that means nothing.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path).map_err(|error| ArtifactError::io("read", path, error))?;
        let rows: Vec<ConstraintRow> = if bytes.starts_with(b"PAR1") {
            read_table(path)?
        } else {
            read_lines(path, &bytes)?
        };
        let mut by_prompt: HashMap<String, Vec<Constraint>> = HashMap::new();
        for (index, row) in rows.into_iter().enumerate() {
            let constraint = Constraint::new(&row.kind, &row.value).map_err(|message| {
                BadInput::new(format!(
                    "{}, row {index} (from 0): {message}",
                    path.display()
                ))
            })?;
            by_prompt.entry(row.prompt_id).or_default().push(constraint);
        }
        Ok(Self { by_prompt })
    }

    /// Returns what a prompt asks for; nothing of most.
    #[must_use]
    pub fn of(&self, prompt_id: &str) -> &[Constraint] {
        self.by_prompt.get(prompt_id).map_or(&[], Vec::as_slice)
    }

    /// Tells whether there is none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_prompt.is_empty()
    }

    /// Returns the share of a prompt's constraints that a response keeps; none where there are none.
    #[must_use]
    pub fn kept(&self, prompt_id: &str, text: &str) -> Option<f64> {
        let all = self.of(prompt_id);
        let kept = all
            .iter()
            .filter(|constraint| constraint.holds(text))
            .count();
        (!all.is_empty()).then(|| kept as f64 / all.len() as f64)
    }
}

fn read_lines(path: &Path, bytes: &[u8]) -> Result<Vec<ConstraintRow>, BadInput> {
    let lines = bytes.split(|&byte| byte == b'\n');
    let lines = lines.filter(|line| !line.trim_ascii().is_empty());
    let row = |(index, line): (usize, &[u8])| {
        let refuse = |message: String| {
            BadInput::new(format!(
                "{}, row {index} (from 0): {message}",
                path.display()
            ))
        };
        let row: JsonRow = serde_json::from_slice(line).map_err(|error| {
            refuse(format!(
                "neither a Parquet file nor a JSON object with prompt_id, kind and value: {error}"
            ))
        })?;
        let prompt_id = match (row.prompt_id, row.prompt) {
            (Some(id), None) => id,
            (None, Some(text)) => PromptRow::new(vec![Message::user(text)], "", "").prompt_id,
            _ => {
                return Err(refuse(
                    "give prompt_id, or prompt, the text of its only message".to_owned(),
                ));
            }
        };
        Ok(ConstraintRow {
            prompt_id,
            kind: row.kind,
            value: match row.value {
                Value::Text(text) => text,
                Value::Number(number) => number.to_string(),
            },
        })
    };
    lines.enumerate().map(row).collect()
}

#[cfg(test)]
mod tests;
