//! Models in one GGUF file: the metadata as a Hugging Face config and tokenizer, the tensors as they lie.
//!
//! The file is mapped into memory and nothing of it is copied but small vectors: a quantised matrix stays
//! the blocks of the file. What the file calls its tensors and settings is translated to the names of the
//! Hugging Face checkpoint that it was converted from, and what the conversion changed is changed back.

mod config;
mod header;
mod names;
mod tokenizer;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::bf16;
use memmap2::Mmap;

pub(crate) use header::Value;
use header::{Header, TensorInfo};

use crate::ops::quantized::{BlockFormat, BlockMatrix, RowOrder, SharedBytes};
use crate::{Dtype, ModelError, Result};

/// Returns whether a model's path is that of a GGUF file rather than of a directory.
pub fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        || path.is_file()
}

/// A GGUF file, mapped into memory.
pub struct GgufFile {
    path: PathBuf,
    bytes: SharedBytes,
    header: Header,
    architecture: names::Architecture,
}

/// The size of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorSize {
    /// The count of its numbers.
    pub elements: usize,
    /// The bytes that they are stored in.
    pub bytes: usize,
    /// How they are stored.
    pub format: BlockFormat,
}

impl GgufFile {
    /// Opens a GGUF file; of the tensors only the places are read.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::GgufFile`] for a file that is cut off or none of GGUF, and
    /// [`ModelError::Config`] for an architecture that this decoder does not compute.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| ModelError::Io {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the file is only read; a model that another process writes to while it is in use is not supported.
        let bytes = unsafe { Mmap::map(&file) }.map_err(io)?;
        let header = Header::read(&bytes).map_err(|message| ModelError::GgufFile {
            path: path.into(),
            message,
        })?;
        let mut this = Self {
            path: path.into(),
            bytes: Arc::new(bytes),
            header,
            architecture: names::Architecture::Llama,
        };
        if this
            .optional_count("split.count")?
            .is_some_and(|count| count > 1)
        {
            let message = "is a part of a model that is split into several files; merge them with llama-gguf-split";
            return Err(this.refuse("split.count", message));
        }
        let name = this.text("general.architecture")?;
        this.architecture = names::Architecture::of(name)
            .map_err(|message| this.refuse("general.architecture", message))?;
        Ok(this)
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the sizes of the tensors that are weights.
    ///
    /// # Errors
    /// [`ModelError::GgufTensor`] for one that is stored in a format that is not read.
    pub fn weights(&self) -> Result<Vec<TensorSize>> {
        let tensors = self.header.tensors.iter();
        let weights =
            tensors.filter(|(name, _)| !names::FREQUENCY_TENSORS.contains(&name.as_str()));
        let size = |(name, info): (&String, &TensorInfo)| {
            let refuse = |message: String| self.refuse_tensor(name, message);
            let format = BlockFormat::of_number(info.format).map_err(refuse)?;
            let elements = info
                .shape
                .iter()
                .try_fold(1, |product: usize, &size| product.checked_mul(size));
            let sizes = elements.and_then(|elements| Some((elements, format.bytes_of(elements)?)));
            let (elements, bytes) =
                sizes.ok_or_else(|| refuse("is not whole blocks of its format".to_owned()))?;
            Ok(TensorSize {
                elements,
                bytes,
                format,
            })
        };
        weights.map(size).collect()
    }

    /// Returns the error for a key of the metadata.
    fn refuse(&self, key: &str, message: impl Into<String>) -> ModelError {
        ModelError::Config {
            path: self.path.clone(),
            key: key.to_owned(),
            message: message.into(),
        }
    }

    /// Returns the error for a tensor of the file.
    fn refuse_tensor(&self, tensor: &str, message: impl Into<String>) -> ModelError {
        ModelError::GgufTensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            message: message.into(),
        }
    }

    /// Returns a value of the metadata.
    fn get(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    fn optional_text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "is not a text")),
        }
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.optional_text(key)?
            .ok_or_else(|| self.refuse(key, "is missing"))
    }

    fn optional_switch(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(switch)) => Ok(Some(*switch)),
            Some(_) => Err(self.refuse(key, "is neither true nor false")),
        }
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(count)) => usize::try_from(*count)
                .map(Some)
                .map_err(|_| self.refuse(key, format!("{count} is not a count"))),
            Some(_) => Err(self.refuse(key, "is not a whole number")),
        }
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Integer(number)) => Ok(Some(*number as f64)),
            Some(_) => Err(self.refuse(key, "is not a number")),
        }
    }

    fn optional_token(&self, key: &str) -> Result<Option<u32>> {
        let id = self.optional_count(key)?;
        id.map(|id| {
            u32::try_from(id).map_err(|_| self.refuse(key, format!("{id} is not a token id")))
        })
        .transpose()
    }

    /// Returns the texts of an array.
    fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let Some(Value::Array(values)) = self.get(key) else {
            return Err(self.refuse(key, "is missing, or not a list"));
        };
        let texts = values.iter().map(|value| match value {
            Value::Text(text) => Ok(text.as_str()),
            _ => Err(self.refuse(key, "has an element that is not a text")),
        });
        texts.collect()
    }

    /// Returns the numbers of an array, if it is there.
    fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let values = match self.get(key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values,
            Some(_) => return Err(self.refuse(key, "is not a list")),
        };
        let numbers = values.iter().map(|value| match value {
            Value::Integer(number) => Ok(*number as f64),
            Value::Float(number) => Ok(*number),
            _ => Err(self.refuse(key, "has an element that is not a number")),
        });
        numbers.collect::<Result<_>>().map(Some)
    }

    /// Returns a tensor by the file's name for it, as a matrix of the rows `rows` of all its rows.
    fn block_matrix(
        &self,
        name: &str,
        info: &TensorInfo,
        rows: std::ops::Range<usize>,
        order: RowOrder,
    ) -> Result<BlockMatrix> {
        let refuse = |message: String| self.refuse_tensor(name, message);
        let format = BlockFormat::of_number(info.format).map_err(refuse)?;
        let columns = info.shape.last().copied().unwrap_or(1);
        let beyond = || refuse("ends beyond the end of the file; is the file cut off?".to_owned());
        let row_bytes = format.bytes_of(columns).ok_or_else(|| {
            let block = format.block_len();
            refuse(format!(
                "has rows of {columns}, which {format} does not store: its blocks are {block}"
            ))
        })?;
        let at = |row: usize| {
            let start = usize::try_from(info.start).ok()?;
            start.checked_add(row.checked_mul(row_bytes)?)
        };
        let range = at(rows.start).zip(at(rows.end)).ok_or_else(beyond)?;
        if range.1 > (*self.bytes).as_ref().len() {
            return Err(beyond());
        }
        BlockMatrix::new(
            Arc::clone(&self.bytes),
            range.0..range.1,
            format,
            [rows.len(), columns],
            order,
        )
        .map_err(refuse)
    }

    /// Returns the values of a vector by the file's name for it, if the file has it.
    fn vector(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(info) = self.header.tensors.get(name) else {
            return Ok(None);
        };
        if info.shape.len() != 1 {
            let shape = &info.shape;
            return Err(self.refuse_tensor(name, format!("has shape {shape:?}, not one dimension")));
        }
        let matrix = self.block_matrix(name, info, 0..1, RowOrder::Same)?;
        Ok(Some(matrix.unpack()))
    }
}

/// The tensors of a GGUF file under their names in the Hugging Face checkpoint.
pub struct GgufWeights {
    file: GgufFile,
    head_dim: usize,
    /// The file's names of the tensors that were asked for.
    taken: BTreeSet<String>,
}

impl GgufWeights {
    /// Gives out the tensors of `file`.
    ///
    /// # Errors
    /// [`ModelError::Config`] where the width of a head cannot be told.
    pub fn new(file: GgufFile) -> Result<Self> {
        Ok(Self {
            head_dim: file.head_dim()?,
            file,
            taken: BTreeSet::new(),
        })
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Returns whether the file has the tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        let place = self.file.architecture.place(name);
        place.is_some_and(|place| self.file.header.tensors.contains_key(&place.tensor))
    }

    /// Returns the tensor `name`, a vector as a matrix of one column, as the blocks of the file.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::TensorShape`], or [`ModelError::GgufTensor`] for one that
    /// is not whole, not finite, or stored in a format that is not read.
    pub fn matrix(&mut self, name: &str, shape: &[usize]) -> Result<BlockMatrix> {
        let file = &self.file;
        let missing = |tensor: &str| ModelError::MissingTensor {
            path: file.path.clone(),
            tensor: tensor.to_owned(),
        };
        let place = file.architecture.place(name).ok_or_else(|| missing(name))?;
        let tensor = &place.tensor;
        let info = file.header.tensors.get(tensor);
        let info = info.ok_or_else(|| missing(tensor))?;
        let wrong_shape = |expected: Vec<usize>| ModelError::TensorShape {
            path: file.path.clone(),
            tensor: tensor.clone(),
            expected,
            found: info.shape.clone(),
        };
        let (first, found) = match place.expert {
            None => (0, &info.shape[..]),
            // The experts' matrices are one tensor, one after another.
            Some(expert) => match info.shape.split_first() {
                Some((&experts, found)) if expert < experts => (expert, found),
                _ => return Err(wrong_shape([&[expert + 1], shape].concat())),
            },
        };
        if found != shape {
            return Err(wrong_shape(shape.to_vec()));
        }
        let order = match place.interleaved {
            true => RowOrder::Interleaved {
                head_dim: self.head_dim,
            },
            false => RowOrder::Same,
        };
        // The rows of a vector are its elements, so that a bias is turned as its weights are.
        let column;
        let (info, rows) = match shape {
            [rows] => {
                column = TensorInfo {
                    shape: vec![*rows, 1],
                    ..info.clone()
                };
                (&column, *rows)
            }
            [rows, _] => (info, *rows),
            _ => return Err(wrong_shape(shape.to_vec())),
        };
        let rows = first * rows..(first + 1) * rows;
        let matrix = file.block_matrix(tensor, info, rows, order)?;
        self.taken.insert(place.tensor);
        Ok(matrix)
    }

    /// Appends the numbers of the tensor `name` to `values`, rounded to `dtype`.
    ///
    /// # Errors
    /// As [`matrix`](Self::matrix), and for a number that rounding makes infinite.
    pub fn append(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: Dtype,
        values: &mut Vec<f32>,
    ) -> Result<()> {
        let matrix = self.matrix(name, shape)?;
        let start = values.len();
        values.extend(matrix.unpack());
        if dtype == Dtype::Bf16 {
            let read = &mut values[start..];
            read.iter_mut()
                .for_each(|value| *value = bf16::from_f32(*value).to_f32());
            if let Some(element) = read.iter().position(|value| !value.is_finite()) {
                let message = format!("is infinite in bf16 at element {element}");
                return Err(self.file.refuse_tensor(name, message));
            }
        }
        Ok(())
    }

    /// Returns the weights of several linear layers over the same inputs as they are stored; `parts` are names and
    /// output counts.
    ///
    /// None where all are floats, which the kernels take in their own layout. Halves of [`BlockFormat::F16`] stay
    /// as they are too, unless they are to be rounded.
    ///
    /// # Errors
    /// As [`matrix`](Self::matrix).
    pub fn quantized(
        &mut self,
        parts: &[(String, usize)],
        in_features: usize,
        dtype: Dtype,
    ) -> Result<Option<Vec<BlockMatrix>>> {
        let read = |(name, outputs): &(String, usize)| {
            self.matrix(&format!("{name}.weight"), &[*outputs, in_features])
        };
        let parts = parts.iter().map(read).collect::<Result<Vec<_>>>()?;
        let own_layout = parts.iter().all(|part| {
            part.format().is_float() && (part.format() != BlockFormat::F16 || dtype == Dtype::Bf16)
        });
        Ok((!own_layout).then_some(parts))
    }

    /// Checks that every tensor of the file was asked for, but those that the config was read from.
    ///
    /// # Errors
    /// [`ModelError::ExtraTensor`] with the first that was not.
    pub fn finish(self) -> Result<()> {
        let mut names = self.file.header.tensors.keys();
        let left = names.find(|name| {
            !self.taken.contains(*name) && !names::FREQUENCY_TENSORS.contains(&name.as_str())
        });
        left.map_or(Ok(()), |tensor| {
            Err(ModelError::ExtraTensor {
                path: self.file.path.clone(),
                tensor: tensor.clone(),
            })
        })
    }
}
