//! From the cells of one record to the chat that a model is to continue.

use serde_json::{Map, Value};
use sims_artifact::tables::Message;

use crate::columns::Mapping;
use crate::{ImportError, Place};

/// A prompt as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Line, record or row, from 1.
    pub number: u64,
    /// The chat, oldest turn first; none when the prompt is empty.
    pub messages: Vec<Message>,
    /// Where the prompt came from, where the file says so.
    pub source: Option<String>,
}

/// Roles as data sets write them, and as a chat template wants them.
const ROLES: [(&str, &str); 8] = [
    ("system", "system"),
    ("user", "user"),
    ("human", "user"),
    ("prompter", "user"),
    ("assistant", "assistant"),
    ("gpt", "assistant"),
    ("model", "assistant"),
    ("bot", "assistant"),
];

impl Record {
    /// Makes a record of its cells.
    pub(crate) fn of(
        mut cells: Map<String, Value>,
        mapping: &Mapping,
        place: &Place,
    ) -> Result<Self, ImportError> {
        let column = &mapping.prompt;
        let mut messages = match cells.swap_remove(column) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) if mapping.chat => {
                let turns = serde_json::from_str(&text).map_err(|error| {
                    malformed(
                        place,
                        format!("column `{column}` has no JSON list of turns: {error}"),
                    )
                })?;
                chat(turns, column, place)?
            }
            Some(Value::String(text)) => vec![Message::user(text)],
            Some(value) if mapping.chat => chat(value, column, place)?,
            Some(value) => {
                let message = format!(
                    "column `{column}` is {}, not text as in the records before; mend the record",
                    name_of_type(&value)
                );
                return Err(malformed(place, message));
            }
        };
        if messages
            .last()
            .is_none_or(|last| last.content.trim().is_empty())
        {
            messages.clear();
        }
        let mut text = |name: &Option<String>| match name
            .as_ref()
            .map(|n| (n, cells.swap_remove(n)))
        {
            None | Some((_, None | Some(Value::Null))) => Ok(None),
            Some((_, Some(Value::String(text)))) => Ok((!text.trim().is_empty()).then_some(text)),
            Some((_, Some(Value::Number(number)))) => Ok(Some(number.to_string())),
            Some((name, Some(value))) => Err(malformed(
                place,
                format!("column `{name}` is {}, not text", name_of_type(&value)),
            )),
        };
        let system = text(&mapping.system)?;
        let source = text(&mapping.source)?;
        if let (Some(system), Some(first)) = (system, messages.first()) {
            if first.role == "system" {
                let message = format!(
                    "the chat in `{column}` has a system turn of its own; leave --system-column out"
                );
                return Err(malformed(place, message));
            }
            messages.insert(0, Message::new("system", system));
        }
        Ok(Self {
            number: place.number,
            messages,
            source,
        })
    }
}

/// Reads a list of turns, up to the last one by the user.
fn chat(value: Value, column: &str, place: &Place) -> Result<Vec<Message>, ImportError> {
    let bad = |message: String| malformed(place, format!("column `{column}`: {message}"));
    let Value::Array(turns) = value else {
        return Err(bad(format!(
            "{} where a list of turns belongs",
            name_of_type(&value)
        )));
    };
    let mut messages = Vec::with_capacity(turns.len());
    for (index, turn) in turns.into_iter().enumerate() {
        let number = index + 1;
        let (role, content) = match turn {
            Value::String(text) => (None, Value::String(text)),
            Value::Object(mut turn) => {
                let mut take = |keys: [&str; 2]| keys.iter().find_map(|key| turn.swap_remove(*key));
                let role = take(["role", "from"]).filter(|role| !role.is_null());
                (role, take(["content", "value"]).unwrap_or(Value::Null))
            }
            other => {
                return Err(bad(format!(
                    "turn {number} is {}; a turn is {{\"role\": …, \"content\": …}}",
                    name_of_type(&other)
                )));
            }
        };
        let Value::String(content) = content else {
            return Err(bad(format!(
                "turn {number} has {} as `content`, not text",
                name_of_type(&content)
            )));
        };
        let Some(role) = role else {
            // Turns without roles are a user's, each to be asked after the answer to the one before:
            // only the first can be continued without an answer.
            return Ok(vec![Message::user(content)]);
        };
        let known = ROLES.iter().find(|(name, _)| Some(*name) == role.as_str());
        let Some((_, role)) = known else {
            let names: Vec<&str> = ROLES.iter().map(|(name, _)| *name).collect();
            return Err(bad(format!(
                "turn {number} has the role {role}; known are {}",
                names.join(", ")
            )));
        };
        messages.push(Message::new(*role, content));
    }
    // What comes after the user's last turn is the answer, not the prompt.
    let end = messages.iter().rposition(|m| m.role == "user");
    match end {
        Some(last) => messages.truncate(last + 1),
        None if messages.is_empty() => {}
        None => return Err(bad("no turn is the user's".to_owned())),
    }
    Ok(messages)
}

fn malformed(place: &Place, message: String) -> ImportError {
    ImportError::Malformed {
        place: place.clone(),
        message,
    }
}

/// The name of a value's JSON type, with its article.
pub(crate) fn name_of_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn record(cells: Value, chat: bool) -> Result<Record, String> {
        let Value::Object(cells) = cells else {
            panic!("cells are an object");
        };
        let mapping = Mapping {
            prompt: "p".to_owned(),
            chat,
            system: Some("rules".to_owned()),
            source: Some("from".to_owned()),
            unused: Vec::new(),
        };
        let place = Place {
            file: Arc::new("data.jsonl".into()),
            unit: "line",
            number: 7,
        };
        Record::of(cells, &mapping, &place).map_err(|error| error.to_string())
    }

    fn roles(record: &Record) -> Vec<(&str, &str)> {
        let messages = record.messages.iter();
        messages
            .map(|m| (m.role.as_str(), m.content.as_str()))
            .collect()
    }

    #[test]
    fn text_with_system_and_source() {
        let got = record(
            json!({"p": "why?", "rules": "be brief", "from": "flan"}),
            false,
        )
        .unwrap();
        assert_eq!(roles(&got), [("system", "be brief"), ("user", "why?")]);
        assert_eq!((got.source.as_deref(), got.number), (Some("flan"), 7));
    }

    #[test]
    fn the_answer_is_cut_off_and_the_chat_before_it_kept() {
        let turns = json!([
            {"role": "user", "content": "a"},
            {"from": "gpt", "value": "b"},
            {"from": "human", "value": "c"},
            {"role": "assistant", "content": "d"},
        ]);
        let got = record(json!({"p": turns}), true).unwrap();
        assert_eq!(
            roles(&got),
            [("user", "a"), ("assistant", "b"), ("user", "c")]
        );
        // The same as text, as CSV has it.
        let text = record(json!({"p": turns.to_string()}), true).unwrap();
        assert_eq!(text, got);
    }

    #[test]
    fn of_turns_without_roles_the_first_is_taken() {
        for turns in [
            json!(["a", "b"]),
            json!([{"content": "a"}, {"content": "b"}]),
        ] {
            let got = record(json!({"p": turns}), true).unwrap();
            assert_eq!(roles(&got), [("user", "a")]);
        }
    }

    #[test]
    fn absent_null_and_blank_prompts_are_empty() {
        for cells in [json!({}), json!({"p": null}), json!({"p": " \n"})] {
            assert!(record(cells, false).unwrap().messages.is_empty());
        }
        for cells in [
            json!({"p": []}),
            json!({"p": [{"role": "user", "content": ""}]}),
        ] {
            assert!(record(cells, true).unwrap().messages.is_empty());
        }
    }

    #[test]
    fn what_is_no_chat_is_refused_by_line_and_column() {
        let message = |p: Value, chat| record(json!({"p": p, "rules": "r"}), chat).unwrap_err();
        assert_eq!(
            message(json!(3), false),
            "data.jsonl, line 7: column `p` is a number, not text as in the records before; mend the record"
        );
        assert!(message(json!({}), true).contains("an object where a list of turns belongs"));
        assert!(message(json!([3]), true).contains("turn 1 is a number"));
        assert!(message(json!("what?"), true).contains("no JSON list of turns"));
        let turn = json!([{"role": "judge", "content": "x"}]);
        assert!(message(turn, true).contains("turn 1 has the role \"judge\"; known are system"));
        let turn = json!([{"role": "user", "content": ["x"]}]);
        assert!(message(turn, true).contains("has a list as `content`, not text"));
        let turn = json!([{"role": "assistant", "content": "x"}]);
        assert!(message(turn, true).contains("no turn is the user's"));
        let own = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]);
        assert!(message(own, true).contains("leave --system-column out"));
        let error = record(json!({"p": "x", "from": ["y"]}), false).unwrap_err();
        assert!(
            error.contains("column `from` is a list, not text"),
            "{error}"
        );
    }
}
