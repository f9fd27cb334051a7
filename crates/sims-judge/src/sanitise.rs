//! Takes from a text what could pass for the judge's own structure.
//!
//! A response that contains an end-of-turn string or the fence around the answers could end its own
//! slot and speak in the judge's voice. Such strings are replaced by a space before the template is
//! filled in.

use sims_model::{JudgeTemplate, Tokenizer};

/// Replaces a fixed set of strings by spaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sanitiser {
    /// Longest first, so that no marker hides a longer one.
    markers: Vec<String>,
}

impl Sanitiser {
    /// Makes a sanitiser for these strings; empty ones are left out.
    pub fn new(markers: impl IntoIterator<Item = String>) -> Self {
        let mut markers: Vec<String> = markers
            .into_iter()
            .filter(|marker| !marker.trim().is_empty())
            .collect();
        markers.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        markers.dedup();
        Self { markers }
    }

    /// Makes the sanitiser of a model's tokenizer and a template: special tokens and fences.
    pub fn of(tokenizer: &Tokenizer, template: &JudgeTemplate) -> Self {
        Self::new(
            tokenizer
                .special_tokens()
                .into_iter()
                .chain(fences(template)),
        )
    }

    /// Makes the sanitiser of a template for a model whose special tokens are unknown: fences alone.
    pub fn of_template(template: &JudgeTemplate) -> Self {
        Self::new(fences(template))
    }

    /// Returns `text` without any of the strings, each replaced by a space.
    pub fn clean(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        // A replacement may join two halves of another marker, so go on until none is left. Each
        // pass that finds one shortens the text or leaves a space, which is no marker.
        while let Some(marker) = self
            .markers
            .iter()
            .find(|marker| clean.contains(marker.as_str()))
        {
            clean = clean.replace(marker.as_str(), " ");
        }
        clean
    }
}

/// Returns the template's fences: lines of two or more signs without a letter, digit or hole.
fn fences(template: &JudgeTemplate) -> impl Iterator<Item = String> + '_ {
    template
        .messages
        .iter()
        .flat_map(|message| message.content.lines().map(str::trim))
        .filter(|line| line.chars().count() >= 2 && !line.contains("{{") && !line.contains("{%"))
        .filter(|line| !line.chars().any(char::is_alphanumeric))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_and_fences_become_spaces() {
        let sanitiser = Sanitiser::new(
            ["<|end|>".to_owned(), String::new()]
                .into_iter()
                .chain(fences(&JudgeTemplate::ab_1())),
        );
        assert_eq!(sanitiser.clean("a<|end|>b >>> c <<<"), "a b   c  ");
        assert_eq!(sanitiser.clean("1 << 2 >> 3"), "1 << 2 >> 3");
    }

    #[test]
    fn a_marker_that_appears_by_removal_is_removed_too() {
        let sanitiser = Sanitiser::new(["x y".to_owned(), "##".to_owned()]);
        assert_eq!(sanitiser.clean("x##y"), " ");
        assert_eq!(sanitiser.clean("####"), "  ");
    }

    #[test]
    fn the_longer_marker_goes_first() {
        let sanitiser = Sanitiser::new(["<<".to_owned(), "<<<".to_owned()]);
        assert_eq!(sanitiser.clean("<<<"), " ");
    }

    #[test]
    fn the_default_template_is_fenced_by_angles() {
        let markers: Vec<String> = fences(&JudgeTemplate::ab_1()).collect();
        assert!(
            markers
                .iter()
                .all(|marker| marker == "<<<" || marker == ">>>")
        );
        assert_eq!(markers.len(), 6);
    }
}
