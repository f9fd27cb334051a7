//! `vary` and `seeds`: one pipeline file that stands for several runs.
//!
//! ```yaml
//! vary:
//!   round.fit.step: [0.1, 0.2, 0.4]            # a key and its values
//!   operator:                                  # choices with a name, each like an overlay
//!     act: {round: {fit: {operator: act}}}
//!     pca: {round: {fit: {operator: pca, shift: 0.1}}}
//! seeds: [1, 2, 3]
//! ```
//!
//! Every choice of one axis is combined with every choice of the others, in the order in which they
//! are written; seeds vary fastest. A choice is merged as a file that extends this one would be.

use super::overlay::merge_files;
use super::{Diagnostic, Entry, Location, Map, Node, Yaml};

/// More runs than this in one file are taken for a slip.
const MAX_VARIANTS: usize = 10_000;
/// What a choice cannot set: it is no file of its own.
const NOT_IN_A_CHOICE: [&str; 4] = ["name", "extends", "vary", "seeds"];

/// One of the pipelines that a file stands for.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// The choice of each axis, in the file's order: `(axis, choice)`.
    pub(crate) choices: Vec<(String, String)>,
    /// The file as if that choice were written in it.
    pub(crate) root: Node,
}

/// A named choice of an axis, and what it sets.
type Choice = (String, Node);

/// Returns the pipelines that the file stands for: itself, if it varies nothing.
pub(crate) fn variants(root: &Node) -> Result<Vec<Variant>, Diagnostic> {
    let map = root.as_map("the file")?;
    let mut found = vec![Variant {
        choices: Vec::new(),
        root: without(map, "vary", &root.at),
    }];
    let Some(vary) = map.get("vary") else {
        return Ok(found);
    };
    for axis in &vary.value.as_map("vary")?.entries {
        let choices = choices(axis)?;
        if found.len() * choices.len() > MAX_VARIANTS {
            return Err(Diagnostic::new(
                &axis.key_at,
                format!("`vary` stands for more than {MAX_VARIANTS} runs"),
            ));
        }
        let name = axis.key.rsplit('.').next().unwrap_or(&axis.key);
        let mut next = Vec::with_capacity(found.len() * choices.len());
        for variant in &found {
            for (choice, overlay) in &choices {
                let mut variant = variant.clone();
                variant.choices.push((name.to_owned(), choice.clone()));
                variant.root = chosen(&variant.root, overlay)?;
                next.push(variant);
            }
        }
        found = next;
    }
    Ok(found)
}

fn without(map: &Map, key: &str, at: &Location) -> Node {
    let entries = map.entries.iter().filter(|entry| entry.key != key);
    Node {
        value: Yaml::Map(Map {
            entries: entries.cloned().collect(),
        }),
        at: at.clone(),
    }
}

/// Merges what a choice sets into the file; the name stays the file's.
fn chosen(root: &Node, overlay: &Node) -> Result<Node, Diagnostic> {
    let map = root.as_map("the file")?;
    let mut merged = merge_files(map, overlay.as_map("a choice")?)?;
    merged.entries.extend(map.get("name").cloned());
    Ok(Node {
        value: Yaml::Map(merged),
        at: root.at.clone(),
    })
}

fn choices(axis: &Entry) -> Result<Vec<Choice>, Diagnostic> {
    let key = format!("vary.{}", axis.key);
    let choices = match &axis.value.value {
        Yaml::List(values) => values
            .iter()
            .map(|value| Ok((value_name(&key, value)?, at_path(&axis.key, value))))
            .collect::<Result<Vec<_>, Diagnostic>>()?,
        Yaml::Map(map) => map
            .entries
            .iter()
            .map(|choice| named(&key, choice))
            .collect::<Result<Vec<_>, Diagnostic>>()?,
        _ => {
            return Err(axis
                .value
                .wrong_type(&key, "a list of values or a mapping of choices"));
        }
    };
    if choices.is_empty() {
        return Err(Diagnostic::new(
            &axis.value.at,
            format!("`{key}` has no choices"),
        ));
    }
    for (index, (name, _)) in choices.iter().enumerate() {
        if choices[..index].iter().any(|(before, _)| before == name) {
            return Err(Diagnostic::new(
                &axis.value.at,
                format!("`{key}` has `{name}` twice"),
            ));
        }
    }
    Ok(choices)
}

fn named(key: &str, choice: &Entry) -> Result<Choice, Diagnostic> {
    check_name(key, &choice.key, &choice.key_at)?;
    let overlay = choice.value.as_map(&format!("{key}.{}", choice.key))?;
    let forbidden = |entry: &&Entry| NOT_IN_A_CHOICE.contains(&entry.key.as_str());
    if let Some(entry) = overlay.entries.iter().find(forbidden) {
        return Err(Diagnostic::new(
            &entry.key_at,
            format!("a choice cannot set `{}`", entry.key),
        ));
    }
    let value = Node {
        value: Yaml::Map(overlay.clone()),
        at: choice.value.at.clone(),
    };
    Ok((choice.key.clone(), value))
}

fn value_name(key: &str, value: &Node) -> Result<String, Diagnostic> {
    let name = match &value.value {
        Yaml::String(text) => text.clone(),
        Yaml::Number(number) => number.to_string(),
        Yaml::Bool(is) => is.to_string(),
        _ => {
            return Err(value
                .wrong_type(key, "a list of numbers or texts")
                .help("name other values: write a mapping of choices instead of a list"));
        }
    };
    check_name(key, &name, &value.at)?;
    Ok(name)
}

/// A choice's name becomes part of the name of a folder.
fn check_name(key: &str, name: &str, at: &Location) -> Result<(), Diagnostic> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(fits) {
        return Err(Diagnostic::new(
            at,
            format!(
                "`{key}`: the choice `{name}` names a folder: letters, digits, `-`, `_` and `.`"
            ),
        ));
    }
    Ok(())
}

/// Returns the mapping in which `path`, keys with dots between them, has `value`.
fn at_path(path: &str, value: &Node) -> Node {
    path.rsplit('.').fold(value.clone(), |value, key| Node {
        at: value.at.clone(),
        value: Yaml::Map(Map {
            entries: vec![Entry {
                key: key.to_owned(),
                key_at: value.at.clone(),
                value,
            }],
        }),
    })
}
