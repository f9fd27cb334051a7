//! Work in chunks: what is finished is kept, whatever becomes of the rest.
//!
//! A stage that works item by item (prompts, pairs) names each item by a [`Digest`] of all that its result
//! depends on beside the inputs and parameters that all items share: a *unit*. [`StageIo::chunks`] looks
//! which units are known, has the others computed some at a time, and says where each unit's rows are.
//!
//! What is known comes in a folder, `--chunks DIR`, and what is new goes there:
//!
//! ```text
//! known/NAME.json   a note: kind, units, rows of each, counts, seconds
//! known/NAME.EXT    the rows, a table or tensors, one unit after another
//! new/              the same, of chunks that this process finished; the note comes last
//! ```
//!
//! After each one of the JSON events says `{"event": "chunk", "name": "NAME"}`. Whoever started the stage keeps what is new and
//! brings it back as known the next time. Without the flag there is one chunk, and nothing outlives the process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sims_artifact::atomic_file::write_atomically;
use sims_artifact::{Digest, Table, read_table, write_table};

use crate::describe::extension;
use crate::exit::{BadInput, PartDone};
use crate::io::StageIo;

/// What a stage's units make up for: inputs and parameters that matter to a unit only as its digest says.
///
/// They decide which units there are. All other inputs and parameters belong to every unit.
#[derive(Debug, Clone, Copy)]
pub struct Units {
    /// Roles of such inputs.
    pub inputs: &'static [&'static str],
    /// Names of such parameters, as flags are named.
    pub params: &'static [&'static str],
}

/// How units are handed out and taken back.
#[derive(Debug)]
pub(crate) struct ChunkOptions {
    /// The folder of `--chunks`, or one of the process's own.
    pub(crate) folder: PathBuf,
    /// Units a chunk; 0 makes one of all.
    pub(crate) size: usize,
}

/// What stands beside the rows of a chunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkNote {
    /// Which work of the stage it is.
    pub kind: String,
    /// The kind of artifact that the rows are, such as `responses@1`.
    pub schema: String,
    /// The units, in the order of their rows.
    pub units: Vec<Digest>,
    /// Rows of each unit.
    pub rows: Vec<usize>,
    /// What the stage counted meanwhile.
    #[serde(default)]
    pub counts: BTreeMap<String, f64>,
    /// How long it took. Unit: seconds.
    #[serde(default)]
    pub seconds: f64,
}

/// Where the rows of a unit are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Rc<PathBuf>,
    /// The first of its rows.
    pub first_row: usize,
    /// How many there are.
    pub rows: usize,
}

/// Computes the units at some places of the list and writes their rows to a file; returns how many rows each has.
pub type Compute<'a> = dyn FnMut(&mut StageIo, &[usize], &Path) -> anyhow::Result<Vec<usize>> + 'a;

/// Computes the units at some places of the list; returns the rows of each.
pub type ComputeRows<'a, T> = dyn FnMut(&mut StageIo, &[usize]) -> anyhow::Result<Vec<Vec<T>>> + 'a;

impl StageIo {
    /// Has every unit computed that is not known, some at a time, and returns where the rows of each are.
    ///
    /// `kind` names the work within the stage; units of two kinds are never taken for each other.
    ///
    /// # Errors
    /// What `compute` says; a folder of chunks that cannot be read or written; and, in a process that was started
    /// for a part of the work, the news that the part is done.
    pub fn chunks(
        &mut self,
        kind: &str,
        schema: &str,
        units: &[Digest],
        compute: &mut Compute<'_>,
    ) -> anyhow::Result<Vec<Place>> {
        let mut known = read_notes(&self.chunk_options.folder, "known", kind)?;
        let from_before = known.len();
        known.extend(read_notes(&self.chunk_options.folder, "new", kind)?);
        let mut places: HashMap<Digest, Place> = HashMap::new();
        let wanted: HashSet<Digest> = units.iter().copied().collect();
        for (number, (note, file)) in known.iter().enumerate() {
            let used = take_places(note, file, &mut places, &wanted);
            // What parts of this very run finished took no time beside it.
            self.count_known(note, used, number < from_before);
        }
        let mut seen = HashSet::new();
        let missing: Vec<usize> = self
            .part
            .range(units.len())
            .filter(|&index| !places.contains_key(&units[index]) && seen.insert(units[index]))
            .collect();
        let size = match self.chunk_options.size {
            0 => missing.len().max(1),
            size => size,
        };
        self.steps.start(missing.len(), size);
        for chunk in missing.chunks(size) {
            self.check_interrupted()?;
            let (note, file) = self.compute_chunk(kind, schema, units, chunk, compute)?;
            self.steps.finish_chunk();
            take_places(&note, &file, &mut places, &wanted);
        }
        if self.part.is_partial() {
            return Err(PartDone.into());
        }
        let place = |unit: &Digest| {
            let place = places.get(unit).cloned();
            place.with_context(|| format!("the stage computed no rows for the unit {unit}"))
        };
        units.iter().map(place).collect()
    }

    /// Does the same for units whose rows are a table's; returns the rows of each.
    ///
    /// # Errors
    /// As [`chunks`](Self::chunks), and for a chunk that cannot be read.
    pub fn chunked_rows<T: Table + Clone>(
        &mut self,
        kind: &str,
        units: &[Digest],
        compute: &mut ComputeRows<'_, T>,
    ) -> anyhow::Result<Vec<Vec<T>>> {
        let mut write = |io: &mut Self, chunk: &[usize], file: &Path| {
            let rows = compute(io, chunk)?;
            let counts = rows.iter().map(Vec::len).collect();
            write_table(file, &rows.concat())?;
            Ok(counts)
        };
        let places = self.chunks(kind, T::SCHEMA, units, &mut write)?;
        let mut tables: HashMap<Rc<PathBuf>, Vec<T>> = HashMap::new();
        let mut all = Vec::with_capacity(places.len());
        for place in places {
            if !tables.contains_key(&place.file) {
                tables.insert(place.file.clone(), read_table(&place.file)?);
            }
            let rows = tables[&place.file].get(place.first_row..place.first_row + place.rows);
            let rows = rows.ok_or_else(|| {
                BadInput::new(format!(
                    "{} has fewer rows than its note says",
                    place.file.display()
                ))
            })?;
            all.push(rows.to_vec());
        }
        Ok(all)
    }

    fn compute_chunk(
        &mut self,
        kind: &str,
        schema: &str,
        units: &[Digest],
        chunk: &[usize],
        compute: &mut Compute<'_>,
    ) -> anyhow::Result<(ChunkNote, PathBuf)> {
        let folder = self.chunk_options.folder.join("new");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let units: Vec<Digest> = chunk.iter().map(|&index| units[index]).collect();
        // Named by what is in it: whatever else works in the folder, now or later, takes no name for other units.
        let bytes: Vec<u8> = units.iter().flat_map(|unit| *unit.as_bytes()).collect();
        let name = format!("{kind}-{}", Digest::of_bytes(&bytes).short(32));
        let file = folder.join(format!("{name}.{}", extension(schema)));
        let started = Instant::now();
        let before = std::mem::take(&mut self.summary.counts);
        let rows = compute(self, chunk, &file)?;
        let counts = std::mem::replace(&mut self.summary.counts, before);
        for (name, value) in &counts {
            self.count(name, *value);
        }
        anyhow::ensure!(
            rows.len() == chunk.len(),
            "the stage computed {} units of a chunk of {}",
            rows.len(),
            chunk.len()
        );
        let note = ChunkNote {
            kind: kind.to_owned(),
            schema: schema.to_owned(),
            units,
            rows,
            counts,
            seconds: started.elapsed().as_secs_f64(),
        };
        let text = serde_json::to_vec(&note)?;
        write_atomically(&folder.join(format!("{name}.json")), &text)?;
        self.progress.chunk_finished(&name);
        Ok((note, file))
    }

    /// Counts what the used units of a known chunk took when they were computed: its counts' share of them.
    fn count_known(&mut self, note: &ChunkNote, used: usize, is_from_before: bool) {
        if used == 0 {
            return;
        }
        let share = used as f64 / note.units.len() as f64;
        for (name, value) in &note.counts {
            // A largest batch is no sum.
            let value = if is_largest(name) {
                *value
            } else {
                value * share
            };
            self.count(name, value);
        }
        if is_from_before {
            self.count("units_reused", used as f64);
            self.count("seconds_reused", note.seconds * share);
        }
    }
}

/// Adds the places of a chunk's units that are wanted and have none yet, and returns how many those were.
fn take_places(
    note: &ChunkNote,
    file: &Path,
    places: &mut HashMap<Digest, Place>,
    wanted: &HashSet<Digest>,
) -> usize {
    let file = Rc::new(file.to_owned());
    let mut first_row = 0;
    let mut used = 0;
    for (unit, &rows) in note.units.iter().zip(&note.rows) {
        if wanted.contains(unit) && !places.contains_key(unit) {
            let place = Place {
                file: file.clone(),
                first_row,
                rows,
            };
            places.insert(*unit, place);
            used += 1;
        }
        first_row += rows;
    }
    used
}

/// Tells whether the summary keeps the largest of the values counted under `name` rather than their sum.
pub(crate) fn is_largest(name: &str) -> bool {
    name.starts_with("batch_")
}

/// Reads the notes of the chunks of a kind on one side of a folder, `known` or `new`, each with the file of its rows; in
/// the order of their names.
fn read_notes(folder: &Path, side: &str, kind: &str) -> anyhow::Result<Vec<(ChunkNote, PathBuf)>> {
    let mut notes = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder.join(side)) else {
        return Ok(notes);
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    paths.sort();
    for path in paths {
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let note: ChunkNote = serde_json::from_slice(&bytes).map_err(|error| {
            BadInput::new(format!("{} is not a chunk's note: {error}", path.display()))
        })?;
        if note.kind != kind {
            continue;
        }
        if note.rows.len() != note.units.len() {
            return Err(BadInput::new(format!(
                "{} has {} units and the rows of {}",
                path.display(),
                note.units.len(),
                note.rows.len()
            ))
            .into());
        }
        let file = path.with_extension(extension(&note.schema));
        notes.push((note, file));
    }
    Ok(notes)
}
