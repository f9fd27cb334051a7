//! What is wrong with a text, whatever its tokens.

use std::collections::BTreeMap;

use unicode_script::{Script, UnicodeScript};

/// Strings that belong to chat templates and never to an answer.
const TEMPLATE_MARKS: [&str; 14] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "</s>",
];

/// Names and words by which a prompt asks for another language, in lower case.
const LANGUAGE_WORDS: [&str; 45] = [
    "translat",
    "language",
    "traduc",
    "tradui",
    "übersetz",
    "перев",
    "翻译",
    "翻訳",
    "번역",
    "arabic",
    "bengali",
    "bulgarian",
    "chinese",
    "croatian",
    "czech",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hebrew",
    "hindi",
    "hungarian",
    "indonesian",
    "italian",
    "japanese",
    "korean",
    "latin",
    "malay",
    "norwegian",
    "persian",
    "polish",
    "portuguese",
    "romanian",
    "russian",
    "sanskrit",
    "spanish",
    "swedish",
    "tamil",
    "thai",
    "turkish",
    "ukrainian",
    "vietnamese",
];

/// Returns the number of characters that are neither white space nor control characters.
#[must_use]
pub fn visible_characters(text: &str) -> usize {
    text.chars()
        .filter(|character| !character.is_whitespace() && !character.is_control())
        .count()
}

/// Whether the text holds a chat-template mark, one of `markers`, or the replacement character.
#[must_use]
pub fn has_markup(text: &str, markers: &[String]) -> bool {
    text.contains('\u{FFFD}')
        || TEMPLATE_MARKS.iter().any(|mark| text.contains(mark))
        || markers
            .iter()
            .any(|mark| !mark.is_empty() && text.contains(mark.as_str()))
}

/// Returns the share of control characters, line breaks and tabs not counted.
#[must_use]
pub fn control_share(text: &str) -> f64 {
    let (mut controls, mut all) = (0usize, 0usize);
    for character in text.chars() {
        all += 1;
        controls += usize::from(character.is_control() && !matches!(character, '\n' | '\r' | '\t'));
    }
    if all == 0 {
        0.0
    } else {
        controls as f64 / all as f64
    }
}

/// Returns the text's size after DEFLATE (level 6) as a share of its size; 1 for an empty text.
///
/// Small values mean that the text repeats itself.
#[must_use]
pub fn compression(text: &str) -> f64 {
    if text.is_empty() {
        return 1.0;
    }
    let packed = miniz_oxide::deflate::compress_to_vec(text.as_bytes(), 6);
    packed.len() as f64 / text.len() as f64
}

/// Returns the script that most letters of a text are in; `None` without letters.
///
/// Han, Hiragana and Katakana count as one, since Japanese mixes them.
#[must_use]
pub fn dominant_script(text: &str) -> Option<Script> {
    let mut counts: BTreeMap<&'static str, (usize, Script)> = BTreeMap::new();
    for character in text.chars().filter(|character| character.is_alphabetic()) {
        let script = match character.script() {
            Script::Common | Script::Inherited | Script::Unknown => continue,
            Script::Hiragana | Script::Katakana => Script::Han,
            script => script,
        };
        counts.entry(script.short_name()).or_insert((0, script)).0 += 1;
    }
    counts
        .into_values()
        .max_by_key(|&(count, _)| count)
        .map(|(_, script)| script)
}

/// Whether a prompt names a language or asks for a translation.
#[must_use]
pub fn names_a_language(prompt: &str) -> bool {
    let prompt = prompt.to_lowercase();
    LANGUAGE_WORDS.iter().any(|word| prompt.contains(word))
}

/// Returns the text in lower case with white space collapsed: equal texts say the same.
#[must_use]
pub fn normalised(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_characters_leave_out_space_and_control() {
        assert_eq!(visible_characters(" a\tb\u{0}\n c "), 3);
        assert_eq!(visible_characters("日本"), 2);
    }

    #[test]
    fn markup_is_found() {
        assert!(has_markup("well<|im_end|>", &[]));
        assert!(has_markup("half a \u{FFFD}", &[]));
        assert!(has_markup("x <user> y", &["<user>".to_owned()]));
        assert!(!has_markup("a < b and [1] </p>", &[String::new()]));
    }

    #[test]
    fn line_breaks_are_no_control_characters() {
        assert_eq!(control_share("a\nb\tc"), 0.0);
        assert_eq!(control_share("ab\u{1}\u{2}"), 0.5);
        assert_eq!(control_share(""), 0.0);
    }

    #[test]
    fn repeated_text_compresses() {
        assert!(compression(&"the same again and ".repeat(40)) < 0.2);
        let plain = "Rain fell on the harbour while two old sailors argued about maps, tides, \
                     wages, a lost dog, and whether the lighthouse keeper ever slept at night.";
        assert!(compression(plain) > 0.5);
        assert_eq!(compression(""), 1.0);
    }

    #[test]
    fn scripts_are_told_apart() {
        assert_eq!(dominant_script("hello, мир"), Some(Script::Latin));
        assert_eq!(dominant_script("привет 42 ok"), Some(Script::Cyrillic));
        assert_eq!(dominant_script("これはペンです"), dominant_script("漢字"));
        assert_eq!(dominant_script("42 + 1"), None);
    }

    #[test]
    fn requests_for_a_language_are_recognised() {
        assert!(names_a_language("Say hello in Russian"));
        assert!(names_a_language("Translate: bonjour"));
        assert!(!names_a_language("sort : fig pear"));
    }

    #[test]
    fn normalised_texts_ignore_case_and_space() {
        assert_eq!(normalised("  The\n Answer  is 4"), "the answer is 4");
    }
}
