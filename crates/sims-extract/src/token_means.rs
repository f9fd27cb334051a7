//! Takes the mean state of its token off every state: the positions `response-centred`.
//!
//! The state of a response's token says first of all which token it is, so the difference between good and bad
//! answers is largely one of the tokens that they contain. What is left here is how a token's state differs between
//! the two classes. The mean of a token id runs over the rows of both classes; a token that occurs in a single row
//! leaves zeros there.

use crate::states::tensor_names;
use sims_artifact::tables::StateIndexRow;
use sims_artifact::tensors::StoredDtype;
use sims_artifact::{ArtifactError, TensorFile, TensorSpec, TensorWriter};
use std::collections::BTreeMap;
use std::path::Path;

/// Rows read at a time.
const CHUNK: usize = 1024;

/// Sum of the states of one token id, `[hidden]`, and their number.
struct TokenSum {
    sum: Vec<f64>,
    count: f64,
}

/// Rewrites the states of `layers` in the file at `path`, each less the mean of its token id over both classes.
///
/// `index` describes the rows. Memory is that of one mean for each token id that occurs.
///
/// # Errors
/// If the file cannot be read or written.
pub fn centre(
    path: &Path,
    index: &[StateIndexRow],
    layers: &[usize],
    dtype: StoredDtype,
) -> Result<(), ArtifactError> {
    let file = TensorFile::open(path)?;
    let mut specs = Vec::new();
    for &layer in layers {
        for name in tensor_names(layer) {
            let shape = file.shape(&name)?.to_vec();
            specs.push(TensorSpec { name, dtype, shape });
        }
    }
    let mut writer = TensorWriter::create(path, specs, file.metadata())?;
    for &layer in layers {
        let names = tensor_names(layer);
        let sums = token_sums(&file, &names, index)?;
        for (class, name) in names.iter().enumerate() {
            for_chunks(&file, name, index.len(), |first, hidden, mut values| {
                for (row, state) in (first..).zip(values.chunks_exact_mut(hidden)) {
                    let of_token = &sums[&token(&index[row], class)];
                    for (value, sum) in state.iter_mut().zip(&of_token.sum) {
                        *value = (f64::from(*value) - sum / of_token.count) as f32;
                    }
                }
                writer.write_rows(name, first, &values)
            })?;
        }
    }
    writer.publish()
}

/// Returns the token of a row: of the chosen response for class 0, of the rejected one for class 1.
fn token(row: &StateIndexRow, class: usize) -> u32 {
    [row.token_id, row.rejected_token_id][class]
}

fn token_sums(
    file: &TensorFile,
    names: &[String; 2],
    index: &[StateIndexRow],
) -> Result<BTreeMap<u32, TokenSum>, ArtifactError> {
    let mut sums: BTreeMap<u32, TokenSum> = BTreeMap::new();
    for (class, name) in names.iter().enumerate() {
        for_chunks(file, name, index.len(), |first, hidden, values| {
            for (row, state) in (first..).zip(values.chunks_exact(hidden)) {
                let of_token = sums
                    .entry(token(&index[row], class))
                    .or_insert_with(|| TokenSum {
                        sum: vec![0.0; hidden],
                        count: 0.0,
                    });
                of_token.count += 1.0;
                for (sum, &value) in of_token.sum.iter_mut().zip(state) {
                    *sum += f64::from(value);
                }
            }
            Ok(())
        })?;
    }
    Ok(sums)
}

/// Hands over the rows of a tensor, [`CHUNK`] at a time: the first row's number, the hidden size, the values.
fn for_chunks(
    file: &TensorFile,
    name: &str,
    rows: usize,
    mut take: impl FnMut(usize, usize, Vec<f32>) -> Result<(), ArtifactError>,
) -> Result<(), ArtifactError> {
    let hidden = file.shape(name)?[1];
    for first in (0..rows).step_by(CHUNK) {
        let count = CHUNK.min(rows - first);
        take(first, hidden, file.read_rows(name, first, count)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(row: u32, tokens: [u32; 2]) -> StateIndexRow {
        StateIndexRow {
            row,
            pair_id: format!("pair {row}"),
            prompt_id: "p".to_owned(),
            position: row,
            token_id: tokens[0],
            rejected_position: row,
            rejected_token_id: tokens[1],
        }
    }

    /// States of `[rows, 2]` by class, centred through a file.
    fn centred(states: [&[f32]; 2], index: &[StateIndexRow]) -> [Vec<f32>; 2] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("states.safetensors");
        let shape = vec![index.len(), 2];
        let specs = tensor_names(3)
            .map(|name| TensorSpec {
                name,
                dtype: StoredDtype::F32,
                shape: shape.clone(),
            })
            .to_vec();
        let metadata = json!({"positions": "response-centred"});
        let mut writer = TensorWriter::create(&path, specs, &metadata).unwrap();
        for (name, values) in tensor_names(3).iter().zip(states) {
            writer.write_rows(name, 0, values).unwrap();
        }
        writer.publish().unwrap();
        centre(&path, index, &[3], StoredDtype::F32).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.metadata()["positions"], "response-centred");
        tensor_names(3).map(|name| file.read(&name).unwrap().values)
    }

    #[test]
    fn the_mean_of_a_token_runs_over_both_classes() {
        // Token 7: states (1, 0), (3, 0) chosen and (8, 6) rejected, mean (4, 2). Token 9 occurs once.
        let index = [row(0, [7, 7]), row(1, [7, 9])];
        let [positive, negative] = centred([&[1.0, 0.0, 3.0, 0.0], &[8.0, 6.0, 5.0, 5.0]], &index);
        assert_eq!(positive, [-3.0, -2.0, -1.0, -2.0]);
        assert_eq!(negative, [4.0, 4.0, 0.0, 0.0]);
    }

    #[test]
    fn what_tokens_alone_tell_apart_is_gone_and_the_rest_stays() {
        // More rows than a chunk. A state is its token's own vector plus the class's, (±1, 0); the chosen side holds
        // token 1 more often, so the raw means differ along the tokens' vectors, too.
        let rows = 3000;
        let token_of =
            |class: usize, row: usize| -> u32 { u32::from(row.is_multiple_of(4) == (class == 1)) };
        let state = |class: usize, row: usize| {
            let token = token_of(class, row) as f32;
            [[1.0, -1.0][class] + 0.5 * token, 40.0 * token]
        };
        let of_class = |class| {
            (0..rows)
                .flat_map(|row| state(class, row))
                .collect::<Vec<f32>>()
        };
        let index: Vec<StateIndexRow> = (0..rows)
            .map(|at| row(at as u32, [token_of(0, at), token_of(1, at)]))
            .collect();
        let centred = centred([&of_class(0), &of_class(1)], &index);
        let mean = |class: usize, axis: usize| -> f64 {
            let values = centred[class].iter().skip(axis).step_by(2);
            values.map(|&value| f64::from(value)).sum::<f64>() / rows as f64
        };
        assert!(
            (mean(0, 1) - mean(1, 1)).abs() < 1e-4,
            "tokens differ by 20 before"
        );
        assert!(mean(0, 0) - mean(1, 0) > 0.5);
        for token in [0, 1] {
            let mut sum = [0.0f64; 2];
            for class in [0, 1] {
                for at in (0..rows).filter(|&at| token_of(class, at) == token) {
                    sum[0] += f64::from(centred[class][2 * at]);
                    sum[1] += f64::from(centred[class][2 * at + 1]);
                }
            }
            assert!(
                sum.iter().all(|sum| sum.abs() < 1e-2),
                "token {token}: {sum:?}"
            );
        }
    }
}
