//! The prompt that shows a judge a request and two responses, and the tokens of its verdict.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};

use crate::config::read_text;
use crate::{ChatMessage, ChatTemplate, ModelError, Result, Tokenizer};

/// A judge's prompt: messages with the holes `request`, `first` and `second`, and the verdict words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeTemplate {
    /// The template's name and revision, such as `ab-1`.
    pub version: String,
    /// The conversation; contents are Jinja.
    pub messages: Vec<ChatMessage>,
    /// Text put after the rendered chat prompt, before the verdict.
    pub assistant_prefix: String,
    /// Texts that begin a verdict for the response shown first.
    pub verdict_a: Vec<String>,
    /// Texts that begin a verdict for the response shown second.
    pub verdict_b: Vec<String>,
}

/// The token ids that count as each verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictTokens {
    /// For the response shown first.
    pub a: Vec<u32>,
    /// For the response shown second.
    pub b: Vec<u32>,
}

impl JudgeTemplate {
    /// Reads `judge_template.json` in `directory`; none where there is no such file.
    ///
    /// # Errors
    /// [`ModelError::Json`], and [`ModelError::Template`] for contents that are not valid Jinja.
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join("judge_template.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(&path, "it is the judge's prompt")?;
        let template: Self =
            serde_json::from_str(&text).map_err(|source| ModelError::Json { path, source })?;
        template.render("", "", "")?;
        Ok(Some(template))
    }

    /// Returns the built-in template for models that were not trained on one of their own.
    pub fn ab_1() -> Self {
        let system = "You compare two answers to one request. Decide which answer would help the person more.";
        let user = "Request:\n<<<\n{{ request }}\n>>>\n\nAnswer A:\n<<<\n{{ first }}\n>>>\n\nAnswer B:\n<<<\n\
            {{ second }}\n>>>\nJudge only: does it do what was asked; is it correct; is it complete without filler; \
            is it clear; is it safe.\nThe order of the answers and their length carry no information. \
            Reply with a single letter, A or B.";
        Self {
            version: "ab-1".to_owned(),
            messages: vec![
                ChatMessage::new("system", system),
                ChatMessage::new("user", user),
            ],
            assistant_prefix: "The better answer is Answer".to_owned(),
            verdict_a: vec!["A".to_owned(), " A".to_owned()],
            verdict_b: vec!["B".to_owned(), " B".to_owned()],
        }
    }

    /// Returns the messages with the holes filled in.
    ///
    /// # Errors
    /// [`ModelError::Template`] when a content is not valid Jinja or names another hole.
    pub fn render(&self, request: &str, first: &str, second: &str) -> Result<Vec<ChatMessage>> {
        let refused = |error: minijinja::Error| ModelError::Template {
            template: "judge",
            message: error.to_string(),
        };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_syntax(
            SyntaxConfig::builder()
                .keep_trailing_newline(true)
                .build()
                .map_err(refused)?,
        );
        let fill = |message: &ChatMessage| {
            let holes = minijinja::context! { request, first, second };
            let content = environment
                .render_str(&message.content, holes)
                .map_err(refused)?;
            Ok(ChatMessage {
                role: message.role.clone(),
                content,
            })
        };
        self.messages.iter().map(fill).collect()
    }

    /// Returns the whole prompt, up to where the verdict starts.
    ///
    /// Without a chat template, as for a base model, the messages and the prefix are joined by blank lines.
    ///
    /// # Errors
    /// [`ModelError::Template`].
    pub fn prompt(
        &self,
        chat: Option<&ChatTemplate>,
        request: &str,
        first: &str,
        second: &str,
    ) -> Result<String> {
        let messages = self.render(request, first, second)?;
        Ok(match chat {
            Some(chat) => chat.render(&messages, true)? + &self.assistant_prefix,
            None => {
                let contents = messages.iter().map(|message| message.content.as_str());
                contents
                    .chain([self.assistant_prefix.as_str()])
                    .collect::<Vec<_>>()
                    .join("\n\n")
            }
        })
    }

    /// Returns the ids of the verdict texts that are single tokens.
    ///
    /// # Errors
    /// [`ModelError::Template`] when a verdict has none, or the two share one.
    pub fn verdict_tokens(&self, tokenizer: &Tokenizer) -> Result<VerdictTokens> {
        let refuse = |message: String| ModelError::Template {
            template: "judge",
            message,
        };
        let single = |texts: &[String]| -> Result<Vec<u32>> {
            let mut ids = Vec::new();
            for text in texts {
                if let [id] = tokenizer.encode(text)?[..]
                    && !ids.contains(&id)
                {
                    ids.push(id);
                }
            }
            if ids.is_empty() {
                return Err(refuse(format!(
                    "none of the verdicts {texts:?} is a single token of this model"
                )));
            }
            Ok(ids)
        };
        let tokens = VerdictTokens {
            a: single(&self.verdict_a)?,
            b: single(&self.verdict_b)?,
        };
        if let Some(shared) = tokens.a.iter().find(|id| tokens.b.contains(id)) {
            return Err(refuse(format!("token {shared} stands for both verdicts")));
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_with_text_as_it_is() {
        let messages = JudgeTemplate::ab_1()
            .render("{{ second }}", "<b>", "x\n")
            .expect("rendered");
        assert!(
            messages[1]
                .content
                .starts_with("Request:\n<<<\n{{ second }}\n>>>\n\nAnswer A:\n<<<\n<b>\n>>>\n")
        );
        assert!(messages[1].content.contains("<<<\nx\n\n>>>"));
    }

    #[test]
    fn a_prompt_without_a_chat_template_is_flat() {
        let prompt = JudgeTemplate::ab_1()
            .prompt(None, "r", "1", "2")
            .expect("rendered");
        assert!(prompt.starts_with("You compare two answers"));
        assert!(prompt.ends_with("A or B.\n\nThe better answer is Answer"));
    }

    #[test]
    fn an_unknown_hole_is_refused() {
        let mut template = JudgeTemplate::ab_1();
        template.messages[0].content = "{{ third }}".to_owned();
        assert!(
            template
                .render("", "", "")
                .expect_err("refused")
                .to_string()
                .starts_with("judge template: undefined")
        );
    }
}
