//! The stage `toyworld-oracle`: gold scores as ratings, for studies of what a judge's errors cost.
//!
//! A loop that judges by it is supervised. No pipeline but those studies reads what it writes.

use sims_artifact::read_prompts;
use sims_artifact::tables::{RatingRow, ResponseRow};
use sims_stage::{BadInput, Numerics, Role, Stage, StageIo};

use crate::gold_stage::WorldName;
use crate::policies::Tasks;

sims_stage::params! {
    /// Whose truth the ratings are.
    pub struct OracleParams {
        /// World whose gold score is meant: default or hard
        world: WorldName = WorldName::Default,
    }
}

/// Rates every response by the world's truth.
#[derive(Debug)]
pub struct OracleStage;

impl Stage for OracleStage {
    const NAME: &'static str = "toyworld-oracle";
    const ABOUT: &'static str =
        "Rate responses by the built-in world's truth, for studies of judge errors";
    const EXAMPLES: &'static str = "Example:\n  toyworld-oracle --prompts train.parquet --responses responses.parquet --out oracle";
    const BEHAVIOUR: u32 = 1;
    const NUMERICS: Numerics = Numerics::Exact;
    type Params = OracleParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required("prompts", "prompts@1", "The prompts answered"),
            Role::required("responses", "responses@1", "The responses to rate"),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![Role::required(
            "ratings",
            "ratings@1",
            "The gold score of every response",
        )]
    }

    fn run(params: &OracleParams, io: &mut StageIo) -> anyhow::Result<()> {
        let prompts = read_prompts(io.input("prompts")?)?;
        let tasks = Tasks::read(params.world.world(), &prompts)
            .map_err(|error| BadInput::new(error.to_string()))?;
        let responses: Vec<ResponseRow> = io.read("responses")?;
        let rate = |response: &ResponseRow| {
            let scored = tasks
                .score(response)
                .map_err(|error| BadInput::new(error.to_string()))?;
            Ok(RatingRow {
                prompt_id: response.prompt_id.clone(),
                response_id: response.response_id.clone(),
                rating: Some(scored.gold.score),
            })
        };
        let ratings: Vec<RatingRow> = responses
            .iter()
            .map(rate)
            .collect::<Result<_, BadInput>>()?;
        io.write("ratings", &ratings)
    }
}
