//! From the judge's words to a label, and what labels are worth.

use super::Version;

/// Rows that a strong verdict counts for.
const STRONG_ROWS: u32 = 3;

/// What the judge thinks of the two answers of one game.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// From 2 (A much better) over 0 (a tie) to −2 (B much better).
    for_a: i8,
}

impl Verdict {
    /// Returns what a label means; none for a label that this edition does not know.
    #[must_use]
    pub fn of_label(label: &str, version: Version) -> Option<Self> {
        let for_a = match (label, version) {
            ("A>>B", _) | ("B<<A", Version::V20) => 2,
            ("A>B", _) | ("B<A", Version::V20) => 1,
            ("A=B", _) | ("B=A", Version::V20) => 0,
            ("B>A", _) | ("A<B", Version::V20) => -1,
            ("B>>A", _) | ("A<<B", Version::V20) => -2,
            _ => return None,
        };
        Some(Self { for_a })
    }

    /// Returns the verdict from A's side: positive where A is better, 2 or −2 where it is strong.
    #[must_use]
    pub fn for_a(self) -> i8 {
        self.for_a
    }

    /// Returns the verdict from the model's side; the model is A in the second game.
    #[must_use]
    pub fn for_model(self, second_game: bool) -> i8 {
        if second_game { self.for_a } else { -self.for_a }
    }
}

/// Returns how many rows a verdict counts for.
#[must_use]
pub fn rows(for_model: i8) -> u32 {
    if for_model.abs() == 2 { STRONG_ROWS } else { 1 }
}

/// Returns the label in a judgment, if it has one.
///
/// v0.1 wants one label in double brackets, however often; v2.0 takes the last one in double brackets,
/// else the last one in single brackets, in any case.
#[must_use]
pub fn label(judgment: &str, version: Version) -> Option<String> {
    match version {
        Version::V01 => {
            let mut found = bracketed(judgment, "[[", "]]");
            found.dedup();
            match found.as_slice() {
                [one] => Some((*one).to_owned()),
                _ => None,
            }
        }
        Version::V20 => {
            let text = judgment.to_uppercase();
            let last = |open, close| bracketed(&text, open, close).pop().map(str::to_owned);
            last("[[", "]]").or_else(|| last("[", "]"))
        }
    }
}

/// Returns what stands between brackets and consists of the signs of a label, from left to right.
fn bracketed<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(open) {
        let inside = &rest[start + open.len()..];
        let end = inside
            .find(|sign| !"AB<>=".contains(sign))
            .unwrap_or(inside.len());
        if end > 0 && inside[end..].starts_with(close) {
            found.push(&inside[..end]);
            rest = &inside[end + close.len()..];
        } else {
            rest = &rest[start + 1..];
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v01_wants_one_label_however_often() {
        let of = |text| label(text, Version::V01);
        assert_eq!(of("so [[A>B]]. Again: [[A>B]]").as_deref(), Some("A>B"));
        assert_eq!(of("[[[B>>A]]]").as_deref(), Some("B>>A"));
        assert_eq!(of("[[A>B]] or [[A>>B]]"), None);
        assert_eq!(of("[[A>B]] or [[A>>B]] or [[A>B]]"), None);
        assert_eq!(of("[A>B]"), None);
        assert_eq!(of("[[a>b]]"), None);
        assert_eq!(of("[[A > B]]"), None);
        assert_eq!(of("[[A>B"), None);
        // A label that means nothing is one all the same.
        assert_eq!(of("[[A<B]]").as_deref(), Some("A<B"));
    }

    #[test]
    fn v20_takes_the_last_label_and_double_brackets_first() {
        let of = |text| label(text, Version::V20);
        assert_eq!(of("[[A>B]] no, [[B>A]]").as_deref(), Some("B>A"));
        assert_eq!(of("[[A>B]] and [B>A]").as_deref(), Some("A>B"));
        assert_eq!(of("[a=b]").as_deref(), Some("A=B"));
        assert_eq!(of("none"), None);
    }

    #[test]
    fn labels_are_read_from_either_side() {
        let verdict = |label, version| Verdict::of_label(label, version).map(Verdict::for_a);
        for version in [Version::V01, Version::V20] {
            let of = |label| verdict(label, version);
            assert_eq!(
                ["A>>B", "A>B", "A=B", "B>A", "B>>A"].map(of),
                [2, 1, 0, -1, -2].map(Some)
            );
            assert_eq!(["A>>A", "", "A>>>B"].map(of), [None; 3]);
        }
        let turned = ["B<<A", "B<A", "B=A", "A<B", "A<<B"];
        assert_eq!(turned.map(|l| verdict(l, Version::V01)), [None; 5]);
        assert_eq!(
            turned.map(|l| verdict(l, Version::V20)),
            [2, 1, 0, -1, -2].map(Some)
        );
    }
}
