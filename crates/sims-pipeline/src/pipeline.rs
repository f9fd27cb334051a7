//! A pipeline as its file says it, checked as far as the file alone allows.
//!
//! ```yaml
//! name: quickstart            # the folder under runs/; by default the file's name
//! seed: 17                    # given to every stage that has a parameter `seed`
//! rounds: 3
//! model: data/tiny
//! prompts: {train: data/train.parquet, eval: data/eval.parquet}
//!
//! once:                       # runs once, before the rounds that use it
//!   base-test: {uses: sample, inputs: {prompts: prompts.eval}, with: {samples: 4}}
//!
//! round:                      # runs every round, wired by roles
//!   sample: {samples: 10}     # short: the parameters of the stage it is named after
//!   judge: {uses: ./my_judge.py, inputs: {responses: sample.responses}, with: {strict: true}}
//!
//! stages:                     # the same graph with nothing filled in
//!   recheck: {uses: judge, repeat: round, inputs: {model: model, …}, with: {…}}
//! ```
//!
//! `resources:`, at the top or in a stage, says what a stage asks of a cluster (`resources.rs`).
//! `vary:` and `seeds:` make one file stand for several runs (`yaml/variants.rs`).
//!
//! `round:` and `once:` are short for `stages:`: they say how often a stage runs, and leave
//! inputs to the default wiring (`wiring.rs`). A relative path is looked up from the
//! workspace of the file that holds it, then from the current folder; see [`workspace_of`].

mod reference;
mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use reference::{Scope, Source};
pub use resources::{Gpus, Resources, duration};

use crate::PipelineError;
use crate::yaml::{self, Diagnostic, Diagnostics, Entry, Location, Map, Node, Variant, Yaml};

/// The keys at the top of a pipeline file.
const TOP_KEYS: [&str; 12] = [
    "name",
    "seed",
    "seeds",
    "rounds",
    "model",
    "prompts",
    "extends",
    "vary",
    "resources",
    "once",
    "round",
    "stages",
];
/// Names that mean something else where a stage is named.
const RESERVED: [&str; 5] = ["model", "prompts", "previous", "first", "none"];
/// More rounds than this are taken for a slip.
const MAX_ROUNDS: u64 = 10_000;

/// A pipeline file, read and merged with what it extends.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// The name, which is also the folder of its results.
    pub name: String,
    /// The name without the seed, which runs that differ in nothing else have in common.
    pub family: String,
    /// What was chosen of each axis that the file varies: `(axis, choice)`.
    pub choices: Vec<(String, String)>,
    /// The root seed.
    pub seed: u64,
    /// How many rounds it runs.
    pub rounds: u32,
    /// The model folder.
    pub model: Option<FileRef>,
    /// Prompt files by split.
    pub prompts: BTreeMap<String, FileRef>,
    /// The stages, in the order they were written: `once`, `round`, `stages`.
    pub nodes: Vec<NodeSpec>,
    /// The folder that relative paths and `runs/` belong to.
    pub workspace: PathBuf,
}

/// A file or folder that a pipeline names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRef {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// Where the pipeline names it.
    pub at: Location,
}

/// What follows when a file that a pipeline names is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentFiles {
    /// The pipeline is refused.
    Refuse,
    /// Nothing: the plan is for an estimate, and nothing is read.
    Accept,
}

/// How often a stage runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Once in the whole run.
    Once,
    /// Once a round.
    EachRound,
}

/// One stage of a pipeline, as written.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its name in this pipeline.
    pub name: String,
    /// Where it is written.
    pub at: Location,
    /// How often it runs.
    pub repeat: Repeat,
    /// The program: a stage's name, an executable's name, or a path.
    pub uses: String,
    /// Where the program is named.
    pub uses_at: Location,
    /// The inputs that are written out.
    pub inputs: Vec<InputSpec>,
    /// The parameters that are set.
    pub params: Map,
    /// The key path of the parameters, for messages.
    pub params_key: String,
    /// Whether inputs that are not written out are filled in by role.
    pub wired_by_role: bool,
    /// What it asks of a cluster.
    pub resources: Resources,
    /// Where the stage itself says `parts`.
    pub parts_at: Option<Location>,
}

/// An input that is written out.
#[derive(Debug, Clone)]
pub struct InputSpec {
    /// The role of the stage.
    pub role: String,
    /// Where the role is written.
    pub at: Location,
    /// What it is fed with; empty for `none`.
    pub sources: Vec<(Source, Location)>,
}

impl Pipeline {
    /// Reads the pipeline file at `path`, and those that it extends: one pipeline for every combination of
    /// what it varies, in order.
    ///
    /// `seed` is used instead of the file's seed or seeds. `current` is where relative paths are looked up
    /// when the workspace does not have them; `absent` says what follows when neither does.
    ///
    /// # Errors
    /// With every mistake that the files alone show, each with file, line, column and key.
    pub fn load(
        path: &Path,
        seed: Option<u64>,
        current: &Path,
        absent: AbsentFiles,
    ) -> Result<Vec<Self>, PipelineError> {
        let root = yaml::load(path)?;
        let variants = yaml::variants(&root).map_err(Diagnostics::from)?;
        let mut pipelines: Vec<Self> = Vec::with_capacity(variants.len());
        for variant in variants {
            let mut reader = Reader {
                current,
                absent,
                problems: Vec::new(),
            };
            let found = reader.variant(path, &variant, seed);
            if let Err(last) = &found {
                reader.problems.push(last.clone());
            }
            if !reader.problems.is_empty() {
                return Err(Diagnostics(reader.problems).into());
            }
            pipelines.extend(found.into_iter().flatten());
        }
        refuse_same_names(&pipelines, &root)?;
        Ok(pipelines)
    }

    /// Tells whether it has all of the `wanted` choices: `(axis, choice)`, the seed under `seed`.
    pub fn has(&self, wanted: &[(String, String)]) -> bool {
        let seed = ("seed".to_owned(), self.seed.to_string());
        wanted
            .iter()
            .all(|choice| self.choices.contains(choice) || *choice == seed)
    }

    /// Returns the pipeline with another root seed; its name, and with it the folder of its results, says so.
    fn reseeded(&self, seed: u64) -> Self {
        Self {
            seed,
            name: format!("{}-seed-{seed}", self.name),
            ..self.clone()
        }
    }
}

/// Reads `AXIS=CHOICE`, as [`Pipeline::has`] takes it.
///
/// # Errors
/// If there is no `=`.
pub fn axis_and_choice(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((axis, choice)) => Ok((axis.to_owned(), choice.to_owned())),
        None => Err("give AXIS=CHOICE, as in operator=act".to_owned()),
    }
}

/// Two combinations of choices can spell the same name: `a-b` with `c`, and `a` with `b-c`.
fn refuse_same_names(pipelines: &[Pipeline], root: &Node) -> Result<(), PipelineError> {
    let mut names = BTreeSet::new();
    match pipelines
        .iter()
        .find(|pipeline| !names.insert(&pipeline.name))
    {
        None => Ok(()),
        Some(twice) => Err(Diagnostics::from(Diagnostic::new(
            &root.at,
            format!(
                "`vary` makes two runs named `{}`; rename a choice",
                twice.name
            ),
        ))
        .into()),
    }
}

/// Returns the workspace of a pipeline file: the parent of the nearest folder above it that is
/// named `pipelines`, else the folder of the file. Absolute.
pub fn workspace_of(file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = file.parent().unwrap_or(Path::new("/"));
    folder
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "pipelines"))
        .and_then(Path::parent)
        .unwrap_or(folder)
        .to_owned()
}

/// Collects mistakes, so that all are shown at once.
struct Reader<'a> {
    current: &'a Path,
    absent: AbsentFiles,
    problems: Vec<Diagnostic>,
}

impl Reader<'_> {
    /// Keeps the mistake, if it is one, and goes on without the value.
    fn keep<T>(&mut self, result: Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }

    /// Reads one combination of choices, with every seed.
    fn variant(
        &mut self,
        path: &Path,
        variant: &Variant,
        seed: Option<u64>,
    ) -> Result<Vec<Pipeline>, Diagnostic> {
        let mut pipeline = self.pipeline(path, &variant.root)?;
        for (_, choice) in &variant.choices {
            pipeline.name.push('-');
            pipeline.name.push_str(choice);
        }
        pipeline.family.clone_from(&pipeline.name);
        pipeline.choices.clone_from(&variant.choices);
        let seeds = self.seeds(variant.root.as_map("the file")?);
        Ok(match seed {
            Some(seed) => vec![pipeline.reseeded(seed)],
            None if seeds.is_empty() => vec![pipeline],
            None => seeds.iter().map(|seed| pipeline.reseeded(*seed)).collect(),
        })
    }

    /// Reads the list under `seeds`; empty if there is none.
    fn seeds(&mut self, map: &Map) -> Vec<u64> {
        let Some(entry) = map.get("seeds") else {
            return Vec::new();
        };
        let Yaml::List(items) = &entry.value.value else {
            self.problems
                .push(entry.value.wrong_type("seeds", "a list of integers"));
            return Vec::new();
        };
        let mut seeds = Vec::new();
        for item in items {
            if let Some(seed) = self.keep(item.as_integer("seeds")) {
                if seeds.contains(&seed) {
                    self.problems.push(Diagnostic::new(
                        &item.at,
                        format!("`seeds` has {seed} twice"),
                    ));
                }
                seeds.push(seed);
            }
        }
        if items.is_empty() {
            self.problems
                .push(Diagnostic::new(&entry.value.at, "`seeds` has no seed"));
        }
        seeds
    }

    fn pipeline(&mut self, path: &Path, root: &Node) -> Result<Pipeline, Diagnostic> {
        let map = root.as_map("the file")?;
        self.check_keys(map, &TOP_KEYS, "");
        let default_name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let name = match map.get("name") {
            Some(entry) => self.keep(text_name(entry)).unwrap_or(default_name),
            None => default_name,
        };
        let seed = self.integer(map, "seed", 0);
        let rounds = self.integer(map, "rounds", 1);
        if rounds == 0 || rounds > MAX_ROUNDS {
            let at = map.get("rounds").map_or(&root.at, |entry| &entry.value.at);
            self.problems.push(Diagnostic::new(
                at,
                format!("`rounds` must be between 1 and {MAX_ROUNDS}, but is {rounds}"),
            ));
        }
        let model = map
            .get("model")
            .and_then(|entry| self.keep(self.file("model", &entry.value)));
        let prompts = self.prompts(map);
        let resources = self.resources("", map, &Resources::default());
        let mut nodes = Vec::new();
        for (section, repeat) in [("once", Repeat::Once), ("round", Repeat::EachRound)] {
            for entry in self.section(map, section) {
                let result = short_or_full(section, repeat, entry);
                nodes.extend(self.node(section, entry, result, &resources));
            }
        }
        for entry in self.section(map, "stages") {
            let result = full(entry);
            nodes.extend(self.node("stages", entry, result, &resources));
        }
        self.check_names(&nodes);
        if nodes.is_empty() && self.problems.is_empty() {
            return Err(Diagnostic::new(&root.at, "the pipeline has no stages")
                .help("add `round:` with at least one stage"));
        }
        Ok(Pipeline {
            family: name.clone(),
            name,
            choices: Vec::new(),
            seed,
            rounds: u32::try_from(rounds).unwrap_or(1),
            model,
            prompts,
            nodes,
            workspace: workspace_of(path),
        })
    }

    fn check_keys(&mut self, map: &Map, known: &[&str], path: &str) {
        for entry in &map.entries {
            if !known.contains(&entry.key.as_str()) {
                self.problems.push(unknown_key(entry, known, path));
            }
        }
    }

    fn integer(&mut self, map: &Map, key: &str, default: u64) -> u64 {
        map.get(key)
            .and_then(|entry| self.keep(entry.value.as_integer(key)))
            .unwrap_or(default)
    }

    fn section<'m>(&mut self, map: &'m Map, key: &str) -> &'m [Entry] {
        map.get(key)
            .and_then(|entry| self.keep(entry.value.as_map(key)))
            .map_or(&[], |map| map.entries.as_slice())
    }

    fn prompts(&mut self, map: &Map) -> BTreeMap<String, FileRef> {
        let mut prompts = BTreeMap::new();
        for entry in self.section(map, "prompts") {
            let key = format!("prompts.{}", entry.key);
            if let Some(file) = self.keep(self.file(&key, &entry.value)) {
                prompts.insert(entry.key.clone(), file);
            }
        }
        prompts
    }

    /// Finds a file or folder that the pipeline names.
    fn file(&self, key: &str, node: &Node) -> Result<FileRef, Diagnostic> {
        let text = node.as_text(key)?;
        let path = self.find(text, &node.at).map_err(|problem| Diagnostic {
            message: format!("`{key}`: {}", problem.message),
            ..problem
        })?;
        Ok(FileRef {
            path,
            at: node.at.clone(),
        })
    }

    fn find(&self, text: &str, at: &Location) -> Result<PathBuf, Diagnostic> {
        match (find_file(text, at, self.current), self.absent) {
            (Err(_), AbsentFiles::Accept) => Ok(workspace_of(&at.file.path).join(text)),
            (found, _) => found,
        }
    }

    /// Reads `resources` of `map`, which lies under `path`; what it does not say is as in `below`.
    fn resources(&mut self, path: &str, map: &Map, below: &Resources) -> Resources {
        let Some(entry) = map.get("resources") else {
            return below.clone();
        };
        resources::read(&format!("{path}resources"), &entry.value, below).unwrap_or_else(
            |problems| {
                self.problems.extend(problems);
                below.clone()
            },
        )
    }

    /// Finds the files among a node's inputs, adds its resources, and keeps the mistakes.
    fn node(
        &mut self,
        section: &str,
        entry: &Entry,
        result: Result<NodeSpec, Diagnostic>,
        resources: &Resources,
    ) -> Option<NodeSpec> {
        let mut node = self.keep(result)?;
        node.resources = resources.clone();
        if let Yaml::Map(map) = &entry.value.value {
            node.resources = self.resources(&format!("{section}.{}.", entry.key), map, resources);
            node.parts_at = match map.get("resources").map(|own| &own.value.value) {
                Some(Yaml::Map(own)) => own.get("parts").map(|parts| parts.key_at.clone()),
                _ => None,
            };
        }
        for input in &mut node.inputs {
            for (source, at) in &mut input.sources {
                if let Source::File(path) = source {
                    let text = path.to_string_lossy().into_owned();
                    if let Some(found) = self.keep(self.find(&text, at)) {
                        *path = found;
                    }
                }
            }
        }
        Some(node)
    }

    fn check_names(&mut self, nodes: &[NodeSpec]) {
        for (index, node) in nodes.iter().enumerate() {
            if let Some(first) = nodes[..index].iter().find(|first| first.name == node.name) {
                self.problems.push(
                    Diagnostic::new(&node.at, format!("two stages are named `{}`", node.name))
                        .help(format!("the first is at {}", first.at)),
                );
            }
        }
    }
}

/// Says that a key is not known, and which is near.
fn unknown_key(entry: &Entry, known: &[&str], path: &str) -> Diagnostic {
    let place = if path.is_empty() {
        String::new()
    } else {
        format!(" in `{path}`")
    };
    Diagnostic::new(&entry.key_at, format!("unknown key `{}`{place}", entry.key))
        .suggest(&entry.key, known.iter().copied())
}

/// Finds `text` from the workspace of the file it is written in, then from `current`.
pub(crate) fn find_file(text: &str, at: &Location, current: &Path) -> Result<PathBuf, Diagnostic> {
    let workspace = workspace_of(&at.file.path);
    let candidates = [workspace.join(text), current.join(text)];
    if let Some(found) = candidates.iter().find(|path| path.exists()) {
        return Ok(std::path::absolute(found).unwrap_or_else(|_| found.clone()));
    }
    let problem = Diagnostic::new(at, format!("{text} does not exist"));
    let mut places = format!("looked in {}", workspace.display());
    if current != workspace {
        places.push_str(&format!(" and {}", current.display()));
    }
    Err(problem.help(places))
}

fn text_name(entry: &Entry) -> Result<String, Diagnostic> {
    let text = entry.value.as_text("name")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.starts_with('.') || !text.chars().all(fits) {
        return Err(Diagnostic::new(
            &entry.value.at,
            format!("`name` names a folder: letters, digits, `-`, `_` and `.`, not `{text}`"),
        ));
    }
    Ok(text.to_owned())
}

fn check_node_name(entry: &Entry) -> Result<(), Diagnostic> {
    let name = &entry.key;
    if RESERVED.contains(&name.as_str()) {
        return Err(Diagnostic::new(
            &entry.key_at,
            format!("a stage cannot be named `{name}`: inputs use this word"),
        ));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(fits) {
        return Err(Diagnostic::new(
            &entry.key_at,
            format!("a stage's name has letters, digits, `-` and `_`, not `{name}`"),
        ));
    }
    Ok(())
}

/// Reads a stage in `once:` or `round:`.
fn short_or_full(section: &str, repeat: Repeat, entry: &Entry) -> Result<NodeSpec, Diagnostic> {
    check_node_name(entry)?;
    let key = format!("{section}.{}", entry.key);
    let map = entry.value.as_map(&key)?;
    if !yaml::is_full_form(map) {
        return Ok(NodeSpec {
            name: entry.key.clone(),
            at: entry.key_at.clone(),
            repeat,
            uses: entry.key.clone(),
            uses_at: entry.key_at.clone(),
            inputs: Vec::new(),
            params: without_resources(map),
            params_key: key,
            wired_by_role: true,
            resources: Resources::default(),
            parts_at: None,
        });
    }
    full_form(
        &key,
        repeat,
        entry,
        map,
        &["uses", "inputs", "with", "resources"],
        true,
    )
}

/// Reads a stage in `stages:`.
fn full(entry: &Entry) -> Result<NodeSpec, Diagnostic> {
    check_node_name(entry)?;
    let key = format!("stages.{}", entry.key);
    let map = entry.value.as_map(&key)?;
    let repeat = match map.get("repeat") {
        None => Repeat::EachRound,
        Some(entry) => match entry.value.as_text(&format!("{key}.repeat"))? {
            "round" => Repeat::EachRound,
            "once" => Repeat::Once,
            other => {
                return Err(Diagnostic::new(
                    &entry.value.at,
                    format!("`{key}.repeat` must be `round` or `once`, not `{other}`"),
                ));
            }
        },
    };
    full_form(
        &key,
        repeat,
        entry,
        map,
        &["uses", "inputs", "with", "repeat", "resources"],
        false,
    )
}

fn full_form(
    key: &str,
    repeat: Repeat,
    entry: &Entry,
    map: &Map,
    known: &[&str],
    wired_by_role: bool,
) -> Result<NodeSpec, Diagnostic> {
    if let Some(unknown) = map
        .entries
        .iter()
        .find(|e| !known.contains(&e.key.as_str()))
    {
        let problem = unknown_key(unknown, known, key);
        return Err(match problem.help {
            Some(ref help) if help.starts_with("did you mean") => problem,
            _ => problem.help(format!("parameters go under `{key}.with`")),
        });
    }
    let (uses, uses_at) = match map.get("uses") {
        Some(uses) => (uses.value.as_text(&format!("{key}.uses"))?, &uses.value.at),
        None => (entry.key.as_str(), &entry.key_at),
    };
    let params_key = format!("{key}.with");
    let params = match map.get("with") {
        Some(with) => with.value.as_map(&params_key)?.clone(),
        None => Map::default(),
    };
    let inputs_key = format!("{key}.inputs");
    let inputs = match map.get("inputs") {
        Some(inputs) => inputs
            .value
            .as_map(&inputs_key)?
            .entries
            .iter()
            .map(|entry| input(&inputs_key, entry))
            .collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    Ok(NodeSpec {
        name: entry.key.clone(),
        at: entry.key_at.clone(),
        repeat,
        uses: uses.to_owned(),
        uses_at: uses_at.clone(),
        inputs,
        params,
        params_key,
        wired_by_role,
        resources: Resources::default(),
        parts_at: None,
    })
}

/// Returns the parameters of a short form, which `resources` is none of.
fn without_resources(map: &Map) -> Map {
    let entries = map.entries.iter();
    Map {
        entries: entries
            .filter(|entry| entry.key != "resources")
            .cloned()
            .collect(),
    }
}

fn input(inputs_key: &str, entry: &Entry) -> Result<InputSpec, Diagnostic> {
    let key = format!("{inputs_key}.{}", entry.key);
    let sources = match &entry.value.value {
        Yaml::List(items) => items
            .iter()
            .map(|item| source(&key, item))
            .collect::<Result<Vec<_>, _>>()?,
        _ => vec![source(&key, &entry.value)?],
    };
    Ok(InputSpec {
        role: entry.key.clone(),
        at: entry.key_at.clone(),
        sources: sources.into_iter().flatten().collect(),
    })
}

fn source(key: &str, node: &Node) -> Result<Option<(Source, Location)>, Diagnostic> {
    let text = node.as_text(key)?;
    let source = Source::parse(text).map_err(|message| {
        Diagnostic::new(&node.at, format!("`{key}`: {message}"))
            .help("write `model`, `prompts.SPLIT`, `STAGE.ROLE`, `previous.STAGE.ROLE`, `none`, or a path with a `/`")
    })?;
    Ok(source.map(|source| (source, node.at.clone())))
}

#[cfg(test)]
mod tests;
