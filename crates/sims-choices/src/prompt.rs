//! The text before a choice: description, examples and question, plain or as a chat.
//!
//! The rules are those of `fewshot_context`, `build_qa_turn` and `multiturn_to_singleturn` in lm-evaluation-harness
//! 0.4.13.

use std::cell::Cell;

use sims_artifact::tables::ChoicesRow;
use sims_model::{ChatMessage, ChatTemplate, ModelError};

use crate::ChoicesError;
use crate::tasks::Task;

/// How questions are put to the model.
pub struct Prompter<'a> {
    /// The model's chat template; none for plain text.
    pub chat: Option<&'a ChatTemplate>,
    /// Whether examples are turns of their own in a chat, instead of a part of the question's.
    pub multiturn: bool,
    /// What stands before every description.
    pub system: Option<String>,
    /// How many examples are shown.
    pub shots: usize,
    pub(crate) system_refused: Cell<bool>,
}

/// What stands before each choice of a question, and what is scored of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// One context, or one for each choice.
    contexts: Vec<String>,
    /// Delimiter and choice, one entry a choice.
    pub continuations: Vec<String>,
    /// Delimiter and text of each choice as they are scored without a context.
    pub unconditional: Vec<String>,
}

impl Prompt {
    /// Returns the context of a choice.
    pub fn context(&self, choice: usize) -> &str {
        &self.contexts[choice.min(self.contexts.len() - 1)]
    }
}

/// A piece of the conversation, with what follows it in plain text.
#[derive(Debug, Clone)]
struct Turn {
    role: &'static str,
    content: String,
    delimiter: String,
}

impl<'a> Prompter<'a> {
    /// Makes a prompter of plain text, without examples.
    pub fn plain() -> Self {
        Self {
            chat: None,
            multiturn: false,
            system: None,
            shots: 0,
            system_refused: Cell::new(false),
        }
    }

    /// Returns the same for chats.
    #[must_use]
    pub fn with_chat(self, chat: &'a ChatTemplate, multiturn: bool) -> Self {
        Self {
            chat: Some(chat),
            multiturn,
            ..self
        }
    }

    /// Returns whether the chat template refused a system message, which then was left out as the harness does.
    pub fn system_refused(&self) -> bool {
        self.system_refused.get()
    }

    /// Returns what is put to the model for one question of `task`.
    ///
    /// # Errors
    /// [`ChoicesError::FewExamples`], and a chat template that refuses the conversation.
    pub fn prompt(&self, task: &Task, question: &ChoicesRow) -> Result<Prompt, ChoicesError> {
        let mut before = Vec::new();
        let description = question.description.as_deref().unwrap_or("");
        let system = self.system.as_deref().unwrap_or("");
        let system = delimited(system, description, &question.fewshot_delimiter);
        if !system.is_empty() {
            before.push(Turn::new("system", system, ""));
        }
        let examples =
            task.examples
                .get(..self.shots)
                .ok_or_else(|| ChoicesError::FewExamples {
                    task: task.name.clone(),
                    found: task.examples.len(),
                    shots: self.shots,
                })?;
        for example in examples {
            // Examples without a gold choice are refused when tasks are read.
            let gold = example.gold.unwrap_or(0) as usize;
            let context = example
                .contexts
                .as_ref()
                .map_or(&example.context, |contexts| &contexts[gold]);
            let answer = Some(example.choices[gold].as_str());
            before.extend(turns(example, context, answer, &example.target_delimiter));
        }

        let contexts = match &question.contexts {
            None => vec![self.context(
                &before,
                turns(
                    question,
                    &question.context,
                    None,
                    &question.target_delimiter,
                ),
            )?],
            // Contexts of their own are followed by the prefix without a delimiter.
            Some(contexts) => contexts
                .iter()
                .map(|context| self.context(&before, turns(question, context, None, "")))
                .collect::<Result<_, _>>()?,
        };
        let delimiter = self.delimiter(question);
        let follow = |text: &String| format!("{delimiter}{text}");
        Ok(Prompt {
            contexts,
            continuations: question.choices.iter().map(follow).collect(),
            unconditional: varying_texts(question).iter().map(follow).collect(),
        })
    }

    /// Returns what stands between the context and a choice: in a chat nothing, unless a prefix begins the answer.
    fn delimiter<'q>(&self, question: &'q ChoicesRow) -> &'q str {
        let prefix = question.prefix.as_deref().unwrap_or("");
        if self.chat.is_some() && (prefix.is_empty() || prefix.ends_with(is_space)) {
            ""
        } else {
            &question.target_delimiter
        }
    }

    /// Joins the turns before a question and its own into one text.
    fn context(&self, before: &[Turn], own: Vec<Turn>) -> Result<String, ModelError> {
        let turns: Vec<Turn> = before.iter().cloned().chain(own).collect();
        let Some(chat) = self.chat else {
            return Ok(turns.iter().map(Turn::text).collect());
        };
        let messages = if self.multiturn {
            turns.iter().map(Turn::message).collect()
        } else {
            single_turn(turns)
        };
        let render = |messages: &[ChatMessage]| match messages.last() {
            Some(last) if last.role == "assistant" => chat.render_unfinished(messages),
            _ => chat.render(messages, true),
        };
        match render(&messages) {
            Err(ModelError::Template { .. }) if messages[0].role == "system" => {
                let rendered = render(&messages[1..])?;
                self.system_refused.set(true);
                Ok(rendered)
            }
            rendered => rendered,
        }
    }
}

impl Turn {
    fn new(role: &'static str, content: impl Into<String>, delimiter: &str) -> Self {
        Self {
            role,
            content: content.into(),
            delimiter: delimiter.to_owned(),
        }
    }

    fn text(&self) -> String {
        format!("{}{}", self.content, self.delimiter)
    }

    fn message(&self) -> ChatMessage {
        ChatMessage::new(self.role, &self.content)
    }
}

/// Returns the texts in which the choices of a question differ, whose lengths normalise: its contexts if it has them.
pub fn varying_texts(question: &ChoicesRow) -> &[String] {
    question.contexts.as_deref().unwrap_or(&question.choices)
}

/// Returns the turns of a question, answered or not.
fn turns(row: &ChoicesRow, context: &str, answer: Option<&str>, delimiter: &str) -> Vec<Turn> {
    let prefix = row.prefix.as_deref().unwrap_or("");
    let is_delimited = if prefix.is_empty() {
        answer.is_some()
    } else {
        needs_delimiter(context, prefix)
    };
    let delimiter = if is_delimited { delimiter } else { "" };
    let mut turns = vec![Turn::new("user", context, delimiter)];
    match answer {
        Some(answer) => turns.push(Turn::new(
            "assistant",
            delimited(prefix, answer, " "),
            &row.fewshot_delimiter,
        )),
        None if !prefix.is_empty() => turns.push(Turn::new("assistant", prefix, "")),
        None => {}
    }
    turns
}

/// Collapses all turns but a system message and an unfinished answer into one by the user.
fn single_turn(mut turns: Vec<Turn>) -> Vec<ChatMessage> {
    let mut messages = Vec::new();
    if turns[0].role == "system" {
        messages.push(turns.remove(0).message());
    }
    let unfinished = turns.pop_if(|turn| turn.role == "assistant");
    if let Some(last) = turns.last_mut() {
        last.delimiter.clear();
    }
    let text: String = turns.iter().map(Turn::text).collect();
    messages.push(ChatMessage::new("user", text));
    messages.extend(unfinished.map(|turn| turn.message()));
    messages
}

/// Joins two texts, with `delimiter` between them where neither is empty nor has white space at the border.
fn delimited(first: &str, second: &str, delimiter: &str) -> String {
    if !second.is_empty() && needs_delimiter(first, second) {
        format!("{first}{delimiter}{second}")
    } else {
        format!("{first}{second}")
    }
}

fn needs_delimiter(first: &str, second: &str) -> bool {
    !first.is_empty() && !first.ends_with(is_space) && !second.starts_with(is_space)
}

/// Returns whether Python's `str.isspace` holds: four separators more than Unicode's white space.
pub(crate) fn is_space(char: char) -> bool {
    char.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&char)
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn row(context: &str, choices: &[&str], gold: u32) -> ChoicesRow {
        ChoicesRow {
            task: "t".to_owned(),
            groups: Vec::new(),
            doc_id: "0".to_owned(),
            split: "test".to_owned(),
            description: None,
            context: context.to_owned(),
            contexts: None,
            choices: choices.iter().map(ToString::to_string).collect(),
            gold: Some(gold),
            labels: None,
            prefix: None,
            target_delimiter: " ".to_owned(),
            fewshot_delimiter: "\n\n".to_owned(),
        }
    }

    fn task(examples: Vec<ChoicesRow>) -> Task {
        Task {
            name: "t".to_owned(),
            groups: Vec::new(),
            examples,
            questions: vec![row("", &["x"], 0)],
        }
    }

    fn chat() -> ChatTemplate {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}\
            {% if add_generation_prompt %}<assistant>{% endif %}";
        ChatTemplate::new(source.to_owned(), &Map::new()).expect("valid")
    }

    #[test]
    fn plain_text_is_description_examples_and_question() {
        let examples = vec![row("Q: 1\nA:", &["no", "yes"], 1), row("never", &["x"], 0)];
        let mut question = row("Q: 2\nA:", &["no", " yes"], 0);
        question.description = Some("Answer.\n\n".to_owned());
        let prompter = Prompter {
            shots: 1,
            ..Prompter::plain()
        };
        let prompt = prompter.prompt(&task(examples), &question).expect("valid");
        assert_eq!(prompt.context(1), "Answer.\n\nQ: 1\nA: yes\n\nQ: 2\nA:");
        assert_eq!(prompt.continuations, [" no", "  yes"]);
    }

    #[test]
    fn a_chat_has_one_turn_by_the_user_and_no_delimiter() {
        let examples = vec![row("Q: 1\nA:", &["no", "yes"], 1)];
        let mut question = row("Q: 2\nA:", &["no", "yes"], 0);
        question.description = Some("Answer.".to_owned());
        let chat = chat();
        let prompter = Prompter {
            shots: 1,
            system: Some("Be brief.".to_owned()),
            ..Prompter::plain().with_chat(&chat, false)
        };
        let task = task(examples);
        let prompt = prompter.prompt(&task, &question).expect("valid");
        assert_eq!(
            prompt.context(0),
            "<system>Be brief.\n\nAnswer.<user>Q: 1\nA: yes\n\nQ: 2\nA:<assistant>"
        );
        assert_eq!(prompt.continuations, ["no", "yes"]);
        let prompter = Prompter {
            multiturn: true,
            ..prompter
        };
        let prompt = prompter.prompt(&task, &question).expect("valid");
        assert_eq!(
            prompt.context(0),
            "<system>Be brief.\n\nAnswer.<user>Q: 1\nA:<assistant>yes<user>Q: 2\nA:<assistant>"
        );
    }

    #[test]
    fn a_prefix_begins_the_answer_of_question_and_examples() {
        let with_prefix = |mut row: ChoicesRow, prefix: &str| {
            row.prefix = Some(prefix.to_owned());
            row
        };
        let task = task(vec![with_prefix(row("1?", &["one"], 0), "It is")]);
        let question = with_prefix(row("2?", &["two"], 0), "It is");
        let prompter = Prompter {
            shots: 1,
            ..Prompter::plain()
        };
        let prompt = prompter.prompt(&task, &question).expect("valid");
        assert_eq!(prompt.context(0), "1? It is one\n\n2? It is");
        assert_eq!(prompt.continuations, [" two"]);
        let chat = chat();
        let prompter = prompter.with_chat(&chat, false);
        let prompt = prompter.prompt(&task, &question).expect("valid");
        assert_eq!(
            prompt.context(0),
            "<user>1? It is one\n\n2?<assistant>It is"
        );
        assert_eq!(prompt.continuations, [" two"]);
        let question = with_prefix(question, "It is ");
        let prompt = prompter.prompt(&task, &question).expect("valid");
        assert_eq!(prompt.continuations, ["two"]);
    }

    #[test]
    fn choices_may_have_contexts_of_their_own() {
        let partial = |names: [&str; 2], gold| {
            let mut row = row("", &["was late.", "was late."], gold);
            row.contexts = Some(names.iter().map(|name| format!("Then {name}")).collect());
            row
        };
        let prompter = Prompter {
            shots: 1,
            ..Prompter::plain()
        };
        let task = task(vec![partial(["Ann", "Bob"], 1)]);
        let prompt = prompter
            .prompt(&task, &partial(["Cas", "Dan"], 0))
            .expect("valid");
        assert_eq!(prompt.context(0), "Then Bob was late.\n\nThen Cas");
        assert_eq!(prompt.context(1), "Then Bob was late.\n\nThen Dan");
        assert_eq!(prompt.continuations, [" was late.", " was late."]);
        assert_eq!(prompt.unconditional, [" Then Cas", " Then Dan"]);
    }

    #[test]
    fn a_system_message_that_the_template_refuses_is_left_out() {
        let source = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
            {{ messages[0].content }}";
        let chat = ChatTemplate::new(source.to_owned(), &Map::new()).expect("valid");
        let prompter = Prompter::plain().with_chat(&chat, false);
        let mut question = row("Q", &["a"], 0);
        let prompt = prompter
            .prompt(&task(Vec::new()), &question)
            .expect("valid");
        assert_eq!((prompt.context(0), prompter.system_refused()), ("Q", false));
        question.description = Some("D".to_owned());
        let prompt = prompter
            .prompt(&task(Vec::new()), &question)
            .expect("valid");
        assert_eq!((prompt.context(0), prompter.system_refused()), ("Q", true));
    }

    #[test]
    fn too_few_examples_are_refused() {
        let prompter = Prompter {
            shots: 2,
            ..Prompter::plain()
        };
        let error = prompter.prompt(&task(vec![row("", &["x"], 0)]), &row("", &["x"], 0));
        assert_eq!(
            error.expect_err("refused").to_string(),
            "task `t` has 1 rows with the split `fewshot`, but --shots asks for 2; add examples or show fewer"
        );
    }
}
