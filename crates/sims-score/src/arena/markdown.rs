//! Counts of markdown elements, by the rules of the official regular expressions.

/// Markdown elements of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elements {
    /// Headers of levels one to six.
    pub headers: u32,
    /// List items, numbered or not.
    pub list_items: u32,
    /// Spans in bold.
    pub bold: u32,
}

/// Counts the elements outside fenced code.
#[must_use]
pub fn count(answer: &str) -> Elements {
    let mut text = answer.to_owned();
    // As upstream does it: what stands inside a fence goes wherever it stands, the fence itself stays.
    let fenced = spans(answer, "```", 0, |sign| sign != '`');
    for code in fenced.into_iter().filter(|code| !code.is_empty()) {
        text = text.replace(code, "");
    }
    let bold = |mark: &str, sign: char| {
        spans(&text, mark, 1, |other| other != sign && other != '\n').len() as u32
    };
    Elements {
        headers: lines_with(&text, is_header),
        list_items: lines_with(&text, is_list_item),
        bold: bold("**", '*') + bold("__", '_'),
    }
}

/// Returns what stands between two marks and consists of so many allowed signs, from left to right.
fn spans<'a>(
    text: &'a str,
    mark: &str,
    at_least: usize,
    allowed: impl Fn(char) -> bool,
) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(mark) {
        let inside = &rest[start + mark.len()..];
        let end = inside.find(|sign| !allowed(sign)).unwrap_or(inside.len());
        if end >= at_least && inside[end..].starts_with(mark) {
            found.push(&inside[..end]);
            rest = &inside[end + mark.len()..];
        } else {
            rest = &rest[start + 1..];
        }
    }
    found
}

/// Counts the lines that hold; each comes with the line feed that ends it.
fn lines_with(text: &str, holds: fn(&str) -> bool) -> u32 {
    text.split_inclusive('\n')
        .filter(|line| holds(line))
        .count() as u32
}

/// One to six hashes at the very beginning, then white space.
fn is_header(line: &str) -> bool {
    let rest = line.trim_start_matches('#');
    (1..=6).contains(&(line.len() - rest.len())) && rest.starts_with(char::is_whitespace)
}

/// A number with a full stop, or one of `-*+`, then white space.
fn is_list_item(line: &str) -> bool {
    let line = line.trim_start();
    let number = line.trim_start_matches(|sign: char| sign.is_numeric());
    let rest = if number.len() < line.len() {
        number.strip_prefix('.')
    } else {
        line.strip_prefix(['-', '*', '+'])
    };
    rest.is_some_and(|rest| rest.starts_with(char::is_whitespace))
}
