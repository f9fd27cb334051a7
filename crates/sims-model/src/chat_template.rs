//! Messages to prompt text, by the model's own Jinja template.

use serde::Serialize;

use crate::Result;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// The model's chat template.
pub struct ChatTemplate {}

impl ChatTemplate {
    /// Returns the text of `messages`; with `add_generation_prompt`, up to where the assistant's answer starts.
    ///
    /// # Errors
    /// [`ModelError::Template`](crate::ModelError::Template) with the template's own words when it refuses the messages.
    pub fn render(
        &self,
        _messages: &[ChatMessage],
        _add_generation_prompt: bool,
    ) -> Result<String> {
        todo!()
    }
}
