//! `sims-dpo`: the fine-tuning stage as a program.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    sims_stage::main::<sims_dpo::Dpo>()
}
