//! The remote cache that a command uses: its options, and its part in a run.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use sims_artifact::Digest;
use sims_artifact::store::{ActionKey, Store};
use sims_pipeline::pipeline::duration;
use sims_pipeline::{Interrupt, Notice, RemoteCache};
use sims_remote::{Progress, Remote, RemoteError, Settings, UploadReport, Uploads};

use crate::exit::UsageError;
use crate::say;

/// The options of commands that may use a remote cache.
#[derive(Debug, Args)]
pub(crate) struct RemoteOptions {
    /// Remote cache shared with other machines: s3://…, gs://…, az://…, https://… or a folder [default: $SIMS_REMOTE]
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
    /// Give up on the remote cache when it does not answer for so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) remote_timeout: Duration,
}

impl RemoteOptions {
    /// Opens the remote cache that is named, if one is.
    pub(crate) fn open(&self, interrupt: &Interrupt) -> anyhow::Result<Option<Arc<Remote>>> {
        let from_environment = || std::env::var("SIMS_REMOTE").ok();
        let url = self.remote.clone().or_else(from_environment);
        let Some(url) = url.filter(|url| !url.is_empty()) else {
            return Ok(None);
        };
        let settings = Settings {
            timeout: self.remote_timeout,
            ..Settings::default()
        };
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(key, _)| {
                ["AWS_", "GOOGLE_", "AZURE_"]
                    .iter()
                    .any(|service| key.starts_with(service))
            })
            .collect();
        let interrupt = interrupt.clone();
        let remote = Remote::open(&url, &environment, settings, move || interrupt.is_raised());
        match remote {
            Ok(remote) => Ok(Some(Arc::new(remote))),
            Err(error @ RemoteError::BadUrl { .. }) => Err(UsageError(error.to_string()).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the remote cache of a command that cannot do without one.
    pub(crate) fn open_named(&self, interrupt: &Interrupt) -> anyhow::Result<Arc<Remote>> {
        self.open(interrupt)?.ok_or_else(|| {
            UsageError("name a remote cache with --remote or SIMS_REMOTE".to_owned()).into()
        })
    }
}

/// The options of commands that read from a remote cache and write to it.
#[derive(Debug, Args)]
pub(crate) struct SharingOptions {
    #[command(flatten)]
    pub(crate) remote: RemoteOptions,
    /// Put nothing into the remote cache
    #[arg(long)]
    pub(crate) remote_read_only: bool,
}

impl SharingOptions {
    /// Starts to use the remote cache that is named, if one is, beside `store`.
    pub(crate) fn share(
        &self,
        store: &Store,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Option<Arc<Shared>>> {
        let Some(remote) = self.remote.open(interrupt)? else {
            return Ok(None);
        };
        let from = match self.remote_read_only {
            true => None,
            false => Some(Store::open(store.root())?),
        };
        Ok(Some(Arc::new(Shared::new(remote, from))))
    }
}

/// The remote cache of a run: what it gave, and what is on its way to it.
#[derive(Debug)]
pub(crate) struct Shared {
    remote: Arc<Remote>,
    /// None when nothing is to be uploaded, or once it is over.
    uploads: Mutex<Option<Uploads>>,
    fetched: AtomicUsize,
    /// Whether the user knows that it cannot be used.
    told: AtomicBool,
}

impl Shared {
    /// Starts to use a remote cache; what is computed is uploaded from `store`, unless it is only read.
    pub(crate) fn new(remote: Arc<Remote>, store: Option<Store>) -> Self {
        let uploads = store.map(|store| Uploads::start(Arc::clone(&remote), store));
        Self {
            remote,
            uploads: Mutex::new(uploads),
            fetched: AtomicUsize::new(0),
            told: AtomicBool::new(false),
        }
    }

    /// Returns how many actions came from the remote cache.
    pub(crate) fn fetched(&self) -> usize {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Tells whether the remote cache failed.
    pub(crate) fn failed(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Waits for the uploads, and shows how far they are; returns how many actions were uploaded.
    pub(crate) fn finish(&self) -> usize {
        let taken = self
            .uploads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(uploads) = taken else {
            return 0;
        };
        let report = finish_shown(uploads);
        if let Some(fault) = &report.fault {
            self.once(fault, &|line| say(&format!("warning: {line}")));
        }
        if report.left > 0 && report.fault.is_none() && self.remote.is_stopped() {
            say(&format!(
                "{} results were not uploaded; `sims push` does that",
                report.left
            ));
        }
        report.uploaded
    }

    /// Tells once that the remote cache cannot be used.
    fn once(&self, fault: &RemoteError, tell: &dyn Fn(String)) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let consequence = match self.remote.is_off() {
                true => "this run goes on without it",
                false => "nothing more is uploaded",
            };
            tell(format!("{fault}; {consequence}"));
        }
    }
}

impl RemoteCache for Shared {
    fn fetch(
        &self,
        store: &Store,
        key: &ActionKey,
        document: &Value,
        tell: &(dyn Fn(Notice) + Sync),
    ) -> bool {
        let started = Instant::now();
        let arrived = |bytes: u64, of: u64| {
            let rate = bytes as f64 / started.elapsed().as_secs_f64();
            let left = of.saturating_sub(bytes) as f64 / rate;
            let seconds_left = Some(left).filter(|left| left.is_finite());
            tell(Notice::Arrived {
                bytes,
                of,
                seconds_left,
            });
        };
        match self.remote.fetch(store, key, document, &arrived) {
            Ok(Some(_)) => {
                self.fetched.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Ok(None) | Err(RemoteError::Stopped) => {}
            Err(fault @ RemoteError::Unusable { .. }) => {
                self.once(&fault, &|line| tell(Notice::Warning(line)));
            }
            Err(fault) => tell(Notice::Warning(format!("{fault}; it is not used"))),
        }
        false
    }

    fn fetch_chunks(&self, store: &Store, base: &Digest, tell: &(dyn Fn(Notice) + Sync)) {
        match self.remote.fetch_chunks(store, base) {
            Ok((_, damaged)) => damaged
                .into_iter()
                .for_each(|fault| tell(Notice::Warning(format!("{fault}; it is not used")))),
            Err(fault @ RemoteError::Unusable { .. }) => {
                self.once(&fault, &|line| tell(Notice::Warning(line)));
            }
            Err(RemoteError::Stopped) => {}
            Err(fault) => tell(Notice::Warning(format!(
                "{fault}; chunks in the remote cache are not used"
            ))),
        }
    }

    fn offer(&self, key: &ActionKey, tell: &(dyn Fn(Notice) + Sync)) {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(uploads) = uploads.as_ref() {
            uploads.offer(*key);
            if let Some(fault) = uploads.fault() {
                self.once(&fault, &|line| tell(Notice::Warning(line)));
            }
        }
    }
}

/// Waits for uploads, behind a bar with an estimate on a terminal.
pub(crate) fn finish_shown(uploads: Uploads) -> UploadReport {
    let bar = upload_bar();
    let report = uploads.finish(&|progress: Progress| {
        bar.set_length(progress.of_bytes);
        bar.set_position(progress.bytes);
        bar.set_message(format!("{}/{}", progress.actions, progress.of_actions));
    });
    bar.finish_and_clear();
    report
}

fn upload_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "uploading {wide_bar} {bytes}/{total_bytes}, results {msg} [{elapsed} < {eta}]";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}
