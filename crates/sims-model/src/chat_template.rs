//! Messages to prompt text, by the model's own Jinja template.
//!
//! The environment is the one that transformers gives templates: block trimming, loop controls, Python's
//! string and dictionary methods, `tojson` without HTML escapes, `raise_exception` and `strftime_now`.

mod calendar;

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as JinjaValue};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value};

use crate::config::read_text;
use crate::gguf::{GgufFile, is_gguf};
use crate::{ModelError, Result};

/// The moment that `strftime_now` tells: 26 July 2024, the date that Llama 3's own template falls back to.
///
/// A prompt must be the same tomorrow, so the clock is not read.
const PROMPT_DATE_UNIX_SECS: i64 = 1_721_952_000;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// Makes a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// The model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token` and their like, as the template may name them.
    special_tokens: Map<String, Value>,
}

impl ChatTemplate {
    /// Reads the template in `directory`: `chat_template.jinja`, or the `chat_template` of `tokenizer_config.json`;
    /// or that of a GGUF file.
    ///
    /// Returns none where there is neither, as for a base model.
    ///
    /// # Errors
    /// [`ModelError::Json`] or [`ModelError::Template`].
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        if is_gguf(directory) {
            let template = GgufFile::open(directory)?.chat_template()?;
            let compiled = template.map(|(source, tokens)| Self::new(source, &tokens));
            return compiled.transpose();
        }
        let config_path = directory.join("tokenizer_config.json");
        let config: Map<String, Value> = match config_path.exists() {
            true => serde_json::from_str(&read_text(&config_path, "it describes the tokenizer")?)
                .map_err(|source| ModelError::Json {
                path: config_path,
                source,
            })?,
            false => Map::new(),
        };
        let jinja_path = directory.join("chat_template.jinja");
        let source = match jinja_path.exists() {
            true => Some(read_text(&jinja_path, "it is the chat template")?),
            false => template_in(&config)?,
        };
        source.map(|source| Self::new(source, &config)).transpose()
    }

    /// Compiles `source`; `tokenizer_config` gives it the special tokens.
    ///
    /// # Errors
    /// [`ModelError::Template`] with the line at fault.
    pub fn new(source: String, tokenizer_config: &Map<String, Value>) -> Result<Self> {
        let mut environment = environment()?;
        environment
            .add_template_owned("chat", source)
            .map_err(refused)?;
        let special_tokens = tokenizer_config
            .iter()
            .filter(|(key, _)| key.ends_with("_token"))
            .filter_map(|(key, value)| {
                // A token is written as its text, or as an object with its text and flags.
                let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
                Some((key.clone(), Value::from(text)))
            })
            .collect();
        Ok(Self {
            environment,
            special_tokens,
        })
    }

    /// Returns the text of `messages`; with `add_generation_prompt`, up to where the assistant's answer starts.
    ///
    /// # Errors
    /// [`ModelError::Template`] with the template's own words when it refuses the messages.
    pub fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        #[derive(Serialize)]
        struct Context<'a> {
            messages: &'a [ChatMessage],
            add_generation_prompt: bool,
            #[serde(flatten)]
            special_tokens: &'a Map<String, Value>,
        }
        let context = Context {
            messages,
            add_generation_prompt,
            special_tokens: &self.special_tokens,
        };
        self.environment
            .get_template("chat")
            .and_then(|template| template.render(Serde(context)))
            .map_err(refused)
    }

    /// Returns the text of `messages` up to the end of the last one's content, for the model to go on with it.
    ///
    /// As `continue_final_message` of transformers 5: where the template trims the content, so is the result.
    ///
    /// # Errors
    /// As [`render`](Self::render); also no messages, and a template that does not show the last one's content.
    pub fn render_unfinished(&self, messages: &[ChatMessage]) -> Result<String> {
        /// Marks the end of the content; its space shows whether the template trims.
        const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
        let refuse = |message: &str| ModelError::Template {
            template: "chat",
            message: message.to_owned(),
        };
        let mut marked = messages.to_vec();
        let last = marked
            .last_mut()
            .ok_or_else(|| refuse("there is no message to continue"))?;
        last.content.push_str(MARK);
        let mut text = self.render(&marked, false)?;
        let end = text
            .rfind(MARK.trim_end())
            .ok_or_else(|| refuse("it does not show the message that is to be continued"))?;
        let is_trimmed = !text[end..].starts_with(MARK);
        text.truncate(end);
        if is_trimmed {
            text.truncate(text.trim_end().len());
        }
        Ok(text)
    }
}

/// Returns the template that `tokenizer_config.json` holds: a text, or the one named `default` of a list.
fn template_in(config: &Map<String, Value>) -> Result<Option<String>> {
    let malformed = |message: &str| ModelError::Template {
        template: "chat",
        message: message.to_owned(),
    };
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(source)) => Ok(Some(source.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let source = default.and_then(|entry| entry["template"].as_str());
            source
                .map(|source| Some(source.to_owned()))
                .ok_or_else(|| malformed("no template is named `default`"))
        }
        Some(_) => Err(malformed(
            "chat_template is neither a text nor a list of named templates",
        )),
    }
}

fn refused(error: Error) -> ModelError {
    let line = error
        .line()
        .map_or(String::new(), |line| format!(" (line {line})"));
    let message = error
        .detail()
        .map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    ModelError::Template {
        template: "chat",
        message: message + &line,
    }
}

/// The Jinja environment of `transformers/utils/chat_template_utils.py`, 5.23.
fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    environment.set_syntax(syntax.map_err(refused)?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function(
        "raise_exception",
        |message: String| -> std::result::Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        },
    );
    environment.add_function("strftime_now", |format: String| {
        calendar::format_utc(PROMPT_DATE_UNIX_SECS, &format).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidOperation,
                format!("strftime_now does not know all of `{format}`"),
            )
        })
    });
    Ok(environment)
}

/// Writes JSON as Python's `json.dumps(value, ensure_ascii=False, indent=indent)` does.
fn to_json(value: JinjaValue, options: Kwargs) -> std::result::Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut out = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent);
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut out, formatter,
            ))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut out,
            SpacedFormatter,
        )),
    };
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    String::from_utf8(out)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// One line, with a space after each comma and colon.
struct SpacedFormatter;

impl serde_json::ser::Formatter for SpacedFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, config: Value) -> Result<String> {
        let config = config.as_object().expect("an object").clone();
        let messages = [
            ChatMessage::new("user", "Say \"<a>\" & 'é'."),
            ChatMessage::new("assistant", " Yes "),
        ];
        ChatTemplate::new(source.to_owned(), &config)?.render(&messages, true)
    }

    #[test]
    fn python_methods_and_special_tokens_work_in_templates() {
        let source = "{{ bos_token }}{% for m in messages %}\n    {%- if loop.first %}{{ m.role.upper() }}:\
            {{ m['content'].split(' ')[0] }}|{% else %}{{ m.content.strip() }}{{ eos_token }}{% endif %}\n\
            {%- endfor %}{% if add_generation_prompt %}>{% endif %}";
        let config = serde_json::json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true}});
        assert_eq!(
            render(source, config).expect("rendered"),
            "<s>USER:Say|Yes</s>>"
        );
    }

    #[test]
    fn blocks_are_trimmed_as_in_transformers() {
        let source = "a\n  {% if true %}\nb\n  {% endif %}\nc";
        assert_eq!(
            render(source, serde_json::json!({})).expect("rendered"),
            "a\nb\nc"
        );
    }

    #[test]
    fn tojson_writes_what_python_writes() {
        let found = render("{{ messages[0] | tojson }}", serde_json::json!({})).expect("rendered");
        assert_eq!(
            found,
            r#"{"role": "user", "content": "Say \"<a>\" & 'é'."}"#
        );
        let found = render(
            "{{ [1, {'a': 2}] | tojson(indent=2) }}",
            serde_json::json!({}),
        )
        .expect("rendered");
        assert_eq!(found, "[\n  1,\n  {\n    \"a\": 2\n  }\n]");
    }

    #[test]
    fn templates_refuse_in_their_own_words() {
        let error = render(
            "{{ raise_exception('roles must alternate') }}",
            serde_json::json!({}),
        );
        assert_eq!(
            error.expect_err("refused").to_string(),
            "chat template: roles must alternate (line 1)"
        );
        assert!(render("{% if %}", serde_json::json!({})).is_err());
    }

    #[test]
    fn a_last_message_is_left_open() {
        let messages = [
            ChatMessage::new("user", "Why?"),
            ChatMessage::new("assistant", "Because "),
        ];
        let of = |content: &str, messages: &[ChatMessage]| {
            let source = format!(
                "{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ {content} }}}}</s>{{% endfor %}}"
            );
            ChatTemplate::new(source, &Map::new())
                .expect("compiled")
                .render_unfinished(messages)
        };
        // What transformers 5.24 gives for both templates.
        assert_eq!(
            of("m.content", &messages).expect("rendered"),
            "<user>Why?</s><assistant>Because "
        );
        assert_eq!(
            of("m.content.strip()", &messages).expect("rendered"),
            "<user>Why?</s><assistant>Because"
        );
        assert!(of("m.content", &[]).is_err());
        assert!(of("m.role", &messages).is_err());
    }

    #[test]
    fn the_date_is_fixed() {
        let found =
            render("{{ strftime_now('%d %b %Y') }}", serde_json::json!({})).expect("rendered");
        assert_eq!(found, "26 Jul 2024");
        assert!(render("{{ strftime_now('%Q') }}", serde_json::json!({})).is_err());
    }

    #[test]
    fn the_default_is_taken_from_a_list_of_templates() {
        let list = serde_json::json!({"chat_template": [
            {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]});
        assert_eq!(
            template_in(list.as_object().expect("an object"))
                .expect("valid")
                .as_deref(),
            Some("d")
        );
        let none = serde_json::json!({"chat_template": [{"name": "rag", "template": "r"}]});
        assert!(template_in(none.as_object().expect("an object")).is_err());
    }
}
