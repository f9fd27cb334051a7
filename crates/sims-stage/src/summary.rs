//! `summary.json`: all that varies from run to run, which therefore is in no artifact.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::energy::{Energy, EnergyMeter, gpu_numbers};

/// Counts, cost and warnings of one run of a stage.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The stage's name.
    pub stage: String,
    /// Wall-clock time. Unit: seconds.
    pub seconds: f64,
    /// Peak resident memory. Unit: bytes.
    pub peak_memory_bytes: u64,
    /// What the machine drew meanwhile, where it counts; other processes on it included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
    /// Worker threads.
    pub threads: usize,
    /// The device that computed.
    pub device: String,
    /// What the output bytes depend on beside inputs and parameters, such as `cpu-f32`; empty for pure data stages.
    pub numerics: String,
    /// GPUs that it computed on.
    pub gpus: usize,
    /// Named numbers: rows, tokens, estimated FLOPs.
    pub counts: BTreeMap<String, f64>,
    /// What the user should know although the stage succeeded.
    pub warnings: Vec<String>,
    /// Why no further round should run, if the stage found so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
    #[serde(skip)]
    started: Instant,
    #[serde(skip)]
    meter: Option<EnergyMeter>,
}

impl Summary {
    /// Starts the clock and the energy meter; `class` is the numerics class on `device`.
    pub(crate) fn new(stage: &str, threads: usize, device: &str, class: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            seconds: 0.0,
            peak_memory_bytes: 0,
            energy: None,
            threads,
            device: device.to_owned(),
            numerics: class.to_owned(),
            gpus: gpu_numbers(device, class).len(),
            counts: BTreeMap::new(),
            warnings: Vec::new(),
            stop: None,
            started: Instant::now(),
            meter: Some(EnergyMeter::start(device, class)),
        }
    }

    /// Takes the final readings of clock, memory and energy.
    pub(crate) fn finish(&mut self) {
        self.energy = self.meter.take().and_then(EnergyMeter::finish);
        self.seconds = self.started.elapsed().as_secs_f64();
        self.peak_memory_bytes = peak_memory_bytes().unwrap_or(0);
    }
}

/// Reads the peak resident memory of this process from Linux' `/proc`; none elsewhere.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
