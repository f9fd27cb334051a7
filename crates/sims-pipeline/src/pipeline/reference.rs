//! What an input is fed with.

use std::path::PathBuf;

/// Which round's output is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This round's, or that of a stage that runs once.
    Here,
    /// That of the round before; absent in round 1.
    Previous,
    /// That of round 1.
    First,
}

/// What an input is fed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The pipeline's `model`.
    Model,
    /// One of the pipeline's `prompts`.
    Prompts(String),
    /// An output of a stage.
    Output {
        /// Which round's.
        scope: Scope,
        /// The stage's name in the pipeline.
        node: String,
        /// The role of the output.
        role: String,
    },
    /// A file or model folder.
    File(PathBuf),
}

impl Source {
    /// Reads `model`, `prompts.SPLIT`, `STAGE.ROLE`, `previous.STAGE.ROLE`, `first.STAGE.ROLE`,
    /// a path (anything with a `/`), or `none`, which is `None`.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        if text == "none" {
            return Ok(None);
        }
        if text.contains('/') {
            return Ok(Some(Self::File(PathBuf::from(text))));
        }
        let words: Vec<&str> = text.split('.').collect();
        if words.iter().any(|word| word.is_empty()) {
            return Err(format!("`{text}` is not a reference"));
        }
        let output = |scope, node: &str, role: &str| Self::Output {
            scope,
            node: node.to_owned(),
            role: role.to_owned(),
        };
        Ok(Some(match words[..] {
            ["model"] => Self::Model,
            ["prompts", split] => Self::Prompts(split.to_owned()),
            ["previous", node, role] => output(Scope::Previous, node, role),
            ["first", node, role] => output(Scope::First, node, role),
            ["previous" | "first" | "model", _] | ["prompts"] => {
                return Err(format!("`{text}` is not complete"));
            }
            [node, role] => output(Scope::Here, node, role),
            _ => return Err(format!("`{text}` is not a reference")),
        }))
    }
}
