//! The acceptance test of a tiny model: does context move it, before any loop is tried?
//!
//! Two exchanges by a careful writer stand before the prompt. If the model keeps an estimate of its writer,
//! its answer is better than without them; if context does not move it, steering will not either
//! (toyworld measurements, §2). In a world of several latents each is tried by itself.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::Context as _;
use sims_artifact::tables::{Message, PromptRow};
use sims_model::generate::{BatchLimits, Request, SampleKey, SamplingParams, generate};
use sims_model::{ChatMessage, LanguageModel};
use sims_stats::{Bootstrap, Interval};

use crate::corpus::draw_task;
use crate::families::Family;
use crate::policies::{FIGURES, Scored, Tasks, families, prompt_means, win_rate};
use crate::random::Random;
use crate::vocab;
use crate::world::{LATENTS, World};
use crate::writer::Writer;

/// Random stream of the exchanges put before prompts.
const CONTEXT_STREAM: u64 = 0x636f6e74;
/// How far from average the writer of such exchanges is, in standard deviations.
const EXTREME: f64 = 2.0;
/// How many exchanges stand before the prompt.
const EXCHANGES: usize = 2;

/// What the acceptance test does.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Answers a prompt and context.
    pub draws: u32,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f32,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Seed of contexts, samples and bootstrap.
    pub seed: u64,
}

/// A figure with its 95 % interval over prompts.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end of its interval.
    pub ci_low: f64,
    /// Upper end of its interval.
    pub ci_high: f64,
}

impl From<Interval> for Estimate {
    fn from(interval: Interval) -> Self {
        Self {
            value: interval.estimate,
            ci_low: interval.low,
            ci_high: interval.high,
        }
    }
}

/// How the model answers in one context.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ContextReport {
    /// The context: `none`, `none-again` (other samples), `careful-LATENT`, `careless-LATENT`, `careful-all`.
    pub context: String,
    /// Win rate in gold score over `none`; one half means no effect.
    pub gold_win_rate: Estimate,
    /// Win rates over `none` in each component of the score.
    pub component_win_rates: BTreeMap<&'static str, Estimate>,
    /// Mean figures of the answers.
    pub figures: BTreeMap<&'static str, Estimate>,
    /// Share of right answers by family.
    pub right_by_family: BTreeMap<&'static str, f64>,
}

/// Runs the acceptance test on `prompts`, all contexts in turn; `progress` gets each finished context's name.
///
/// # Errors
/// When a prompt is not of the world or does not fit the model, or the model fails.
pub fn acceptance(
    model: &LanguageModel,
    world: &World,
    prompts: &[PromptRow],
    settings: &Settings,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<ContextReport>> {
    let tasks = Tasks::read(world.clone(), prompts)?;
    let bootstrap = Bootstrap::seeded(settings.seed);
    let mut none: Option<Scored> = None;
    let mut reports = Vec::new();
    for (name, writer) in contexts(world) {
        let round = if name == "none-again" { 1 } else { 0 };
        let scored = answer_all(
            model,
            world,
            &tasks,
            prompts,
            writer.as_ref(),
            round,
            settings,
        )?;
        let baseline = none.get_or_insert_with(|| scored.clone());
        reports.push(report(&name, &tasks, &scored, baseline, &bootstrap)?);
        progress(&name);
    }
    Ok(reports)
}

/// The latents that a context's writer is given; the others are drawn anew for each prompt.
type Given = [Option<f64>; LATENTS];

fn contexts(world: &World) -> Vec<(String, Option<Given>)> {
    let mut out = vec![("none".to_owned(), None), ("none-again".to_owned(), None)];
    for (i, latent) in world.latents.iter().enumerate() {
        for (word, value) in [("careful", EXTREME), ("careless", -EXTREME)] {
            let mut given = [None; LATENTS];
            given[i] = Some(value);
            out.push((format!("{word}-{latent}"), Some(given)));
        }
    }
    if world.latents.len() > 1 {
        out.push(("careful-all".to_owned(), Some([Some(EXTREME); LATENTS])));
    }
    out
}

/// Returns the exchanges of one writer that stand before prompt number `index`.
fn exchanges(world: &World, given: &Given, seed: u64, index: u64) -> Vec<ChatMessage> {
    // The stream depends on the prompt alone: all contexts ask the same task first.
    let random = &mut Random::new(seed, CONTEXT_STREAM, index);
    let latents = given.map(|value| {
        let drawn = random.normal();
        value.unwrap_or(drawn)
    });
    let writer = Writer::with_latents(latents);
    let mut messages = Vec::with_capacity(2 * EXCHANGES);
    for _ in 0..EXCHANGES {
        let task = draw_task(world, Family::SEEN, false, random);
        let answer = writer.answer(world, &task, random);
        messages.push(ChatMessage::new("user", vocab::decode(&task.prompt())));
        messages.push(ChatMessage::new("assistant", vocab::decode(&answer.tokens)));
    }
    messages
}

/// Returns a conversation of careful exchanges, the same for every prompt: what a user would write as examples.
pub fn careful_examples(world: &World, seed: u64) -> PromptRow {
    let given = [Some(EXTREME); LATENTS];
    let messages = exchanges(world, &given, seed, 0)
        .into_iter()
        .map(|message| Message {
            role: message.role,
            content: message.content,
        })
        .collect();
    PromptRow::new(messages, "examples", "toyworld")
}

fn answer_all(
    model: &LanguageModel,
    world: &World,
    tasks: &Tasks,
    prompts: &[PromptRow],
    given: Option<&Given>,
    round: u32,
    settings: &Settings,
) -> anyhow::Result<Scored> {
    let mut requests = Vec::with_capacity(prompts.len());
    for (row, index) in prompts.iter().zip(0..) {
        let mut messages = given.map_or_else(Vec::new, |given| {
            exchanges(world, given, settings.seed, index)
        });
        messages.extend(
            row.messages
                .iter()
                .map(|m| ChatMessage::new(&m.role, &m.content)),
        );
        let text = model.chat_template()?.render(&messages, true)?;
        let samples = (0..settings.draws)
            .map(|draw| SampleKey::new(settings.seed, round, &row.prompt_id, draw))
            .collect();
        requests.push(Request {
            prompt: model.tokenizer().encode(&text)?,
            samples,
        });
    }
    let params = SamplingParams {
        temperature: settings.temperature,
        max_new_tokens: settings.max_new_tokens,
        stop_tokens: model.generation_config().eos_token_ids.clone(),
        ..SamplingParams::default()
    };
    let generated = generate(
        model.decoder(),
        &requests,
        &params,
        &BatchLimits::for_decoder(model.decoder()),
        None,
        &mut |_| ControlFlow::Continue(()),
    )?;
    let mut scored = Scored::new();
    for (row, generations) in prompts.iter().zip(generated) {
        let draws = scored.entry(row.prompt_id.clone()).or_default();
        for (generation, draw) in generations.iter().zip(0..) {
            let text = model.tokenizer().decode(&generation.token_ids)?;
            draws.push(
                tasks
                    .score_text(&row.prompt_id, draw, &text)
                    .context("a prompt read above")?,
            );
        }
    }
    Ok(scored)
}

fn report(
    name: &str,
    tasks: &Tasks,
    scored: &Scored,
    none: &Scored,
    bootstrap: &Bootstrap,
) -> anyhow::Result<ContextReport> {
    let win = |figure| anyhow::Ok(Estimate::from(win_rate(scored, none, figure, bootstrap)?.0));
    let mut component_win_rates = BTreeMap::new();
    for (name, figure) in &FIGURES[1..5] {
        component_win_rates.insert(*name, win(*figure)?);
    }
    let mut figures = BTreeMap::new();
    for (name, figure) in FIGURES {
        figures.insert(name, bootstrap.mean(&prompt_means(scored, figure))?.into());
    }
    let right = |family: Family| {
        let draws = scored
            .iter()
            .filter(|(p, _)| tasks.family(p) == Some(family))
            .flat_map(|(_, d)| d);
        let marks: Vec<bool> = draws.map(|d| d.gold.right).collect();
        marks.iter().filter(|&&right| right).count() as f64 / marks.len() as f64
    };
    Ok(ContextReport {
        context: name.to_owned(),
        gold_win_rate: win(FIGURES[0].1)?,
        component_win_rates,
        figures,
        right_by_family: families(tasks, scored)
            .into_iter()
            .map(|f| (f.name(), right(f)))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::Task;
    use crate::gold::{Answer, Gold};

    fn mean_gold(world: &World, given: Given) -> f64 {
        let scores: Vec<f64> = (0..500)
            .flat_map(|i| exchanges(world, &given, 1, i))
            .collect::<Vec<_>>()
            .chunks(2)
            .map(|turn| {
                let task = Task::parse_text(&turn[0].content).expect("a prompt of the world");
                Gold::of(
                    world,
                    &task,
                    &Answer::read(&vocab::encode(&turn[1].content)),
                )
                .score
            })
            .collect();
        scores.iter().sum::<f64>() / scores.len() as f64
    }

    #[test]
    fn contexts_show_the_writer_they_are_named_for() {
        let world = World::default_world();
        assert!(mean_gold(&world, [Some(EXTREME), None]) > 0.9);
        assert!(mean_gold(&world, [Some(-EXTREME), None]) < 0.3);
        let hard = World::hard();
        let names: Vec<String> = contexts(&hard).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "none",
                "none-again",
                "careful-manners",
                "careless-manners",
                "careful-brevity",
                "careless-brevity",
                "careful-all"
            ]
        );
        let average = mean_gold(&hard, [None, None]);
        for given in [[Some(EXTREME), None], [None, Some(EXTREME)]] {
            assert!(mean_gold(&hard, given) > average + 0.1);
        }
    }
}
