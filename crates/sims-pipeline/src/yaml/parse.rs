//! Text to tree: structure and places by `saphyr-parser`, plain scalars by `serde_yaml`'s rules.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{Diagnostic, Entry, Location, Map, Node, SourceFile, Yaml};

/// Deeper nesting than this is refused.
const MAX_DEPTH: usize = 64;
/// More values than this, aliases expanded, are refused.
const MAX_NODES: usize = 100_000;

/// Parses one YAML document; duplicate keys are refused at every level.
pub(crate) fn parse(file: &Arc<SourceFile>) -> Result<Node, Diagnostic> {
    let mut builder = Builder {
        parser: Parser::new_from_str(&file.text),
        file,
        anchors: HashMap::new(),
        nodes: 0,
    };
    builder.document()
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    file: &'a Arc<SourceFile>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, Diagnostic> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    return Err(Diagnostic::new(
                        &self.location(&span),
                        "a pipeline file holds one document, but a second one begins here",
                    ));
                }
                event => root = Some(self.node(event, &span, 0)?),
            }
        }
        let start = Location {
            file: self.file.clone(),
            line: 1,
            column: 1,
        };
        root.ok_or_else(|| Diagnostic::new(&start, "the file is empty"))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Diagnostic> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let marker = error.marker();
                let at = Location {
                    file: self.file.clone(),
                    line: marker.line().max(1),
                    column: marker.col() + 1,
                };
                Err(Diagnostic::new(
                    &at,
                    format!("not valid YAML: {}", error.info()),
                ))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn location(&self, span: &Span) -> Location {
        Location {
            file: self.file.clone(),
            line: span.start.line().max(1),
            column: span.start.col() + 1,
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Diagnostic> {
        let at = self.location(span);
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err(Diagnostic::new(
                &at,
                "the file is nested too deep or too large",
            ));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (scalar(&text, style, tag.as_deref(), &at)?, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), &at)?;
                (Yaml::List(self.list(depth)?), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), &at)?;
                (Yaml::Map(self.map(depth)?), anchor)
            }
            Event::Alias(anchor) => {
                let value = match self.anchors.get(&anchor) {
                    Some(node) => node.value.clone(),
                    None => {
                        return Err(Diagnostic::new(&at, "this alias names no finished anchor"));
                    }
                };
                self.nodes += count(&value);
                (value, 0)
            }
            other => {
                return Err(Diagnostic::new(&at, format!("unexpected {other:?}")));
            }
        };
        let node = Node { value, at };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Diagnostic> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.node(event, &span, depth + 1)?);
        }
    }

    fn map(&mut self, depth: usize) -> Result<Map, Diagnostic> {
        let mut map = Map::default();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(map);
            }
            let key_at = self.location(&span);
            let Event::Scalar(key, ..) = event else {
                return Err(Diagnostic::new(&key_at, "a key must be a plain name"));
            };
            let key = key.into_owned();
            if let Some(first) = map.get(&key) {
                return Err(
                    Diagnostic::new(&key_at, format!("duplicate key `{key}`")).help(format!(
                        "it is first set in line {}; remove one",
                        first.key_at.line
                    )),
                );
            }
            let (event, span) = self.next()?;
            let value = self.node(event, &span, depth + 1)?;
            map.entries.push(Entry { key, key_at, value });
        }
    }
}

fn refuse_tag(tag: Option<&Tag>, at: &Location) -> Result<(), Diagnostic> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => Err(Diagnostic::new(
            at,
            format!(
                "tags such as `{}{}` mean nothing here",
                tag.handle, tag.suffix
            ),
        )),
        _ => Ok(()),
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    at: &Location,
) -> Result<Yaml, Diagnostic> {
    refuse_tag(tag, at)?;
    let is_text = tag.is_some_and(|tag| tag.suffix == "str");
    if style != ScalarStyle::Plain || is_text {
        return Ok(Yaml::String(text.to_owned()));
    }
    // A plain scalar stands alone as a document, so that its type is exactly serde_yaml's.
    match serde_yaml::from_str::<serde_yaml::Value>(text) {
        Ok(serde_yaml::Value::Null) => Ok(Yaml::Null),
        Ok(serde_yaml::Value::Bool(value)) => Ok(Yaml::Bool(value)),
        Ok(serde_yaml::Value::Number(number)) => serde_json::to_value(&number)
            .ok()
            .and_then(|value| match value {
                serde_json::Value::Number(number) => Some(Yaml::Number(number)),
                _ => None,
            })
            .ok_or_else(|| Diagnostic::new(at, format!("`{text}` is not a finite number"))),
        _ => Ok(Yaml::String(text.to_owned())),
    }
}

fn count(value: &Yaml) -> usize {
    match value {
        Yaml::List(items) => 1 + items.iter().map(|item| count(&item.value)).sum::<usize>(),
        Yaml::Map(map) => {
            1 + map
                .entries
                .iter()
                .map(|entry| count(&entry.value.value))
                .sum::<usize>()
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> Result<Node, Diagnostic> {
        parse(&Arc::new(SourceFile {
            path: "p.yaml".into(),
            text: text.to_owned(),
        }))
    }

    #[test]
    fn values_have_the_types_of_yaml_1_2() {
        let node = parsed(
            "a: 1\nb: -2.5\nc: true\nd: on\ne: '7'\nf:\ng: [x, ~, 1e3]\nh: {i: 0x10}\nj: &k [1]\nl: *k\nm: !!str 5\n",
        )
        .unwrap();
        assert_eq!(
            node.to_json(),
            json!({"a": 1, "b": -2.5, "c": true, "d": "on", "e": "7", "f": null, "g": ["x", null, 1000.0],
                   "h": {"i": 16}, "j": [1], "l": [1], "m": "5"})
        );
    }

    #[test]
    fn places_are_counted_from_one() {
        let node = parsed("a: 1\nb:\n  c: [x, y]\n").unwrap();
        let b = node.as_map("").unwrap().get("b").unwrap();
        assert_eq!((b.key_at.line, b.key_at.column), (2, 1));
        let c = b.value.as_map("").unwrap().get("c").unwrap();
        assert_eq!((c.key_at.line, c.key_at.column), (3, 3));
        let Yaml::List(items) = &c.value.value else {
            panic!("{c:?}");
        };
        assert_eq!((items[1].at.line, items[1].at.column), (3, 10));
    }

    #[test]
    fn duplicate_keys_are_refused_at_every_level() {
        assert_snapshot!(parsed("a: 1\nb: 2\na: 3\n").unwrap_err(), @r"
        p.yaml:3:1: duplicate key `a`
           |
         3 | a: 3
           | ^
           = it is first set in line 1; remove one
        ");
        assert_snapshot!(parsed("round:\n  sample: {samples: 4, samples: 5}\n").unwrap_err(), @r"
        p.yaml:2:24: duplicate key `samples`
           |
         2 |   sample: {samples: 4, samples: 5}
           |                        ^
           = it is first set in line 2; remove one
        ");
        assert!(parsed("a: [{b: [{c: 1, c: 2}]}]").is_err());
        assert!(parsed("'a': 1\na: 2\n").is_err());
    }

    #[test]
    fn broken_yaml_is_located() {
        assert_snapshot!(parsed("a: [1, 2\nb: 3\n").unwrap_err(), @r"
        p.yaml:2:2: not valid YAML: illegal placement of ':' indicator
           |
         2 | b: 3
           |  ^
        ");
        assert_snapshot!(parsed("").unwrap_err(), @"p.yaml:1:1: the file is empty");
        assert_snapshot!(parsed("a: 1\n---\nb: 2\n").unwrap_err(), @r"
        p.yaml:3:1: a pipeline file holds one document, but a second one begins here
           |
         3 | b: 2
           | ^
        ");
        assert_snapshot!(parsed("a: !secret 1\n").unwrap_err(), @r"
        p.yaml:1:4: tags such as `!secret` mean nothing here
           |
         1 | a: !secret 1
           |    ^
        ");
        assert_snapshot!(parsed("a: .nan\n").unwrap_err(), @r"
        p.yaml:1:4: `.nan` is not a finite number
           |
         1 | a: .nan
           |    ^
        ");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let previous = level - 1;
            let items = vec![format!("*a{previous}"); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(parsed(&text).unwrap_err().message.contains("too large"));
    }
}
