//! The runner: pipeline files, plans, action keys, execution, published views.
//!
//! A pipeline file becomes a [`Plan`]: every stage of every round, with its program, parameters
//! and inputs. [`run`] goes through it: a stage whose action is in the store is not run again,
//! the others run as processes, and `runs/` shows the results. Stages are known only through
//! the stage protocol; nothing here knows what they compute.
//!
//! Start with [`pipeline`] for the file, [`plan`] for the graph, `action.rs` for the key.

mod action;
mod argo;
mod collection;
mod commands;
mod dag;
mod error;
mod explain;
mod input_digests;
mod lineage;
mod outlook;
mod parameters;
pub mod pipeline;
pub mod plan;
mod programs;
mod progress;
mod repro_lock;
pub mod run;
mod run_difference;
mod run_record;
mod stamped_cache;
mod stored;
mod views;
mod wiring;
pub mod yaml;

pub use action::EndOfLoop;
pub use argo::{ArgoOptions, ArgoWorkflow};
pub use collection::{Needed, pin_run};
pub use commands::{PlannedCommand, shell_word};
pub use dag::{Dag, DagNode};
pub use error::PipelineError;
pub use explain::{Difference, Explanation, explain};
pub use lineage::{Lineage, Origin, Step, StepInput, lineage};
pub use outlook::{Outlook, StageOutlook};
pub use plan::{InstanceName, Plan, PlanOptions};
pub use programs::{PREFIX, ProgramSearch};
pub use progress::RunProgress;
pub use repro_lock::{LockDifference, LockReport, ReproLock};
pub use run::{
    Assignment, Event, Failure, Interrupt, Notice, RemoteCache, RunOptions, RunReport,
    SlurmOptions, Verdict, Verification, Worked,
};
pub use run_difference::{
    Comparison, FigureDifference, RunDifference, StageDifference, run_difference,
};
pub use run_record::{FedBy, Outcome, RunRecord, StageRecord};
pub use stored::StoredArtifact;
pub use views::relative_path;
