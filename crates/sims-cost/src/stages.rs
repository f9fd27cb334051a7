//! How much every stage reads and writes, from its parameters and the sizes of its inputs.
//!
//! One function a stage. Each follows what the stage counts in its summary, so that an estimate can be held against a
//! run; where a size is known after the run only, the assumption is a note.

mod judge;
mod loop_stages;
mod parameters;
mod steer_eval;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::model::{ModelSize, PromptLength};
use crate::work::{Table, Work};

pub use parameters::Parameters;

/// What is known of a stage before it runs.
#[derive(Debug)]
pub struct StageInputs<'a> {
    /// The stage's own name, such as `sample`.
    pub stage: &'a str,
    /// Its parameters, defaults included.
    pub params: &'a Map<String, Value>,
    /// The prompt tables that it reads, by role.
    pub files: BTreeMap<&'a str, &'a [PromptLength]>,
    /// The tables of earlier stages that it reads, by role.
    pub tables: BTreeMap<&'a str, Vec<Table>>,
    /// All roles that something feeds.
    pub fed: Vec<&'a str>,
    /// The model that it reads.
    pub model: Option<&'a ModelSize>,
    /// Mean length of a response, where `max-new-tokens` allows. Unit: tokens.
    pub response_tokens: f64,
}

/// What a stage does.
#[derive(Debug, Clone, PartialEq)]
pub struct StageWork {
    /// What it has the model do; none for a stage that runs no model.
    pub work: Option<Work>,
    /// What it hands on; the same table by whatever role it is read.
    pub output: Option<Table>,
    /// What was assumed.
    pub notes: Vec<String>,
}

impl StageWork {
    fn of(work: Work, output: Option<Table>) -> Self {
        Self {
            work: Some(work),
            output,
            notes: Vec::new(),
        }
    }

    fn without_model(output: Option<Table>) -> Self {
        Self {
            work: None,
            output,
            notes: Vec::new(),
        }
    }

    fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }
}

/// Returns what a stage does.
pub fn work_of(inputs: &StageInputs<'_>) -> StageWork {
    let Some(model) = inputs.model else {
        return loop_stages::of_tables(inputs);
    };
    match inputs.stage {
        "sample" => loop_stages::sample(inputs),
        "judge" => judge::stage(inputs, model),
        "extract" => loop_stages::extract(inputs),
        "train" | "dpo" => loop_stages::train(inputs),
        "steer-eval" => steer_eval::stage(inputs, model),
        "rank" | "contrast" | "fit" | "guard" => loop_stages::of_tables(inputs),
        stage => StageWork::without_model(inputs.first_table()).note(format!(
            "{stage} reads a model, but how much is not known: it counts as nothing"
        )),
    }
}

impl StageInputs<'_> {
    fn parameters(&self) -> Parameters<'_> {
        Parameters(self.params)
    }

    fn is_fed(&self, role: &str) -> bool {
        self.fed.contains(&role)
    }

    /// Returns the tables that a role is fed with, as one: responses of several stages add up.
    fn table(&self, role: &str) -> Option<Table> {
        let tables = self.tables.get(role)?;
        let mut sum = *tables.first()?;
        sum.per_prompt = tables.iter().map(|table| table.per_prompt).sum();
        Some(sum)
    }

    fn first_table(&self) -> Option<Table> {
        let roles = ["responses", "judgments", "ranking", "pairs"];
        roles.iter().find_map(|role| self.table(role))
    }

    /// Returns the prompts that the stage selects, in means, without responses.
    fn selected(&self) -> Option<Table> {
        let mut prompts: Vec<&PromptLength> = self.files.get("prompts")?.iter().collect();
        let params = self.parameters();
        let split = params.text("split");
        // Assumed prompts have no split.
        prompts
            .retain(|prompt| split.is_empty() || prompt.split.is_empty() || prompt.split == split);
        let size = params.number("shard-size") as usize;
        if size > 0 {
            prompts.sort_by(|a, b| a.id.cmp(&b.id));
            let shard = match params.number("shard") as usize {
                0 => params.number("round") as usize,
                shard => shard,
            };
            let start = shard.saturating_sub(1) * size;
            prompts = prompts.into_iter().skip(start).take(size).collect();
        }
        let count = prompts.len() as f64;
        let mean = |of: fn(&PromptLength) -> f64| {
            prompts.iter().map(|prompt| of(prompt)).sum::<f64>() / count.max(1.0)
        };
        Some(Table {
            prompts: count,
            request: mean(|prompt| prompt.request),
            templated: mean(|prompt| prompt.templated),
            per_prompt: 0.0,
            response: 0.0,
        })
    }

    /// Returns the mean length of the responses that the stage draws.
    fn response(&self) -> f64 {
        self.response_tokens
            .min(self.parameters().number("max-new-tokens"))
    }
}

#[cfg(test)]
mod tests;
