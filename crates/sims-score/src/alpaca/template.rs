//! The question put to the judge: a file of the user's, in the form of AlpacaEval's.

use std::path::Path;

use serde_json::{Value, json};
use sims_artifact::ArtifactError;

use crate::ScoreError;

/// What a template has places for.
const PLACES: [&str; 3] = ["{instruction}", "{output_1}", "{output_2}"];
/// Who may speak.
const ROLES: [&str; 3] = ["system", "user", "assistant"];
const OPEN: &str = "<|im_start|>";
const CLOSE: &str = "<|im_end|>";

/// A question with a place for the instruction and one for each output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Role and text of each message.
    messages: Vec<(String, String)>,
}

impl Template {
    /// Reads a template: `{instruction}`, `{output_1}` (shown first, named `m`) and `{output_2}` (named `M`).
    ///
    /// Messages are marked with roles as in the official file, `<|im_start|>system … <|im_end|>`, the role on a line of
    /// its own; a text without marks is one message by the user.
    ///
    /// # Errors
    /// A file that cannot be read, lacks a place or has one twice, or whose messages are not so marked.
    pub fn read(path: &Path) -> Result<Self, ScoreError> {
        let bytes = std::fs::read(path).map_err(|e| ArtifactError::io("read", path, e))?;
        let refused = |message: String| ScoreError::file(path, message);
        let text = String::from_utf8(bytes)
            .map_err(|_| refused("the template is not text in UTF-8".to_owned()))?;
        let messages = messages_of(&text).map_err(refused)?;
        for place in PLACES {
            let found: usize = messages
                .iter()
                .map(|(_, text)| text.matches(place).count())
                .sum();
            if found != 1 {
                return Err(refused(format!(
                    "the template has {place} {found} times; it needs each of {} once",
                    PLACES.join(", ")
                )));
            }
        }
        Ok(Self { messages })
    }

    /// Returns the messages of one question, the outputs in the order in which they are shown.
    #[must_use]
    pub fn render(&self, instruction: &str, outputs: [&str; 2]) -> Value {
        let values = [instruction, outputs[0], outputs[1]];
        self.messages
            .iter()
            .map(|(role, text)| json!({"role": role, "content": filled(text, values)}))
            .collect()
    }
}

fn messages_of(text: &str) -> Result<Vec<(String, String)>, String> {
    if !text.contains(OPEN) {
        return Ok(vec![("user".to_owned(), text.trim().to_owned())]);
    }
    let mut messages = Vec::new();
    for message in text.split(OPEN).skip(1) {
        let message = message.split(CLOSE).next().unwrap_or(message);
        let (role, text) = message.split_once('\n').unwrap_or((message, ""));
        let role = role.trim();
        if !ROLES.contains(&role) {
            return Err(format!(
                "the template has a message by `{role}`; write {OPEN} and one of {}, then the text on the next line",
                ROLES.join(", ")
            ));
        }
        // An empty turn at the end only asks for the answer, as a chat interface does anyway.
        if !text.trim().is_empty() {
            messages.push((role.to_owned(), text.trim().to_owned()));
        }
    }
    Ok(messages)
}

/// Fills the places from left to right, so that what an output says fills no further place.
fn filled(text: &str, values: [&str; 3]) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((start, which)) = PLACES
        .iter()
        .enumerate()
        .filter_map(|(which, place)| Some((rest.find(place)?, which)))
        .min()
    {
        result.push_str(&rest[..start]);
        result.push_str(values[which]);
        rest = &rest[start + PLACES[which].len()..];
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_looks_like_a_place_stays_as_it_is() {
        let text = "{output_2}|{instruction}|{output_1}";
        let found = filled(text, ["{output_1}", "{output_2}", "b"]);
        assert_eq!(found, "b|{output_1}|{output_2}");
    }

    #[test]
    fn marked_messages_have_roles() {
        let text = "<|im_start|>system\nbe fair\n<|im_end|>\n<|im_start|>user\n{\n \"x\": {x}\n}<|im_end|>\n<|im_start|>assistant\n";
        let expected = [("system", "be fair"), ("user", "{\n \"x\": {x}\n}")];
        assert_eq!(
            messages_of(text).expect("well marked"),
            expected.map(|(role, text)| (role.to_owned(), text.to_owned()))
        );
        assert_eq!(
            messages_of(" plain\n").expect("one message"),
            [("user".to_owned(), "plain".to_owned())]
        );
        let message = messages_of("<|im_start|>judge\nx<|im_end|>").expect_err("no role");
        assert!(message.contains("a message by `judge`"), "{message}");
    }
}
