//! The import itself: every record's fate in a first pass, the tables in a second.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sims_artifact::tables::{DroppedPromptRow, Message, PromptRow, prompt_id};
use sims_artifact::{Digest, TableWriter};

use crate::words::normal_form;
use crate::{ImportError, Mapping, Progress, PromptFile, Record, Splits, TestSets};

/// Records examined at once, by as many threads as there are.
const BATCH: usize = 2048;

/// Which prompts are long enough, and not too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Fewest words of all turns together.
    pub min_words: usize,
    /// Most words.
    pub max_words: usize,
    /// Most characters.
    pub max_characters: usize,
}

/// What to import, and how.
pub struct Import {
    /// The files, in the order in which duplicates give way to the earlier.
    pub inputs: Vec<PromptFile>,
    /// Test sets that no prompt may overlap with.
    pub test_sets: Vec<PromptFile>,
    /// The splits.
    pub splits: Splits,
    /// Decides with a prompt's id which split it belongs to.
    pub seed: u64,
    /// Lengths that are kept.
    pub limits: Limits,
    /// Whether empty prompts are left out rather than refused.
    pub skip_empty: bool,
    /// The folder of `SPLIT.parquet` and `dropped.parquet`.
    pub out: PathBuf,
}

/// What was read from a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FileSummary {
    /// The file.
    pub file: String,
    /// Its records.
    pub read: u64,
    /// The columns that were read.
    pub columns: Mapping,
}

/// What became of all records.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Records read.
    pub read: u64,
    /// Records left out, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Records left out for an overlap, by test set.
    pub overlaps: BTreeMap<String, u64>,
    /// Prompts kept, by split.
    pub kept: BTreeMap<String, u64>,
    /// The seed of the splits.
    pub seed: u64,
    /// The input files.
    pub files: Vec<FileSummary>,
}

/// What becomes of a record; records are numbered over all files, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept { split: u32 },
    Empty,
    TooShort,
    TooLong,
    ExactDuplicate { of: u32 },
    NormalisedDuplicate { of: u32 },
    TestOverlap { with: u32 },
    NoSplit,
}

impl Fate {
    /// Every reason for leaving a record out, in the order in which they are looked for.
    const REASONS: [&'static str; 7] = [
        "empty",
        "too-short",
        "too-long",
        "exact-duplicate",
        "normalised-duplicate",
        "test-overlap",
        "no-split",
    ];

    fn reason(self) -> Option<&'static str> {
        let place = match self {
            Self::Kept { .. } => return None,
            Self::Empty => 0,
            Self::TooShort => 1,
            Self::TooLong => 2,
            Self::ExactDuplicate { .. } => 3,
            Self::NormalisedDuplicate { .. } => 4,
            Self::TestOverlap { .. } => 5,
            Self::NoSplit => 6,
        };
        Some(Self::REASONS[place])
    }
}

/// What the first pass finds out about one record by itself.
struct Examined {
    id: u128,
    normal: u128,
    words: usize,
    characters: usize,
    overlap: Option<u32>,
}

/// What the first pass knows of all records.
#[derive(Default)]
struct Examination {
    fates: Vec<Fate>,
    ids: Vec<u128>,
    first_of_id: HashMap<u128, u32>,
    first_of_normal: HashMap<u128, u32>,
}

impl Import {
    /// Reads, cleans, splits and writes.
    ///
    /// The tables appear when all records have been written. Equal files, options and seed give equal bytes.
    ///
    /// # Errors
    /// A file or record that cannot be read, splits that cannot be filled, a folder that cannot be written.
    pub fn run(&self, progress: &Progress) -> Result<Summary, ImportError> {
        self.check()?;
        let tests = TestSets::read(&self.test_sets, progress)?;
        let mut examination = Examination::default();
        let mut files = Vec::new();
        for file in &self.inputs {
            let before = examination.fates.len();
            let columns = self.examine_file(file, &tests, &mut examination, progress)?;
            progress.note(&format!("{}: {columns}", file.path().display()));
            files.push(FileSummary {
                file: file.path().display().to_string(),
                read: (examination.fates.len() - before) as u64,
                columns,
            });
        }
        self.split(&mut examination)?;
        self.write(&examination, &tests, &files, progress)?;
        Ok(self.summary(&examination, &tests, files))
    }

    fn check(&self) -> Result<(), ImportError> {
        let Limits {
            min_words: min,
            max_words: max,
            ..
        } = self.limits;
        if min > max {
            return Err(ImportError::BadLimits { min, max });
        }
        let same = |one: &Path, other: &Path| {
            let whole = |path: &Path| path.canonicalize().ok();
            whole(one).is_some_and(|one| Some(one) == whole(other))
        };
        let outputs = self.splits.names().iter().map(|name| self.table(name));
        let outputs = outputs.chain([self.table("dropped")]);
        let read = || self.inputs.iter().chain(&self.test_sets);
        for output in outputs {
            if read().any(|file| same(file.path(), &output)) {
                return Err(ImportError::ReplacesInput { path: output });
            }
        }
        Ok(())
    }

    fn table(&self, name: &str) -> PathBuf {
        self.out.join(format!("{name}.parquet"))
    }

    fn examine_file(
        &self,
        file: &PromptFile,
        tests: &TestSets,
        examination: &mut Examination,
        progress: &Progress,
    ) -> Result<Mapping, ImportError> {
        let mut batch: Vec<Record> = Vec::with_capacity(BATCH);
        let mapping = file.read(progress.read_bytes(), &mut |mapping, record| {
            if record.messages.is_empty() && !self.skip_empty {
                return Err(ImportError::EmptyPrompt {
                    place: file.place(record.number),
                    column: mapping.prompt.clone(),
                });
            }
            batch.push(record);
            if batch.len() == BATCH {
                self.judge(&batch, tests, examination);
                batch.clear();
                progress.show("reading");
            }
            Ok(())
        })?;
        self.judge(&batch, tests, examination);
        Ok(mapping)
    }

    /// Decides the fates of records, but for their split.
    fn judge(&self, batch: &[Record], tests: &TestSets, examination: &mut Examination) {
        let examined: Vec<Examined> = batch
            .par_iter()
            .map(|record| examine(&record.messages, tests))
            .collect();
        for (record, found) in batch.iter().zip(examined) {
            let number = examination.fates.len() as u32;
            let fate = if record.messages.is_empty() {
                Fate::Empty
            } else if found.words < self.limits.min_words {
                Fate::TooShort
            } else if found.words > self.limits.max_words
                || found.characters > self.limits.max_characters
            {
                Fate::TooLong
            } else {
                examination
                    .repeats(number, &found)
                    .unwrap_or(match found.overlap {
                        Some(with) => Fate::TestOverlap { with },
                        None => Fate::NoSplit,
                    })
            };
            examination.fates.push(fate);
            examination.ids.push(found.id);
        }
    }

    /// Gives the records that nothing speaks against to the splits.
    fn split(&self, examination: &mut Examination) -> Result<(), ImportError> {
        let Examination { fates, ids, .. } = examination;
        let clean: Vec<usize> = (0..fates.len())
            .filter(|&record| fates[record] == Fate::NoSplit)
            .collect();
        let clean_ids: Vec<u128> = clean.iter().map(|&record| ids[record]).collect();
        for (record, split) in clean
            .into_iter()
            .zip(self.splits.assign(&clean_ids, self.seed)?)
        {
            if let Some(split) = split {
                fates[record] = Fate::Kept { split };
            }
        }
        Ok(())
    }

    fn write(
        &self,
        examination: &Examination,
        tests: &TestSets,
        files: &[FileSummary],
        progress: &Progress,
    ) -> Result<(), ImportError> {
        let names = self.splits.names();
        let mut kept = names
            .iter()
            .map(|name| TableWriter::<PromptRow>::create(&self.table(name)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut dropped = TableWriter::<DroppedPromptRow>::create(&self.table("dropped"))?;
        let mut first = 0;
        for (file, FileSummary { read, .. }) in self.inputs.iter().zip(files) {
            let changed = || ImportError::Changed {
                path: file.path().to_owned(),
            };
            let end = first + *read as usize;
            let default_source = file
                .path()
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            let mut number = first;
            file.read(progress.read_bytes(), &mut |_, record| {
                if number == end {
                    return Err(changed());
                }
                let (fate, id) = (examination.fates[number], examination.ids[number]);
                number += 1;
                if number.is_multiple_of(BATCH) {
                    progress.show("writing");
                }
                let source = record
                    .source
                    .unwrap_or_else(|| default_source.clone().into_owned());
                let prompt_id = hexadecimal(id);
                match fate {
                    Fate::Kept { split } => kept[split as usize].push(PromptRow {
                        prompt_id,
                        messages: record.messages,
                        split: names[split as usize].clone(),
                        source,
                    })?,
                    _ => dropped.push(DroppedPromptRow {
                        file: file.path().display().to_string(),
                        row: record.number,
                        prompt_id,
                        messages: record.messages,
                        source,
                        reason: fate.reason().unwrap_or_default().to_owned(),
                        duplicate_of: match fate {
                            Fate::ExactDuplicate { of } | Fate::NormalisedDuplicate { of } => {
                                Some(hexadecimal(examination.ids[of as usize]))
                            }
                            _ => None,
                        },
                        overlaps: match fate {
                            Fate::TestOverlap { with } => Some(tests.place(with).to_string()),
                            _ => None,
                        },
                    })?,
                }
                Ok(())
            })?;
            if number != end {
                return Err(changed());
            }
            first = end;
        }
        for writer in kept {
            writer.finish()?;
        }
        Ok(dropped.finish()?)
    }

    fn summary(
        &self,
        examination: &Examination,
        tests: &TestSets,
        files: Vec<FileSummary>,
    ) -> Summary {
        let mut dropped: BTreeMap<_, u64> =
            Fate::REASONS.iter().map(|&reason| (reason, 0)).collect();
        let paths = self
            .test_sets
            .iter()
            .map(|file| file.path().display().to_string());
        let mut overlaps: BTreeMap<String, u64> = paths.map(|path| (path, 0)).collect();
        let names = self.splits.names();
        let mut kept: BTreeMap<String, u64> = names.iter().map(|name| (name.clone(), 0)).collect();
        for &fate in &examination.fates {
            if let Some(reason) = fate.reason() {
                *dropped.entry(reason).or_default() += 1;
            }
            match fate {
                Fate::Kept { split } => {
                    *kept.entry(names[split as usize].clone()).or_default() += 1
                }
                Fate::TestOverlap { with } => {
                    let path = tests.place(with).file.display().to_string();
                    *overlaps.entry(path).or_default() += 1;
                }
                _ => {}
            }
        }
        Summary {
            read: examination.fates.len() as u64,
            dropped,
            overlaps,
            kept,
            seed: self.seed,
            files,
        }
    }
}

impl Examination {
    /// Returns whether a record repeats an earlier one, and remembers it.
    fn repeats(&mut self, number: u32, found: &Examined) -> Option<Fate> {
        let of_id = *self.first_of_id.entry(found.id).or_insert(number);
        let of_normal = *self.first_of_normal.entry(found.normal).or_insert(number);
        if of_id != number {
            Some(Fate::ExactDuplicate { of: of_id })
        } else if of_normal != number {
            Some(Fate::NormalisedDuplicate { of: of_normal })
        } else {
            None
        }
    }
}

fn examine(chat: &[Message], tests: &TestSets) -> Examined {
    let mut normal = String::new();
    let (mut words, mut characters) = (0, 0);
    for turn in chat {
        words += turn.content.split_whitespace().count();
        characters += turn.content.chars().count();
        // No role and no normal form has these separators.
        normal += &turn.role;
        normal.push('\u{1}');
        normal += &normal_form(&turn.content);
        normal.push('\u{2}');
    }
    let digest = Digest::of_bytes(normal.as_bytes());
    let id =
        u128::from_str_radix(&prompt_id(chat), 16).expect("a prompt id is 32 hexadecimal digits");
    let (half, _) = digest.as_bytes().split_at(16);
    Examined {
        id,
        normal: u128::from_be_bytes(half.try_into().expect("sixteen bytes")),
        words,
        characters,
        overlap: tests.overlap(chat),
    }
}

fn hexadecimal(id: u128) -> String {
    format!("{id:032x}")
}
