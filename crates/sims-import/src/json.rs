//! JSON lines, and a JSON array read element by element.

use std::fmt;
use std::io::BufRead;
use std::sync::atomic::AtomicU64;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use sims_artifact::ArtifactError;

use crate::columns::{Column, Kind, Mapping};
use crate::reader::{PromptFile, Visit};
use crate::record::name_of_type;
use crate::{ImportError, Record};

/// Reads one object a line; blank lines are passed over.
pub(crate) fn lines(
    file: &PromptFile,
    read_bytes: &AtomicU64,
    visit: Visit<'_>,
) -> Result<Option<Mapping>, ImportError> {
    let mut text = file.text(read_bytes)?;
    let mut records = Records::new(file, visit);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = text.read_until(b'\n', &mut line);
        if read.map_err(|e| ArtifactError::io("read", file.path(), e))? == 0 {
            break;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line =
            std::str::from_utf8(line.trim_ascii_end()).map_err(|error| ImportError::NotUtf8 {
                place: file.place(number),
                offset: error.valid_up_to() + 1,
                byte: line[error.valid_up_to()],
            })?;
        let mut json = serde_json::Deserializer::from_str(line);
        let wanted = Wanted(records.mapping.as_ref());
        let cells = wanted
            .deserialize(&mut json)
            .and_then(|cells| json.end().map(|()| cells));
        let cells = cells.map_err(|error| ImportError::Malformed {
            place: file.place(number),
            message: format!(
                "column {}: {}; each line has to be one JSON object",
                error.column(),
                without_place(&error)
            ),
        })?;
        records.take(number, cells)?;
    }
    Ok(records.mapping)
}

/// Reads the objects of one array.
pub(crate) fn array(
    file: &PromptFile,
    read_bytes: &AtomicU64,
    visit: Visit<'_>,
) -> Result<Option<Mapping>, ImportError> {
    let mut json = serde_json::Deserializer::from_reader(file.text(read_bytes)?);
    let mut elements = Elements {
        records: Records::new(file, visit),
        failure: None,
        number: 0,
    };
    let read = json
        .deserialize_seq(&mut elements)
        .and_then(|()| json.end());
    if let Some(failure) = elements.failure {
        return Err(failure);
    }
    read.map_err(|error| {
        if error.is_io() {
            return ArtifactError::io("read", file.path(), error.into()).into();
        }
        ImportError::Malformed {
            place: file.place(elements.number + 1),
            message: format!(
                "line {}, column {} of the file: {}; the file has to be one JSON array of objects in UTF-8",
                error.line(),
                error.column(),
                without_place(&error)
            ),
        }
    })?;
    Ok(elements.records.mapping)
}

/// The message of serde_json without its own line and column.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(end) => message[..end].to_owned(),
        None => message,
    }
}

/// Turns cells into records; the first ones decide which columns are read.
struct Records<'a> {
    file: &'a PromptFile,
    mapping: Option<Mapping>,
    visit: Visit<'a>,
}

impl<'a> Records<'a> {
    fn new(file: &'a PromptFile, visit: Visit<'a>) -> Self {
        Self {
            file,
            mapping: None,
            visit,
        }
    }

    fn take(&mut self, number: u64, cells: Map<String, Value>) -> Result<(), ImportError> {
        let mapping = match &mut self.mapping {
            Some(mapping) => mapping,
            none => {
                let columns: Vec<Column> = cells
                    .iter()
                    .map(|(name, value)| Column {
                        name: name.clone(),
                        kind: kind_of(value),
                    })
                    .collect();
                let flags = self.file.columns();
                none.insert(Mapping::choose(self.file.path(), &columns, flags, false)?)
            }
        };
        let record = Record::of(cells, mapping, &self.file.place(number))?;
        (self.visit)(&*mapping, record)
    }
}

fn kind_of(value: &Value) -> Kind {
    match value {
        Value::String(_) => Kind::Text,
        Value::Array(_) => Kind::Turns,
        other => Kind::Other(name_of_type(other).to_owned()),
    }
}

/// Reads an object's wanted entries: all of them before the columns are known.
#[derive(Clone, Copy)]
struct Wanted<'a>(Option<&'a Mapping>);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut cells = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if self.0.is_none_or(|mapping| mapping.reads(&name)) {
                cells.insert(name, entries.next_value()?);
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(cells)
    }
}

/// Hands on the elements of an array while it is being parsed.
struct Elements<'a> {
    records: Records<'a>,
    /// Why a record was refused; serde's own errors carry text only.
    failure: Option<ImportError>,
    number: u64,
}

impl<'de> Visitor<'de> for &mut Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(cells) = sequence.next_element_seed(Wanted(self.records.mapping.as_ref()))? {
            self.number += 1;
            if let Err(failure) = self.records.take(self.number, cells) {
                self.failure = Some(failure);
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
