//! `sims new stage`: a program to start a stage from, and a pipeline that runs it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use sims_pipeline::pipeline::workspace_of;
use sims_pipeline::{relative_path, shell_word};

use crate::exit::{Exit, UsageError};
use crate::workspace::current_folder;
use crate::{print, say};

/// The pipeline that is extended when none is named.
const QUICKSTART: &str = "pipelines/quickstart.yaml";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write a stage that works at once, to change it into yours, and a pipeline that runs it
    Stage(StageArguments),
}

#[derive(Debug, Args)]
#[command(
    after_help = "The Python stage counts words in responses and needs polars; the shell stage hands a steering on and needs \
                  nothing. Both follow the stage protocol in every point (docs/stages.md). Nothing is overwritten.\n\n\
                  Examples:\n  sims new stage word-count\n  \
                  sims new stage size-limit --language shell --extends pipelines/hard.yaml --out pipelines/own"
)]
struct StageArguments {
    /// Name of the stage: small letters, digits and dashes
    #[arg(value_name = "NAME", value_parser = stage_name)]
    name: String,
    /// What it is written in
    #[arg(long, value_enum, default_value_t = Language::Python)]
    language: Language,
    /// Pipeline that gets the stage [default: pipelines/quickstart.yaml]
    #[arg(long, value_name = "FILE")]
    extends: Option<PathBuf>,
    /// Folder to write into [default: that of the pipeline]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Python,
    Shell,
}

/// Reads the name of a stage; it becomes a file name, a YAML key and the name of a pipeline.
fn stage_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if ["model", "prompts", "previous", "first", "none"].contains(&text) {
        return Err("it means something else in a pipeline file; choose another".to_owned());
    }
    match text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(is_plain)
        && !text.ends_with('-')
    {
        true => Ok(text.to_owned()),
        false => {
            Err("give small letters, digits and dashes, a letter first: word-count".to_owned())
        }
    }
}

impl Language {
    fn template(self) -> &'static str {
        match self {
            Self::Python => include_str!("new_stage/stage.py"),
            Self::Shell => include_str!("new_stage/stage.sh"),
        }
    }

    fn file_name(self, stage: &str) -> String {
        match self {
            // As a module, so that tests can import it.
            Self::Python => format!("{}.py", stage.replace('-', "_")),
            Self::Shell => format!("{}.sh", stage.replace('-', "_")),
        }
    }

    /// The role of the output, which no stage of the loop has.
    fn role(self, stage: &str) -> String {
        match self {
            Self::Python => format!("{stage}-words"),
            Self::Shell => format!("{stage}-steering"),
        }
    }

    fn inputs(self) -> &'static str {
        match self {
            Self::Python => "responses: sample.responses",
            Self::Shell => "steering: steer-eval.accepted",
        }
    }

    /// Where a run shows what the stage reads: the role, and the file in a round's folder.
    fn view(self) -> (&'static str, &'static str) {
        match self {
            Self::Python => ("responses", "responses.parquet"),
            Self::Shell => ("steering", "accepted.safetensors"),
        }
    }

    fn parameter(self) -> &'static str {
        match self {
            Self::Python => "min-words: 8",
            Self::Shell => "max-kilobytes: 4096",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let What::Stage(arguments) = &arguments.what;
    let base = base_pipeline(arguments)?;
    let folder = match &arguments.out {
        Some(folder) => folder.clone(),
        None => base.parent().unwrap_or(Path::new("")).to_owned(),
    };
    let StageArguments { name, language, .. } = arguments;
    let script = folder.join(language.file_name(name));
    let overlay = folder.join(format!("{name}.yaml"));
    for path in [&script, &overlay] {
        if path.symlink_metadata().is_ok() {
            return Err(UsageError(format!(
                "{} is there already; choose another name, or another folder with --out",
                path.display()
            ))
            .into());
        }
    }
    std::fs::create_dir_all(if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &folder
    })
    .with_context(|| format!("cannot create {}", folder.display()))?;
    let text = filled_in(*language, name);
    write_new(&script, &text, 0o777)?;
    write_new(
        &overlay,
        &overlay_text(arguments, &base, &script, &overlay)?,
        0o666,
    )?;
    print(&format!("{}\n{}", script.display(), overlay.display()));
    say(&next_steps(arguments, &script, &overlay));
    Ok(Exit::Success)
}

/// Returns the program of a new stage.
fn filled_in(language: Language, stage: &str) -> String {
    language
        .template()
        .replace("@STAGE@", stage)
        .replace("@SCRIPT@", &language.file_name(stage))
        .replace("@ROLE@", &language.role(stage))
}

fn base_pipeline(arguments: &StageArguments) -> Result<PathBuf, UsageError> {
    match &arguments.extends {
        Some(base) if base.is_file() => Ok(base.clone()),
        Some(base) => Err(UsageError(format!(
            "no pipeline file at {}",
            base.display()
        ))),
        None if Path::new(QUICKSTART).is_file() => Ok(PathBuf::from(QUICKSTART)),
        None => Err(UsageError(format!(
            "no {QUICKSTART} here: name the pipeline that gets the stage with --extends"
        ))),
    }
}

/// Returns a pipeline that is `base` with the stage in every round.
fn overlay_text(
    arguments: &StageArguments,
    base: &Path,
    script: &Path,
    overlay: &Path,
) -> anyhow::Result<String> {
    let real = |path: &Path| {
        path.canonicalize()
            .with_context(|| format!("cannot find {}", path.display()))
    };
    let folder = real(script)?;
    let folder = folder.parent().unwrap_or(&folder);
    let extends = relative_path(folder, &real(base)?);
    let uses = relative_path(&real(&workspace_of(overlay))?, &real(script)?);
    let StageArguments { name, language, .. } = arguments;
    Ok(format!(
        "# {}, and the stage `{name}` in every round.\n\
         extends: {}\n\
         name: {name}\n\
         round:\n  {name}:\n    uses: {}\n    inputs: {{{}}}\n    with: {{{}}}\n",
        base.file_name().unwrap_or_default().to_string_lossy(),
        quoted(&extends.display().to_string()),
        quoted(&format!("./{}", uses.display())),
        language.inputs(),
        language.parameter(),
    ))
}

/// Quotes a path for YAML when it needs it.
fn quoted(path: &str) -> String {
    match path
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
    {
        true => path.to_owned(),
        false => serde_json::Value::from(path).to_string(),
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    match made.and_then(|mut file| file.write_all(text.as_bytes())) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            Err(UsageError(format!("{} is there already", path.display())).into())
        }
        other => other.with_context(|| format!("cannot write {}", path.display())),
    }
}

fn next_steps(arguments: &StageArguments, script: &Path, overlay: &Path) -> String {
    let in_shell = |path: &Path| {
        let path = match path.components().count() {
            1 => Path::new(".").join(path),
            _ => path.to_owned(),
        };
        shell_word(&path.display().to_string())
    };
    let StageArguments { name, language, .. } = arguments;
    let (role, file) = language.view();
    let workspace = workspace_of(overlay);
    let view = workspace.join("runs").join(name).join("round-1").join(file);
    let view = current_folder()
        .ok()
        .and_then(|current| view.strip_prefix(current).map(Path::to_owned).ok())
        .unwrap_or(view);
    let view = shell_word(&view.display().to_string());
    let (script, overlay) = (in_shell(script), in_shell(overlay));
    format!(
        "next:\n  {script} --help\n  sims run {overlay} --rounds 1\n  \
         {script} --{role} {view} --out try   # the same by hand\n\
         then change {script}: when its text has changed, the next run computes it again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_whole() {
        for language in [Language::Python, Language::Shell] {
            let text = filled_in(language, "word-count");
            for mark in ["@STAGE@", "@SCRIPT@", "@ROLE@"] {
                assert!(language.template().contains(mark), "{language:?}: {mark}");
                assert!(!text.contains(mark), "{language:?}: {mark}");
            }
        }
    }

    #[test]
    fn names_fit_into_files_and_pipelines() {
        for good in ["a", "word-count", "v2"] {
            assert_eq!(stage_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "2a", "../a", "prompts"] {
            assert!(stage_name(bad).is_err(), "{bad}");
        }
    }
}
