//! Running a plan: what is in the store is used, the rest is computed, in the plan's order.

mod attempt;
mod book;
mod chunks;
mod disk_space;
mod interrupt;
mod process;
mod remote;
mod report;
mod slurm;
mod verification;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use sims_artifact::store::Store;

use crate::action::{Action, EndOfLoop, Lookup, Resolver, claim};
use crate::plan::{InstanceName, Plan};
use crate::programs::ProgramSearch;
use crate::run_record::Outcome;
use crate::{PipelineError, views};

pub use attempt::Failure;
use attempt::{Attempt, Purpose};
use book::Book;
pub use interrupt::Interrupt;
use remote::ReadThrough;
pub use remote::{Notice, RemoteCache};
pub use slurm::{SlurmOptions, run_on_slurm};
pub use verification::{Verdict, Verification, verify};
pub use work::{Assignment, Worked, work};

/// How a plan is run; nothing here changes what is computed.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The folder of views: `runs/<pipeline>/…` lies in it.
    pub runs: PathBuf,
    /// Where programs are looked for, to show commands the short way.
    pub search: ProgramSearch,
    /// The folder from which paths are shown.
    pub current: PathBuf,
    /// Worker threads of each stage; `None` leaves it to the stage.
    pub threads: Option<usize>,
    /// Sequences that a stage with a model runs at once; `None` leaves it to the stage.
    pub batch_size: Option<usize>,
    /// Prompts or pairs that a stage finishes at a time; 0 for all. What is finished is kept.
    pub chunk_size: usize,
    /// Stages that run at the same time.
    pub jobs: usize,
    /// How long a stage may write nothing, not even how far it is, before it is stopped; `None` for ever.
    pub hang_after: Option<Duration>,
    /// The pauses before a stage that asks for it (exit code 75) is tried again.
    pub retry_delays: Vec<Duration>,
    /// Results that other machines share: asked before a stage runs, told of what was computed.
    pub remote: Option<Arc<dyn RemoteCache>>,
    /// Whether stages run; otherwise only what is there is shown.
    pub compute: bool,
}

impl RunOptions {
    /// Returns the folder of a pipeline's views, logs and record.
    pub fn run_folder(&self, plan: &Plan) -> PathBuf {
        self.runs.join(&plan.pipeline.name)
    }

    /// Returns the folder for outputs of stages that are run by hand.
    pub fn by_hand_folder(&self, plan: &Plan) -> PathBuf {
        self.run_folder(plan).join("by-hand")
    }

    /// Returns the file with what a stage wrote when it last ran.
    pub fn log_path(&self, plan: &Plan, name: &InstanceName) -> PathBuf {
        let logs = self.run_folder(plan).join("logs");
        logs.join(name.path()).with_extension("log")
    }

    /// Returns the command that runs a stage by hand on the inputs that the views show.
    fn by_hand(&self, plan: &Plan, index: usize) -> String {
        let folder = self.run_folder(plan);
        let view = |instance: usize, role: &str| {
            let extension = plan.program(instance).description.outputs[role].extension();
            folder.join(views::path_of(plan, instance, role, extension))
        };
        let out = self.by_hand_folder(plan);
        plan.command_line(index, &self.search, &out, &self.current, &view)
    }
}

/// Something that happened during a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The stage at `index` of the plan needs no work.
    Cached {
        /// The instance.
        index: usize,
    },
    /// The stage belongs to a round after the end of the loop.
    LeftOut {
        /// The instance.
        index: usize,
    },
    /// The stage began to run.
    Started {
        /// The instance.
        index: usize,
    },
    /// The stage told how far it is.
    Progress {
        /// The instance.
        index: usize,
        /// What it counts.
        label: String,
        /// Steps done.
        done: u64,
        /// Steps in all.
        total: u64,
    },
    /// The user should know something.
    Warning {
        /// The instance.
        index: usize,
        /// What it is.
        message: String,
    },
    /// The user should know something that is about no stage.
    Note {
        /// What it is.
        message: String,
    },
    /// So many chunks of the stage's work are finished already.
    Resumed {
        /// The instance.
        index: usize,
        /// The chunks.
        chunks: usize,
    },
    /// Another process computes the same action.
    WaitingForOther {
        /// The instance.
        index: usize,
    },
    /// The stage asked to be tried again.
    Retrying {
        /// The instance.
        index: usize,
        /// After how long.
        delay: Duration,
    },
    /// The stage is done and its outputs are stored.
    Finished {
        /// The instance.
        index: usize,
        /// How long it ran.
        seconds: f64,
    },
    /// The stage failed.
    Failed {
        /// The instance.
        index: usize,
    },
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct RunReport {
    /// Stages that ran.
    pub executed: usize,
    /// Stages whose outputs were in the store, or were put there by another run meanwhile.
    pub cached: usize,
    /// Stages that failed.
    pub failed: usize,
    /// Stages that were not come to.
    pub not_run: usize,
    /// Jobs of a cluster that were left to run.
    pub queued: usize,
    /// How long it took. Unit: seconds.
    pub seconds: f64,
    /// Whether it was asked to stop.
    pub interrupted: bool,
    /// Where the loop ended, when a stage found that further rounds are pointless.
    pub end: Option<EndOfLoop>,
    /// The stages that failed, with all that helps to mend them.
    pub failures: Vec<Failure>,
}

/// Runs a plan to its end, to the first failure, or until it is asked to stop.
///
/// `hear` is told what happens, from several threads.
///
/// # Errors
/// If an input is missing or wrong, or the store or the views cannot be written; a stage that
/// fails is no error but part of the report.
pub fn run(
    plan: &Plan,
    store: &Store,
    options: &RunOptions,
    interrupt: &Interrupt,
    hear: &(dyn Fn(Event) + Sync),
) -> Result<RunReport, PipelineError> {
    let started = Instant::now();
    let mut resolver = Resolver::new(plan, store);
    resolver.check_inputs()?;
    store.register_run(&options.run_folder(plan))?;
    let mut book = Book::open(plan, store, options.run_folder(plan), hear);
    book.forget_dropped_stages()?;
    let mut read_through = ReadThrough::new(store, options, hear);
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        let mut pending: VecDeque<usize> = (0..plan.len()).collect();
        // By place in the plan, so that stages run in the order of the file.
        let mut queue: BTreeMap<usize, Action> = BTreeMap::new();
        let mut running = 0;
        let mut error = None;
        loop {
            let stop = error.is_some() || interrupt.is_raised() || book.report.failed > 0;
            if !stop
                && let Err(first) =
                    resolve_ready(store, &mut pending, &mut queue, &mut resolver, &mut book)
            {
                error = Some(first);
                continue;
            }
            queue.retain(|index, _| !resolver.is_beyond_end(*index));
            if !stop && read_through.fetch(&mut queue, &mut pending) {
                continue;
            }
            while !stop && options.compute && running < options.jobs.max(1) {
                let Some((_, action)) = queue.pop_first() else {
                    break;
                };
                let sender: Sender<_> = sender.clone();
                running += 1;
                scope.spawn(move || {
                    let attempt = Attempt {
                        plan,
                        store,
                        options,
                        interrupt,
                        hear,
                        action: &action,
                        purpose: Purpose::Publish,
                    };
                    let outcome = attempt.perform();
                    // The receiver outlives every worker.
                    let _received = sender.send((action, outcome));
                });
            }
            if running == 0 {
                break;
            }
            let Ok((action, outcome)) = receiver.recv() else {
                break;
            };
            running -= 1;
            if let Err(first) = book.close(&action, outcome, &mut resolver) {
                error.get_or_insert(first);
            }
        }
        match error {
            Some(error) => Err(error),
            None => Ok(()),
        }
    })?;
    let report = &mut book.report;
    report.interrupted = interrupt.is_raised();
    // After the last planned round there was nothing to leave out.
    report.end = resolver
        .end()
        .filter(|end| end.round < plan.rounds)
        .cloned();
    report.not_run = plan.len() - report.executed - report.cached - report.failed;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(book.report)
}

/// Looks up everything whose inputs are known; what is not in the store is queued.
fn resolve_ready(
    store: &Store,
    pending: &mut VecDeque<usize>,
    queue: &mut BTreeMap<usize, Action>,
    resolver: &mut Resolver<'_>,
    book: &mut Book<'_>,
) -> Result<(), PipelineError> {
    // The plan's order puts what an instance needs before it, so that one pass is enough.
    let mut later = VecDeque::new();
    while let Some(index) = pending.pop_front() {
        if resolver.is_beyond_end(index) {
            book.leave_out(index)?;
            continue;
        }
        if !resolver.is_ready(index) {
            later.push_back(index);
            continue;
        }
        let action = resolver.action(index)?;
        match claim(store, &action.key)? {
            Lookup::Hit(result) => {
                // The document may have been damaged or lost, and it is at hand.
                store.keep_document(&action.key, &action.document)?;
                book.enter(&action, Outcome::Cached, &result)?;
                resolver.finish(index, result);
            }
            lookup => {
                if let Lookup::Damaged { message, .. } = lookup {
                    let message = format!("{message}; it is computed again");
                    book.tell(Event::Warning { index, message });
                }
                book.withdraw(&action)?;
                queue.insert(index, action);
            }
        }
    }
    *pending = later;
    Ok(())
}
