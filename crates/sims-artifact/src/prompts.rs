//! The table of prompts, which every other table is joined on: a damaged one would mislead in silence.

use std::collections::HashSet;
use std::path::Path;

use crate::tables::PromptRow;
use crate::{ArtifactError, read_table};

/// Reads the prompts at `path`.
///
/// # Errors
/// As [`read_table`], and a table without rows or with one prompt in two of them.
pub fn read_prompts(path: &Path) -> Result<Vec<PromptRow>, ArtifactError> {
    let rows: Vec<PromptRow> = read_table(path)?;
    if rows.is_empty() {
        return Err(ArtifactError::NoPrompts {
            path: path.to_owned(),
        });
    }
    let mut seen = HashSet::new();
    match rows.iter().find(|row| !seen.insert(&row.prompt_id)) {
        Some(twice) => Err(ArtifactError::RepeatedPrompt {
            path: path.to_owned(),
            prompt_id: twice.prompt_id.clone(),
        }),
        None => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Message;
    use crate::write_table;

    #[test]
    fn no_prompts_and_repeated_prompts_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.parquet");
        let refused = |rows: &[PromptRow]| {
            write_table(&path, rows).unwrap();
            read_prompts(&path).unwrap_err().to_string()
        };
        let row = PromptRow::new(vec![Message::user("q")], "train", "test");
        assert!(refused(&[]).contains("prompts.parquet has no rows"));
        let message = refused(&[row.clone(), row.clone()]);
        assert!(
            message.contains(&format!("holds prompt {} more than once", row.prompt_id)),
            "{message}"
        );
        write_table(&path, std::slice::from_ref(&row)).unwrap();
        assert_eq!(read_prompts(&path).unwrap(), [row]);
    }
}
