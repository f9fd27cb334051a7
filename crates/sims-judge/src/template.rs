//! Which prompt the judge reads, and how a request is put into words.

use sims_artifact::tables::Message;
use sims_model::{ChatMessage, JudgeTemplate, LanguageModel, ModelError};

use crate::JudgeError;

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
        ("auto" | "ab-1", _) => Ok(JudgeTemplate::ab_1()),
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

/// Returns the template as the model's chat template can render it.
///
/// Some chat templates refuse a system role; a leading system message then moves to the head of the
/// user's.
///
/// # Errors
/// [`ModelError::Template`] when neither form can be rendered.
pub(crate) fn fitted(
    template: JudgeTemplate,
    model: &LanguageModel,
) -> Result<JudgeTemplate, ModelError> {
    let chat = model.chat_template().ok();
    if template.prompt(chat, "", "", "").is_ok() {
        return Ok(template);
    }
    let folded = without_system(template);
    folded.prompt(chat, "", "", "")?;
    Ok(folded)
}

fn without_system(template: JudgeTemplate) -> JudgeTemplate {
    let messages = match &template.messages[..] {
        [system, user, rest @ ..] if system.role == "system" && user.role == "user" => {
            let content = format!("{}\n\n{}", system.content, user.content);
            let first = ChatMessage::new(user.role.clone(), content);
            std::iter::once(first).chain(rest.iter().cloned()).collect()
        }
        _ => template.messages.clone(),
    };
    JudgeTemplate {
        messages,
        ..template
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
        let folded = without_system(JudgeTemplate::ab_1());
        assert_eq!(folded.messages.len(), 1);
        assert!(
            folded.messages[0]
                .content
                .starts_with("You compare two answers")
        );
        assert!(
            folded.messages[0]
                .content
                .contains("\n\nRequest:\n<<<\n{{ request }}")
        );
        assert_eq!(without_system(folded.clone()), folded);
    }
}
