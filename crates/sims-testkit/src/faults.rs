//! Faults at every step by which a program changes a file system: it is killed there, or the disk is full from there on.
//!
//! A small library (`fault_shim.c`), compiled when a test first asks for it, is preloaded into the program and counts its
//! calls. Nothing of the program is changed, and what libraries write is counted as well.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The program is killed before the step.
    Kill,
    /// This call and every later one that needs room fail as on a full disk.
    FullDisk,
}

/// The library that counts steps and injects faults.
#[derive(Debug)]
pub struct FaultShim {
    folder: TempDir,
    library: PathBuf,
    logs: AtomicUsize,
}

impl FaultShim {
    /// Compiles the library with the C compiler that Rust links with.
    ///
    /// # Panics
    /// If there is none.
    pub fn build() -> Self {
        let folder = tempfile::tempdir().expect("temporary folders can be made");
        let (source, library) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
        std::fs::write(&source, include_str!("fault_shim.c")).expect("the folder is writable");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .expect("cc is there: Rust links with it");
        assert!(compiled.status.success(), "{}", crate::text_of(&compiled));
        Self {
            folder,
            library,
            logs: AtomicUsize::new(0),
        }
    }

    /// Lets `fault` happen in the program `program`, which `command` starts, at its step number `step`, from 1.
    pub fn inject(&self, command: &mut Command, program: &str, fault: Fault, step: usize) {
        let kind = match fault {
            Fault::Kill => "kill",
            Fault::FullDisk => "full",
        };
        command
            .env("LD_PRELOAD", &self.library)
            .env("SIMS_FAULT_PROGRAM", program)
            .env("SIMS_FAULT_KIND", kind)
            .env("SIMS_FAULT_STEP", step.to_string());
    }

    /// Runs `command` without a fault and returns what `program` does at each step.
    ///
    /// # Panics
    /// If the command fails.
    pub fn steps(&self, command: &mut Command, program: &str) -> Vec<String> {
        let number = self.logs.fetch_add(1, Ordering::Relaxed);
        let log = self.folder.path().join(format!("steps-{number}"));
        let output = command
            .env("LD_PRELOAD", &self.library)
            .env("SIMS_FAULT_PROGRAM", program)
            .env("SIMS_FAULT_LOG", &log)
            .output()
            .expect("the program can be started");
        assert!(output.status.success(), "{}", crate::text_of(&output));
        let text = std::fs::read_to_string(&log).expect("the program was counted");
        text.lines().map(str::to_owned).collect()
    }
}

/// Calls `check` with every number from 1 to `steps`, on two threads.
pub fn each_step(steps: usize, check: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let step = next.fetch_add(1, Ordering::Relaxed);
                    if step > steps {
                        break;
                    }
                    check(step);
                }
            });
        }
    });
}
