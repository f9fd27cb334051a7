//! The stage: tables in, pairs out.

use std::collections::HashSet;

use sims_artifact::read_prompts;
use sims_artifact::tables::{PairRow, ResponseRow};
use sims_stage::{BadInput, Numerics, Role, Stage, StageIo};

use crate::contrast::{ContrastError, Tables, contrast};
use crate::figures::Figures;
use crate::{ContrastParams, Reason, Strategy};

/// Selects contrast pairs.
pub struct ContrastStage;

impl Stage for ContrastStage {
    const NAME: &'static str = "contrast";
    const ABOUT: &'static str = "Selects contrast pairs of chosen and rejected responses";
    const EXAMPLES: &'static str = "\
Examples:
  The best against the worst response to each prompt:
    sims-contrast --prompts prompts.parquet --responses responses.parquet \\
      --judgments judgments.parquet --ranking ranking.parquet --out contrast

  The clearest pairs of this round and the bank of the round before:
    sims-contrast --strategy contrast-sampling --round 2 --bank round-1/bank.parquet …

  Answers of a dozen tokens:
    sims-contrast --min-content-tokens 1 --min-visible-characters 1 --min-unshared 0 …";
    const BEHAVIOUR: u32 = 2;
    const NUMERICS: Numerics = Numerics::Exact;
    type Params = ContrastParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required("ranking", "ranking@1", "Scores and ranks of the responses"),
            Role::required("responses", "responses@1", "The responses"),
            Role::required("prompts", "prompts@1", "The prompts that they answer"),
            Role::required(
                "judgments",
                "judgments@1",
                "The comparisons behind the ranking",
            ),
            Role::optional("bank", "pairs@1", "The memory bank of the round before"),
            Role::optional(
                "settings",
                "settings@1",
                "What earlier rounds changed: whether pairs of unlike length are dropped",
            ),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required("pairs", "pairs@1", "The pairs for the fit"),
            Role::required(
                "dropped",
                "dropped@1",
                "The pairs not kept, with the reason",
            ),
            Role::required("bank", "pairs@1", "The memory bank for the next round"),
        ]
    }

    fn run(params: &ContrastParams, io: &mut StageIo) -> anyhow::Result<()> {
        let mut params = params.clone();
        if io
            .settings()?
            .is_some_and(|settings| settings.length_balance)
        {
            params.keep_like_lengths();
        }
        let params = &params;
        let bank: Vec<PairRow> = match io.optional_input("bank") {
            Some(_) => io.read("bank")?,
            None => Vec::new(),
        };
        let prompts = read_prompts(io.input("prompts")?)?;
        let responses: Vec<ResponseRow> = io.read("responses")?;
        let (ranking, judgments) = (io.read("ranking")?, io.read("judgments")?);
        let tables = Tables {
            prompts: &prompts,
            responses: &responses,
            ranking: &ranking,
            judgments: &judgments,
            bank: &bank,
        };
        let answered: HashSet<&str> = responses.iter().map(|row| row.prompt_id.as_str()).collect();
        let bar = io.progress("contrast", answered.len() as u64);
        let selected = contrast(&tables, params, &mut |done| bar.set(done as u64))
            .map_err(|error| bad_input(&error, io))?;
        warn(&selected.figures, params, io);
        count(&selected.figures, io);
        io.write("pairs", &selected.pairs)?;
        io.write("dropped", &selected.dropped)?;
        io.write("bank", &selected.bank)
    }
}

/// Names the file that an error is about.
fn bad_input(error: &ContrastError, io: &StageIo) -> BadInput {
    let role = match error {
        ContrastError::Parameter(_) | ContrastError::Failure { .. } => {
            return BadInput::new(error.to_string());
        }
        ContrastError::NoResponses | ContrastError::UnknownPrompt { .. } => "responses",
        ContrastError::Unranked { .. } => "ranking",
        ContrastError::BankAhead { .. } | ContrastError::UnknownBankPrompt { .. } => "bank",
    };
    let file = io
        .optional_input(role)
        .map(|path| path.display().to_string());
    BadInput::new(format!("{}: {error}", file.unwrap_or_default()))
}

fn warn(figures: &Figures, params: &ContrastParams, io: &mut StageIo) {
    let single = figures.dropped.of(Reason::SingleResponse);
    if single > 0 {
        io.warn(format!(
            "{single} of {} prompts have a single response and give no pair",
            figures.prompts
        ));
    }
    if figures.duplicate_share > 0.3 {
        io.warn(format!(
            "{:.0} % of the responses say what a better one says; sample at a higher temperature",
            100.0 * figures.duplicate_share
        ));
    }
    if figures
        .median_margin_over_noise
        .is_some_and(|ratio| ratio < 1.0)
    {
        io.warn(
            "half of the margins are within what pure noise gives; the judge is inconsistent or \
             the responses are too alike",
        );
    }
    if params.strategy == Strategy::ContrastSampling && figures.repeated_prompts > 0 {
        io.warn(format!(
            "{} prompts of this round were used in an earlier one; shards should be disjoint",
            figures.repeated_prompts
        ));
    }
}

fn count(figures: &Figures, io: &mut StageIo) {
    for (name, value) in [
        ("prompts", figures.prompts as f64),
        ("pairs_of_this_round", figures.fresh as f64),
        (
            "yield",
            figures.prompts_with_pair as f64 / figures.prompts as f64,
        ),
        ("duplicate_share", figures.duplicate_share),
        ("median_margin", figures.median_margin),
        ("mean_log_length_ratio", figures.mean_log_length_ratio),
        ("fresh_share", figures.fresh_share),
        ("mean_age_rounds", figures.mean_age),
    ] {
        io.count(name, value);
    }
    if let Some(ratio) = figures.median_margin_over_noise {
        io.count("median_margin_over_noise", ratio);
    }
    for (reason, pairs) in figures.dropped.iter() {
        io.count(
            &format!("dropped_{}", reason.word().replace('-', "_")),
            pairs as f64,
        );
    }
}
