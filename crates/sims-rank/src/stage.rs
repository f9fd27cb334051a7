//! The stage: tables in, ranking out.

use std::collections::HashSet;

use sims_artifact::tables::{JudgmentRow, ResponseRow};
use sims_stage::{BadInput, Numerics, Role, Stage, StageIo};

use crate::best::best_responses;
use crate::rank::{Diagnostics, rank};
use crate::score::{RankMethod, Scorer};

sims_stage::params! {
    /// How judgments become a ranking
    pub struct RankParams {
        /// How comparisons become scores
        method: RankMethod = RankMethod::MeanWin,
        /// Log-odds of the judge that count as one nat: above 1 for an overconfident judge
        tau: f64 = 1.0,
        /// Ridge that keeps Bradley-Terry scores finite
        ridge: f64 = 0.1,
        /// Seed of the coin of `random`
        seed: u64 = 0,
    }
}

/// Ranks the responses to each prompt.
pub struct RankStage;

impl Stage for RankStage {
    const NAME: &'static str = "rank";
    const ABOUT: &'static str =
        "Turns pairwise judgments into a ranking of the responses to each prompt";
    const EXAMPLES: &'static str = "\
Example:
  sims-rank --judgments judgments.parquet --responses responses.parquet --out ranked";
    const BEHAVIOUR: u32 = 1;
    const NUMERICS: Numerics = Numerics::Exact;
    type Params = RankParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required("judgments", "judgments@1", "Comparisons in both orders"),
            Role::required(
                "responses",
                "responses@1",
                "The responses that were compared",
            ),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required(
                "ranking",
                "ranking@1",
                "A score and a rank for every response",
            ),
            Role::required(
                "best",
                "responses@1",
                "The first-ranked response to every prompt: best-of-K sampling",
            ),
        ]
    }

    fn run(params: &RankParams, io: &mut StageIo) -> anyhow::Result<()> {
        let scorer = scorer(params)?;
        let judgments: Vec<JudgmentRow> = io.read("judgments")?;
        let responses: Vec<ResponseRow> = io.read("responses")?;
        let bar = io.progress("rank", prompts(&responses));
        let mut progress = |done: usize| bar.set(done as u64);
        let ranked =
            rank(&responses, &judgments, &scorer, params.seed, &mut progress).map_err(|error| {
                let file = io.input("judgments").map(|path| path.display().to_string());
                BadInput::new(format!("{}: {error}", file.unwrap_or_default()))
            })?;
        warn(&ranked.diagnostics, params.method, io);
        count(&ranked.diagnostics, io);
        io.write("best", &best_responses(&responses, &ranked.rows))?;
        io.write("ranking", &ranked.rows)
    }
}

/// Returns how many prompts the responses answer.
fn prompts(responses: &[ResponseRow]) -> u64 {
    let ids: HashSet<&str> = responses.iter().map(|row| row.prompt_id.as_str()).collect();
    ids.len() as u64
}

fn scorer(params: &RankParams) -> Result<Scorer, BadInput> {
    if !(params.tau > 0.0 && params.tau.is_finite()) {
        return Err(BadInput::new(format!(
            "tau is {}; it must be above 0",
            params.tau
        )));
    }
    if !(params.ridge >= 0.0 && params.ridge.is_finite()) {
        return Err(BadInput::new(format!(
            "ridge is {}; it must be 0 or above",
            params.ridge
        )));
    }
    Ok(Scorer {
        method: params.method,
        tau: params.tau,
        ridge: params.ridge,
    })
}

fn warn(diagnostics: &Diagnostics, method: RankMethod, io: &mut StageIo) {
    let d = diagnostics;
    if method == RankMethod::Random {
        io.warn(
            "the ranking is a coin's; set `both-orders` of contrast to false, or the judge still has a say in the \
             choice of pairs",
        );
    } else if !method.connects() && 2 * d.uneven > d.prompts {
        io.warn(format!(
            "in {} of {} prompts responses met unequal numbers of others, and a mean over those met depends on who \
             they were; rank with mean-win-completed",
            d.uneven, d.prompts
        ));
    }
    if d.single_response > 0 {
        io.warn(format!(
            "{} of {} prompts have a single response, which has rank 1 and no comparison; no \
             contrast pair can come from them: sample at least two",
            d.single_response, d.prompts
        ));
    }
    if d.unjudged > 0 {
        io.warn(format!(
            "{} responses have no valid comparison and are ranked last",
            d.unjudged
        ));
    }
    if d.half_judged > 0 {
        io.warn(format!(
            "{} pairs have a valid verdict in one order only and are left out",
            d.half_judged
        ));
    }
    if d.pairs > 0 && d.all_tied + d.single_response == d.prompts {
        io.warn("the judge has no preference: all responses of every prompt tie");
    } else if d.flip_rate > 0.4 {
        io.warn(format!(
            "the judge sides with the same slot in {:.0} % of the pairs when their order is \
             swapped; above 40 % its ranking means little",
            100.0 * d.flip_rate
        ));
    }
}

fn count(diagnostics: &Diagnostics, io: &mut StageIo) {
    let d = diagnostics;
    for (name, value) in [
        ("prompts", d.prompts as f64),
        ("single_response_prompts", d.single_response as f64),
        ("unjudged_responses", d.unjudged as f64),
        ("pairs", d.pairs as f64),
        ("half_judged_pairs", d.half_judged as f64),
        ("invalid_judgments", d.invalid as f64),
        ("uneven_prompts", d.uneven as f64),
        ("all_tied_prompts", d.all_tied as f64),
        ("flip_rate", d.flip_rate),
        ("position_bias_nats", d.position_bias),
        ("position_bias_probability", d.position_bias_probability),
        ("cycle_rate", d.cycle_rate),
        ("noise_sigma", d.noise_sigma),
        ("mean_score_range", d.mean_range),
    ] {
        io.count(name, value);
    }
    if let Some(correlation) = d.length_correlation {
        io.count("score_length_correlation", correlation);
    }
}
