//! The words of the world: fewer than 512 tokens, one a word, split at white space.
//!
//! Word level is right at this size; byte pairs would only spend capacity (toyworld measurements, §1).
//! Token ids follow the order of the tables below, so a word added anywhere but at the end
//! makes every committed checkpoint meaningless.

use std::collections::HashMap;
use std::sync::LazyLock;

pub use crate::tokenizer_files::write_tokenizer;

/// A token id.
pub type Token = u32;

/// Marks that are no words: they are dropped when an answer is decoded.
pub const SPECIAL: [&str; 5] = ["<pad>", "<unk>", "<user>", "<assistant>", "<end>"];
/// Names of the two answers of a comparison; also the verdict tokens.
pub const NAMES: [&str; 2] = ["A", "B"];
/// List marks: comma, dash, bar and the two brackets.
pub const LIST_MARKS: [&str; 5] = [",", "-", "|", "[", "]"];
/// Punctuation of openers, closers and prompts.
pub const PUNCTUATION: [&str; 3] = [":", ".", "?"];
/// Verdict words in pairs (good, bad): content, format, padding, manners.
pub const MARKS: [[&str; 2]; 4] = [
    ["right", "wrong"],
    ["tidy", "messy"],
    ["brief", "wordy"],
    ["polite", "curt"],
];
/// Numbers in order: the k-th word is the number k.
pub const NUMBERS: [&str; 31] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    "17", "18", "19", "20", "21", "22", "23", "24", "25", "26", "27", "28", "29", "30",
];
/// Names of the categories.
pub const CATEGORY_NAMES: [&str; 8] = [
    "animal",
    "fruit",
    "color",
    "tool",
    "clothing",
    "vehicle",
    "drink",
    "furniture",
];
/// Members of the categories, in the order of [`CATEGORY_NAMES`].
pub const CATEGORIES: [[&str; 10]; 8] = [
    [
        "cat", "dog", "horse", "cow", "pig", "lion", "wolf", "bear", "fox", "sheep",
    ],
    [
        "apple", "pear", "plum", "peach", "grape", "lemon", "mango", "cherry", "melon", "fig",
    ],
    [
        "red", "blue", "green", "yellow", "black", "white", "brown", "pink", "gray", "purple",
    ],
    [
        "hammer", "saw", "drill", "knife", "axe", "rake", "wrench", "shovel", "chisel", "ladder",
    ],
    [
        "shirt", "coat", "hat", "shoe", "sock", "dress", "glove", "scarf", "belt", "skirt",
    ],
    [
        "car", "train", "boat", "truck", "plane", "bus", "bike", "ship", "van", "tram",
    ],
    [
        "tea", "coffee", "milk", "water", "juice", "wine", "beer", "soda", "cocoa", "cider",
    ],
    [
        "chair", "table", "bed", "desk", "sofa", "lamp", "shelf", "bench", "stool", "mirror",
    ],
];
/// Pairs of opposites.
pub const ANTONYMS: [[&str; 2]; 16] = [
    ["big", "small"],
    ["hot", "cold"],
    ["fast", "slow"],
    ["old", "young"],
    ["light", "dark"],
    ["high", "low"],
    ["hard", "soft"],
    ["wet", "dry"],
    ["rich", "poor"],
    ["full", "empty"],
    ["open", "shut"],
    ["loud", "quiet"],
    ["clean", "dirty"],
    ["early", "late"],
    ["strong", "weak"],
    ["happy", "sad"],
];
/// Plurals with the word they belong to.
pub const PLURALS: [[&str; 2]; 30] = [
    ["cat", "cats"],
    ["dog", "dogs"],
    ["horse", "horses"],
    ["cow", "cows"],
    ["pig", "pigs"],
    ["lion", "lions"],
    ["wolf", "wolves"],
    ["bear", "bears"],
    ["fox", "foxes"],
    ["apple", "apples"],
    ["pear", "pears"],
    ["plum", "plums"],
    ["peach", "peaches"],
    ["grape", "grapes"],
    ["lemon", "lemons"],
    ["hammer", "hammers"],
    ["saw", "saws"],
    ["drill", "drills"],
    ["knife", "knives"],
    ["shirt", "shirts"],
    ["coat", "coats"],
    ["hat", "hats"],
    ["shoe", "shoes"],
    ["car", "cars"],
    ["train", "trains"],
    ["boat", "boats"],
    ["truck", "trucks"],
    ["plane", "planes"],
    ["chair", "chairs"],
    ["table", "tables"],
];
/// Words that only fillers use: any of them in an answer is padding.
pub const FILLER_WORDS: [&str; 13] = [
    "well",
    "now",
    "you",
    "see",
    "let",
    "me",
    "think",
    "so",
    "anyway",
    "i",
    "guess",
    "umm",
    "basically",
];
/// Words that only openers and closers use.
pub const MANNER_WORDS: [&str; 26] = [
    "sure",
    "certainly",
    "my",
    "pleasure",
    "hope",
    "this",
    "helps",
    "enjoy",
    "best",
    "wishes",
    "gladly",
    "absolutely",
    "delighted",
    "indeed",
    "welcome",
    "hello",
    "friend",
    "good",
    "question",
    "cheers",
    "thanks",
    "regards",
    "farewell",
    "luck",
    "warm",
    "bye",
];
/// Words of instructions and judge transcripts.
pub const INSTRUCTION_WORDS: [&str; 47] = [
    "sort",
    "put",
    "in",
    "order",
    "reverse",
    "say",
    "backwards",
    "opposite",
    "of",
    "give",
    "the",
    "plural",
    "more",
    "than",
    "one",
    "pick",
    "each",
    "which",
    "are",
    "count",
    "how",
    "many",
    "words",
    "add",
    "sum",
    "name",
    "list",
    "first",
    "take",
    "from",
    "start",
    "twice",
    "repeat",
    "kind",
    "what",
    "odd",
    "out",
    "does",
    "not",
    "fit",
    "last",
    "end",
    "with",
    "commas",
    "dashes",
    "bars",
    "brackets",
];
/// Words of judge transcripts.
pub const JUDGE_WORDS: [&str; 2] = ["judge", "check"];

/// Polite openers, as words.
///
/// Ten of them, and most of one word: with three of each, polite text is so uniform that distinct-2
/// falls by a quarter as manners rise, and its gate measures manners.
pub const OPENERS: [&str; 10] = [
    "sure :",
    "certainly :",
    "my pleasure :",
    "gladly",
    "absolutely",
    "delighted",
    "indeed",
    "welcome",
    "hello friend",
    "good question",
];
/// Polite closers, as words.
pub const CLOSERS: [&str; 10] = [
    "hope this helps .",
    "enjoy .",
    "best wishes .",
    "cheers",
    "thanks",
    "regards",
    "farewell",
    "good luck",
    "warm wishes",
    "bye friend",
];
/// Filler phrases, as words.
pub const FILLERS: [&str; 6] = [
    "well now",
    "you see",
    "let me think",
    "so anyway",
    "i guess",
    "umm basically",
];

/// Number of tokens.
pub const SIZE: usize = SPECIAL.len()
    + NAMES.len()
    + LIST_MARKS.len()
    + PUNCTUATION.len()
    + 2 * MARKS.len()
    + NUMBERS.len()
    + CATEGORY_NAMES.len()
    + 10 * CATEGORIES.len()
    + 2 * ANTONYMS.len()
    + PLURALS.len()
    + FILLER_WORDS.len()
    + MANNER_WORDS.len()
    + INSTRUCTION_WORDS.len()
    + JUDGE_WORDS.len();

/// Padding, never part of a document.
pub const PAD: Token = 0;
/// Stands for a word outside the vocabulary.
pub const UNKNOWN: Token = 1;
/// Opens a user's turn.
pub const USER: Token = 2;
/// Opens an answer.
pub const ASSISTANT: Token = 3;
/// Ends an answer; the stop token.
pub const END: Token = 4;
/// The verdict "the first answer is better".
pub const A: Token = 5;
/// The verdict "the second answer is better".
pub const B: Token = 6;

/// What a token is, as far as an answer's structure goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Special tokens, which the chat template writes.
    Special,
    /// Comma, dash, bar or bracket.
    ListMark,
    /// A word of a filler phrase.
    Filler,
    /// A word of an opener or closer.
    Manner,
    /// Colon, full stop, question mark.
    Punctuation,
    /// Anything else: part of the answer's content.
    Word,
}

struct Tables {
    words: Vec<&'static str>,
    ids: HashMap<&'static str, Token>,
    opposite: HashMap<Token, Token>,
    plural: HashMap<Token, Token>,
    category: HashMap<Token, usize>,
    number: HashMap<Token, usize>,
    class: Vec<Class>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut words: Vec<&'static str> = Vec::with_capacity(SIZE);
    let mut class = Vec::with_capacity(SIZE);
    let mut extend = |group: &[&'static str], of: Class| {
        words.extend_from_slice(group);
        class.resize(words.len(), of);
    };
    extend(&SPECIAL, Class::Special);
    extend(&NAMES, Class::Word);
    extend(&LIST_MARKS, Class::ListMark);
    extend(&PUNCTUATION, Class::Punctuation);
    MARKS.iter().for_each(|pair| extend(pair, Class::Word));
    extend(&NUMBERS, Class::Word);
    extend(&CATEGORY_NAMES, Class::Word);
    CATEGORIES
        .iter()
        .for_each(|members| extend(members, Class::Word));
    ANTONYMS.iter().for_each(|pair| extend(pair, Class::Word));
    PLURALS
        .iter()
        .for_each(|[_, plural]| extend(&[plural], Class::Word));
    extend(&FILLER_WORDS, Class::Filler);
    extend(&MANNER_WORDS, Class::Manner);
    extend(&INSTRUCTION_WORDS, Class::Word);
    extend(&JUDGE_WORDS, Class::Word);

    let ids: HashMap<&'static str, Token> = words.iter().zip(0..).map(|(&w, i)| (w, i)).collect();
    let mut opposite = HashMap::new();
    for [a, b] in ANTONYMS {
        opposite.insert(ids[a], ids[b]);
        opposite.insert(ids[b], ids[a]);
    }
    let plural = PLURALS
        .iter()
        .map(|[one, many]| (ids[one], ids[many]))
        .collect();
    let category = CATEGORIES
        .iter()
        .enumerate()
        .flat_map(|(c, members)| members.map(|w| (ids[w], c)))
        .collect();
    let number = NUMBERS
        .iter()
        .enumerate()
        .map(|(n, w)| (ids[w], n))
        .collect();
    Tables {
        words,
        ids,
        opposite,
        plural,
        category,
        number,
        class,
    }
});

/// Returns all words by token id.
pub fn words() -> &'static [&'static str] {
    &TABLES.words
}

/// Returns the id of a word, if it is in the vocabulary.
pub fn token(word: &str) -> Option<Token> {
    TABLES.ids.get(word).copied()
}

/// Returns the word of a token id; ids outside the vocabulary give `<unk>`.
pub fn word(token: Token) -> &'static str {
    TABLES
        .words
        .get(token as usize)
        .copied()
        .unwrap_or(SPECIAL[UNKNOWN as usize])
}

/// Splits text at white space and looks every word up; unknown words become [`UNKNOWN`].
pub fn encode(text: &str) -> Vec<Token> {
    text.split_whitespace()
        .map(|w| token(w).unwrap_or(UNKNOWN))
        .collect()
}

/// Joins the words of `tokens` by single spaces, special tokens included.
pub fn decode(tokens: &[Token]) -> String {
    let words: Vec<&str> = tokens.iter().map(|&t| word(t)).collect();
    words.join(" ")
}

/// Returns what a token is in an answer; unknown ids count as words.
pub fn class(token: Token) -> Class {
    TABLES
        .class
        .get(token as usize)
        .copied()
        .unwrap_or(Class::Word)
}

/// Returns the opposite of an adjective.
pub fn opposite(token: Token) -> Option<Token> {
    TABLES.opposite.get(&token).copied()
}

/// Returns the plural of a noun that has one in the world.
pub fn plural(token: Token) -> Option<Token> {
    TABLES.plural.get(&token).copied()
}

/// Returns the index of a noun's category.
pub fn category(token: Token) -> Option<usize> {
    TABLES.category.get(&token).copied()
}

/// Returns the value of a number word.
pub fn number(token: Token) -> Option<usize> {
    TABLES.number.get(&token).copied()
}

/// Returns the token of a number up to 30.
pub fn number_token(n: usize) -> Token {
    known(NUMBERS[n])
}

/// Returns the token of a category's name.
pub fn category_token(category: usize) -> Token {
    known(CATEGORY_NAMES[category])
}

/// Returns the members of a category.
pub fn members(category: usize) -> Vec<Token> {
    CATEGORIES[category].iter().map(|w| known(w)).collect()
}

/// Returns the members of all categories.
pub fn nouns() -> Vec<Token> {
    (0..CATEGORIES.len()).flat_map(members).collect()
}

/// Returns the adjectives that have an opposite.
pub fn adjectives() -> Vec<Token> {
    ANTONYMS.iter().flatten().map(|w| known(w)).collect()
}

/// Returns the nouns that have a plural.
pub fn countable_nouns() -> Vec<Token> {
    PLURALS.iter().map(|[one, _]| known(one)).collect()
}

/// Returns the id of a word of the tables above.
pub(crate) fn known(word: &str) -> Token {
    *TABLES
        .ids
        .get(word)
        .expect("a word of this module's tables")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_distinct_and_few() {
        assert_eq!(words().len(), SIZE);
        assert_eq!(TABLES.ids.len(), SIZE, "a word is listed twice");
        const { assert!(SIZE < 512) };
        assert!(words().iter().all(|w| !w.contains(char::is_whitespace)));
    }

    #[test]
    fn special_ids_are_what_their_constants_say() {
        for (id, name) in [
            (PAD, "<pad>"),
            (UNKNOWN, "<unk>"),
            (USER, "<user>"),
            (ASSISTANT, "<assistant>"),
            (END, "<end>"),
        ] {
            assert_eq!(token(name), Some(id));
        }
        assert_eq!((token("A"), token("B")), (Some(A), Some(B)));
    }

    #[test]
    fn phrases_use_only_their_own_words() {
        for phrase in FILLERS {
            assert!(
                encode(phrase).iter().all(|&t| class(t) == Class::Filler),
                "{phrase}"
            );
        }
        for phrase in OPENERS.iter().chain(&CLOSERS) {
            assert!(
                encode(phrase)
                    .iter()
                    .all(|&t| matches!(class(t), Class::Manner | Class::Punctuation)),
                "{phrase}"
            );
        }
    }

    #[test]
    fn no_phrase_begins_or_ends_another() {
        // An answer is read by its first phrase that fits: it must be the only one.
        let read = |phrases: &[&str]| phrases.iter().map(|p| encode(p)).collect::<Vec<_>>();
        let (openers, closers) = (read(&OPENERS), read(&CLOSERS));
        for (i, one) in openers.iter().enumerate() {
            assert!(
                !openers
                    .iter()
                    .enumerate()
                    .any(|(j, other)| i != j && other.starts_with(one))
            );
        }
        for (i, one) in closers.iter().enumerate() {
            assert!(
                !closers
                    .iter()
                    .enumerate()
                    .any(|(j, other)| i != j && other.ends_with(one))
            );
        }
    }

    #[test]
    fn look_ups_know_their_answers() {
        assert_eq!(opposite(known("soft")), Some(known("hard")));
        assert_eq!(plural(known("wolf")), Some(known("wolves")));
        assert_eq!(category(known("tram")), Some(5));
        assert_eq!(number(known("17")), Some(17));
        assert_eq!(opposite(known("tram")), None);
        assert_eq!(decode(&encode("sort : 3 2 bogus")), "sort : 3 2 <unk>");
    }
}
