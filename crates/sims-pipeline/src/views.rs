//! Views: `runs/<pipeline>/round-3/responses.parquet`, links into the store for people.
//!
//! A view is named by its role. Where several stages of a round make the same role, the one
//! that bears its program's name has it, and the others lie in a folder of their own:
//! `round-3/responses.parquet` is that of `sample`, `round-3/steer-eval/responses.parquet` the
//! other. Stages that run once always have a folder: `once/base-test/responses.parquet`.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use sims_artifact::Digest;
use sims_artifact::store::{ActionResult, Store};

use crate::PipelineError;
use crate::plan::Plan;

/// Returns the views of an instance: path below the pipeline's folder, and the blob.
pub(crate) fn of_result(
    plan: &Plan,
    index: usize,
    result: &ActionResult,
) -> Vec<(PathBuf, Digest)> {
    let mut views: Vec<(PathBuf, Digest)> = result
        .outputs
        .iter()
        .map(|(role, output)| {
            let extension = Path::new(&output.file).extension().unwrap_or_default();
            let path = path_of(plan, index, role, &extension.to_string_lossy());
            (path, output.digest)
        })
        .collect();
    if let Some(summary) = &result.summary {
        let name = plan.name(index);
        let path = name
            .folder()
            .join("summaries")
            .join(format!("{}.json", name.stage));
        views.push((path, summary.digest));
    }
    views
}

/// Returns the path of a view below the pipeline's folder.
pub(crate) fn path_of(plan: &Plan, index: usize, role: &str, extension: &str) -> PathBuf {
    let name = plan.name(index);
    let file = format!("{role}.{extension}");
    let own_folder = name.round.is_none() || owner(plan, role) != plan.instances[index].node;
    if own_folder {
        name.path().join(file)
    } else {
        name.folder().join(file)
    }
}

/// Returns the stage whose output `role` has the plain name in a round's folder.
fn owner(plan: &Plan, role: &str) -> usize {
    let makers = || {
        plan.nodes.iter().enumerate().filter(|(_, node)| {
            node.spec.repeat == crate::pipeline::Repeat::EachRound
                && node.program.description.outputs.contains_key(role)
        })
    };
    let alike = makers().find(|(_, node)| node.spec.name == node.program.description.stage);
    alike
        .or_else(|| makers().next())
        .map_or(usize::MAX, |(index, _)| index)
}

/// Makes `path` a relative link to a blob; `true` when something changed.
///
/// A link is replaced in one step, so that a reader sees the old one or the new one.
pub(crate) fn publish(path: &Path, store: &Store, digest: &Digest) -> Result<bool, PipelineError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let blob = store.blob_path(digest);
    if std::fs::read_link(path).is_ok_and(|target| same_place(&folder.join(target), &blob)) {
        return Ok(false);
    }
    std::fs::create_dir_all(folder).map_err(|e| PipelineError::io("create", folder, e))?;
    let real = |path: &Path| {
        path.canonicalize()
            .map_err(|e| PipelineError::io("find", path, e))
    };
    let target = relative_path(&real(folder)?, &real(&blob)?);
    // One name a view: what a killed run leaves behind is used up by the next one.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".view-{name}"));
    loop {
        match std::os::unix::fs::symlink(&target, &temporary) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // Left behind, or of a run beside this one, which makes it anew.
                let _ = std::fs::remove_file(&temporary);
                continue;
            }
            made => made.map_err(|e| PipelineError::io("make a link in", folder, e))?,
        }
        match std::fs::rename(&temporary, path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            moved => {
                moved.map_err(|e| PipelineError::io("publish", path, e))?;
                return Ok(true);
            }
        }
    }
}

/// Removes a view and the folders that it leaves empty, up to `top`; other files stay.
pub(crate) fn retract(path: &Path, top: &Path) {
    if path.is_symlink() && std::fs::remove_file(path).is_ok() {
        let parents = path.ancestors().skip(1).take_while(|folder| *folder != top);
        for folder in parents {
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

fn same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino()));
    matches!((place(a), place(b)), (Ok(a), Ok(b)) if a == b)
}

/// Returns the path from the folder `from` to `to`, both absolute and without links.
pub fn relative_path(from: &Path, to: &Path) -> PathBuf {
    let from: Vec<Component<'_>> = from.components().collect();
    let to: Vec<Component<'_>> = to.components().collect();
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(Component::ParentDir, from.len() - common);
    up.chain(to[common..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_go_up_and_down_again() {
        let path = relative_path(
            Path::new("/w/runs/q/round-1"),
            Path::new("/w/.sims/cas/ab/abcd"),
        );
        assert_eq!(path, Path::new("../../../.sims/cas/ab/abcd"));
        assert_eq!(
            relative_path(Path::new("/w"), Path::new("/w/x")),
            Path::new("x")
        );
    }
}
