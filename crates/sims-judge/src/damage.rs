//! Ways to make a text worse.
//!
//! They take words and sentences as white space and end marks separate them, so that they work on any
//! text, and add no word that a vocabulary may lack.

use std::ops::Range;

use sims_stats::random::Stream;

/// Shuffles tried until one changes the text.
const SHUFFLES: usize = 8;

/// Returns the text up to the end of the first half of its words, the larger one of an odd number.
pub(crate) fn first_half(text: &str) -> &str {
    let words = words(text);
    match words.len().div_ceil(2).checked_sub(1) {
        Some(last) => &text[..words[last].end],
        None => text,
    }
}

/// Returns the text and, as a paragraph of its own, the text again: filler in any language.
pub(crate) fn said_twice(text: &str) -> String {
    format!("{text}\n\n{text}")
}

/// Returns the text with its sentences in another order, or its words where it is one sentence.
///
/// The white space between them stays where it is, so that the layout gives nothing away.
pub(crate) fn shuffled(text: &str, stream: &mut Stream) -> String {
    let sentences = sentences(text);
    let pieces = if sentences.len() > 1 {
        sentences
    } else {
        words(text)
    };
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    for _ in 0..SHUFFLES {
        stream.shuffle(&mut order);
        let shuffled = reordered(text, &pieces, &order);
        if !same_words(&shuffled, text) {
            return shuffled;
        }
    }
    text.to_owned()
}

/// Returns the text with piece `order[k]` in the place of piece `k`.
fn reordered(text: &str, pieces: &[Range<usize>], order: &[usize]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (place, &piece) in pieces.iter().zip(order) {
        out.push_str(&text[done..place.start]);
        out.push_str(&text[pieces[piece].clone()]);
        done = place.end;
    }
    out.push_str(&text[done..]);
    out
}

/// Returns where each sentence lies: words up to one with an end mark, or up to the end of the line.
fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut sentences: Vec<Range<usize>> = Vec::new();
    let mut goes_on = false;
    for word in words(text) {
        match sentences.last_mut() {
            Some(last) if goes_on && !text[last.end..word.start].contains('\n') => {
                last.end = word.end;
            }
            _ => sentences.push(word.clone()),
        }
        goes_on = !text[word].ends_with(['.', '!', '?', '。', '！', '？']);
    }
    sentences
}

/// Returns where each word lies: what white space separates.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, sign) in text.char_indices() {
        match start {
            None if !sign.is_whitespace() => start = Some(at),
            Some(from) if sign.is_whitespace() => {
                words.push(from..at);
                start = None;
            }
            _ => {}
        }
    }
    words.extend(start.map(|from| from..text.len()));
    words
}

/// Returns whether two texts differ in white space at most.
pub(crate) fn same_words(left: &str, right: &str) -> bool {
    left.split_whitespace().eq(right.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "Sort the list. Then say why!\nNo more than that";

    #[test]
    fn sentences_end_at_marks_and_at_lines() {
        let read = |text: &'static str| -> Vec<&str> {
            sentences(text).into_iter().map(|at| &text[at]).collect()
        };
        assert_eq!(
            read(THREE),
            ["Sort the list.", "Then say why!", "No more than that"]
        );
        // A vocabulary of words writes the mark as a word.
        assert_eq!(read("fig pear . sure"), ["fig pear .", "sure"]);
        assert_eq!(read("  "), Vec::<&str>::new());
    }

    #[test]
    fn a_shuffle_keeps_every_piece_and_the_layout() {
        let shuffled = shuffled(THREE, &mut Stream::new(1, 1));
        assert_ne!(shuffled, THREE);
        let sorted = |text: &str| {
            let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&shuffled), sorted(THREE));
        assert!(shuffled.contains("Then say why!"), "{shuffled}");
        assert_eq!(shuffled.matches('\n').count(), 1);
        assert_eq!(
            reordered("a  b\nc", &words("a  b\nc"), &[2, 0, 1]),
            "c  a\nb"
        );
    }

    #[test]
    fn one_sentence_is_shuffled_word_by_word() {
        let text = "fig pear plum apple .";
        let other = shuffled(text, &mut Stream::new(1, 1));
        assert!(
            !same_words(&other, text) && other.len() == text.len(),
            "{other}"
        );
    }

    #[test]
    fn half_of_the_words_is_rounded_up() {
        assert_eq!(first_half("a b  c d"), "a b");
        assert_eq!(first_half("a b\nc"), "a b");
        assert_eq!(first_half("a"), "a");
        assert_eq!(first_half(""), "");
    }
}
