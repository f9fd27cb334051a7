//! `resources:`: what a stage asks of a cluster.
//!
//! ```yaml
//! resources: {cpus: 4, memory: 8G, time: 2h, partition: main}     # of every stage
//! round:
//!   sample: {samples: 10, resources: {gpus: 1, memory: 32G}}      # of one, key by key over the above
//! ```
//!
//! No byte of a result depends on any of it, so that it is no part of a key.

use std::time::Duration;

use super::unknown_key;
use crate::yaml::{Diagnostic, Node, Yaml};

/// The keys of `resources`.
const KEYS: [&str; 9] = [
    "cpus",
    "memory",
    "gpus",
    "time",
    "partition",
    "account",
    "qos",
    "parts",
    "extra",
];
/// More array tasks than this are refused: many clusters allow no more.
const MAX_PARTS: u64 = 1000;

/// What a stage asks of a cluster; what is `None` is left to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Cores.
    pub cpus: Option<u32>,
    /// Main memory. Unit: MiB.
    pub memory_mib: Option<u64>,
    /// GPUs.
    pub gpus: Option<Gpus>,
    /// The longest that it may run.
    pub time: Option<Duration>,
    /// The partition, or queue.
    pub partition: Option<String>,
    /// The account that is charged.
    pub account: Option<String>,
    /// The quality of service.
    pub qos: Option<String>,
    /// How many tasks share the work of a stage that splits by prompt.
    pub parts: Option<u32>,
    /// Further options for `sbatch`, each as one word.
    pub extra: Vec<String>,
}

/// A number of GPUs, of any kind or of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus {
    /// The kind, as the cluster calls it.
    pub kind: Option<String>,
    /// How many.
    pub count: u32,
}

/// Reads `resources` under `key`; what it does not say is as in `below`.
pub(super) fn read(
    key: &str,
    node: &Node,
    below: &Resources,
) -> Result<Resources, Vec<Diagnostic>> {
    let map = node.as_map(key).map_err(|problem| vec![problem])?;
    let mut resources = below.clone();
    let mut problems = Vec::new();
    for entry in &map.entries {
        let path = format!("{key}.{}", entry.key);
        let result = match entry.key.as_str() {
            "cpus" => {
                count(&path, &entry.value, 1, u64::from(u16::MAX)).map(|n| resources.cpus = Some(n))
            }
            "memory" => {
                text(&path, &entry.value, memory_mib).map(|mib| resources.memory_mib = Some(mib))
            }
            "gpus" => gpus(&path, &entry.value).map(|gpus| resources.gpus = gpus),
            "time" => text(&path, &entry.value, duration).map(|time| resources.time = Some(time)),
            "partition" => word(&path, &entry.value).map(|word| resources.partition = Some(word)),
            "account" => word(&path, &entry.value).map(|word| resources.account = Some(word)),
            "qos" => word(&path, &entry.value).map(|word| resources.qos = Some(word)),
            "parts" => count(&path, &entry.value, 1, MAX_PARTS).map(|n| resources.parts = Some(n)),
            "extra" => extra(&path, &entry.value).map(|extra| resources.extra = extra),
            _ => Err(unknown_key(entry, &KEYS, key)),
        };
        problems.extend(result.err());
    }
    match problems.is_empty() {
        true => Ok(resources),
        false => Err(problems),
    }
}

/// Reads a time such as `90s`, `30m`, `2h` or `1d`.
///
/// # Errors
/// With what to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * seconds).filter(|seconds| *seconds > 0.0 && *seconds < 1e9)
    });
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "give a time such as 90s, 30m, 2h or 1d".to_owned())
}

/// Reads an amount of memory such as `500M` or `16G`. Unit of the result: MiB.
fn memory_mib(text: &str) -> Result<u64, String> {
    let units = [("M", 1), ("G", 1 << 10), ("T", 1 << 20)];
    let amount = units.iter().find_map(|(unit, mib)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*mib).filter(|amount| *amount > 0)
    });
    amount.ok_or_else(|| "give an amount such as 500M, 16G or 1T".to_owned())
}

fn text<T>(
    key: &str,
    node: &Node,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, Diagnostic> {
    // A bare number is a likely slip, and what it lacks is the unit.
    let text = match &node.value {
        Yaml::Number(number) => number.to_string(),
        _ => node.as_text(key)?.to_owned(),
    };
    read(&text)
        .map_err(|help| Diagnostic::new(&node.at, format!("`{key}` cannot be `{text}`")).help(help))
}

fn count(key: &str, node: &Node, least: u64, most: u64) -> Result<u32, Diagnostic> {
    let number = node.as_integer(key)?;
    match u32::try_from(number) {
        Ok(fits) if (least..=most).contains(&number) => Ok(fits),
        _ => Err(Diagnostic::new(
            &node.at,
            format!("`{key}` must be between {least} and {most}, but is {number}"),
        )),
    }
}

/// Reads a name that has to be one word on a command line.
fn word(key: &str, node: &Node) -> Result<String, Diagnostic> {
    let text = node.as_text(key)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.,:@+".contains(c);
    if text.is_empty() || text.starts_with('-') || !text.chars().all(fits) {
        return Err(Diagnostic::new(
            &node.at,
            format!("`{key}` is a name of the cluster, not `{text}`"),
        ));
    }
    Ok(text.to_owned())
}

/// Reads `2`, or `a100:2`; none is `0`.
fn gpus(key: &str, node: &Node) -> Result<Option<Gpus>, Diagnostic> {
    if let Yaml::Number(_) = node.value {
        let count = count(key, node, 0, u64::from(u16::MAX))?;
        return Ok((count > 0).then_some(Gpus { kind: None, count }));
    }
    let text = word(key, node)?;
    let parsed = text.split_once(':').and_then(|(kind, count)| {
        let count = count.parse().ok().filter(|count| *count > 0)?;
        let is_kind = !kind.is_empty() && !kind.contains([',', ':']);
        is_kind.then(|| Gpus {
            kind: Some(kind.to_owned()),
            count,
        })
    });
    parsed.map(Some).ok_or_else(|| {
        Diagnostic::new(&node.at, format!("`{key}` cannot be `{text}`"))
            .help("give a number, or a kind and a number such as a100:2")
    })
}

fn extra(key: &str, node: &Node) -> Result<Vec<String>, Diagnostic> {
    let Yaml::List(items) = &node.value else {
        return Err(node.wrong_type(key, "a list of options"));
    };
    let option = |item: &Node| {
        let text = item.as_text(key)?;
        if !text.starts_with('-') || text.chars().any(char::is_control) {
            return Err(Diagnostic::new(
                &item.at,
                format!("`{key}` has `{text}`, which is no option"),
            )
            .help("write each option of sbatch with its value as one text: --constraint=avx512"));
        }
        Ok(text.to_owned())
    };
    items.iter().map(option).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use insta::assert_snapshot;

    use super::*;
    use crate::yaml::{SourceFile, parse};

    fn read_text(text: &str, below: &Resources) -> Result<Resources, String> {
        let file = Arc::new(SourceFile {
            path: "p.yaml".into(),
            text: text.to_owned(),
        });
        read("resources", &parse(&file).unwrap(), below).map_err(|problems| {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            texts.join("\n")
        })
    }

    #[test]
    fn everything_that_a_stage_may_ask_for_is_read() {
        let text = "{cpus: 4, memory: 16G, gpus: a100:2, time: 1.5h, partition: main, account: us, qos: high, \
                    parts: 8, extra: [--constraint=avx512]}";
        let expected = Resources {
            cpus: Some(4),
            memory_mib: Some(16 << 10),
            gpus: Some(Gpus {
                kind: Some("a100".to_owned()),
                count: 2,
            }),
            time: Some(Duration::from_secs(5400)),
            partition: Some("main".to_owned()),
            account: Some("us".to_owned()),
            qos: Some("high".to_owned()),
            parts: Some(8),
            extra: vec!["--constraint=avx512".to_owned()],
        };
        assert_eq!(read_text(text, &Resources::default()), Ok(expected));
    }

    #[test]
    fn a_stage_changes_what_it_names_and_keeps_the_rest() {
        let top = read_text("{cpus: 4, gpus: 1, memory: 500M}", &Resources::default()).unwrap();
        let own = read_text("{cpus: 8, gpus: 0}", &top).unwrap();
        assert_eq!(
            (own.cpus, own.gpus, own.memory_mib),
            (Some(8), None, Some(500))
        );
    }

    #[test]
    fn mistakes_are_shown_all_at_once() {
        let text = "cpus: 0\nmemory: 16\ngpus: many\ntime: 1:30\npartition: a b\nparts: 5000\nextra: [constraint]\nmem: 3G\n";
        assert_snapshot!(read_text(text, &Resources::default()).unwrap_err(), @r"
        p.yaml:1:7: `resources.cpus` must be between 1 and 65535, but is 0
           |
         1 | cpus: 0
           |       ^
        p.yaml:2:9: `resources.memory` cannot be `16`
           |
         2 | memory: 16
           |         ^
           = give an amount such as 500M, 16G or 1T
        p.yaml:3:7: `resources.gpus` cannot be `many`
           |
         3 | gpus: many
           |       ^
           = give a number, or a kind and a number such as a100:2
        p.yaml:4:7: `resources.time` cannot be `1:30`
           |
         4 | time: 1:30
           |       ^
           = give a time such as 90s, 30m, 2h or 1d
        p.yaml:5:12: `resources.partition` is a name of the cluster, not `a b`
           |
         5 | partition: a b
           |            ^
        p.yaml:6:8: `resources.parts` must be between 1 and 1000, but is 5000
           |
         6 | parts: 5000
           |        ^
        p.yaml:7:9: `resources.extra` has `constraint`, which is no option
           |
         7 | extra: [constraint]
           |         ^
           = write each option of sbatch with its value as one text: --constraint=avx512
        p.yaml:8:1: unknown key `mem` in `resources`
           |
         8 | mem: 3G
           | ^
           = known here: cpus, memory, gpus, time, partition, account, qos, parts, extra
        ");
    }
}
