//! The stage `toyworld-gold`: gold scores and win rates of policies. Outside the loop.

use std::collections::BTreeMap;

use sims_artifact::read_prompts;
use sims_artifact::tables::{MetricRow, ResponseRow, ScoreRow};
use sims_stage::{BadInput, Numerics, Role, Stage, StageIo};
use sims_stats::{Bootstrap, Interval};

use crate::policies::{FIGURES, Scored, Tasks, families, prompt_means, prompt_wins, win_rate};
use crate::world::World;

/// The policy name of the unsteered model.
const BASE: &str = "base";
/// How many of the figures also get a win rate: score and the four components.
const COMPARED: usize = 5;

sims_stage::choice! {
    /// Which world's gold score is meant.
    pub enum WorldName {
        /// One latent, care
        Default = "default",
        /// Two latents, manners and brevity
        Hard = "hard",
    }
}

impl WorldName {
    pub(crate) fn world(self) -> World {
        match self {
            Self::Default => World::default_world(),
            Self::Hard => World::hard(),
        }
    }
}

sims_stage::choice! {
    /// Which policy of the comparator's responses the others are compared with.
    pub enum Baseline {
        /// The unsteered model
        Base = "base",
        /// The steered one
        Steered = "steered",
    }
}

sims_stage::params! {
    /// How responses are scored against the truth.
    pub struct GoldParams {
        /// World whose gold score is meant: default or hard
        world: WorldName = WorldName::Default,
        /// Policy to compare with: base or steered
        baseline: Baseline = Baseline::Base,
        /// Seed of the bootstrap
        seed: u64 = 0,
    }
}

/// Scores responses against the world's truth and compares policies prompt by prompt.
#[derive(Debug)]
pub struct GoldStage;

impl Stage for GoldStage {
    const NAME: &'static str = "toyworld-gold";
    const ABOUT: &'static str = "Score responses against the built-in world's truth";
    const EXAMPLES: &'static str =
        "Example:\n  toyworld-gold --prompts eval.parquet --responses responses.parquet --out gold";
    const BEHAVIOUR: u32 = 4;
    const NUMERICS: Numerics = Numerics::Exact;
    type Params = GoldParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required("prompts", "prompts@1", "The prompts answered"),
            Role::required(
                "responses",
                "responses@1",
                "Responses of one policy or several",
            )
            .many(),
            Role::optional(
                "base-responses",
                "responses@1",
                "Responses to compare with, where they are not in --responses",
            ),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required("metrics", "metrics@1", "Gold scores and win rates"),
            Role::required(
                "scores",
                "scores@1",
                "Gold figures of every response, wins of every prompt",
            ),
        ]
    }

    fn run(params: &GoldParams, io: &mut StageIo) -> anyhow::Result<()> {
        let world = params.world.world();
        let prompts = read_prompts(io.input("prompts")?)?;
        let tasks = Tasks::read(world, &prompts).map_err(|e| BadInput::new(e.to_string()))?;
        let mut responses: Vec<ResponseRow> = Vec::new();
        for path in io.inputs("responses") {
            responses.extend(sims_artifact::read_table(path)?);
        }
        let scored = score("score", &tasks, responses, io)?;
        let given = match io.optional_input("base-responses") {
            Some(path) => {
                let rows = sims_artifact::read_table(path)?;
                Some(score("score what is compared with", &tasks, rows, io)?)
            }
            None => None,
        };
        let (baseline_name, baseline) =
            baseline(params.baseline, given.as_ref().unwrap_or(&scored))?;
        // Against a steered policy the unsteered one is no candidate.
        let candidates: Vec<(&String, &Scored)> = scored
            .iter()
            .filter(|(policy, _)| params.baseline == Baseline::Base || *policy != BASE)
            .collect();
        // A comparator of its own may be another draw of the same policy: base against base.
        let same_policy_counts = given.is_some() && candidates.len() == 1;
        let others: Vec<(&String, &Scored)> = candidates
            .into_iter()
            .filter(|(policy, _)| same_policy_counts || *policy != baseline_name)
            .collect();
        if others.is_empty() {
            return Err(BadInput::new(format!(
                "--responses has no policy beside `{baseline_name}`; \
                 give the responses to compare with as --base-responses"
            ))
            .into());
        }

        let mut tables = Tables {
            metrics: vec![],
            scores: vec![],
            bootstrap: Bootstrap::seeded(params.seed),
        };
        tables.figures(
            if baseline_name == BASE {
                "base_"
            } else {
                "baseline_"
            },
            baseline,
        )?;
        tables.responses(baseline_name, baseline);
        for (policy, scored) in &others {
            let prefix = if others.len() == 1 {
                String::new()
            } else {
                format!("{policy}_")
            };
            tables.figures(&prefix, scored)?;
            tables.wins(&prefix, &tasks, policy, scored, baseline_name, baseline)?;
            if *policy != baseline_name {
                tables.responses(policy, scored);
            }
        }
        io.count("prompts", baseline.len() as f64);
        io.write("metrics", &tables.metrics)?;
        io.write("scores", &tables.scores)
    }
}

/// Scores responses prompt by prompt; grouped by policy.
fn score(
    label: &str,
    tasks: &Tasks,
    mut responses: Vec<ResponseRow>,
    io: &StageIo,
) -> anyhow::Result<BTreeMap<String, Scored>> {
    responses.sort_by(|l, r| l.prompt_id.cmp(&r.prompt_id));
    let by_prompt = || responses.chunk_by(|l, r| l.prompt_id == r.prompt_id);
    let bar = io.progress(label, by_prompt().count() as u64);
    let mut all: BTreeMap<String, Scored> = BTreeMap::new();
    for answers in by_prompt() {
        io.check_interrupted()?;
        let scored = tasks
            .score_all(answers)
            .map_err(|e| BadInput::new(e.to_string()))?;
        for (policy, scored) in scored {
            all.entry(policy).or_default().extend(scored);
        }
        bar.inc(1);
    }
    Ok(all)
}

/// Finds the policy to compare with.
fn baseline(
    choice: Baseline,
    scored: &BTreeMap<String, Scored>,
) -> Result<(&String, &Scored), BadInput> {
    let mut found = scored
        .iter()
        .filter(|(policy, _)| (*policy == BASE) == (choice == Baseline::Base));
    match (found.next(), found.next()) {
        (Some(policy), None) => Ok(policy),
        (None, _) => Err(BadInput::new(format!(
            "no responses of a policy `{choice}` to compare with"
        ))),
        _ => Err(BadInput::new(
            "several steered policies to compare with; give the responses of one",
        )),
    }
}

struct Tables {
    metrics: Vec<MetricRow>,
    scores: Vec<ScoreRow>,
    bootstrap: Bootstrap,
}

impl Tables {
    fn metric(
        &mut self,
        metric: String,
        (interval, n): (Interval, u64),
        method: &str,
        baseline: &str,
    ) {
        self.metrics.push(MetricRow {
            metric,
            value: interval.estimate,
            ci_low: Some(interval.low),
            ci_high: Some(interval.high),
            n,
            method: method.to_owned(),
            baseline: baseline.to_owned(),
        });
    }

    /// Adds the mean of every figure of a policy.
    fn figures(&mut self, prefix: &str, scored: &Scored) -> anyhow::Result<()> {
        for (name, figure) in FIGURES {
            let means = prompt_means(scored, figure);
            let interval = self.bootstrap.mean(&means)?;
            let method = "mean over draws, bootstrap over prompts";
            self.metric(
                format!("{prefix}gold_{name}"),
                (interval, means.len() as u64),
                method,
                "",
            );
        }
        Ok(())
    }

    /// Adds win rates over the baseline: of the score, of each component, of the score in each family.
    fn wins(
        &mut self,
        prefix: &str,
        tasks: &Tasks,
        policy: &str,
        scored: &Scored,
        baseline_name: &str,
        baseline: &Scored,
    ) -> anyhow::Result<()> {
        let method = "mean win over draw pairs, ties half, bootstrap over prompts";
        for (name, figure) in &FIGURES[..COMPARED] {
            let suffix = if *name == "score" {
                String::new()
            } else {
                format!("_{name}")
            };
            let win = win_rate(scored, baseline, *figure, &self.bootstrap)?;
            self.metric(
                format!("{prefix}gold_win_rate{suffix}"),
                win,
                method,
                baseline_name,
            );
        }
        let wins = prompt_wins(scored, baseline, FIGURES[0].1);
        for family in families(tasks, scored) {
            let of_family: Vec<f64> = wins
                .iter()
                .filter(|(p, _)| tasks.family(p) == Some(family))
                .map(|(_, win)| *win)
                .collect();
            if !of_family.is_empty() {
                let win = (self.bootstrap.mean(&of_family)?, of_family.len() as u64);
                self.metric(
                    format!("{prefix}gold_win_rate_family_{}", family.name()),
                    win,
                    method,
                    baseline_name,
                );
            }
        }
        self.scores
            .extend(wins.into_iter().map(|(prompt, win)| ScoreRow {
                prompt_id: prompt.to_owned(),
                policy: policy.to_owned(),
                draw: None,
                metric: "gold_win".to_owned(),
                value: win,
            }));
        Ok(())
    }

    /// Adds every figure of every response of a policy.
    fn responses(&mut self, policy: &str, scored: &Scored) {
        for (prompt, draws) in scored {
            for response in draws {
                for (name, figure) in FIGURES {
                    self.scores.push(ScoreRow {
                        prompt_id: prompt.clone(),
                        policy: policy.to_owned(),
                        draw: Some(response.draw),
                        metric: format!("gold_{name}"),
                        value: figure(response),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sims_artifact::tables::PromptRow;

    use super::*;

    fn scored(policy: &str, texts: &[&str]) -> (String, Scored) {
        let prompts = vec![PromptRow::new(
            vec![sims_artifact::tables::Message::user("add : 4 5")],
            "eval",
            "test",
        )];
        let tasks = Tasks::read(World::default_world(), &prompts).expect("a prompt of the world");
        let rows: Vec<ResponseRow> = texts
            .iter()
            .zip(0..)
            .map(|(text, i)| ResponseRow {
                prompt_id: prompts[0].prompt_id.clone(),
                response_id: i.to_string(),
                round: 1,
                sample_index: i,
                policy: policy.to_owned(),
                text: (*text).to_owned(),
                token_ids: vec![],
                prompt_tokens: 6,
                finish_reason: "stop".to_owned(),
                logprob_sum: -1.0,
                seed: 0,
            })
            .collect();
        tasks
            .score_all(&rows)
            .expect("known prompts")
            .pop_first()
            .expect("one policy")
    }

    #[test]
    fn wins_count_all_pairs_of_draws() {
        let (_, steered) = scored("steered-1", &["sure : 9 enjoy .", "9"]);
        let (_, base) = scored("base", &["9", "8"]);
        let (interval, n) =
            win_rate(&steered, &base, FIGURES[0].1, &Bootstrap::seeded(0)).expect("both answer");
        assert_eq!((interval.estimate, n), (0.875, 1));
        let (reverse, _) =
            win_rate(&base, &steered, FIGURES[0].1, &Bootstrap::seeded(0)).expect("both answer");
        assert_eq!(reverse.estimate, 0.125);
        assert_eq!(prompt_means(&steered, FIGURES[0].1), [(1.0 + 0.85) / 2.0]);
    }

    #[test]
    fn the_baseline_is_one_policy() {
        let all = BTreeMap::from([scored("base", &["9"]), scored("steered-1", &["9"])]);
        assert_eq!(baseline(Baseline::Base, &all).expect("there").0, "base");
        assert_eq!(
            baseline(Baseline::Steered, &all).expect("there").0,
            "steered-1"
        );
        let two = BTreeMap::from([scored("steered-1", &["9"]), scored("steered-2", &["9"])]);
        assert!(baseline(Baseline::Base, &two).is_err());
        assert!(baseline(Baseline::Steered, &two).is_err());
    }
}
