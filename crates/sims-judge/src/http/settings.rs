//! Where the server is and what it may be asked, from parameters and the environment.

use std::env;
use std::path::PathBuf;

use sims_endpoint::{ApiKey, Patience};

use crate::{JudgeError, JudgeParams};

const BASE_URL: &str = "https://api.openai.com/v1";
const CONCURRENCY: u32 = 8;

/// Where a judge is asked, and how hard.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSettings {
    /// Address up to `/v1`, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// The key; none for servers that ask for none.
    pub key: Option<ApiKey>,
    /// Requests under way at once, at least 1.
    pub concurrency: usize,
    /// Most requests a minute; 0 for no limit.
    pub requests_per_minute: u32,
    /// Most tokens, prompts and answers together, that a run may spend; 0 for no limit.
    pub token_budget: u64,
    /// How long to wait and how often to try.
    pub patience: Patience,
    /// Folder that keeps the answers.
    pub cache: PathBuf,
}

impl HttpSettings {
    /// Takes the address from the parameters or `OPENAI_BASE_URL`, the key from `OPENAI_API_KEY` alone, and
    /// the folder for answers from `SIMS_JUDGE_CACHE`, or the user's cache folder without it.
    ///
    /// # Errors
    /// [`JudgeError::Setting`] without a model, with a concurrency of 0, or where no folder is known.
    pub fn new(params: &JudgeParams) -> Result<Self, JudgeError> {
        let refuse = |message: &str| JudgeError::Setting(message.to_owned());
        let given = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let model = params.judge_model.clone().ok_or_else(|| {
            refuse("judge `http` needs judge-model, the model's name at the server")
        })?;
        let concurrency = params.concurrency.unwrap_or(CONCURRENCY);
        if concurrency == 0 {
            return Err(refuse(
                "concurrency is 0, but a request at a time is the least",
            ));
        }
        let home = || given("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let users = || given("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        let cache = given("SIMS_JUDGE_CACHE")
            .map(PathBuf::from)
            .or_else(|| Some(users()?.join("sims").join("judge")))
            .ok_or_else(|| {
                refuse("there is no folder to keep answers in; name one in SIMS_JUDGE_CACHE")
            })?;
        Ok(Self {
            base_url: params
                .base_url
                .clone()
                .or_else(|| given("OPENAI_BASE_URL"))
                .unwrap_or_else(|| BASE_URL.to_owned()),
            model,
            key: given("OPENAI_API_KEY").map(ApiKey::new),
            concurrency: concurrency as usize,
            requests_per_minute: params.requests_per_minute.unwrap_or(0),
            token_budget: params.token_budget.unwrap_or(0),
            patience: Patience::default(),
            cache,
        })
    }
}
