//! From a command line to a finished stage.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use schemars::JsonSchema;
use serde::Serialize;
use sims_artifact::atomic_file::remove_abandoned;

use crate::chunks::{ChunkOptions, Units};
use crate::describe::{Description, Numerics, Role, extension};
use crate::exit::{BadInput, Interrupted, PartDone, code_of};
use crate::io::{INTERRUPTED, StageIo};
use crate::parts::{self, Part};
use crate::progress::{ChunkSteps, ProgressMode};
use crate::summary::Summary;

/// A step of the loop: files in, files out.
pub trait Stage {
    /// Its name; the binary is `sims-NAME`.
    const NAME: &'static str;
    /// One sentence on what it does.
    const ABOUT: &'static str;
    /// Examples for `--help`.
    const EXAMPLES: &'static str;
    /// Raised whenever the same inputs would give other bytes.
    const BEHAVIOUR: u32;
    /// What the output bytes depend on beside inputs and parameters.
    const NUMERICS: Numerics;
    /// What the units of its work make up for, where it does the work with [`StageIo::chunks`].
    const UNITS: Option<Units> = None;
    /// The parameters, made with [`crate::params!`].
    type Params: Args + Serialize + JsonSchema;

    /// The inputs; no role may share its name with a parameter.
    fn inputs() -> Vec<Role>;

    /// The outputs.
    fn outputs() -> Vec<Role>;

    /// Does the work: reads the inputs and writes every output.
    ///
    /// # Errors
    /// [`BadInput`] for the user's mistakes, [`crate::Retryable`] for passing ones.
    fn run(params: &Self::Params, io: &mut StageIo) -> anyhow::Result<()>;
}

/// Runs stage `S` on the process's command line and returns its exit code.
pub fn main<S: Stage>() -> ExitCode {
    let matches = command::<S>().get_matches();
    if let Some(describe) = matches.subcommand_matches("describe") {
        return print_description::<S>(describe);
    }
    match run::<S>(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            code_of(&error)
        }
    }
}

fn command<S: Stage>() -> Command {
    let device = Arg::new("device")
        .long("device")
        .default_value("auto")
        .help(if S::UNITS.is_some() {
            "Where to compute: auto, cpu or cuda[:N[,M]]; cuda:0+cuda:1 gives each a part of the work"
        } else {
            "Where to compute: auto, cpu or cuda[:N[,M]]; of several with a + between, the first"
        });
    let mut command = Command::new(S::NAME)
        .display_name(program_name().unwrap_or_else(|| S::NAME.to_owned()))
        .version(env!("CARGO_PKG_VERSION"))
        .about(S::ABOUT)
        .after_help(S::EXAMPLES)
        .args_conflicts_with_subcommands(true)
        .subcommand(
            Command::new("describe")
                .about("Print inputs, outputs and parameters as JSON")
                .arg(device.clone()),
        );
    // The parameters' own doc comment would replace the stage's sentence.
    command = S::Params::augment_args(command.next_help_heading("Parameters")).about(S::ABOUT);
    command = command.next_help_heading("Inputs");
    for role in S::inputs() {
        let input = Arg::new(role.name)
            .long(role.name)
            .value_name("PATH")
            .required(role.required)
            .value_parser(value_parser!(PathBuf))
            .help(format!("{} ({})", role.help, role.schema));
        command = command.arg(if role.many {
            input.action(ArgAction::Append).num_args(1..)
        } else {
            input
        });
    }
    let outputs: Vec<String> = S::outputs()
        .iter()
        .map(|role| format!("{}.{}", role.name, extension(role.schema)))
        .collect();
    command
        .next_help_heading("Execution (never changes what is computed)")
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help(format!(
                    "Folder for {} and summary.json",
                    outputs.join(", ")
                )),
        )
        .arg(device)
        .args(S::UNITS.map(|_| chunk_arguments()).into_iter().flatten())
        .arg(
            Arg::new("threads")
                .long("threads")
                .default_value("0")
                .value_parser(value_parser!(usize))
                .help("Worker threads; 0 for every core"),
        )
        .arg(
            Arg::new("batch-size")
                .long("batch-size")
                .default_value("0")
                .value_parser(value_parser!(usize))
                .help("Sequences at once; 0 chooses"),
        )
        .arg(
            Arg::new("progress")
                .long("progress")
                .default_value("auto")
                .value_parser(value_parser!(ProgressMode))
                .help("auto (a bar on a terminal), json (events on stderr) or none"),
        )
}

/// Returns the flags of a stage that works in chunks.
fn chunk_arguments() -> [Arg; 3] {
    [
        Arg::new("chunks")
            .long("chunks")
            .value_name("DIR")
            .value_parser(value_parser!(PathBuf))
            .help("Folder of finished chunks: those in DIR/known are not computed again, new ones go to DIR/new"),
        Arg::new("chunk-size")
            .long("chunk-size")
            .value_name("N")
            .default_value("0")
            .value_parser(value_parser!(usize))
            .help("Prompts or pairs a chunk; 0 makes one chunk of all"),
        Arg::new("part")
            .long("part")
            .value_name("I/N")
            .requires("chunks")
            .value_parser(value_parser!(Part))
            .help("Do the I-th of N parts of the work, and leave only its chunks"),
    ]
}

/// Returns the name that the program was started under, for `--version`.
fn program_name() -> Option<String> {
    let path = PathBuf::from(std::env::args_os().next()?);
    Some(path.file_stem()?.to_string_lossy().into_owned())
}

fn print_description<S: Stage>(matches: &ArgMatches) -> ExitCode {
    let device = matches
        .get_one::<String>("device")
        .map_or("auto", String::as_str);
    let text = match serde_json::to_string_pretty(&Description::of::<S>(device)) {
        Ok(text) => text,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run<S: Stage>(matches: &ArgMatches) -> anyhow::Result<()> {
    let params = S::Params::from_arg_matches(matches).map_err(|e| BadInput::new(e.to_string()))?;
    let mut io = prepare::<S>(matches)?;
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot handle Ctrl-C")?;
    let device = io.device.clone();
    let devices = parts::devices(&device);
    let is_shared = S::UNITS.is_some() && devices.len() > 1;
    if is_shared {
        let arguments = std::env::args_os()
            .skip(1)
            .map(|argument| argument.to_string_lossy().into_owned());
        parts::run(&mut io, &devices, &parts::common_arguments(arguments))?;
    }
    if !(is_shared && io.part.is_partial()) {
        match S::run(&params, &mut io) {
            Err(error) if error.is::<PartDone>() => {}
            other => other?,
        }
    }
    if io.interrupted() {
        return Err(Interrupted.into());
    }
    if io.part.is_partial() {
        return Ok(());
    }
    io.publish()
}

fn prepare<S: Stage>(matches: &ArgMatches) -> anyhow::Result<StageIo> {
    let mut inputs = BTreeMap::new();
    for role in S::inputs() {
        let paths: Vec<PathBuf> = matches
            .get_many::<PathBuf>(role.name)
            .map(|paths| paths.cloned().collect())
            .unwrap_or_default();
        for path in &paths {
            if !path.exists() {
                return Err(BadInput::new(format!(
                    "--{}: {} does not exist",
                    role.name,
                    path.display()
                ))
                .into());
            }
        }
        inputs.insert(role.name.to_owned(), paths);
    }
    // The command line requires `--out` and gives the others defaults.
    let out = matches
        .get_one::<PathBuf>("out")
        .cloned()
        .unwrap_or_default();
    let device = matches
        .get_one::<String>("device")
        .cloned()
        .unwrap_or_default();
    let threads = match matches.get_one::<usize>("threads").copied().unwrap_or(0) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let progress = matches
        .get_one::<ProgressMode>("progress")
        .copied()
        .unwrap_or(ProgressMode::Auto);
    std::fs::create_dir_all(&out)
        .with_context(|| format!("cannot create the output folder {}", out.display()))?;
    remove_abandoned(&out);
    clear::<S>(&out, &inputs)?;
    let work = out.join(format!("{PARTIAL}{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let (mut part, mut chunks, mut chunk_size) = (None, None, None);
    if S::UNITS.is_some() {
        part = matches.get_one::<Part>("part").copied();
        chunks = matches.get_one::<PathBuf>("chunks").cloned();
        chunk_size = matches.get_one::<usize>("chunk-size").copied();
    }
    Ok(StageIo {
        inputs,
        outputs: S::outputs(),
        out,
        progress,
        summary: Summary::new(S::NAME, threads, &device, S::NUMERICS.class(&device)),
        device,
        part: part.unwrap_or(Part::WHOLE),
        chunk_options: ChunkOptions {
            folder: chunks.unwrap_or_else(|| work.join("chunks")),
            size: chunk_size.unwrap_or(0),
        },
        steps: ChunkSteps::default(),
        work,
        threads,
        batch_size: matches.get_one::<usize>("batch-size").copied().unwrap_or(0),
    })
}

/// Begins the name of the folder that a stage works in, before its process number.
const PARTIAL: &str = ".partial-";

/// Removes what earlier runs left in `out`: finished files, the summary first, which would make a run
/// that fails look complete, and the work of processes that were killed.
///
/// Refuses to when one of these files is an input.
fn clear<S: Stage>(out: &Path, inputs: &BTreeMap<String, Vec<PathBuf>>) -> Result<(), BadInput> {
    let outputs = S::outputs()
        .into_iter()
        .map(|role| out.join(format!("{}.{}", role.name, extension(role.schema))));
    let earlier: Vec<PathBuf> = std::iter::once(out.join("summary.json"))
        .chain(outputs)
        .collect();
    let real = |path: &PathBuf| path.canonicalize().ok();
    let replaced: Vec<PathBuf> = earlier.iter().filter_map(real).collect();
    for (role, paths) in inputs {
        if let Some(path) = paths
            .iter()
            .find(|path| real(path).is_some_and(|path| replaced.contains(&path)))
        {
            return Err(BadInput::new(format!(
                "--{role} {} would be overwritten by an output; choose another --out",
                path.display()
            )));
        }
    }
    for path in earlier {
        // What is not there needs no removal; what cannot be removed is replaced at the end.
        let _ = std::fs::remove_file(path);
    }
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PARTIAL));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sims_artifact::tables::ScoreRow;

    use super::*;

    #[expect(
        unreachable_pub,
        reason = "the macro makes public structs, and this module is private"
    )]
    mod settings {
        crate::params! {
            /// How the test stage counts.
            pub struct CountParams {
                /// Rows to write
                rows: u32 = 3,
                /// Added to every value
                offset: f64 = -0.5,
            }
            optional {
                /// Divides every value
                divisor: f64,
            }
        }
    }
    use settings::CountParams;

    struct Count;

    impl Stage for Count {
        const NAME: &'static str = "count";
        const ABOUT: &'static str = "Writes numbered rows";
        const EXAMPLES: &'static str = "sims-count --out o";
        const BEHAVIOUR: u32 = 1;
        const NUMERICS: Numerics = Numerics::Exact;
        type Params = CountParams;

        fn inputs() -> Vec<Role> {
            vec![Role::optional("base", "scores@1", "Rows to start from")]
        }

        fn outputs() -> Vec<Role> {
            vec![Role::required("scores", "scores@1", "The rows")]
        }

        fn run(params: &CountParams, io: &mut StageIo) -> anyhow::Result<()> {
            if params.rows == 0 {
                return Err(BadInput::new("rows must be positive").into());
            }
            let rows: Vec<ScoreRow> = (0..params.rows)
                .map(|i| ScoreRow {
                    prompt_id: i.to_string(),
                    policy: "base".into(),
                    draw: None,
                    metric: "number".into(),
                    value: (f64::from(i) + params.offset) / params.divisor.unwrap_or(1.0),
                })
                .collect();
            io.write("scores", &rows)
        }
    }

    fn run_with(arguments: &[&str]) -> anyhow::Result<()> {
        let matches = command::<Count>().try_get_matches_from(arguments)?;
        let params = CountParams::from_arg_matches(&matches)?;
        let mut io = prepare::<Count>(&matches)?;
        Count::run(&params, &mut io)?;
        io.publish()
    }

    #[test]
    fn outputs_appear_with_their_summary_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_str().unwrap();
        run_with(&["x", "--rows", "5", "--out", out]).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["scores.parquet", "summary.json"]);
        // A killed process left its work; this one's folder is its own.
        std::fs::create_dir(folder.path().join(".partial-999999999")).unwrap();
        assert!(run_with(&["x", "--rows", "0", "--out", out]).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_input_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_str().unwrap();
        run_with(&["x", "--out", out]).unwrap();
        let input = format!("{out}/./scores.parquet");
        let error = run_with(&["x", "--base", &input, "--out", out]).unwrap_err();
        assert!(
            error.to_string().contains("choose another --out"),
            "{error}"
        );
        assert!(folder.path().join("scores.parquet").exists());
    }

    #[test]
    fn flags_and_schema_have_the_same_defaults() {
        let description = Description::of::<Count>("cpu");
        let properties = &description.params["properties"];
        assert_eq!(properties["rows"]["default"], 3);
        assert_eq!(properties["offset"]["default"], -0.5);
        assert_eq!(properties["rows"]["description"], "Rows to write");
        assert_eq!(properties["divisor"]["type"], "number");
        assert_eq!(properties["divisor"].get("default"), None);
        assert_eq!(description.params["additionalProperties"], false);
        let matches = command::<Count>().get_matches_from(["x", "--out", "o"]);
        assert_eq!(
            CountParams::from_arg_matches(&matches).unwrap(),
            CountParams::default()
        );
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command::<Count>().debug_assert();
    }
}
