//! The files in `schemas/` are generated from the Rust types; `make schemas` writes them.

use std::collections::BTreeMap;
use std::path::Path;

use sims_artifact::tables::{table_schemas, tensors_schemas};

fn generated() -> BTreeMap<String, String> {
    let tables = table_schemas()
        .into_iter()
        .map(|s| (s.id, serde_json::to_value(&s)));
    let tensors = tensors_schemas()
        .into_iter()
        .map(|s| (s.id, serde_json::to_value(&s)));
    tables
        .chain(tensors)
        .map(|(id, json)| {
            let text = serde_json::to_string_pretty(&json.unwrap()).unwrap();
            (format!("{id}.json"), text + "\n")
        })
        .collect()
}

#[test]
fn schema_files_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
    let generated = generated();
    if std::env::var_os("SIMS_WRITE_SCHEMAS").is_some() {
        for (name, text) in &generated {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            found.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
    assert!(
        found == generated,
        "schemas/ differs from the Rust types: run `make schemas`"
    );
}
