//! The stage `toyworld-oracle`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sims_stage::main::<toyworld::oracle_stage::OracleStage>()
}
