//! The prompt that shows a judge a request and two responses, and the tokens of its verdict.

use crate::{ChatMessage, Result};

/// A judge's prompt: messages with the holes `request`, `first` and `second`, and the verdict words.
#[derive(Debug, Clone, PartialEq, Eq)]
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

impl JudgeTemplate {
    /// Returns the messages with the holes filled in.
    ///
    /// # Errors
    /// [`ModelError::Template`](crate::ModelError::Template) when a content is not valid Jinja.
    pub fn render(&self, _request: &str, _first: &str, _second: &str) -> Result<Vec<ChatMessage>> {
        todo!()
    }
}
