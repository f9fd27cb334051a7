//! Work in parts, one a device: the stage starts itself once for each, and goes on with what they finished.
//!
//! `--device cuda:0+cuda:1` gives each device one part of the work. A part is the same program with
//! `--part 2/3`: it computes that share of the units and leaves them as [chunks](crate::chunks), which the
//! whole then finds. Which devices there are changes nothing in the result.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Mutex;

use anyhow::Context;
use serde::Deserialize;

use crate::exit::{BadInput, Retryable};
use crate::io::StageIo;
use crate::progress::Progress;

/// Separates the devices that each take a part.
const SEPARATOR: char = '+';

/// Returns the devices that `--device` names, one or more.
pub(crate) fn devices(text: &str) -> Vec<&str> {
    text.split(SEPARATOR).collect()
}

/// One part of a stage's work, of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 0.
    index: usize,
    count: usize,
}

impl Part {
    /// All of it.
    pub(crate) const WHOLE: Self = Self { index: 0, count: 1 };

    /// Tells whether there are other parts.
    pub(crate) fn is_partial(self) -> bool {
        self.count > 1
    }

    /// Returns the `index`-th of `count` parts of this part.
    fn within(self, index: usize, count: usize) -> Self {
        Self {
            index: self.index * count + index,
            count: self.count * count,
        }
    }

    /// Returns the part's share of `len` items.
    pub(crate) fn range(self, len: usize) -> Range<usize> {
        len * self.index / self.count..len * (self.index + 1) / self.count
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match numbers {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Self {
                index: index - 1,
                count,
            }),
            _ => Err(format!("`{text}` is not a part such as 2/3")),
        }
    }
}

/// What a part says on stderr while it runs.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum PartEvent {
    Progress {
        label: String,
        done: u64,
        total: u64,
    },
    Warning {
        message: String,
    },
    Chunk,
}

/// What the parts have done so far.
#[derive(Default)]
struct Tally {
    /// Steps done and to do, one entry a part.
    steps: Vec<(u64, u64)>,
    shown: Option<Progress>,
    warnings: Vec<String>,
}

/// Runs every part with `arguments` and its own device; what they finish is left in the folder of chunks.
///
/// Warnings of the parts go into the summary of the whole, and what they counted comes with their chunks.
///
/// # Errors
/// Of the kind of the first part that failed; what it said stands on stderr.
pub(crate) fn run(io: &mut StageIo, devices: &[&str], arguments: &[String]) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find the stage's own program")?;
    let threads = (io.threads() / devices.len()).max(1);
    let mut parts: Vec<Child> = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let part = io.part.within(index, devices.len());
        let out = io.work.join(format!("part-{}", index + 1));
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .args(["--device", device, "--progress", "json"])
            .args(["--threads", &threads.to_string()])
            .args(["--part", &part.to_string()])
            .arg("--chunks")
            .arg(&io.chunk_options.folder)
            .arg("--out")
            .arg(&out)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => parts.push(child),
            Err(error) => {
                // The parts that did start must not go on without the others.
                for child in &mut parts {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                return Err(error).with_context(|| format!("cannot start {}", program.display()));
            }
        }
    }
    let tally = Mutex::new(Tally {
        steps: vec![(0, 0); parts.len()],
        ..Tally::default()
    });
    let codes: Vec<std::io::Result<Option<i32>>> = std::thread::scope(|scope| {
        let waiting: Vec<_> = parts
            .iter_mut()
            .enumerate()
            .map(|(index, child)| {
                scope.spawn({
                    let (io, tally) = (&*io, &tally);
                    move || follow(child, index, io, tally)
                })
            })
            .collect();
        let lost = || Ok(None);
        waiting
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| lost()))
            .collect()
    });
    io.check_interrupted()?;
    for (code, device) in codes.into_iter().zip(devices) {
        let message = |what: &str| format!("the part on {device} failed: {what}");
        match code.with_context(|| message("it cannot be waited for"))? {
            Some(0) => {}
            Some(2) => return Err(BadInput::new(message("bad input, see above")).into()),
            Some(75) => return Err(Retryable::new(message("see above")).into()),
            Some(code) => anyhow::bail!(message(&format!("exit code {code}, see above"))),
            None => anyhow::bail!(message("it was killed")),
        }
    }
    let tally = tally
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    io.summary.warnings.extend(tally.warnings);
    Ok(())
}

/// Passes on what a part says until it ends, and returns its exit code.
fn follow(
    child: &mut Child,
    index: usize,
    io: &StageIo,
    tally: &Mutex<Tally>,
) -> std::io::Result<Option<i32>> {
    let lines = child.stderr.take().map(BufReader::new);
    for line in lines.into_iter().flat_map(BufRead::lines) {
        let line = line?;
        let mut tally = tally
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match serde_json::from_str(&line) {
            Ok(PartEvent::Progress { label, done, total }) => {
                tally.steps[index] = (done, total);
                let sums = tally
                    .steps
                    .iter()
                    .fold((0, 0), |sums, steps| (sums.0 + steps.0, sums.1 + steps.1));
                // The bar appears once every part has said how much it has to do.
                if tally.shown.is_none() && tally.steps.iter().all(|steps| steps.1 > 0) {
                    tally.shown = Some(io.progress(&label, sums.1));
                }
                if let Some(shown) = &tally.shown {
                    shown.set(sums.0);
                }
            }
            Ok(PartEvent::Warning { message }) => {
                if !tally.warnings.contains(&message) {
                    io.progress.warn(&message);
                    tally.warnings.push(message);
                }
            }
            Ok(PartEvent::Chunk) => io.progress.chunk_finished(),
            Err(_) => {
                // Nothing can be done when stderr is closed.
                let _ = writeln!(std::io::stderr().lock(), "{line}");
            }
        }
    }
    Ok(child.wait()?.code())
}

/// Returns the arguments of the command line without those that each part gets its own of.
pub(crate) fn common_arguments(all: impl Iterator<Item = String>) -> Vec<String> {
    const OWN: [&str; 6] = [
        "--chunks",
        "--device",
        "--out",
        "--part",
        "--progress",
        "--threads",
    ];
    let mut kept = Vec::new();
    let mut all = all;
    while let Some(argument) = all.next() {
        let name = argument.split('=').next().unwrap_or_default();
        if !OWN.contains(&name) {
            kept.push(argument);
        } else if name.len() == argument.len() {
            all.next();
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_part_tile_it() {
        for len in 0..40 {
            for (count, within) in [(3, 2), (4, 3), (1, 5)] {
                for index in 0..count {
                    let part = Part { index, count };
                    let ranges = (0..within).map(|i| part.within(i, within).range(len));
                    let all: Vec<usize> = ranges.flatten().collect();
                    assert_eq!(all, part.range(len).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn parts_tile_the_work_in_order() {
        for len in [0, 1, 2, 7, 100] {
            for count in 1..5 {
                let ranges = (0..count).map(|index| Part { index, count }.range(len));
                let all: Vec<usize> = ranges.flatten().collect();
                assert_eq!(all, (0..len).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn parts_are_read_as_they_are_written() {
        let part: Part = "2/3".parse().expect("valid");
        assert_eq!((part.to_string(), part.range(6)), ("2/3".to_owned(), 2..4));
        for text in ["0/3", "4/3", "1", "a/b"] {
            assert!(text.parse::<Part>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_part_gets_its_own_device_and_folder() {
        let all = [
            "--samples",
            "3",
            "--device",
            "cpu+cpu",
            "--out=x",
            "--threads",
            "2",
        ];
        let kept = common_arguments(all.into_iter().map(str::to_owned));
        assert_eq!(kept, ["--samples", "3"]);
    }
}
