//! Prompts as the model reads them: templated and tokenised.

use sims_artifact::tables::{Message, PromptRow};
use sims_model::{ChatMessage, LanguageModel, ModelError};

/// A prompt and its tokens, the assistant header included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// The prompt's id.
    pub prompt_id: String,
    /// The templated prompt, up to where the response starts.
    pub tokens: Vec<u32>,
}

/// A prompt that the model cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Prompt and longest response together exceed the context.
    #[error(
        "prompt {prompt_id} has {tokens} tokens; with {max_new_tokens} new tokens that exceeds the model's context of {context}"
    )]
    TooLong {
        /// The prompt.
        prompt_id: String,
        /// Its length in tokens.
        tokens: usize,
        /// The longest response asked for, in tokens.
        max_new_tokens: usize,
        /// The model's context, in tokens.
        context: usize,
    },
    /// The template or the tokenizer refused the prompt.
    #[error("prompt {prompt_id} cannot be encoded")]
    Model {
        /// The prompt.
        prompt_id: String,
        /// The cause.
        #[source]
        source: ModelError,
    },
}

/// Templates and tokenises `prompts`, in order.
///
/// # Errors
/// The first prompt that the chat template refuses, or that leaves no room for `max_new_tokens`.
pub fn encode_prompts(
    model: &LanguageModel,
    prompts: &[PromptRow],
    max_new_tokens: usize,
) -> Result<Vec<EncodedPrompt>, EncodeError> {
    let context = model.decoder().config().max_position_embeddings;
    let encode = |row: &PromptRow| {
        let prompt_id = row.prompt_id.clone();
        let tokens = prompt_tokens(model, &row.messages).map_err(|source| EncodeError::Model {
            prompt_id: prompt_id.clone(),
            source,
        })?;
        if tokens.len() + max_new_tokens > context {
            return Err(EncodeError::TooLong {
                prompt_id,
                tokens: tokens.len(),
                max_new_tokens,
                context,
            });
        }
        Ok(EncodedPrompt { prompt_id, tokens })
    };
    prompts.iter().map(encode).collect()
}

/// Returns the tokens of a chat up to where the assistant's answer starts.
///
/// # Errors
/// What the chat template or the tokenizer says.
pub fn prompt_tokens(model: &LanguageModel, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
    let chat: Vec<ChatMessage> = messages
        .iter()
        .map(|message| ChatMessage {
            role: message.role.clone(),
            content: message.content.clone(),
        })
        .collect();
    model
        .tokenizer()
        .encode(&model.chat_template()?.render(&chat, true)?)
}
