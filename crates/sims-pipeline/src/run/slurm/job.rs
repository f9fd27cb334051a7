//! What is handed to `sbatch` for one job: options and a script.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::commands::shell_word;
use crate::pipeline::{Gpus, Resources};

/// One job.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// What people see in the queue.
    pub(super) name: String,
    /// What the job is found again by.
    pub(super) comment: String,
    /// What it asks for.
    pub(super) resources: &'a Resources,
    /// Jobs that have to succeed before.
    pub(super) after: Vec<String>,
    /// What makes it an array; `None` for a single job.
    pub(super) array: Option<Array>,
    /// The folder to start in.
    pub(super) current: &'a Path,
    /// Where its files lie: `STEM.out` for what it writes, `STEM.json` for what it reports; `STEM-3` of a task.
    pub(super) stem: &'a Path,
    /// The worker's command, up to what follows.
    pub(super) worker: &'a [String],
    /// The worker's further arguments.
    pub(super) arguments: Vec<String>,
}

/// An array, whose tasks each do one part of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Array {
    /// The tasks to run, from 1, ascending.
    pub(super) tasks: Vec<u32>,
    /// How many parts there are.
    pub(super) parts: u32,
}

/// Returns the path that begins with `stem` and ends with `end`; of a task of an array, when one is named.
pub(super) fn file_of(stem: &Path, task: Option<u32>, end: &str) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    if let Some(task) = task {
        name.push(format!("-{task}"));
    }
    name.push(end);
    name.into()
}

impl Job<'_> {
    /// Returns the options of `sbatch`.
    pub(super) fn options(&self) -> Vec<String> {
        // `%` begins a pattern in the name of an output file; `%a` is the task.
        let stem = self.stem.display().to_string().replace('%', "%%");
        let task = if self.array.is_some() { "-%a" } else { "" };
        let mut options = vec![
            format!("--job-name={}", self.name),
            format!("--comment={}", self.comment),
            format!("--chdir={}", self.current.display()),
            format!("--output={stem}{task}.out"),
            "--open-mode=append".to_owned(),
            "--kill-on-invalid-dep=yes".to_owned(),
        ];
        if !self.after.is_empty() {
            options.push(format!("--dependency=afterok:{}", self.after.join(":")));
        }
        if let Some(array) = &self.array {
            options.push(format!("--array={}", ranges(&array.tasks)));
        }
        options.extend(resource_options(self.resources));
        options
    }

    /// Returns the script: the worker takes the shell's place, so that it gets the signals.
    pub(super) fn script(&self) -> String {
        let words = self.worker.iter().chain(&self.arguments);
        let mut line: Vec<String> = words.map(|word| shell_word(word)).collect();
        match &self.array {
            None => {
                let report = file_of(self.stem, None, ".json").display().to_string();
                line.extend(["--report".to_owned(), shell_word(&report)]);
            }
            Some(array) => {
                let stem = shell_word(&self.stem.display().to_string());
                let task = "\"$SLURM_ARRAY_TASK_ID\"";
                line.push(format!("--report {stem}-{task}.json"));
                line.push(format!("--part {task}/{}", array.parts));
            }
        }
        format!("#!/bin/sh\nexec {}\n", line.join(" "))
    }
}

/// Translates resources into options; what is not asked for is left to the cluster.
fn resource_options(resources: &Resources) -> Vec<String> {
    let mut options = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        options.extend(value.map(|value| format!("--{name}={value}")));
    };
    add("cpus-per-task", resources.cpus.map(|cpus| cpus.to_string()));
    add("mem", resources.memory_mib.map(|mib| format!("{mib}M")));
    add("gres", resources.gpus.as_ref().map(gres));
    add("time", resources.time.map(minutes));
    add("partition", resources.partition.clone());
    add("account", resources.account.clone());
    add("qos", resources.qos.clone());
    options.extend(resources.extra.iter().cloned());
    options
}

fn gres(gpus: &Gpus) -> String {
    match &gpus.kind {
        Some(kind) => format!("gpu:{kind}:{}", gpus.count),
        None => format!("gpu:{}", gpus.count),
    }
}

/// Slurm counts time in minutes.
fn minutes(time: Duration) -> String {
    (time.as_secs_f64() / 60.0).ceil().to_string()
}

/// Writes numbers as `1-3,7`.
fn ranges(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let texts = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn shown(resources: &Resources, after: &[&str], array: Option<Array>) -> String {
        let job = Job {
            name: "quickstart/round-1/sample".to_owned(),
            comment: "sims:ab:round-1/sample:1:c0ffee".to_owned(),
            resources,
            after: after.iter().map(|job| (*job).to_owned()).collect(),
            array,
            current: Path::new("/home/me/my work"),
            stem: Path::new("/data/100%/round-1/sample.1"),
            worker: &[
                "/opt/sims".to_owned(),
                "work".to_owned(),
                "it's.yaml".to_owned(),
            ],
            arguments: vec!["--stage".to_owned(), "round-1/sample".to_owned()],
        };
        format!("{}\n{}", job.options().join("\n"), job.script())
    }

    #[test]
    fn a_job_asks_for_nothing_that_it_was_not_told() {
        assert_snapshot!(shown(&Resources::default(), &[], None), @r"
        --job-name=quickstart/round-1/sample
        --comment=sims:ab:round-1/sample:1:c0ffee
        --chdir=/home/me/my work
        --output=/data/100%%/round-1/sample.1.out
        --open-mode=append
        --kill-on-invalid-dep=yes
        #!/bin/sh
        exec /opt/sims work 'it'\''s.yaml' --stage round-1/sample --report /data/100%/round-1/sample.1.json
        ");
    }

    #[test]
    fn an_array_has_its_resources_its_dependencies_and_its_tasks() {
        let resources = Resources {
            cpus: Some(4),
            memory_mib: Some(1500),
            gpus: Some(Gpus {
                kind: Some("a100".to_owned()),
                count: 2,
            }),
            time: Some(Duration::from_secs(90 * 60 + 1)),
            partition: Some("main".to_owned()),
            account: Some("us".to_owned()),
            qos: Some("normal".to_owned()),
            parts: Some(8),
            extra: vec!["--constraint=avx512&fast".to_owned()],
        };
        assert_snapshot!(shown(&resources, &["17", "18"], Some(Array { tasks: vec![1, 2, 3, 7], parts: 8 })), @r#"
        --job-name=quickstart/round-1/sample
        --comment=sims:ab:round-1/sample:1:c0ffee
        --chdir=/home/me/my work
        --output=/data/100%%/round-1/sample.1-%a.out
        --open-mode=append
        --kill-on-invalid-dep=yes
        --dependency=afterok:17:18
        --array=1-3,7
        --cpus-per-task=4
        --mem=1500M
        --gres=gpu:a100:2
        --time=91
        --partition=main
        --account=us
        --qos=normal
        --constraint=avx512&fast
        #!/bin/sh
        exec /opt/sims work 'it'\''s.yaml' --stage round-1/sample --report /data/100%/round-1/sample.1-"$SLURM_ARRAY_TASK_ID".json --part "$SLURM_ARRAY_TASK_ID"/8
        "#);
    }
}
