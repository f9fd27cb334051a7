//! Safetensors files: a writer that streams rows into place and a reader that reads ranges.
//!
//! Values are f32 in memory; f32 or bf16 on disk. The file carries one metadata key, `sims`, with
//! canonical JSON: the format keeps metadata in a map of random order, and one key has one order.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::{Value, json};

use crate::atomic_file::AtomicFile;
use crate::{ArtifactError, canonical_json};

const METADATA_KEY: &str = "sims";
/// Values converted at a time; bounds the writer's memory.
const CHUNK_VALUES: usize = 1 << 16;

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredDtype {
    /// 32-bit floats.
    F32,
    /// Brain floats: f32 rounded to 8 bits of mantissa.
    Bf16,
}

impl StoredDtype {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
        }
    }
}

/// A tensor's place in a file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// How its values are stored.
    pub dtype: StoredDtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
}

/// A tensor in memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorData {
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl TensorData {
    /// Makes a tensor of one dimension.
    pub fn vector(values: Vec<f32>) -> Self {
        Self {
            shape: vec![values.len()],
            values,
        }
    }

    /// Makes a tensor of two dimensions `[rows, columns]`.
    pub fn matrix(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        debug_assert_eq!(rows * columns, values.len());
        Self {
            shape: vec![rows, columns],
            values,
        }
    }
}

/// Writes `tensors` as f32 with `metadata`, atomically; the same input gives the same bytes.
///
/// # Errors
/// If the file cannot be written.
pub fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, TensorData>,
    metadata: &Value,
) -> Result<(), ArtifactError> {
    let specs = tensors
        .iter()
        .map(|(name, tensor)| TensorSpec {
            name: name.clone(),
            dtype: StoredDtype::F32,
            shape: tensor.shape.clone(),
        })
        .collect();
    let mut writer = TensorWriter::create(path, specs, metadata)?;
    for (name, tensor) in tensors {
        writer.write_values(name, 0, &tensor.values)?;
    }
    writer.publish()
}

/// Writes a safetensors file piece by piece, in any order, in bounded memory.
pub struct TensorWriter {
    file: AtomicFile,
    path: PathBuf,
    places: BTreeMap<String, Place>,
}

struct Place {
    dtype: StoredDtype,
    start: u64,
    values: usize,
    row_values: usize,
}

impl TensorWriter {
    /// Starts a file at `path` with room for the tensors of `specs`; unwritten values are zero.
    ///
    /// # Errors
    /// If the file cannot be created or a name is given twice.
    pub fn create(
        path: &Path,
        mut specs: Vec<TensorSpec>,
        metadata: &Value,
    ) -> Result<Self, ArtifactError> {
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        let mut header = serde_json::Map::new();
        header.insert(
            "__metadata__".into(),
            json!({ METADATA_KEY: canonical_json(metadata) }),
        );
        let mut offset = 0_usize;
        let mut places = BTreeMap::new();
        for spec in specs {
            let values: usize = spec.shape.iter().product();
            let end = offset + values * spec.dtype.bytes();
            header.insert(
                spec.name.clone(),
                json!({"dtype": spec.dtype.name(), "shape": spec.shape, "data_offsets": [offset, end]}),
            );
            let place = Place {
                dtype: spec.dtype,
                start: offset as u64,
                values,
                row_values: spec.shape.iter().skip(1).product(),
            };
            if places.insert(spec.name.clone(), place).is_some() {
                return Err(ArtifactError::BadTensor {
                    path: path.to_owned(),
                    tensor: spec.name,
                    message: "is given twice".to_owned(),
                });
            }
            offset = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let data_start = 8 + header.len() as u64;
        for place in places.values_mut() {
            place.start += data_start;
        }
        let mut file = AtomicFile::create(path)?;
        let result = (|| {
            let raw = file.file();
            raw.set_len(data_start + offset as u64)?;
            raw.write_all_at(&(header.len() as u64).to_le_bytes(), 0)?;
            raw.write_all_at(&header, 8)
        })();
        result.map_err(|e| ArtifactError::io("write", path, e))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            places,
        })
    }

    /// Writes whole rows of tensor `name` (index along its first dimension) from `first_row` on.
    ///
    /// # Errors
    /// If the tensor does not exist, the rows do not fit, or writing fails.
    pub fn write_rows(
        &mut self,
        name: &str,
        first_row: usize,
        rows: &[f32],
    ) -> Result<(), ArtifactError> {
        let row_values = self.place(name)?.row_values;
        self.write_values(name, first_row * row_values, rows)
    }

    fn write_values(
        &mut self,
        name: &str,
        first: usize,
        values: &[f32],
    ) -> Result<(), ArtifactError> {
        let place = self.place(name)?;
        if first + values.len() > place.values {
            return Err(ArtifactError::BadTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
                message: format!(
                    "has {} values, but {} were written",
                    place.values,
                    first + values.len()
                ),
            });
        }
        let (dtype, mut at) = (
            place.dtype,
            place.start + (first * place.dtype.bytes()) as u64,
        );
        let mut buffer = Vec::with_capacity(CHUNK_VALUES.min(values.len()) * dtype.bytes());
        for chunk in values.chunks(CHUNK_VALUES) {
            buffer.clear();
            match dtype {
                StoredDtype::F32 => chunk.iter().for_each(|v| buffer.extend(v.to_le_bytes())),
                StoredDtype::Bf16 => chunk
                    .iter()
                    .for_each(|v| buffer.extend(bf16::from_f32(*v).to_le_bytes())),
            }
            self.file
                .file()
                .write_all_at(&buffer, at)
                .map_err(|e| ArtifactError::io("write", &self.path, e))?;
            at += buffer.len() as u64;
        }
        Ok(())
    }

    /// Copies `count` rows of tensor `name` of another file, from `from_row` on, to `to_row`: the same bits.
    ///
    /// # Errors
    /// If either file lacks the tensor, their types or row lengths differ, or the rows do not fit.
    pub fn copy_rows(
        &mut self,
        name: &str,
        to_row: usize,
        from: &TensorFile,
        from_row: usize,
        count: usize,
    ) -> Result<(), ArtifactError> {
        let place = self.place(name)?;
        let source = from.info(name)?;
        let bad = |path: &Path, message: String| ArtifactError::BadTensor {
            path: path.to_owned(),
            tensor: name.to_owned(),
            message,
        };
        let is_same = matches!(
            (place.dtype, source.dtype),
            (StoredDtype::F32, Dtype::F32) | (StoredDtype::Bf16, Dtype::BF16)
        );
        let row_values: usize = source.shape.iter().skip(1).product();
        if !is_same || row_values != place.row_values {
            return Err(bad(
                &from.path,
                format!(
                    "holds rows of {row_values} {:?} where {} {} are wanted",
                    source.dtype,
                    place.row_values,
                    place.dtype.name()
                ),
            ));
        }
        let rows_of = |values: usize| values.checked_div(row_values).unwrap_or(0);
        if from_row + count > rows_of(source.shape.iter().product())
            || to_row + count > rows_of(place.values)
        {
            return Err(bad(
                &from.path,
                format!(
                    "{count} rows from row {from_row} on do not fit from there to row {to_row}"
                ),
            ));
        }
        let row_bytes = row_values * place.dtype.bytes();
        let mut source_at = from.data_start + (source.data_offsets.0 + from_row * row_bytes) as u64;
        let mut target_at = place.start + (to_row * row_bytes) as u64;
        let mut left = count * row_bytes;
        let mut buffer = vec![0_u8; left.min(CHUNK_VALUES * 4)];
        while left > 0 {
            let piece = &mut buffer[..left.min(CHUNK_VALUES * 4)];
            from.file
                .read_exact_at(piece, source_at)
                .map_err(|e| ArtifactError::io("read", &from.path, e))?;
            self.file
                .file()
                .write_all_at(piece, target_at)
                .map_err(|e| ArtifactError::io("write", &self.path, e))?;
            source_at += piece.len() as u64;
            target_at += piece.len() as u64;
            left -= piece.len();
        }
        Ok(())
    }

    /// Flushes the file and gives it its name.
    ///
    /// # Errors
    /// If flushing or renaming fails.
    pub fn publish(self) -> Result<(), ArtifactError> {
        self.file.publish()
    }

    fn place(&self, name: &str) -> Result<&Place, ArtifactError> {
        self.places
            .get(name)
            .ok_or_else(|| ArtifactError::MissingTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
            })
    }
}

/// An open safetensors file; values are read on demand.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    data_start: u64,
    metadata: Value,
}

impl TensorFile {
    /// Opens the file at `path` and reads its header.
    ///
    /// # Errors
    /// If the file is absent, cut short or not safetensors.
    pub fn open(path: &Path) -> Result<Self, ArtifactError> {
        let bad = |message: String| ArtifactError::NotSafetensors {
            path: path.to_owned(),
            message,
        };
        let read = |e| ArtifactError::io("read", path, e);
        let file = File::open(path).map_err(|e| ArtifactError::io("open", path, e))?;
        let length = file.metadata().map_err(read)?.len();
        let mut prefix = [0_u8; 8];
        if length < 8 {
            return Err(bad(format!("it has only {length} bytes")));
        }
        file.read_exact_at(&mut prefix, 0).map_err(read)?;
        let header_bytes = u64::from_le_bytes(prefix);
        if header_bytes > length - 8 {
            return Err(bad(format!(
                "its header of {header_bytes} bytes does not fit in {length} bytes"
            )));
        }
        let mut header = vec![0_u8; header_bytes as usize];
        file.read_exact_at(&mut header, 8).map_err(read)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(|e| bad(e.to_string()))?;
        let data_start = 8 + header_bytes;
        let needed = data_start + header.data_len() as u64;
        if needed != length {
            return Err(bad(format!(
                "it has {length} bytes where its header says {needed}"
            )));
        }
        let metadata = match header.metadata().as_ref().and_then(|m| m.get(METADATA_KEY)) {
            Some(text) => serde_json::from_str(text)
                .map_err(|e| bad(format!("metadata `{METADATA_KEY}`: {e}")))?,
            None => Value::Null,
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
            data_start,
            metadata,
        })
    }

    /// Returns the path that the file was opened at.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the JSON under the metadata key `sims`; null when there is none.
    pub fn metadata(&self) -> &Value {
        &self.metadata
    }

    /// Returns the tensors' names, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.header.tensors().into_keys().collect();
        names.sort();
        names
    }

    /// Returns the shape of tensor `name`.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize], ArtifactError> {
        Ok(&self.info(name)?.shape)
    }

    /// Reads tensor `name` whole, as f32.
    ///
    /// # Errors
    /// If there is no such tensor, its dtype is not a float, or reading fails.
    pub fn read(&self, name: &str) -> Result<TensorData, ArtifactError> {
        let shape = self.shape(name)?.to_vec();
        let values = self.read_values(name, 0, shape.iter().product())?;
        Ok(TensorData { shape, values })
    }

    /// Reads rows `first..first + count` (along the first dimension) of tensor `name`, as f32.
    ///
    /// # Errors
    /// As [`TensorFile::read`], or if the rows are out of range.
    pub fn read_rows(
        &self,
        name: &str,
        first: usize,
        count: usize,
    ) -> Result<Vec<f32>, ArtifactError> {
        let row_values: usize = self.shape(name)?.iter().skip(1).product();
        self.read_values(name, first * row_values, count * row_values)
    }

    fn read_values(
        &self,
        name: &str,
        first: usize,
        count: usize,
    ) -> Result<Vec<f32>, ArtifactError> {
        let info = self.info(name)?;
        let bad = |message: String| ArtifactError::BadTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            message,
        };
        let total: usize = info.shape.iter().product();
        if first + count > total {
            return Err(bad(format!(
                "has {total} values, but {} were asked for",
                first + count
            )));
        }
        let width = match info.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => return Err(bad(format!("is {other:?}, not a float tensor"))),
        };
        let mut bytes = vec![0_u8; count * width];
        let at = self.data_start + (info.data_offsets.0 + first * width) as u64;
        self.file
            .read_exact_at(&mut bytes, at)
            .map_err(|e| ArtifactError::io("read", &self.path, e))?;
        Ok(match info.dtype {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::F16 => bytes
                .chunks_exact(2)
                .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            _ => bytes
                .chunks_exact(2)
                .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
        })
    }

    fn info(&self, name: &str) -> Result<&safetensors::tensor::TensorInfo, ArtifactError> {
        self.header
            .info(name)
            .ok_or_else(|| ArtifactError::MissingTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BTreeMap<String, TensorData> {
        BTreeMap::from([
            (
                "b".to_owned(),
                TensorData::matrix(3, 2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.5]),
            ),
            ("a".to_owned(), TensorData::vector(vec![0.25; 5])),
        ])
    }

    #[test]
    fn tensors_survive_a_round_trip_and_bytes_repeat() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_tensors(&path, &sample(), &json!({"z": 1, "a": [2]})).unwrap();
        let first = std::fs::read(&path).unwrap();
        write_tensors(&path, &sample(), &json!({"a": [2], "z": 1})).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap());
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names(), ["a", "b"]);
        assert_eq!(file.metadata()["a"][0], 2);
        assert_eq!(file.read("b").unwrap(), sample()["b"]);
        assert_eq!(file.read_rows("b", 1, 2).unwrap(), [3.0, 4.0, 5.0, 6.5]);
        assert!(file.read_rows("b", 2, 2).is_err());
        assert!(
            file.read("c")
                .unwrap_err()
                .to_string()
                .contains("no tensor `c`")
        );
        // The format's own library agrees.
        let whole = safetensors::SafeTensors::deserialize(&first).unwrap();
        assert_eq!(whole.tensor("b").unwrap().shape(), [3, 2]);
    }

    #[test]
    fn streamed_rows_equal_rows_written_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write_tensors(&a, &sample(), &Value::Null).unwrap();
        let specs = sample()
            .iter()
            .map(|(name, t)| TensorSpec {
                name: name.clone(),
                dtype: StoredDtype::F32,
                shape: t.shape.clone(),
            })
            .collect();
        let mut writer = TensorWriter::create(&b, specs, &Value::Null).unwrap();
        for row in [2, 0, 1] {
            writer
                .write_rows("b", row, &sample()["b"].values[row * 2..][..2])
                .unwrap();
        }
        assert!(writer.write_rows("b", 3, &[0.0, 0.0]).is_err());
        writer.write_values("a", 0, &[0.25; 5]).unwrap();
        writer.publish().unwrap();
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn a_truncated_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.safetensors");
        write_tensors(&path, &sample(), &Value::Null).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for keep in [0, 7, 20, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..keep]).unwrap();
            let error = TensorFile::open(&path).unwrap_err().to_string();
            assert!(
                error.contains("cut.safetensors is not a readable safetensors file"),
                "{error}"
            );
        }
    }
}
