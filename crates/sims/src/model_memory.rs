//! How much memory the models of a plan take, which `sims-model info` knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use sims_pipeline::Plan;

use crate::workspace::program_search;

/// The memory of a model, in the type that its weights are held in by default. Unit: bytes.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct ModelMemory {
    /// The weights.
    pub(crate) weight_bytes: u64,
    /// One token's keys and values, at all layers.
    pub(crate) kv_bytes_per_token: u64,
    /// The weights, and the default batch's keys, values and activations.
    pub(crate) planned_bytes: u64,
}

/// Returns the memory of each model of the plan; models that cannot be read, or that no program knows, are left out.
pub(crate) fn of_plan(plan: &Plan) -> BTreeMap<PathBuf, ModelMemory> {
    let mut models = BTreeMap::new();
    let Some(program) = program_search().find("sims-model") else {
        return models;
    };
    for model in (0..plan.len()).filter_map(|index| plan.model(index)) {
        if !models.contains_key(model)
            && let Some(memory) = of_model(&program, model)
        {
            models.insert(model.to_owned(), memory);
        }
    }
    models
}

fn of_model(program: &Path, model: &Path) -> Option<ModelMemory> {
    let output = Command::new(program)
        .arg("info")
        .arg(model)
        .arg("--json")
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// Says it in a line: `data/tiny: 5.0 MB of weights, 6.1 kB a token, 38 MB planned`.
pub(crate) fn in_words(model: &Path, memory: &ModelMemory) -> String {
    format!(
        "{}: {} of weights and {} a token of context; {} planned for the default batch",
        model.display(),
        size(memory.weight_bytes),
        size(memory.kv_bytes_per_token),
        size(memory.planned_bytes)
    )
}

/// Writes a number of bytes with two digits or more.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let bytes = bytes as f64;
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes / unit < 10.0 => format!("{:.1} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.0} {name}", bytes / unit),
        None => format!("{bytes:.0} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_or_more() {
        assert_eq!(size(999), "999 bytes");
        assert_eq!(size(4_973_056), "5.0 MB");
        assert_eq!(size(42_520_000_000), "43 GB");
    }
}
