//! List formats: how an answer's items are laid out, asked for in words at the end of a prompt.

use crate::vocab::{self, Token, known};

/// A list format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Items one after another: `a b c`.
    Plain,
    /// `a , b , c`.
    Commas,
    /// `- a - b - c`.
    Dashes,
    /// `a | b | c`.
    Bars,
    /// `[ a b c ]`.
    Brackets,
}

impl Format {
    /// All formats; [`Format::Plain`] is what a prompt that asks for none wants.
    pub const ALL: [Format; 5] = [
        Format::Plain,
        Format::Commas,
        Format::Dashes,
        Format::Bars,
        Format::Brackets,
    ];

    /// Returns the words that ask for the format, empty for [`Format::Plain`].
    pub fn request(self) -> &'static str {
        match self {
            Format::Plain => "",
            Format::Commas => "with commas",
            Format::Dashes => "with dashes",
            Format::Bars => "with bars",
            Format::Brackets => "in brackets",
        }
    }

    /// Lays `items` out in this format.
    pub fn render(self, items: &[Token]) -> Vec<Token> {
        let separated = |mark: &str| {
            let mark = known(mark);
            let mut out = Vec::with_capacity(2 * items.len());
            for (i, &item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(mark);
                }
                out.push(item);
            }
            out
        };
        match self {
            Format::Plain => items.to_vec(),
            Format::Commas => separated(","),
            Format::Bars => separated("|"),
            Format::Dashes => items.iter().flat_map(|&item| [known("-"), item]).collect(),
            Format::Brackets => {
                let mut out = vec![known("[")];
                out.extend_from_slice(items);
                out.push(known("]"));
                out
            }
        }
    }

    /// Says whether one item laid out in this format differs from the bare item.
    pub fn shows_on_one_item(self) -> bool {
        matches!(self, Format::Dashes | Format::Brackets)
    }

    /// Returns the formats that look different from this one on a list of `items` items.
    pub fn others(self, items: usize) -> Vec<Format> {
        let shape = |format: Format| format.render(&vec![vocab::A; items.max(1)]);
        let own = shape(self);
        let mut seen = vec![own];
        let mut out = Vec::new();
        for format in Format::ALL {
            let s = shape(format);
            if !seen.contains(&s) {
                seen.push(s);
                out.push(format);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_render_as_documented() {
        let items = vocab::encode("cat dog");
        let shown: Vec<String> = Format::ALL
            .iter()
            .map(|f| vocab::decode(&f.render(&items)))
            .collect();
        assert_eq!(
            shown,
            [
                "cat dog",
                "cat , dog",
                "- cat - dog",
                "cat | dog",
                "[ cat dog ]"
            ]
        );
        assert_eq!(vocab::decode(&Format::Brackets.render(&[])), "[ ]");
    }

    #[test]
    fn other_formats_look_different() {
        assert_eq!(Format::Plain.others(1), [Format::Dashes, Format::Brackets]);
        assert_eq!(Format::Bars.others(2).len(), 4);
        assert_eq!(Format::Dashes.others(1), [Format::Plain, Format::Brackets]);
    }
}
