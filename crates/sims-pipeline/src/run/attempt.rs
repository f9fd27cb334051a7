//! One action on its way from "not in the store" to "in the store".

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sims_artifact::Digest;
use sims_artifact::store::{
    ActionKey, ActionOutput, ActionResult, Blob, Scratch, Store, StoreError,
};

use super::chunks::{Chunks, base_of};
use super::process::{self, StageEvent};
use super::{Event, Interrupt, RunOptions, disk_space, remote};
use crate::action::{Action, ActionInput, Lookup, claim};
use crate::input_digests::check_artifact;
use crate::plan::{InstanceName, Plan};
use crate::{PipelineError, commands};

/// The exit code of a failure worth retrying.
const RETRY: i32 = 75;
/// The exit code of wrong usage or bad input.
const USAGE: i32 = 2;
/// How often a lease that another process holds is asked for.
const LEASE_EVERY: Duration = Duration::from_millis(25);

/// How an action came to its end.
pub(super) enum Done {
    /// It ran here.
    Executed(ActionResult),
    /// Another process computed it meanwhile.
    ByOther(ActionResult),
}

/// Why an action has no result.
pub(super) enum NotDone {
    /// The run was asked to stop.
    Interrupted,
    /// The stage failed.
    Failed(Box<Failure>),
    /// The runner or the store failed.
    Error(PipelineError),
}

impl From<PipelineError> for NotDone {
    fn from(error: PipelineError) -> Self {
        Self::Error(error)
    }
}

impl From<StoreError> for NotDone {
    fn from(error: StoreError) -> Self {
        Self::Error(error.into())
    }
}

/// A stage that failed, with all that helps to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stage and its round.
    pub name: InstanceName,
    /// What happened, such as `exit code 2: wrong usage or bad input`.
    pub what: String,
    /// The last lines that it wrote.
    pub tail: Vec<String>,
    /// The command that does the same by hand.
    pub command: String,
    /// The file with everything that it wrote.
    pub log: PathBuf,
    /// What to do.
    pub advice: String,
    /// Whether the same would happen again, as long as nobody mends something.
    pub is_lasting: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} failed: {}", self.name, self.what)?;
        for line in &self.tail {
            writeln!(f, "  | {line}")?;
        }
        writeln!(f, "  by hand: {}", self.command)?;
        writeln!(f, "  log: {}", self.log.display())?;
        write!(f, "  {}", self.advice)
    }
}

/// Computes one action.
pub(super) struct Attempt<'a> {
    pub(super) plan: &'a Plan,
    pub(super) store: &'a Store,
    pub(super) options: &'a RunOptions,
    pub(super) interrupt: &'a Interrupt,
    pub(super) hear: &'a (dyn Fn(Event) + Sync),
    pub(super) action: &'a Action,
    pub(super) purpose: Purpose,
}

/// What becomes of the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The store takes them.
    Publish,
    /// They are only looked at.
    Compare,
    /// There are none: only the chunks of one part of the work, from 0, of so many.
    Part((usize, usize)),
}

/// How the computation of a part ended.
pub(super) enum PartOutcome {
    /// Its chunks are in the store.
    Done,
    /// The whole action is in the store.
    NotNeeded,
    /// It was asked to stop.
    Interrupted,
    /// The stage failed.
    Failed(Box<Failure>),
}

impl Attempt<'_> {
    /// Takes the lease, looks again, and runs the stage until it succeeds or may not be retried.
    pub(super) fn perform(&self) -> Result<Done, NotDone> {
        let Some(_lease) = self.lease()? else {
            return Err(NotDone::Interrupted);
        };
        let mut before = None;
        let mut found = claim(self.store, &self.action.key)?;
        // Another machine may have finished it since it was queued.
        if !matches!(found, Lookup::Hit(_))
            && remote::fetch(self.store, self.options, self.action, self.hear)
        {
            found = claim(self.store, &self.action.key)?;
        }
        match found {
            Lookup::Hit(result) => return Ok(Done::ByOther(result)),
            Lookup::Damaged { result, .. } => before = result,
            Lookup::Miss => {}
        }
        let result = self.run_until_done()?;
        self.compare(before.as_ref(), &result);
        Ok(Done::Executed(result))
    }

    /// Computes one part of the work, without the lease: parts of an action run beside each other.
    pub(super) fn perform_part(&self) -> Result<PartOutcome, PipelineError> {
        if let Lookup::Hit(_) = claim(self.store, &self.action.key)? {
            return Ok(PartOutcome::NotNeeded);
        }
        match self.run_until_done() {
            Ok(_) => Ok(PartOutcome::Done),
            Err(NotDone::Interrupted) => Ok(PartOutcome::Interrupted),
            Err(NotDone::Failed(failure)) => Ok(PartOutcome::Failed(failure)),
            Err(NotDone::Error(error)) => Err(error),
        }
    }

    /// Runs the stage until it succeeds or may not be retried.
    fn run_until_done(&self) -> Result<ActionResult, NotDone> {
        (self.hear)(Event::Started {
            index: self.action.index,
        });
        let mut delays = self.options.retry_delays.iter();
        loop {
            match self.run_once()? {
                Ok(result) => return Ok(result),
                Err((failure, may_retry)) => {
                    let Some(delay) = delays.next().filter(|_| may_retry) else {
                        return Err(NotDone::Failed(Box::new(failure)));
                    };
                    (self.hear)(Event::Retrying {
                        index: self.action.index,
                        delay: *delay,
                    });
                    if !self.interrupt.sleep(*delay) {
                        return Err(NotDone::Interrupted);
                    }
                }
            }
        }
    }

    fn lease(&self) -> Result<Option<sims_artifact::store::Lease>, NotDone> {
        let mut told = false;
        loop {
            if let Some(lease) = self.store.try_lease(&self.action.key)? {
                return Ok(Some(lease));
            }
            if !std::mem::replace(&mut told, true) {
                (self.hear)(Event::WaitingForOther {
                    index: self.action.index,
                });
            }
            if !self.interrupt.sleep(LEASE_EVERY) {
                return Ok(None);
            }
        }
    }

    /// Runs the stage once; the inner error says whether it may be tried again.
    pub(super) fn run_once(&self) -> Result<Result<ActionResult, (Failure, bool)>, NotDone> {
        let scratch = self.store.scratch()?;
        let out = scratch.path().join("out");
        std::fs::create_dir(&out).map_err(|e| PipelineError::io("create", &out, e))?;
        let inputs = self.input_paths(&scratch)?;
        let offer =
            |key: &ActionKey| remote::offer_key(self.options, self.action.index, key, self.hear);
        let mut chunks = self.chunks(&scratch, &offer)?;
        let execution = self.execution_flags(chunks.as_ref());
        let arguments =
            commands::arguments(self.plan, self.action.index, &inputs, &execution, &out);
        let log_path = self.log_path();
        let mut log = create_log(&log_path)?;
        let program = &self.plan.program(self.action.index).path;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(
                self.options
                    .search
                    .path_of_stages()
                    .map(|path| ("PATH", path)),
            )
            .current_dir(&self.plan.pipeline.workspace);
        let index = self.action.index;
        let hang_after = self.options.hang_after;
        // Chunks are stored beside, so that the stage's events are heard meanwhile.
        let (finished, coming) = channel();
        let (ended, kept) = std::thread::scope(|scope| {
            let keeper = chunks
                .as_mut()
                .map(|chunks| scope.spawn(move || chunks.keep_coming(&coming)));
            let mut hear = |event| match event {
                // Nobody listens once a chunk could not be kept, which is told at the end.
                StageEvent::Chunk { name } => _ = finished.send(name),
                StageEvent::Progress { label, done, total } => (self.hear)(Event::Progress {
                    index,
                    label,
                    done,
                    total,
                }),
                StageEvent::Warning { message } => (self.hear)(Event::Warning { index, message }),
            };
            let ended = process::run(
                &mut command,
                &mut log,
                self.interrupt,
                hang_after,
                &mut hear,
            );
            drop(finished);
            let kept = keeper.map_or(Ok(()), |keeper| {
                keeper
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            (ended, kept)
        });
        let ended = ended.map_err(|e| PipelineError::io("run", program, e))?;
        // Whatever became of the stage, what it finished is kept.
        let kept = kept.and_then(|()| chunks.as_mut().map_or(Ok(()), Chunks::keep_rest));
        if self.interrupt.is_raised() && !ended.status.success() {
            return Err(NotDone::Interrupted);
        }
        let (what, advice, may_retry) = if let (true, Some(longest)) = (ended.is_hung, hang_after) {
            (
                format!("nothing was heard of it for {} s, and it was stopped", longest.as_secs_f64()),
                "see in the log how far it came; if it was only slow, run again with a longer --hang-after".to_owned(),
                false,
            )
        } else if ended.status.success() {
            let keys = chunks.map(Chunks::into_keys).unwrap_or_default();
            match kept.and_then(|()| self.commit(&out, ended.seconds, keys)) {
                Ok(result) => return Ok(Ok(result)),
                Err(Rejected::Output(message)) => {
                    let advice = "this is a fault of the stage: it must write every output that it describes";
                    (message, advice.to_owned(), false)
                }
                Err(Rejected::Input(path)) => {
                    let what = format!("{} changed while the stage was reading it", path.display());
                    (
                        what,
                        "run again once the file is complete".to_owned(),
                        false,
                    )
                }
                Err(Rejected::Error(error)) => return Err(error.into()),
            }
        } else {
            self.judge(ended.status)
        };
        let failure = Failure {
            name: self.plan.name(index),
            what,
            tail: ended.tail,
            command: self.options.by_hand(self.plan, index),
            log: log_path,
            advice,
            is_lasting: ended.status.code() == Some(USAGE),
        };
        Ok(Err((failure, may_retry)))
    }

    /// Gives the inputs names that people understand: links by role to the blobs.
    fn input_paths(&self, scratch: &Scratch) -> Result<Vec<(String, Vec<PathBuf>)>, NotDone> {
        let folder = scratch.path().join("in");
        std::fs::create_dir(&folder).map_err(|e| PipelineError::io("create", &folder, e))?;
        let mut inputs = Vec::new();
        for (role, here) in &self.action.inputs {
            let mut paths = Vec::new();
            for (number, input) in here.iter().enumerate() {
                paths.push(match input {
                    ActionInput::External(input) => input.path.clone(),
                    ActionInput::Blob { digest, file } => {
                        let blob = self.store.blob(digest)?;
                        let extension = Path::new(file)
                            .extension()
                            .unwrap_or_default()
                            .to_string_lossy();
                        let name = match number {
                            0 => format!("{role}.{extension}"),
                            _ => format!("{role}-{number}.{extension}"),
                        };
                        let link = folder.join(name);
                        std::os::unix::fs::symlink(&blob, &link)
                            .map_err(|e| PipelineError::io("make a link", &link, e))?;
                        link
                    }
                });
            }
            inputs.push((role.clone(), paths));
        }
        Ok(inputs)
    }

    /// Gathers the finished chunks of the work, where the stage works in chunks and its word is not put to a test.
    fn chunks<'a>(
        &'a self,
        scratch: &Scratch,
        offer: &'a (dyn Fn(&ActionKey) + Sync),
    ) -> Result<Option<Chunks<'a>>, NotDone> {
        let description = &self.plan.program(self.action.index).description;
        let units = &description.units;
        let Some(units) = units.as_ref().filter(|_| self.purpose != Purpose::Compare) else {
            return Ok(None);
        };
        let base = base_of(&self.action.document, units);
        remote::fetch_chunks(
            self.store,
            self.options,
            self.action.index,
            &base,
            self.hear,
        );
        let folder = scratch.path().join("chunks");
        let chunks = Chunks::gather(self.store, &description.stage, base, folder, offer)?;
        if chunks.len() > 0 {
            (self.hear)(Event::Resumed {
                index: self.action.index,
                chunks: chunks.len(),
            });
        }
        Ok(Some(chunks))
    }

    /// Returns the flags that say how to run, never what to compute.
    fn execution_flags(&self, chunks: Option<&Chunks<'_>>) -> Vec<String> {
        let mut flags = vec!["--progress".to_owned(), "json".to_owned()];
        if let Some(threads) = self.options.threads {
            flags.extend(["--threads".to_owned(), threads.to_string()]);
        }
        let numerics = &self.plan.program(self.action.index).description.numerics;
        if let (Some(size), false) = (self.options.batch_size, numerics.is_empty()) {
            flags.extend(["--batch-size".to_owned(), size.to_string()]);
        }
        if let Some(chunks) = chunks {
            flags.extend(chunks.flags(self.options.chunk_size));
        }
        if let Purpose::Part((index, count)) = self.purpose {
            flags.extend(["--part".to_owned(), format!("{}/{count}", index + 1)]);
        }
        flags
    }

    fn log_path(&self) -> PathBuf {
        let name = self.plan.name(self.action.index);
        let path = self.options.log_path(self.plan, &name);
        match self.purpose {
            Purpose::Publish => path,
            Purpose::Compare => path.with_extension("verify.log"),
            Purpose::Part((index, count)) => {
                path.with_extension(format!("part-{}-of-{count}.log", index + 1))
            }
        }
    }

    /// Says what an exit status means and what to do about it; `true` when trying again may help.
    fn judge(&self, status: ExitStatus) -> (String, String, bool) {
        let folders = [self.store.root(), self.options.runs.as_path()];
        if let Some(path) = folders
            .into_iter()
            .find(|path| disk_space::is_used_up(path))
        {
            let what = format!("{status}, and the disk of {} is full", path.display());
            return (
                what,
                "free some space and run again: finished stages are kept".to_owned(),
                false,
            );
        }
        match (status.code(), status.signal()) {
            (Some(USAGE), _) => (
                "exit code 2: wrong usage or bad input".to_owned(),
                "mend what the stage complains about in the pipeline file or its data, and run again".to_owned(),
                false,
            ),
            (Some(RETRY), _) => (
                "exit code 75: a passing failure that did not pass".to_owned(),
                "run again later: finished stages are kept".to_owned(),
                true,
            ),
            (Some(code), _) => (
                format!("exit code {code}"),
                "the log says more; run the command above by hand to look closer".to_owned(),
                false,
            ),
            (None, Some(libc::SIGKILL)) => (
                "killed (SIGKILL), most often because the machine ran out of memory".to_owned(),
                "run again with a smaller --batch-size or fewer --threads, or free memory".to_owned(),
                false,
            ),
            (None, signal) => (
                format!("killed by signal {}", signal.unwrap_or_default()),
                "the log says more; run the command above by hand to look closer".to_owned(),
                false,
            ),
        }
    }

    /// Checks the outputs and moves them into the store.
    fn commit(
        &self,
        out: &Path,
        seconds: f64,
        chunks: Vec<ActionKey>,
    ) -> Result<ActionResult, Rejected> {
        for (_, here) in &self.action.inputs {
            for input in here {
                if let ActionInput::External(input) = input
                    && let Some(changed) = input.changed_file()
                {
                    return Err(Rejected::Input(changed.to_owned()));
                }
            }
        }
        let mut result = ActionResult {
            key: self.action.key,
            outputs: BTreeMap::new(),
            summary: None,
            seconds,
            stop: None,
            chunks,
            chunk: None,
        };
        if let Purpose::Part(_) = self.purpose {
            return Ok(result);
        }
        let description = &self.plan.program(self.action.index).description;
        let mut files = BTreeMap::new();
        for (role, output) in &description.outputs {
            let file = output_file(out, role)?;
            check_artifact(&out.join(&file), &output.schema).map_err(|message| {
                Rejected::Output(format!("its output `{role}` is not usable: {message}"))
            })?;
            files.insert(role.clone(), file);
        }
        for (role, file) in files {
            let Blob { digest, bytes } = self.keep(&out.join(&file))?;
            let schema = description.outputs[&role].schema.clone();
            result.outputs.insert(
                role,
                ActionOutput {
                    digest,
                    bytes,
                    schema,
                    file,
                },
            );
        }
        let file = out.join("summary.json");
        if file.is_file() {
            // Read first: the store takes the file away.
            result.stop = asked_to_stop(&file);
            result.summary = Some(self.keep(&file)?);
        }
        if self.purpose == Purpose::Publish {
            self.store.publish_action(&self.action.document, &result)?;
            remote::offer(self.options, self.action, self.hear);
        }
        Ok(result)
    }

    /// Moves a file into the store, or only says what it would be there.
    fn keep(&self, file: &Path) -> Result<Blob, Rejected> {
        match self.purpose {
            Purpose::Publish => Ok(self.store.add_file(file)?),
            Purpose::Compare | Purpose::Part(_) => {
                let fault = |e| Rejected::Error(PipelineError::io("read", file, e));
                Ok(Blob {
                    digest: Digest::of_file(file).map_err(|e| Rejected::Error(e.into()))?,
                    bytes: std::fs::metadata(file).map_err(fault)?.len(),
                })
            }
        }
    }

    /// Warns when the same action made other bytes than before.
    fn compare(&self, before: Option<&ActionResult>, result: &ActionResult) {
        let Some(before) = before else { return };
        for (role, output) in &result.outputs {
            if before
                .outputs
                .get(role)
                .is_some_and(|old| old.digest != output.digest)
            {
                (self.hear)(Event::Warning {
                    index: self.action.index,
                    message: format!(
                        "`{role}` came out with other bytes than before from the same inputs: the stage is not reproducible"
                    ),
                });
            }
        }
    }
}

/// Why the outputs of a stage that said it succeeded are not taken.
pub(super) enum Rejected {
    Output(String),
    Input(PathBuf),
    Error(PipelineError),
}

impl From<StoreError> for Rejected {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotAFile(_) | StoreError::StillWritten(_) => {
                Self::Output(error.to_string())
            }
            other => Self::Error(other.into()),
        }
    }
}

/// Finds the file of an output: `ROLE.parquet` or `ROLE.safetensors`.
fn output_file(out: &Path, role: &str) -> Result<String, Rejected> {
    let names = [format!("{role}.parquet"), format!("{role}.safetensors")];
    let found = names.iter().find(|name| out.join(name).is_file());
    found.cloned().ok_or_else(|| {
        Rejected::Output(format!(
            "exit code 0, but it wrote neither {} nor {}",
            names[0], names[1]
        ))
    })
}

/// Reads from a summary why no further round should run; a summary without that says nothing.
fn asked_to_stop(summary: &Path) -> Option<String> {
    let summary: Value = serde_json::from_slice(&std::fs::read(summary).ok()?).ok()?;
    Some(summary.get("stop")?.as_str()?.to_owned())
}

fn create_log(path: &Path) -> Result<File, PipelineError> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(|e| PipelineError::io("create", folder, e))?;
    File::create(path).map_err(|e| PipelineError::io("create", path, e))
}
