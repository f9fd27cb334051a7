//! One request: sent, waited for, and sent again where that may help.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::answer::Answered;
use super::pace::Pace;
use super::{HttpSettings, stopped};
use crate::JudgeError;

/// Largest response that is read; a verdict takes a few thousand bytes.
const MAX_BODY: u64 = 1 << 20;
/// Longest time for which a server may ask to be left alone.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);
/// Longest sleep without a look at whether the run stops.
const SLICE: Duration = Duration::from_millis(50);
/// Most of a server's words that an error quotes. Unit: characters.
const QUOTED: usize = 200;

/// A secret: it prints as asterisks.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How long to wait and how often to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Longest time for one request.
    pub timeout: Duration,
    /// How often a request is sent before it is given up.
    pub attempts: u32,
    /// The pause after the first failure; each further one doubles it.
    pub pause: Duration,
    /// Longest pause.
    pub max_pause: Duration,
}

impl Default for Patience {
    /// Two minutes a request, eight attempts, pauses from half a second to a minute.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(120),
            attempts: 8,
            pause: Duration::from_millis(500),
            max_pause: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// Returns the pause after failure number `failures`, from 1; what the server asks for goes first.
    fn after(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let doubled = self
            .pause
            .saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
        asked
            .map(|asked| asked.min(MAX_RETRY_AFTER))
            .unwrap_or_else(|| doubled.min(self.max_pause))
    }
}

/// Why an attempt failed.
enum Failure {
    /// Another may not: too many requests, an error of the server, a broken connection or answer.
    Passing {
        message: String,
        retry_after: Option<Duration>,
    },
    /// Another will fail as well.
    Lasting(String),
}

pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<ApiKey>,
    patience: Patience,
    pace: Pace,
    started: Instant,
}

impl Client {
    pub(super) fn new(settings: &HttpSettings) -> Self {
        // A redirect would carry the key to where nobody asked for it to go, so none is followed.
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(settings.patience.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("sims/", env!("CARGO_PKG_VERSION")));
        Self {
            agent: config.build().into(),
            url: format!(
                "{}/chat/completions",
                settings.base_url.trim_end_matches('/')
            ),
            key: settings.key.clone(),
            patience: settings.patience,
            pace: Pace::new(settings.requests_per_minute),
            started: Instant::now(),
        }
    }

    /// Asks until there is an answer, the patience is spent, or `stop` is set.
    pub(super) fn ask(
        &self,
        body: &str,
        prompt_id: &str,
        stop: &AtomicBool,
    ) -> Result<Answered, JudgeError> {
        let mut failures = 0;
        loop {
            sleep(self.pace.turn(self.started.elapsed()), stop)?;
            let (message, retry_after) = match self.attempt(body) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Lasting(message)) => {
                    return Err(JudgeError::Refused {
                        prompt_id: prompt_id.to_owned(),
                        message,
                    });
                }
                Err(Failure::Passing {
                    message,
                    retry_after,
                }) => (message, retry_after),
            };
            failures += 1;
            if failures >= self.patience.attempts {
                return Err(JudgeError::Unanswered {
                    prompt_id: prompt_id.to_owned(),
                    attempts: failures,
                    message,
                });
            }
            sleep(self.patience.after(failures, retry_after), stop)?;
        }
    }

    fn attempt(&self, body: &str) -> Result<Answered, Failure> {
        let passing = |message: String| Failure::Passing {
            message,
            retry_after: None,
        };
        let mut request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json")
            .header("accept", "application/json");
        if let Some(ApiKey(key)) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Failure::Lasting(error.to_string()),
            error => passing(error.to_string()),
        })?;
        let status = response.status().as_u16();
        let header = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.trim().to_owned())
        };
        let seconds = header("retry-after").and_then(|text| text.parse().ok());
        let retry_after = seconds.map(Duration::from_secs);
        let is_json = header("content-type").is_some_and(|kind| kind.contains("json"));
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_BODY)
            .read_to_string();
        let said = |text: Result<String, ureq::Error>| {
            said(status, &self.without_key(&text.unwrap_or_default()))
        };
        match status {
            200..=299 => {}
            408 | 409 | 425 | 429 | 500..=599 => {
                return Err(Failure::Passing {
                    message: said(text),
                    retry_after,
                });
            }
            300..=399 => {
                return Err(Failure::Lasting(format!(
                    "the server answers {status} and sends elsewhere; write the address that it is at as base-url"
                )));
            }
            _ => return Err(Failure::Lasting(said(text))),
        }
        let text = text.map_err(|error| passing(format!("the body broke off: {error}")))?;
        if !is_json {
            return Err(passing("the body is not declared as JSON".to_owned()));
        }
        Answered::read(&text).map_err(passing)
    }

    /// Takes the key out of a server's words, some of which quote it.
    fn without_key(&self, message: &str) -> String {
        match &self.key {
            Some(ApiKey(key)) if !key.is_empty() => message.replace(key.as_str(), "***"),
            _ => message.to_owned(),
        }
    }
}

/// Puts a status into words, with what the server says about it.
fn said(status: u16, body: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let words = json["error"]["message"].as_str().unwrap_or(body);
    let words: String = words.chars().take(QUOTED).collect();
    let hint = match status {
        401 | 403 => "; is the key in OPENAI_API_KEY right?",
        404 => "; are base-url and judge-model right?",
        _ => "",
    };
    format!("the server answers {status}: {}{hint}", words.trim())
}

/// Sleeps in slices, until the time is over or `stop` is set.
fn sleep(time: Duration, stop: &AtomicBool) -> Result<(), JudgeError> {
    let end = Instant::now() + time;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_the_server_goes_first() {
        let patience = Patience::default();
        let pause = |failures| patience.after(failures, None).as_millis();
        assert_eq!(
            [1, 2, 3, 7, 8, 40].map(pause),
            [500, 1000, 2000, 32_000, 60_000, 60_000]
        );
        let asked = |seconds| patience.after(1, Some(Duration::from_secs(seconds)));
        assert_eq!(asked(0), Duration::ZERO);
        assert_eq!(asked(90), Duration::from_secs(90));
        assert_eq!(asked(86_400), MAX_RETRY_AFTER);
    }

    #[test]
    fn a_key_prints_as_asterisks() {
        assert_eq!(format!("{:?}", ApiKey::new("sk-secret")), "***");
    }
}
