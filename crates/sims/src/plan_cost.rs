//! `sims plan --on CARD`: what a pipeline would cost on a GPU.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde_json::{Value, json};
use sims_cost::card::{CARDS, Card, LAUNCH, LOADING, READING, WRITING};
use sims_cost::estimate::Estimate;
use sims_cost::model::{ModelSize, PromptLength, assumed_prompts};
use sims_cost::stages::{StageInputs, StageWork, work_of};
use sims_cost::work::Table;
use sims_pipeline::{InstanceName, Plan};

use crate::exit::UsageError;
use crate::model_memory::size;
use crate::text_table::text_table;
use crate::workspace::program_search;

/// The schema of prompt tables.
const PROMPTS: &str = "prompts@1";

/// What an estimate is made for.
#[derive(Debug, clap::Args)]
pub(crate) struct CostOptions {
    /// Estimate what every stage costs on this GPU, h100 or h200; nothing has to have run, and of the model only
    /// config.json must be there
    #[arg(long, value_name = "CARD", value_parser = card, conflicts_with = "commands")]
    pub(crate) on: Option<Card>,
    /// What an hour of the GPU costs; without it no money is shown
    #[arg(long, value_name = "PRICE", requires = "on", value_parser = price)]
    price_per_gpu_hour: Option<f64>,
    /// Written before amounts, such as $ or EUR
    #[arg(long, value_name = "TEXT", requires = "on", default_value = "")]
    currency: String,
    /// Mean length of a response, as far as max-new-tokens allows. Unit: tokens
    #[arg(long, value_name = "N", requires = "on", default_value_t = 300.0, value_parser = price)]
    response_tokens: f64,
    /// Size of a prompt table that is not there, by its name in the pipeline: SPLIT=COUNTxTOKENS, as in train=3000x150
    #[arg(long, value_name = "SPLIT=COUNTxTOKENS", requires = "on", value_parser = assumed)]
    assume: Vec<(String, u32, f64)>,
}

fn card(text: &str) -> Result<Card, String> {
    let names = CARDS.map(|card| card.name).join(" or ");
    Card::named(text).ok_or_else(|| format!("give {names}"))
}

fn price(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if f64::is_finite(number) && number >= 0.0 => Ok(number),
        _ => Err("give a number that is not negative".to_owned()),
    }
}

fn assumed(text: &str) -> Result<(String, u32, f64), String> {
    let parts = text.split_once('=').and_then(|(split, size)| {
        let (count, tokens) = size.split_once('x')?;
        Some((split.to_owned(), count.parse().ok()?, tokens.parse().ok()?))
    });
    parts.ok_or_else(|| "give SPLIT=COUNTxTOKENS, as in train=3000x150".to_owned())
}

/// One stage of one round.
pub(crate) struct StageCost {
    name: InstanceName,
    tokens: [f64; 2],
    estimate: Option<Estimate>,
    notes: Vec<String>,
}

/// What a plan would cost.
pub(crate) struct PlanCost<'a> {
    options: &'a CostOptions,
    card: Card,
    stages: Vec<StageCost>,
    /// All GPU-hours, if every response were as long as max-new-tokens allows.
    most_hours: f64,
    /// Whether tokens of prompts were counted, not guessed.
    counted: bool,
}

impl<'a> PlanCost<'a> {
    /// Estimates every stage of `plan` on `card`.
    pub(crate) fn of(plan: &Plan, card: Card, options: &'a CostOptions) -> anyhow::Result<Self> {
        let assumed = options.assumed_tables(plan)?;
        let models = measured_models(plan, &assumed)?;
        let stages = costs(plan, &card, &models, &assumed, options.response_tokens);
        let most = costs(plan, &card, &models, &assumed, f64::INFINITY);
        Ok(Self {
            options,
            card,
            stages,
            most_hours: most.iter().map(StageCost::hours).sum(),
            counted: models.values().all(|model| model.counted),
        })
    }

    fn hours(&self) -> f64 {
        self.stages.iter().map(StageCost::hours).sum()
    }

    /// All GPU-hours, if the shares of the card's peaks were half of what is assumed.
    fn slow_hours(&self) -> f64 {
        let estimates = self.stages.iter().filter_map(|stage| stage.estimate);
        estimates
            .map(|estimate| 2.0 * estimate.hours() - estimate.loading / 3600.0)
            .sum()
    }

    fn money(&self, hours: f64) -> Option<f64> {
        self.options.price_per_gpu_hour.map(|price| hours * price)
    }

    /// One object a stage and round.
    pub(crate) fn as_json(&self, run: &str) -> Vec<Value> {
        let object = |stage: &StageCost| {
            let estimate = stage.estimate.as_ref();
            json!({
                "run": run,
                "round": stage.name.round.unwrap_or(0),
                "stage": stage.name.stage,
                "card": self.card.name,
                "tokens_read": stage.tokens[0],
                "tokens_written": stage.tokens[1],
                "flops": estimate.map(|estimate| estimate.flops),
                "weight_bytes": estimate.map(|estimate| estimate.weight_bytes),
                "kv_bytes": estimate.map(|estimate| estimate.kv_bytes),
                "memory_bytes": estimate.map(|estimate| estimate.memory_bytes),
                "fits": estimate.map(|estimate| estimate.fits),
                "batch": estimate.map(|estimate| estimate.batch),
                "gpu_hours": stage.hours(),
                "money": self.money(stage.hours()),
                "assumptions": stage.notes,
            })
        };
        self.stages.iter().map(object).collect()
    }

    /// One line a node, its rounds together, and the total.
    pub(crate) fn as_table(&self) -> String {
        let mut nodes: Vec<&str> = Vec::new();
        for stage in &self.stages {
            if !nodes.contains(&stage.name.stage.as_str()) {
                nodes.push(&stage.name.stage);
            }
        }
        let mut rows: Vec<Vec<String>> = nodes
            .into_iter()
            .map(|node| self.row(node, |stage| stage.name.stage == node))
            .collect();
        rows.push(self.row("all", |_| true));
        let mut headings = vec![
            "stage",
            ">runs",
            ">tokens read",
            ">written",
            ">FLOP",
            ">weights",
            ">cache",
            ">memory",
            ">GPU-hours",
        ];
        headings.extend(self.options.price_per_gpu_hour.map(|_| ">money"));
        text_table(&headings, &rows)
    }

    fn row(&self, name: &str, of: impl Fn(&StageCost) -> bool) -> Vec<String> {
        let stages: Vec<&StageCost> = self.stages.iter().filter(|stage| of(stage)).collect();
        let sum =
            |what: &dyn Fn(&StageCost) -> f64| stages.iter().map(|stage| what(stage)).sum::<f64>();
        let most = |what: &dyn Fn(&Estimate) -> f64| {
            let estimates = stages.iter().filter_map(|stage| stage.estimate.as_ref());
            estimates.map(what).fold(0.0, f64::max)
        };
        let hours = sum(&StageCost::hours);
        let bytes = |bytes: f64| some(bytes, |bytes| size(bytes as u64));
        let mut row = vec![
            name.to_owned(),
            stages.len().to_string(),
            some(sum(&|stage| stage.tokens[0]), metric),
            some(sum(&|stage| stage.tokens[1]), metric),
            some(
                sum(&|stage| stage.estimate.map_or(0.0, |estimate| estimate.flops)),
                |flops| format!("{flops:.1e}"),
            ),
            bytes(most(&|estimate| estimate.weight_bytes)),
            bytes(most(&|estimate| estimate.kv_bytes)),
            bytes(most(&|estimate| estimate.memory_bytes)),
            some(hours, |hours| format!("{hours:.2}")),
        ];
        row.extend(
            self.money(hours)
                .map(|money| some(money, |money| self.amount(money))),
        );
        row
    }

    fn amount(&self, money: f64) -> String {
        format!("{} {money:.2}", self.options.currency)
            .trim_start()
            .to_owned()
    }

    /// Says what the estimate rests on.
    pub(crate) fn in_words(&self) -> Vec<String> {
        let card = &self.card;
        let mut lines = vec![format!(
            "an estimate for one {}, which no run has confirmed: {:.2} GPU-hours; {:.2} if reading and writing are half \
             as fast as assumed; {:.2} if every response is as long as max-new-tokens allows",
            card.product,
            self.hours(),
            self.slow_hours(),
            self.most_hours
        )];
        for stage in self
            .stages
            .iter()
            .filter(|stage| stage.estimate.is_some_and(|it| !it.fits))
        {
            lines.push(format!(
                "{} does not fit into {}: spread the layers over several GPUs, --device cuda:0,1, or take another card",
                stage.name,
                size(card.memory as u64)
            ));
        }
        lines.push(format!(
            "reading at {:.0} % of {:.0} TFLOP/s in bf16 ({:.0} in f32); writing at {:.0} % of {:.2} TB/s, weights once \
             a step and every cache, {:.0} µs a kernel; weights loaded at {:.0} GB/s",
            100.0 * READING,
            card.bf16 / 1e12,
            card.f32 / 1e12,
            100.0 * WRITING,
            card.bandwidth / 1e12,
            LAUNCH * 1e6,
            LOADING / 1e9
        ));
        lines.push(format!(
            "responses of {} tokens, or of max-new-tokens if that is less (--response-tokens)",
            self.options.response_tokens
        ));
        if !self.counted {
            lines.push(
                "without tokenizer.json tokens are guessed, at four characters each".to_owned(),
            );
        }
        for (split, count, tokens) in &self.options.assume {
            lines.push(format!(
                "{split}: {count} prompts of {tokens} tokens, as --assume says"
            ));
        }
        for note in self.stages.iter().flat_map(|stage| &stage.notes) {
            if !lines.contains(note) {
                lines.push(note.clone());
            }
        }
        lines
    }
}

impl StageCost {
    fn hours(&self) -> f64 {
        self.estimate.map_or(0.0, |estimate| estimate.hours())
    }
}

impl CostOptions {
    /// Makes the tables up that `--assume` names, by file.
    fn assumed_tables(&self, plan: &Plan) -> anyhow::Result<BTreeMap<PathBuf, Vec<PromptLength>>> {
        let known = &plan.pipeline.prompts;
        let mut tables = BTreeMap::new();
        for (split, count, tokens) in &self.assume {
            let file = known.get(split).ok_or_else(|| {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                UsageError(format!(
                    "--assume {split}: the pipeline has no prompts of that name; there are {}",
                    names.join(", ")
                ))
            })?;
            tables.insert(file.path.clone(), assumed_prompts(*count, *tokens));
        }
        Ok(tables)
    }
}

/// Asks `sims-model size` for every model of the plan and the prompts that are there.
fn measured_models(
    plan: &Plan,
    assumed: &BTreeMap<PathBuf, Vec<PromptLength>>,
) -> anyhow::Result<BTreeMap<PathBuf, ModelSize>> {
    let mut files: Vec<&Path> = Vec::new();
    for index in 0..plan.len() {
        for (role, path) in plan.files(index) {
            let schema = &plan.program(index).description.inputs[role].schema;
            if schema != PROMPTS || assumed.contains_key(path) || files.contains(&path) {
                continue;
            }
            if !path.is_file() {
                return Err(absent(plan, path).into());
            }
            files.push(path);
        }
    }
    let program = program_search().find("sims-model").ok_or_else(|| {
        UsageError(
            "sims-model is neither beside sims nor on PATH, and only it knows models".to_owned(),
        )
    })?;
    let mut models = BTreeMap::new();
    for model in (0..plan.len()).filter_map(|index| plan.model(index)) {
        if models.contains_key(model) {
            continue;
        }
        let mut command = Command::new(&program);
        command.arg("size").arg(model).arg("--json");
        for file in &files {
            command.arg("--prompts").arg(file);
        }
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches("error: ");
            return Err(UsageError(format!(
                "{said} (an estimate needs config.json of {}, and no weights)",
                model.display()
            ))
            .into());
        }
        let size = serde_json::from_slice(&output.stdout)
            .context("sims-model is of another version than sims: build both")?;
        models.insert(model.to_owned(), size);
    }
    Ok(models)
}

/// Says which table is missing, and how to do without it.
fn absent(plan: &Plan, path: &Path) -> UsageError {
    let split = plan
        .pipeline
        .prompts
        .iter()
        .find(|(_, file)| file.path == path)
        .map(|(split, _)| split);
    let way_out = split.map_or_else(String::new, |split| {
        format!("; to estimate without it, say how large it is: --assume {split}=COUNTxTOKENS")
    });
    UsageError(format!("{} is not there{way_out}", path.display()))
}

/// Estimates the stages in order, each from what those before it hand on.
fn costs(
    plan: &Plan,
    card: &Card,
    models: &BTreeMap<PathBuf, ModelSize>,
    assumed: &BTreeMap<PathBuf, Vec<PromptLength>>,
    response_tokens: f64,
) -> Vec<StageCost> {
    let mut done: Vec<StageWork> = Vec::new();
    let mut stages = Vec::new();
    for index in 0..plan.len() {
        let model = plan.model(index).and_then(|model| models.get(model));
        let params = plan.parameters(index);
        let mut inputs = StageInputs {
            stage: &plan.program(index).description.stage,
            params: &params,
            files: BTreeMap::new(),
            tables: BTreeMap::new(),
            fed: Vec::new(),
            model,
            response_tokens,
        };
        for (role, path) in plan.files(index) {
            inputs.fed.push(role);
            let measured = model.and_then(|model| model.prompts.get(&path.display().to_string()));
            if let Some(prompts) = assumed.get(path).or(measured) {
                inputs.files.insert(role, prompts);
            }
        }
        for (role, from, output) in plan.fed_by_instances(index) {
            inputs.fed.push(role);
            if let Some(table) = done.get(from).and_then(|work| handed_on(work, output)) {
                inputs.tables.entry(role).or_default().push(table);
            }
        }
        let work = work_of(&inputs);
        let estimate = model
            .zip(work.work.as_ref())
            .map(|(model, work)| Estimate::of(work, model, card));
        stages.push(StageCost {
            name: plan.name(index),
            tokens: work.work.map_or([0.0; 2], |work| [work.read, work.written]),
            estimate,
            notes: work.notes.clone(),
        });
        done.push(work);
    }
    stages
}

/// Returns the table that an output is; the best response of each prompt is one.
fn handed_on(work: &StageWork, output: &str) -> Option<Table> {
    let table = work.output?;
    Some(match output {
        "best" => Table {
            per_prompt: 1.0,
            ..table
        },
        _ => table,
    })
}

fn some(value: f64, text: impl Fn(f64) -> String) -> String {
    if value > 0.0 {
        text(value)
    } else {
        String::new()
    }
}

/// Writes a count with a metric prefix: `950`, `38.0 k`, `12.4 M`.
fn metric(value: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| value >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", value / unit),
        None => format!("{value:.0}"),
    }
}
