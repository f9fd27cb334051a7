//! Ctrl-C and its relatives, as a request to a run to stop.

use anyhow::Context;
use sims_pipeline::Interrupt;

/// The signals that ask a program to stop.
const STOP_SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Has SIGINT, SIGTERM and SIGHUP raise `interrupt`.
///
/// A signal that was ignored when the program began stays ignored: that is how `nohup` and
/// background jobs keep a run alive.
pub(crate) fn raise_on_signals(interrupt: Interrupt) -> anyhow::Result<()> {
    let ignored: Vec<libc::c_int> = STOP_SIGNALS
        .into_iter()
        .filter(|signal| is_ignored(*signal))
        .collect();
    ctrlc::set_handler(move || interrupt.raise()).context("cannot handle Ctrl-C")?;
    for signal in ignored {
        // SAFETY: ignoring a signal installs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    Ok(())
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all-zero bytes are a valid `sigaction`, which is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null pointer for the new action only asks; `action` is ours to write to.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}
