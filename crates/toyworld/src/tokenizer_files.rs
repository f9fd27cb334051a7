//! The tokenizer and its companions as ordinary Hugging Face files.

use std::path::Path;

use serde_json::json;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{AddedToken, Tokenizer};

use crate::vocab::{self, SPECIAL};

/// The longest context the model is built for, in tokens.
pub const CONTEXT: usize = 256;

/// The chat template: `<user> … <assistant> … <end>`, one after another.
///
/// Word-level text: the number of spaces does not matter. Any role but `assistant` speaks as the user.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}\
{% if message['role'] == 'assistant' %}<assistant> {{ message['content'] }} <end> \
{% else %}<user> {{ message['content'] }} {% endif %}\
{% endfor %}\
{% if add_generation_prompt %}<assistant>{% endif %}";

/// The judge's question, as comparison documents put it.
pub const JUDGE_QUESTION: &str = "judge : {{ request }} A : {{ first }} B : {{ second }} which ?";

/// Why the tokenizer files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerFilesError {
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The tokenizer could not be built from the vocabulary.
    #[error("cannot build the tokenizer: {0}")]
    Build(String),
}

/// Builds the world's tokenizer: one token a word, special tokens added.
pub fn tokenizer() -> Result<Tokenizer, TokenizerFilesError> {
    let build = |e: tokenizers::Error| TokenizerFilesError::Build(e.to_string());
    let ids = vocab::words()
        .iter()
        .zip(0..)
        .map(|(w, i)| (w.to_string(), i))
        .collect();
    let model = WordLevel::builder()
        .vocab(ids)
        .unk_token(SPECIAL[vocab::UNKNOWN as usize].to_string())
        .build()
        .map_err(build)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
    tokenizer
        .add_special_tokens(SPECIAL.map(|word| AddedToken::from(word, true)))
        .map_err(build)?;
    Ok(tokenizer)
}

/// Writes `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and `judge_template.json` into `dir`.
pub fn write_tokenizer(dir: &Path) -> Result<(), TokenizerFilesError> {
    let json = tokenizer()?
        .to_string(true)
        .map_err(|e| TokenizerFilesError::Build(e.to_string()))?;
    write(dir, "tokenizer.json", json)?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "eos_token": "<end>",
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    });
    write_json(dir, "tokenizer_config.json", &config)?;
    let generation = json!({
        "eos_token_id": vocab::END,
        "pad_token_id": vocab::PAD,
        "do_sample": true,
        "temperature": 0.9,
        "top_k": 0,
        "max_new_tokens": 40,
    });
    write_json(dir, "generation_config.json", &generation)?;
    let judge = json!({
        "version": "toyworld-1",
        "messages": [{ "role": "user", "content": JUDGE_QUESTION }],
        "assistant_prefix": "",
        "verdict_a": ["A"],
        "verdict_b": ["B"],
    });
    write_json(dir, "judge_template.json", &judge)
}

fn write_json(
    dir: &Path,
    name: &str,
    value: &serde_json::Value,
) -> Result<(), TokenizerFilesError> {
    write(dir, name, format!("{value:#}"))
}

fn write(dir: &Path, name: &str, mut text: String) -> Result<(), TokenizerFilesError> {
    let path = dir.join(name);
    text.push('\n');
    std::fs::write(&path, text).map_err(|source| TokenizerFilesError::Write {
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::{DocumentKind, comparison_question, document};
    use crate::families::{Family, Task};
    use crate::random::Random;
    use crate::world::World;
    use sims_model::{ChatMessage, ChatTemplate, JudgeTemplate};

    fn files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write_tokenizer(dir.path()).expect("a writable folder");
        dir
    }

    #[test]
    fn the_tokenizer_agrees_with_the_vocabulary() {
        let dir = files();
        let tokenizer =
            Tokenizer::from_file(dir.path().join("tokenizer.json")).expect("a tokenizer");
        assert_eq!(tokenizer.get_vocab_size(true), vocab::SIZE);
        for i in 0..2_000 {
            let tokens = document(&World::default_world(), 1, i).tokens;
            let text = vocab::decode(&tokens);
            let encoding = tokenizer.encode(text.as_str(), false).expect("plain words");
            assert_eq!(encoding.get_ids(), tokens);
            assert_eq!(tokenizer.decode(&tokens, false).expect("known ids"), text);
        }
        let answer = [vocab::known("red"), vocab::known(","), vocab::END];
        let spoken = tokenizer.decode(&answer, true).expect("known ids");
        assert_eq!(spoken, "red ,");
        let foreign = tokenizer.encode("red zebra<end>", false).expect("any text");
        let expected = [vocab::known("red"), vocab::UNKNOWN, vocab::END];
        assert_eq!(foreign.get_ids(), expected);
    }

    #[test]
    fn the_chat_template_renders_documents() {
        let dir = files();
        let chat = ChatTemplate::open(dir.path())
            .expect("valid")
            .expect("there");
        let messages = [
            ChatMessage::new("user", "add : 4 5"),
            ChatMessage::new("assistant", "9"),
            ChatMessage::new("user", "plural of : cat"),
        ];
        assert_eq!(
            chat.render(&messages, true).expect("renders"),
            "<user> add : 4 5 <assistant> 9 <end> <user> plural of : cat <assistant>"
        );
        let finished = chat.render(&messages[..2], false).expect("renders");
        assert_eq!(finished.trim_end(), "<user> add : 4 5 <assistant> 9 <end>");
    }

    #[test]
    fn the_judge_template_renders_what_comparisons_show() {
        let dir = files();
        let chat = ChatTemplate::open(dir.path())
            .expect("valid")
            .expect("there");
        let judge = JudgeTemplate::open(dir.path())
            .expect("valid")
            .expect("there");
        for i in 0..500 {
            let random = &mut Random::new(1, 2, i);
            let task = Task::draw(&Family::ALL, 0.3, random);
            let [a, b] = [task.right_answer(random), task.wrong_answer(random)];
            let messages = judge
                .render(
                    &vocab::decode(&task.prompt()),
                    &vocab::decode(&a),
                    &vocab::decode(&b),
                )
                .expect("renders");
            let text = chat.render(&messages, true).expect("renders") + &judge.assistant_prefix;
            let mut expected = vec![vocab::USER];
            expected.extend(comparison_question(&task.prompt(), &a, &b));
            expected.push(vocab::ASSISTANT);
            assert_eq!(vocab::encode(&text), expected);
        }
        assert_eq!(
            (judge.verdict_a, judge.verdict_b),
            (vec!["A".to_owned()], vec!["B".to_owned()])
        );
    }

    #[test]
    fn a_comparison_gives_its_verdict_at_once() {
        let comparisons = (0..1_000)
            .map(|i| document(&World::default_world(), 1, i))
            .filter(|d| d.kind == DocumentKind::Comparison);
        for tokens in comparisons.map(|d| d.tokens) {
            let mark = tokens
                .iter()
                .position(|&t| t == vocab::ASSISTANT)
                .expect("a judge's turn");
            assert_eq!(
                tokens[mark - 2..mark],
                [vocab::known("which"), vocab::known("?")]
            );
            assert!([vocab::A, vocab::B].contains(&tokens[mark + 1]));
        }
    }
}
