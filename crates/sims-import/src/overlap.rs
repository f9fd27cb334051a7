//! Overlaps with test sets: word 13-grams, as GPT-3's data were cleaned (Brown et al. 2020, appendix C).

use std::collections::HashMap;

use sims_artifact::tables::Message;
use sims_stats::shingles::shingles;

use crate::words::for_each_word;
use crate::{ImportError, Place, Progress, PromptFile};

/// Words in a row that make an overlap.
pub const GRAM_WORDS: usize = 13;
/// The number of every word that no test set has.
const UNKNOWN: u32 = u32::MAX;

/// What the test sets ask, as the set of their word 13-grams.
///
/// A prompt of at most 13 words is compared as a whole. The user's turns count, one after another; system
/// prompts and answers do not.
#[derive(Debug, Default)]
pub struct TestSets {
    vocabulary: HashMap<String, u32>,
    /// Each gram's words, and the first of `places` that has it.
    grams: HashMap<Box<[u32]>, u32>,
    places: Vec<Place>,
}

impl TestSets {
    /// Reads test sets; empty records are passed over.
    ///
    /// # Errors
    /// A file that cannot be read, with the place.
    pub fn read(files: &[PromptFile], progress: &Progress) -> Result<Self, ImportError> {
        let mut sets = Self::default();
        for file in files {
            let mapping = file.read(progress.read_bytes(), &mut |_, record| {
                sets.add(&record.messages, file.place(record.number));
                Ok(())
            })?;
            progress.note(&format!("{}: {mapping}", file.path().display()));
        }
        Ok(sets)
    }

    /// Returns the first place in the test sets that shares a gram with a chat.
    #[must_use]
    pub fn overlap(&self, chat: &[Message]) -> Option<u32> {
        if self.grams.is_empty() {
            return None;
        }
        let mut words = Vec::new();
        for_each_user_word(chat, |word| {
            words.push(self.vocabulary.get(word).copied().unwrap_or(UNKNOWN));
        });
        shingles(&words, GRAM_WORDS).find_map(|gram| self.grams.get(gram).copied())
    }

    /// Returns a place by the number that [`TestSets::overlap`] gave.
    #[must_use]
    pub fn place(&self, number: u32) -> &Place {
        &self.places[number as usize]
    }

    fn add(&mut self, chat: &[Message], place: Place) {
        let mut words = Vec::new();
        for_each_user_word(chat, |word| {
            let next = self.vocabulary.len() as u32;
            let number = match self.vocabulary.get(word) {
                Some(&number) => number,
                None => *self.vocabulary.entry(word.to_owned()).or_insert(next),
            };
            words.push(number);
        });
        // Prompts without a letter or digit have nothing to compare.
        if words.is_empty() {
            return;
        }
        let number = self.places.len() as u32;
        self.places.push(place);
        for gram in shingles(&words, GRAM_WORDS) {
            self.grams.entry(gram.into()).or_insert(number);
        }
    }
}

fn for_each_user_word(chat: &[Message], mut take: impl FnMut(&str)) {
    for turn in chat.iter().filter(|turn| turn.role == "user") {
        for_each_word(&turn.content, &mut take);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn words(range: std::ops::Range<u32>) -> String {
        range.map(|i| format!("w{i} ")).collect()
    }

    fn sets(tests: &[&str]) -> TestSets {
        let mut sets = TestSets::default();
        for (index, test) in tests.iter().enumerate() {
            let place = Place {
                file: Arc::new("test.jsonl".into()),
                unit: "line",
                number: index as u64 + 1,
            };
            sets.add(&[Message::user(*test)], place);
        }
        sets
    }

    fn overlap(sets: &TestSets, text: &str) -> Option<u32> {
        sets.overlap(&[Message::user(text)])
    }

    #[test]
    fn thirteen_common_words_are_an_overlap_and_twelve_are_none() {
        let sets = sets(&["another test", &words(0..40)]);
        let with = |common: u32| format!("before {}after", words(20..20 + common));
        assert_eq!(overlap(&sets, &with(13)), Some(1));
        assert_eq!(overlap(&sets, &with(12)), None);
        assert_eq!(
            overlap(&sets, &with(13).to_uppercase().replace(' ', ", ")),
            Some(1)
        );
        assert_eq!(sets.place(1).to_string(), "test.jsonl, line 2");
    }

    #[test]
    fn short_prompts_are_compared_whole() {
        let sets = sets(&["What is the capital of France?"]);
        assert_eq!(overlap(&sets, "what is the capital of france"), Some(0));
        assert_eq!(
            overlap(&sets, "What is the capital of France or of Spain?"),
            None
        );
        assert_eq!(overlap(&sets, "the capital of France"), None);
    }

    #[test]
    fn only_the_users_turns_count() {
        let sets = sets(&[&words(0..13)]);
        let chat = |role: &str| [Message::new(role, words(0..13)), Message::user("and?")];
        assert_eq!(sets.overlap(&chat("system")), None);
        assert_eq!(sets.overlap(&chat("user")), Some(0));
    }

    #[test]
    fn without_words_nothing_overlaps() {
        assert_eq!(overlap(&sets(&["???"]), "!!!"), None);
        assert_eq!(overlap(&sets(&[]), ""), None);
    }
}
