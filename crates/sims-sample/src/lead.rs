//! What goes before every prompt: a system message, examples of good answers.
//!
//! This is prompting, the baseline that steering is held against; prompt ids stay those of the prompts alone,
//! so that tables join.

use sims_artifact::read_prompts;
use sims_artifact::tables::{Message, PromptRow};
use sims_stage::{BadInput, StageIo};

/// The messages before every prompt.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lead {
    system: Option<Message>,
    examples: Vec<Message>,
}

/// A prompt that cannot have anything before it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("prompt {prompt_id} has a system message of its own; leave out the parameter `system`")]
pub(crate) struct TwoSystemMessages {
    prompt_id: String,
}

impl Lead {
    /// Reads the conversation of the role `examples`, if it is given.
    ///
    /// # Errors
    /// If the table does not hold exactly one conversation that ends with an answer.
    pub(crate) fn read(system: Option<&str>, io: &StageIo) -> anyhow::Result<Self> {
        let examples = match io.optional_input("examples") {
            None => Vec::new(),
            Some(path) => {
                let mut rows = read_prompts(path)?;
                let refuse = |what: &str| BadInput::new(format!("{}: {what}", path.display()));
                if rows.len() != 1 {
                    return Err(refuse("examples are one conversation, in one row").into());
                }
                let messages = rows.remove(0).messages;
                if messages.last().is_none_or(|last| last.role != "assistant") {
                    return Err(refuse(
                        "the examples must end with a message of the role assistant",
                    )
                    .into());
                }
                messages
            }
        };
        Ok(Self {
            system: system.map(|content| Message {
                role: "system".to_owned(),
                content: content.to_owned(),
            }),
            examples,
        })
    }

    /// Puts the messages before the prompt's own: a system message first, of the prompt or the parameter.
    pub(crate) fn put_before(&self, prompt: &mut PromptRow) -> Result<(), TwoSystemMessages> {
        let own = std::mem::take(&mut prompt.messages);
        let (own_system, turns): (Vec<_>, Vec<_>) = own
            .into_iter()
            .partition(|message| message.role == "system");
        if self.system.is_some() && !own_system.is_empty() {
            return Err(TwoSystemMessages {
                prompt_id: prompt.prompt_id.clone(),
            });
        }
        prompt.messages = own_system;
        prompt.messages.extend(self.system.clone());
        prompt.messages.extend(self.examples.iter().cloned());
        prompt.messages.extend(turns);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }

    fn lead() -> Lead {
        Lead {
            system: Some(message("system", "be kind")),
            examples: vec![message("user", "a"), message("assistant", "b")],
        }
    }

    #[test]
    fn system_then_examples_then_the_prompt_and_the_id_stays() {
        let mut prompt = PromptRow::new(vec![Message::user("c")], "eval", "test");
        let id = prompt.prompt_id.clone();
        lead().put_before(&mut prompt).unwrap();
        let roles: Vec<_> = prompt.messages.iter().map(|m| m.content.as_str()).collect();
        assert_eq!(roles, ["be kind", "a", "b", "c"]);
        assert_eq!(prompt.prompt_id, id);
    }

    #[test]
    fn a_prompts_own_system_message_stays_first_and_a_second_is_refused() {
        let own = vec![message("system", "own"), Message::user("c")];
        let mut prompt = PromptRow::new(own, "eval", "test");
        let examples_only = Lead {
            system: None,
            ..lead()
        };
        examples_only.put_before(&mut prompt).unwrap();
        assert_eq!(prompt.messages[0].content, "own");
        assert_eq!(prompt.messages[1].content, "a");
        let refused = lead().put_before(&mut prompt).unwrap_err().to_string();
        assert!(refused.contains(&prompt.prompt_id), "{refused}");
    }

    #[test]
    fn without_anything_a_prompt_is_unchanged() {
        let mut prompt = PromptRow::new(vec![Message::user("c")], "eval", "test");
        let before = prompt.clone();
        Lead::default().put_before(&mut prompt).unwrap();
        assert_eq!(prompt, before);
    }
}
