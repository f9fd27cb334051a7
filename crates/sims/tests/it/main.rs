//! `sims` as a user runs it, over small stages that follow the protocol.

mod chunks;
mod collection;
mod commands;
mod crowd;
mod damage;
mod diagnostics;
mod failures;
mod faults;
mod interruption;
mod new_stage;
mod provenance;
mod reruns;
mod toy;
mod worker;
