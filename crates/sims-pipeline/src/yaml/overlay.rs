//! `extends`: a pipeline file that says only what differs from another.
//!
//! Mappings are merged key by key, every other value replaces the one below, and `null` removes a
//! key. A stage in `round:` or `once:` may be written short in one file and in full (`uses`,
//! `inputs`, `with`) in the other; an overlay that names another `uses` replaces the whole stage,
//! since other programs have other parameters. The name is never inherited: it names the folder
//! of the run's results.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::parse::parse;
use super::{Diagnostic, Diagnostics, Entry, Location, Map, Node, SourceFile, Yaml};
use crate::PipelineError;

/// The keys that make a stage's entry the full form.
const FULL_FORM: [&str; 3] = ["uses", "inputs", "with"];

/// Reads the pipeline file at `path` and everything it extends, merged.
///
/// # Errors
/// If a file cannot be read, is not valid YAML, or the files extend each other in a circle.
pub fn load(path: &Path) -> Result<Node, PipelineError> {
    let text = read(path)?;
    load_text(path, text, &mut vec![identity(path)])
}

fn read(path: &Path) -> Result<String, PipelineError> {
    std::fs::read_to_string(path).map_err(|source| PipelineError::Io {
        action: "read the pipeline file",
        path: path.to_owned(),
        source,
    })
}

/// Two paths to one file have the same identity.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn load_text(path: &Path, text: String, chain: &mut Vec<PathBuf>) -> Result<Node, PipelineError> {
    let file = Arc::new(SourceFile {
        path: path.to_owned(),
        text,
    });
    let overlay = parse(&file).map_err(Diagnostics::from)?;
    let map = overlay.as_map("the file").map_err(Diagnostics::from)?;
    let Some(extends) = map.get("extends") else {
        return Ok(overlay);
    };
    let base_name = extends
        .value
        .as_text("extends")
        .map_err(Diagnostics::from)?;
    let base_path = tidy(&path.parent().unwrap_or(Path::new("")).join(base_name));
    let refuse = |message: String| {
        PipelineError::from(Diagnostics::from(Diagnostic::new(
            &extends.value.at,
            message,
        )))
    };
    if !base_path.is_file() {
        return Err(refuse(format!(
            "`extends` names {}, which is not a file",
            base_path.display()
        )));
    }
    let base_identity = identity(&base_path);
    if chain.contains(&base_identity) {
        return Err(refuse(format!(
            "`extends` goes in a circle: {} is extended by this file already",
            base_path.display()
        )));
    }
    chain.push(base_identity);
    let base = load_text(&base_path, read(&base_path)?, chain)?;
    let base_map = base.as_map("the file").map_err(Diagnostics::from)?;
    let merged = merge_files(base_map, map).map_err(Diagnostics::from)?;
    Ok(Node {
        value: Yaml::Map(merged),
        at: overlay.at,
    })
}

/// Removes `.` and `x/..` from a path, for people to read.
fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(out.components().next_back(), Some(Component::Normal(_))) =>
            {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Merges what `overlay` says over `base`; `name` and `extends` are its own.
pub(super) fn merge_files(base: &Map, overlay: &Map) -> Result<Map, Diagnostic> {
    let own = |map: &Map| Map {
        entries: map
            .entries
            .iter()
            .filter(|entry| entry.key != "name" && entry.key != "extends")
            .cloned()
            .collect(),
    };
    let mut merged = merge_maps(&own(base), &own(overlay), "", &|key, below, above| {
        let path = key.to_owned();
        match key {
            "round" | "once" => merge_values(below, above, &path, &merge_stages),
            _ => merge_values(below, above, &path, &merge_plain),
        }
    })?;
    merged.entries.extend(overlay.get("name").cloned());
    Ok(merged)
}

/// Merges two values of one key: `(key path, below, above)`.
type Merge<'a> = dyn Fn(&str, &Node, &Node) -> Result<Node, Diagnostic> + 'a;

fn merge_plain(path: &str, below: &Node, above: &Node) -> Result<Node, Diagnostic> {
    merge_values(below, above, path, &merge_plain)
}

/// Merges mappings with `merge` for keys that both have; other values replace the one below.
fn merge_values(
    below: &Node,
    above: &Node,
    path: &str,
    merge: &Merge<'_>,
) -> Result<Node, Diagnostic> {
    match (&below.value, &above.value) {
        (Yaml::Map(base), Yaml::Map(overlay)) => Ok(Node {
            value: Yaml::Map(merge_maps(base, overlay, path, merge)?),
            at: above.at.clone(),
        }),
        _ => Ok(above.clone()),
    }
}

fn merge_maps(base: &Map, overlay: &Map, path: &str, merge: &Merge<'_>) -> Result<Map, Diagnostic> {
    let mut merged = Map::default();
    for entry in &base.entries {
        match overlay.get(&entry.key) {
            None => merged.entries.push(entry.clone()),
            Some(above) if above.value.value == Yaml::Null => {}
            Some(above) => merged.entries.push(Entry {
                value: merge(&join(path, &entry.key), &entry.value, &above.value)?,
                ..above.clone()
            }),
        }
    }
    for entry in &overlay.entries {
        if base.get(&entry.key).is_some() {
            continue;
        }
        if entry.value.value == Yaml::Null {
            let key = join(path, &entry.key);
            let diagnostic = Diagnostic::new(
                &entry.key_at,
                format!("`{key}: null` removes a key, but the file below has no `{key}`"),
            );
            return Err(match super::nearest(&entry.key, base.keys()) {
                Some(name) => diagnostic.help(format!("did you mean `{name}`?")),
                None => diagnostic.help(format!(
                    "to add it with its defaults, write `{}: {{}}`",
                    entry.key
                )),
            });
        }
        merged.entries.push(entry.clone());
    }
    Ok(merged)
}

/// Merges one stage, whichever form either file uses.
fn merge_stages(path: &str, below: &Node, above: &Node) -> Result<Node, Diagnostic> {
    let (Yaml::Map(base), Yaml::Map(overlay)) = (&below.value, &above.value) else {
        // A stage with nothing behind it has its defaults.
        return match &below.value {
            Yaml::Null | Yaml::Map(_) => Ok(above.clone()),
            _ => merge_plain(path, below, above),
        };
    };
    // A short form uses the stage that it is named after.
    let name = Yaml::String(path.rsplit('.').next().unwrap_or(path).to_owned());
    let used_below = base.get("uses").map_or(&name, |entry| &entry.value.value);
    if overlay
        .get("uses")
        .is_some_and(|uses| uses.value.value != *used_below)
    {
        return Ok(above.clone());
    }
    if is_full_form(base) == is_full_form(overlay) {
        return merge_plain(path, below, above);
    }
    merge_plain(
        path,
        &to_full_form(base, &below.at),
        &to_full_form(overlay, &above.at),
    )
}

/// Tells whether a stage's entry is `{uses, inputs, with}` rather than its parameters.
pub(crate) fn is_full_form(stage: &Map) -> bool {
    stage.keys().any(|key| FULL_FORM.contains(&key))
}

fn to_full_form(stage: &Map, at: &Location) -> Node {
    let map = if is_full_form(stage) {
        stage.clone()
    } else {
        // What a stage asks of a cluster is no parameter.
        let (mut entries, parameters): (Vec<Entry>, Vec<Entry>) = stage
            .entries
            .iter()
            .cloned()
            .partition(|entry| entry.key == "resources");
        entries.push(Entry {
            key: "with".to_owned(),
            key_at: at.clone(),
            value: Node {
                value: Yaml::Map(Map {
                    entries: parameters,
                }),
                at: at.clone(),
            },
        });
        Map { entries }
    };
    Node {
        value: Yaml::Map(map),
        at: at.clone(),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::{Value, json};

    use super::*;

    /// Writes `files` into a folder and loads the last one.
    fn loaded(files: &[(&str, &str)]) -> Result<Value, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let last = folder.path().join(files.last().unwrap().0);
        load(&last).map(|node| node.to_json()).map_err(|error| {
            error
                .to_string()
                .replace(&format!("{}/", folder.path().display()), "")
        })
    }

    const BASE: &str = "name: base\nrounds: 3\nprompts: {train: t, eval: e}\nround:\n  \
                        sample: {samples: 10, top-p: 0.9}\n  rank:\n  fit: {operator: hpr}\n";

    #[test]
    fn mappings_merge_and_null_removes() {
        let merged = loaded(&[
            ("base.yaml", BASE),
            (
                "over.yaml",
                "extends: base.yaml\nrounds: 1\nprompts: {eval: null}\nround:\n  sample: {samples: 4}\n  fit: null\n  rank: {tau: 2}\n  extra: {uses: ./x.py}\n",
            ),
        ])
        .unwrap();
        assert_eq!(
            merged,
            json!({"rounds": 1, "prompts": {"train": "t"},
                   "round": {"sample": {"samples": 4, "top-p": 0.9}, "rank": {"tau": 2}, "extra": {"uses": "./x.py"}}})
        );
    }

    #[test]
    fn short_and_full_forms_of_a_stage_merge() {
        let merged = loaded(&[
            ("base.yaml", BASE),
            (
                "over.yaml",
                "extends: base.yaml\nround:\n  sample: {inputs: {prompts: prompts.eval}}\n  fit: {uses: ./my_fit.py, with: {step: 1}}\n",
            ),
        ])
        .unwrap();
        assert_eq!(
            merged["round"],
            json!({"sample": {"with": {"samples": 10, "top-p": 0.9}, "inputs": {"prompts": "prompts.eval"}},
                   "rank": null, "fit": {"uses": "./my_fit.py", "with": {"step": 1}}})
        );
    }

    #[test]
    fn resources_of_a_short_form_stay_beside_its_parameters() {
        let merged = loaded(&[
            (
                "base.yaml",
                "round: {sample: {samples: 10, resources: {cpus: 4, memory: 1G}}}\n",
            ),
            (
                "over.yaml",
                "extends: base.yaml\nround: {sample: {with: {samples: 4}, resources: {cpus: 8}}}\n",
            ),
        ])
        .unwrap();
        assert_eq!(
            merged["round"]["sample"],
            json!({"resources": {"cpus": 8, "memory": "1G"}, "with": {"samples": 4}})
        );
    }

    #[test]
    fn overlays_stack_across_folders() {
        let merged = loaded(&[
            ("base.yaml", BASE),
            (
                "a/one.yaml",
                "extends: ../base.yaml\nrounds: 2\nname: one\n",
            ),
            ("a/two.yaml", "extends: one.yaml\nseed: 5\nname: two\n"),
        ])
        .unwrap();
        assert_eq!(
            (&merged["rounds"], &merged["seed"], &merged["name"]),
            (&json!(2), &json!(5), &json!("two"))
        );
    }

    #[test]
    fn circles_missing_files_and_idle_nulls_are_refused() {
        assert_snapshot!(loaded(&[("a.yaml", "extends: b.yaml\n"), ("b.yaml", "name: b\nextends: a.yaml\n")]).unwrap_err(), @r"
        a.yaml:1:10: `extends` goes in a circle: b.yaml is extended by this file already
           |
         1 | extends: b.yaml
           |          ^
        ");
        assert_snapshot!(loaded(&[("a.yaml", "extends: gone.yaml\n")]).unwrap_err(), @r"
        a.yaml:1:10: `extends` names gone.yaml, which is not a file
           |
         1 | extends: gone.yaml
           |          ^
        ");
        assert_snapshot!(loaded(&[("base.yaml", BASE), ("over.yaml", "extends: base.yaml\nround:\n  sampel: null\n")]).unwrap_err(), @r"
        over.yaml:3:3: `round.sampel: null` removes a key, but the file below has no `round.sampel`
           |
         3 |   sampel: null
           |   ^
           = did you mean `sample`?
        ");
        assert_snapshot!(loaded(&[("base.yaml", BASE), ("over.yaml", "extends: base.yaml\nround: {judge: }\n")]).unwrap_err(), @r"
        over.yaml:2:9: `round.judge: null` removes a key, but the file below has no `round.judge`
           |
         2 | round: {judge: }
           |         ^
           = to add it with its defaults, write `judge: {}`
        ");
    }
}
