//! What a stage's machine drew while it ran, where the machine counts it.
//!
//! Processors count joules in Linux' power capping interface (Intel RAPL, and AMD's counters under the same
//! name); NVIDIA's driver counts them for each GPU since Volta. Both count the whole device, other processes
//! on it included, and idle power too: figures are comparable on a machine with nothing else to do.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nvml_wrapper::Nvml;
use serde::Serialize;

/// Where Linux shows the counters.
const POWERCAP: &str = "/sys/class/powercap";
/// How often counters are read: at 1 kW one of 2^32 µJ starts anew after 71 minutes, small ones after one.
const INTERVAL: Duration = Duration::from_secs(10);

/// Joules by device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Energy {
    /// Processor packages; none where no counter can be read (it often takes root).
    pub cpu_joules: Option<f64>,
    /// GPUs; none where there is no driver or the stage computed on none.
    pub gpu_joules: Option<f64>,
}

/// One counter of a processor package.
#[derive(Debug)]
struct Package {
    /// The file with its reading. Unit: µJ.
    file: PathBuf,
    /// What it counts to before it starts at 0. Unit: µJ.
    range: u64,
    last: u64,
    total: u64,
}

impl Package {
    fn open(folder: &Path) -> Option<Self> {
        let file = folder.join("energy_uj");
        let last = reading(&file)?;
        let range = reading(&folder.join("max_energy_range_uj"))?;
        Some(Self {
            file,
            range,
            last,
            total: 0,
        })
    }

    fn read(&mut self) {
        let Some(now) = reading(&self.file) else {
            return;
        };
        self.total += if now >= self.last {
            now - self.last
        } else {
            (self.range - self.last.min(self.range)) + now
        };
        self.last = now;
    }
}

fn reading(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Opens the counters of whole packages; those of their parts (`intel-rapl:0:0`) are counted in them.
fn packages(root: &Path) -> Vec<Package> {
    let Ok(entries) = std::fs::read_dir(root) else {
        return Vec::new();
    };
    let whole = |name: &str| name.starts_with("intel-rapl:") && name.matches(':').count() == 1;
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(whole))
        .filter_map(|entry| Package::open(&entry.path()))
        .collect()
}

/// The GPUs' counters and their readings at the start. Unit: mJ.
#[derive(Debug)]
struct Gpus {
    nvml: Nvml,
    start: Vec<(u32, u64)>,
}

impl Gpus {
    fn open(numbers: &[u32]) -> Option<Self> {
        if numbers.is_empty() {
            return None;
        }
        let nvml = Nvml::init().ok()?;
        let start: Vec<(u32, u64)> = numbers
            .iter()
            .filter_map(|&number| Some((number, millijoules(&nvml, number)?)))
            .collect();
        (!start.is_empty()).then_some(Self { nvml, start })
    }

    fn joules(&self) -> Option<f64> {
        let mut total = 0;
        for (number, start) in &self.start {
            total += millijoules(&self.nvml, *number)?.saturating_sub(*start);
        }
        Some(total as f64 / 1e3)
    }
}

fn millijoules(nvml: &Nvml, number: u32) -> Option<u64> {
    nvml.device_by_index(number)
        .ok()?
        .total_energy_consumption()
        .ok()
}

/// Returns the GPUs that are computed on by a stage on `device` (`auto`, `cpu`, `cuda:0,1`, several with a +)
/// whose numerics class is `class`.
pub(crate) fn gpu_numbers(device: &str, class: &str) -> Vec<u32> {
    if !class.starts_with("cuda") {
        return Vec::new();
    }
    device
        .split('+')
        .flat_map(|part| part.strip_prefix("cuda:").unwrap_or("0").split(','))
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Reads the counters from its creation to [`finish`](Self::finish).
#[derive(Debug)]
pub(crate) struct EnergyMeter {
    gpus: Option<Gpus>,
    stop: Sender<()>,
    packages: Option<JoinHandle<Vec<Package>>>,
}

impl EnergyMeter {
    /// Starts to read, for a stage on `device` whose numerics class is `class`.
    pub(crate) fn start(device: &str, class: &str) -> Self {
        Self::under(Path::new(POWERCAP), &gpu_numbers(device, class))
    }

    fn under(root: &Path, gpus: &[u32]) -> Self {
        let packages = packages(root);
        let (stop, stopped) = channel();
        let watched =
            (!packages.is_empty()).then(|| std::thread::spawn(|| watch(packages, stopped)));
        Self {
            gpus: Gpus::open(gpus),
            stop,
            packages: watched,
        }
    }

    /// Takes the last reading; none where nothing counts.
    pub(crate) fn finish(self) -> Option<Energy> {
        drop(self.stop);
        let packages = self.packages.and_then(|thread| thread.join().ok());
        let energy = Energy {
            cpu_joules: packages
                .map(|all| all.iter().map(|package| package.total as f64).sum::<f64>() / 1e6),
            gpu_joules: self.gpus.and_then(|gpus| gpus.joules()),
        };
        (energy.cpu_joules.is_some() || energy.gpu_joules.is_some()).then_some(energy)
    }
}

/// Reads the counters until the sender is gone: often enough that none starts anew twice unseen.
fn watch(mut packages: Vec<Package>, stopped: Receiver<()>) -> Vec<Package> {
    use std::sync::mpsc::RecvTimeoutError::Timeout;
    loop {
        let go_on = stopped.recv_timeout(INTERVAL) == Err(Timeout);
        packages.iter_mut().for_each(Package::read);
        if !go_on {
            return packages;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(root: &Path, name: &str, now: u64) {
        let folder = root.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("energy_uj"), format!("{now}\n")).unwrap();
        std::fs::write(folder.join("max_energy_range_uj"), "1000000000\n").unwrap();
    }

    #[test]
    fn packages_are_counted_once_and_through_a_new_start() {
        let root = tempfile::tempdir().unwrap();
        counter(root.path(), "intel-rapl:0", 400_000_000);
        counter(root.path(), "intel-rapl:0:0", 0);
        counter(root.path(), "intel-rapl:1", 999_000_000);
        let meter = EnergyMeter::under(root.path(), &[]);
        counter(root.path(), "intel-rapl:0", 402_500_000);
        counter(root.path(), "intel-rapl:0:0", 900_000_000);
        counter(root.path(), "intel-rapl:1", 500_000);
        let energy = meter.finish().unwrap();
        assert_eq!(energy.cpu_joules, Some(2.5 + 1.5));
        assert_eq!(energy.gpu_joules, None);
    }

    #[test]
    fn where_nothing_counts_there_is_no_figure() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(EnergyMeter::under(root.path(), &[]).finish(), None);
    }

    #[test]
    fn devices_name_their_gpus() {
        assert_eq!(gpu_numbers("cuda", "cuda-sm90"), [0]);
        assert_eq!(gpu_numbers("auto", "cuda-sm90"), [0]);
        assert_eq!(gpu_numbers("cuda:1,3", "cuda-sm90"), [1, 3]);
        assert_eq!(gpu_numbers("cuda:0+cuda:2", "cuda-sm90"), [0, 2]);
        assert!(gpu_numbers("auto", "cpu-f32").is_empty());
        assert!(gpu_numbers("cuda", "").is_empty());
    }
}
