//! Two normal forms of a text: one for duplicates, one for overlaps with test sets.

/// Marks that end or quote a word and leave its meaning.
const MARKS: &[char] = &[
    '.', ',', ';', ':', '!', '?', '"', '\'', '`', '“', '”', '‘', '’', '…',
];

/// Returns a text in lower case, with one space between words and no marks around them.
///
/// Marks within a word and signs such as `+`, `-` and `#` stay: "3+4" and "3-4" are two questions. A text
/// of marks only is its own normal form.
pub(crate) fn normal_form(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        let word = word.trim_matches(MARKS);
        if word.is_empty() {
            continue;
        }
        if !normal.is_empty() {
            normal.push(' ');
        }
        push_lower(&mut normal, word.chars());
    }
    if normal.is_empty() {
        text.trim().to_owned()
    } else {
        normal
    }
}

/// Calls `take` with each word in lower case and without punctuation, as GPT-3's decontamination reads text.
///
/// What remains of a word are its letters and digits; a word of punctuation only is none.
pub(crate) fn for_each_word(text: &str, mut take: impl FnMut(&str)) {
    let mut plain = String::new();
    for word in text.split_whitespace() {
        plain.clear();
        push_lower(&mut plain, word.chars().filter(|c| c.is_alphanumeric()));
        if !plain.is_empty() {
            take(&plain);
        }
    }
}

fn push_lower(text: &mut String, characters: impl Iterator<Item = char>) {
    for character in characters {
        if character.is_ascii() {
            text.push(character.to_ascii_lowercase());
        } else {
            text.extend(character.to_lowercase());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_space_and_marks_make_no_difference() {
        let normal = normal_form("What is  \"Rust\"?\n");
        assert_eq!(normal, "what is rust");
        assert_eq!(normal_form("what is rust"), normal);
        assert_eq!(normal_form("ÄRGER…"), "ärger");
    }

    #[test]
    fn signs_do() {
        assert_ne!(normal_form("3+4?"), normal_form("3-4?"));
        assert_ne!(normal_form("C"), normal_form("C#"));
        assert_eq!(normal_form(" ?! "), "?!");
    }

    #[test]
    fn words_are_letters_and_digits() {
        let mut words = Vec::new();
        for_each_word("Don't -- stop, État-major 42!", |word| {
            words.push(word.to_owned())
        });
        assert_eq!(words, ["dont", "stop", "étatmajor", "42"]);
    }
}
