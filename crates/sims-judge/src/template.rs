//! The judge's prompt: the default wording, and how a request is put into words.

use sims_artifact::tables::Message;
use sims_model::{ChatMessage, JudgeTemplate, LanguageModel};

use crate::JudgeError;

/// Returns the default template, version `ab-1`.
///
/// It asks for one letter; fences keep the parts apart ([`Sanitiser`](crate::Sanitiser) takes them out of
/// the texts), and the prefix makes the letter the very next token.
pub fn ab_1() -> JudgeTemplate {
    let message = |role: &str, content: &str| ChatMessage {
        role: role.to_owned(),
        content: content.to_owned(),
    };
    JudgeTemplate {
        version: "ab-1".to_owned(),
        messages: vec![
            message(
                "system",
                "You compare two answers to one request. Decide which answer would help the person more.",
            ),
            message(
                "user",
                "Request:\n<<<\n{{ request }}\n>>>\n\nAnswer A:\n<<<\n{{ first }}\n>>>\n\n\
                 Answer B:\n<<<\n{{ second }}\n>>>\n\
                 Judge only: does it do what was asked; is it correct; is it complete without filler; \
                 is it clear; is it safe.\n\
                 The order of the answers and their length carry no information. \
                 Reply with a single letter, A or B.",
            ),
        ],
        assistant_prefix: "The better answer is Answer".to_owned(),
        verdict_a: vec!["A".to_owned(), " A".to_owned()],
        verdict_b: vec!["B".to_owned(), " B".to_owned()],
    }
}

/// Returns the template that `choice` names: `auto`, `ab-1` or the version of the model's own.
///
/// `auto` is the model's own template where it has one, else `ab-1`.
///
/// # Errors
/// [`JudgeError::UnknownTemplate`] for any other name.
pub fn choose(choice: &str, model: &LanguageModel) -> Result<JudgeTemplate, JudgeError> {
    let own = model.judge_template();
    match (choice, own) {
        ("auto", Some(own)) => Ok(own.clone()),
        ("auto" | "ab-1", _) => Ok(ab_1()),
        (version, Some(own)) if version == own.version => Ok(own.clone()),
        _ => Err(JudgeError::UnknownTemplate {
            template: choice.to_owned(),
            own: own.map_or_else(|| "none".to_owned(), |own| format!("`{}`", own.version)),
        }),
    }
}

/// Returns the text of a request: its single message, or every turn with its role.
pub fn request_text(messages: &[Message]) -> String {
    match messages {
        [only] => only.content.clone(),
        turns => {
            let turns: Vec<String> = turns
                .iter()
                .map(|turn| format!("{}: {}", turn.role, turn.content))
                .collect();
            turns.join("\n\n")
        }
    }
}

/// Returns the prompt of `messages` for a model without a chat template: the texts, a blank line apart.
pub(crate) fn flat_prompt(messages: &[ChatMessage]) -> String {
    messages
        .iter()
        .map(|message| format!("{}\n\n", message.content))
        .collect()
}

/// Returns the messages with a leading system message put at the head of the first user message.
///
/// For chat templates that know no system role.
pub(crate) fn without_system(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    match messages {
        [system, user, rest @ ..] if system.role == "system" && user.role == "user" => {
            let content = format!("{}\n\n{}", system.content, user.content);
            std::iter::once(ChatMessage {
                role: user.role.clone(),
                content,
            })
            .chain(rest.iter().cloned())
            .collect()
        }
        _ => messages.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_the_request_and_several_name_their_speakers() {
        assert_eq!(
            request_text(&[Message::user("sort : pear fig")]),
            "sort : pear fig"
        );
        let turns = [
            Message::user("hi"),
            Message::assistant("hello"),
            Message::user("bye"),
        ];
        assert_eq!(
            request_text(&turns),
            "user: hi\n\nassistant: hello\n\nuser: bye"
        );
    }

    #[test]
    fn a_system_message_can_move_into_the_users() {
        let folded = without_system(&ab_1().messages);
        assert_eq!(folded.len(), 1);
        assert!(folded[0].content.starts_with("You compare two answers"));
        assert!(
            folded[0]
                .content
                .contains("\n\nRequest:\n<<<\n{{ request }}")
        );
        assert_eq!(without_system(&folded), folded);
    }
}
