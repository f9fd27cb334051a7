//! The header of a GGUF file: metadata, and where each tensor lies.

use std::collections::BTreeMap;

/// The first four bytes of the file.
const MAGIC: &[u8; 4] = b"GGUF";
/// What tensors start at a multiple of, unless `general.alignment` says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The most dimensions that ggml gives a tensor.
const MOST_DIMENSIONS: u32 = 4;
/// How deep arrays may lie in arrays: no metadata needs more, and reading goes down by recursion.
const MOST_LEVELS: usize = 4;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// An integer of any width.
    Integer(i128),
    /// A float of either width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Several values of one type.
    Array(Vec<Value>),
}

/// What the header says of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    /// The dimensions, the one that runs slowest first.
    pub(crate) shape: Vec<usize>,
    /// The number of its format.
    pub(crate) format: u32,
    /// Its first byte in the file.
    pub(crate) start: u64,
}

/// The header of a GGUF file.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, position: 0 };
        if reader.take(4).is_ok_and(|magic| magic != MAGIC) || bytes.len() < 4 {
            return Err("it does not start with the letters GGUF".to_owned());
        }
        match reader.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err("it is written for machines with the other byte order".to_owned());
            }
            version => return Err(format!("it is of version {version}; 2 and 3 are read")),
        }
        // Counts are not believed before there are as many entries: nothing is reserved by them.
        let (tensor_count, value_count) = (reader.u64()?, reader.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader
                .value(kind, 0)
                .map_err(|message| format!("{key}: {message}"))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("{key} is there twice"));
            }
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = reader.text()?;
            let info = reader
                .tensor()
                .map_err(|message| format!("tensor {name}: {message}"))?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(format!("tensor {name} is there twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Integer(alignment)) => u64::try_from(*alignment)
                .ok()
                .filter(|alignment| alignment.is_power_of_two())
                .ok_or_else(|| format!("general.alignment: {alignment} is not a power of two"))?,
            Some(_) => return Err("general.alignment is not a number".to_owned()),
        };
        let data_start = (reader.position as u64)
            .checked_next_multiple_of(alignment)
            .ok_or("general.alignment is beyond the file")?;
        for (name, info) in &mut tensors {
            if info.start % alignment != 0 {
                let offset = info.start;
                return Err(format!(
                    "tensor {name}: {offset} is not a multiple of the alignment {alignment}"
                ));
            }
            info.start = info
                .start
                .checked_add(data_start)
                .ok_or_else(|| format!("tensor {name} is beyond the file"))?;
        }
        Ok(Self { metadata, tensors })
    }
}

/// The bytes of the header, and how far they are read.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let taken = self.bytes[self.position..]
            .get(..count)
            .ok_or("it ends within the header")?;
        self.position += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let count = self.u64()?;
        let count = usize::try_from(count).map_err(|_| "it ends within the header")?;
        let bytes = self.take(count)?;
        let text = std::str::from_utf8(bytes).map_err(|_| {
            let lossy = String::from_utf8_lossy(bytes);
            format!("the text `{lossy}` of the header is not UTF-8")
        })?;
        Ok(text.to_owned())
    }

    fn value(&mut self, kind: u32, level: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Integer(self.array().map(u8::from_le_bytes)?.into()),
            1 => Value::Integer(self.array().map(i8::from_le_bytes)?.into()),
            2 => Value::Integer(self.array().map(u16::from_le_bytes)?.into()),
            3 => Value::Integer(self.array().map(i16::from_le_bytes)?.into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(self.array().map(i32::from_le_bytes)?.into()),
            6 => Value::Float(self.array().map(f32::from_le_bytes)?.into()),
            7 => Value::Bool(self.take(1)? != [0]),
            8 => Value::Text(self.text()?),
            9 => {
                if level == MOST_LEVELS {
                    return Err(format!("arrays lie more than {MOST_LEVELS} deep"));
                }
                let (kind, count) = (self.u32()?, self.u64()?);
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(kind, level + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(self.array().map(i64::from_le_bytes)?.into()),
            12 => Value::Float(self.array().map(f64::from_le_bytes)?),
            _ => return Err(format!("{kind} is not the number of a type")),
        })
    }

    fn tensor(&mut self) -> Result<TensorInfo, String> {
        let dimensions = self.u32()?;
        if dimensions > MOST_DIMENSIONS {
            return Err(format!(
                "it has {dimensions} dimensions; {MOST_DIMENSIONS} are the most"
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64()?;
            shape.push(usize::try_from(size).map_err(|_| format!("{size} is no dimension"))?);
        }
        shape.reverse();
        Ok(TensorInfo {
            shape,
            format: self.u32()?,
            start: self.u64()?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes headers, for tests.
    pub(crate) struct Writer(pub(crate) Vec<u8>);

    impl Writer {
        pub(crate) fn new(version: u32, tensors: u64, values: u64) -> Self {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(version.to_le_bytes());
            bytes.extend(tensors.to_le_bytes());
            bytes.extend(values.to_le_bytes());
            Self(bytes)
        }

        pub(crate) fn text(mut self, text: &str) -> Self {
            self.0.extend((text.len() as u64).to_le_bytes());
            self.0.extend(text.as_bytes());
            self
        }

        pub(crate) fn u32(mut self, number: u32) -> Self {
            self.0.extend(number.to_le_bytes());
            self
        }

        pub(crate) fn u64(mut self, number: u64) -> Self {
            self.0.extend(number.to_le_bytes());
            self
        }

        /// A tensor with its shape in the file's order: the fastest dimension first.
        pub(crate) fn tensor(self, name: &str, shape: &[u64], format: u32, offset: u64) -> Self {
            let mut this = self.text(name).u32(shape.len() as u32);
            for &size in shape {
                this = this.u64(size);
            }
            this.u32(format).u64(offset)
        }
    }

    fn valid() -> Vec<u8> {
        Writer::new(3, 2, 3)
            .text("general.architecture")
            .u32(8)
            .text("llama")
            .text("general.alignment")
            .u32(4)
            .u32(64)
            .text("list")
            .u32(9)
            .u32(5)
            .u64(2)
            .u32(7)
            .u32(u32::MAX)
            .tensor("a", &[256, 3], 12, 0)
            .tensor("b", &[5], 0, 448)
            .0
    }

    #[test]
    fn values_and_tensors_are_read() {
        let header = Header::read(&valid()).expect("valid");
        let text = Value::Text("llama".to_owned());
        assert_eq!(header.metadata["general.architecture"], text);
        let list = Value::Array(vec![Value::Integer(7), Value::Integer(-1)]);
        assert_eq!(header.metadata["list"], list);
        let data_start = valid().len().next_multiple_of(64) as u64;
        let a = &header.tensors["a"];
        assert_eq!(
            (&a.shape[..], a.format, a.start),
            (&[3, 256][..], 12, data_start)
        );
        assert_eq!(header.tensors["b"].start, data_start + 448);
    }

    #[test]
    fn a_header_cut_anywhere_is_refused() {
        let bytes = valid();
        for len in 0..bytes.len() {
            assert!(Header::read(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_header_that_is_not_one_says_why() {
        let refusal = |bytes: Vec<u8>| Header::read(&bytes).expect_err("refused");
        let letters = "it does not start with the letters GGUF";
        assert_eq!(refusal(b"{\"model_type\"".to_vec()), letters);
        assert_eq!(refusal(Vec::new()), letters);
        assert_eq!(
            refusal(Writer::new(1, 0, 0).0),
            "it is of version 1; 2 and 3 are read"
        );
        assert_eq!(
            refusal(Writer::new(3 << 24, 0, 0).0),
            "it is written for machines with the other byte order"
        );
        // Counts and lengths that no file has take neither memory nor time.
        let end = "it ends within the header";
        assert_eq!(refusal(Writer::new(3, u64::MAX, u64::MAX).0), end);
        let long = Writer::new(3, 0, 1).text("k").u32(8).u64(u64::MAX);
        assert_eq!(refusal(long.0), format!("k: {end}"));
        let many = Writer::new(3, 0, 1).text("k").u32(9).u32(0).u64(u64::MAX);
        assert_eq!(refusal(many.0), format!("k: {end}"));
        let mut deep = Writer::new(3, 0, 1).text("k").u32(9);
        for _ in 0..10_000 {
            deep = deep.u32(9).u64(1);
        }
        assert_eq!(refusal(deep.0), "k: arrays lie more than 4 deep");
        let odd = Writer::new(3, 0, 1).text("k").u32(13);
        assert_eq!(refusal(odd.0), "k: 13 is not the number of a type");
        let zero = Writer::new(3, 0, 1).text("general.alignment").u32(4).u32(0);
        assert_eq!(
            refusal(zero.0),
            "general.alignment: 0 is not a power of two"
        );
        let crooked = Writer::new(3, 1, 0).tensor("t", &[1], 0, 4);
        assert_eq!(
            refusal(crooked.0),
            "tensor t: 4 is not a multiple of the alignment 32"
        );
        let twice = Writer::new(3, 2, 0)
            .tensor("t", &[1], 0, 0)
            .tensor("t", &[1], 0, 0);
        assert_eq!(refusal(twice.0), "tensor t is there twice");
        let flat = Writer::new(3, 1, 0).tensor("t", &[1; 5], 0, 0);
        assert_eq!(
            refusal(flat.0),
            "tensor t: it has 5 dimensions; 4 are the most"
        );
    }
}
