//! One request: sent, waited for, and sent again where that may help.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Pace;

/// Largest response that is read; a verdict with its log-probabilities takes a few thousand bytes.
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
    /// Takes a key; white space around it, such as the end of a file's line, is no part of it.
    pub fn new(key: impl AsRef<str>) -> Self {
        Self(key.as_ref().trim().to_owned())
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

/// What the user calls the settings that an error may be about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingNames {
    /// The environment variable that holds the key.
    pub key: String,
    /// The setting that holds the address.
    pub address: &'static str,
    /// The setting that holds the model's name.
    pub model: &'static str,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// What was given is no address.
    #[error("`{address}` is no address of a server; write {setting} as https://HOST/v1")]
    Address {
        /// What was given.
        address: String,
        /// The setting that holds it.
        setting: &'static str,
    },
    /// The server will not answer, however often it is asked.
    #[error("{message}")]
    Refused {
        /// What the server said, without the key.
        message: String,
    },
    /// The server did not answer, and may later.
    #[error("no answer after {attempts} attempts: {message}")]
    Unanswered {
        /// How often it was asked.
        attempts: u32,
        /// What went wrong last, without the key.
        message: String,
    },
    /// The run was stopped while this waited.
    #[error("the run was stopped")]
    Stopped,
}

/// A server, and how it is asked. It can be shared between threads.
#[derive(Debug)]
pub struct Endpoint {
    agent: ureq::Agent,
    url: String,
    key: Option<ApiKey>,
    patience: Patience,
    pace: Pace,
    names: SettingNames,
    started: Instant,
}

impl Endpoint {
    /// Names a server by the address that `/chat/completions` is added to; nothing is sent yet.
    ///
    /// # Errors
    /// [`EndpointError::Address`].
    pub fn new(
        address: &str,
        key: Option<ApiKey>,
        patience: Patience,
        pace: Pace,
        names: SettingNames,
    ) -> Result<Self, EndpointError> {
        if !(address.starts_with("http://") || address.starts_with("https://")) {
            return Err(EndpointError::Address {
                address: address.to_owned(),
                setting: names.address,
            });
        }
        // A redirect would carry the key to where nobody asked for it to go, so none is followed.
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(patience.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("sims/", env!("CARGO_PKG_VERSION")));
        Ok(Self {
            agent: config.build().into(),
            url: format!("{}/chat/completions", address.trim_end_matches('/')),
            key,
            patience,
            pace,
            names,
            started: Instant::now(),
        })
    }

    /// Returns the address that requests go to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends `body` until there is an answer that `read` takes, the patience is spent, or `stop` is set.
    ///
    /// `read` is given the body of a response, without the key where a server quotes it; what it says is wrong with
    /// one may be right with the next.
    ///
    /// # Errors
    /// All of [`EndpointError`] but a wrong address.
    pub fn ask<T>(
        &self,
        body: &str,
        stop: &AtomicBool,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, EndpointError> {
        let mut failures = 0;
        loop {
            sleep(self.pace.turn(self.started.elapsed()), stop)?;
            let (message, retry_after) = match self.attempt(body, &read) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Lasting(message)) => return Err(EndpointError::Refused { message }),
                Err(Failure::Passing {
                    message,
                    retry_after,
                }) => (message, retry_after),
            };
            failures += 1;
            if failures >= self.patience.attempts {
                return Err(EndpointError::Unanswered {
                    attempts: failures,
                    message,
                });
            }
            sleep(self.patience.after(failures, retry_after), stop)?;
        }
    }

    fn attempt<T>(
        &self,
        body: &str,
        read: &impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
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
        let retry_after = header("retry-after").and_then(|text| seconds(&text));
        let is_json = header("content-type").is_some_and(|kind| kind.contains("json"));
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_BODY)
            .read_to_string();
        let said = |text: Result<String, ureq::Error>| {
            self.said(status, &self.without_key(&text.unwrap_or_default()))
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
                    "the server answers {status} and sends elsewhere; write the address that it is at as {}",
                    self.names.address
                )));
            }
            _ => return Err(Failure::Lasting(said(text))),
        }
        let text = text.map_err(|error| passing(format!("the body broke off: {error}")))?;
        if !is_json {
            return Err(passing("the body is not declared as JSON".to_owned()));
        }
        read(&self.without_key(&text)).map_err(passing)
    }

    /// Takes the key out of a server's words, some of which quote it.
    fn without_key(&self, message: &str) -> String {
        match &self.key {
            Some(ApiKey(key)) if !key.is_empty() => message.replace(key.as_str(), "***"),
            _ => message.to_owned(),
        }
    }

    /// Puts a status into words, with what the server says about it.
    fn said(&self, status: u16, body: &str) -> String {
        let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        let words = json["error"]["message"].as_str().unwrap_or(body);
        let words: String = words.chars().take(QUOTED).collect();
        let SettingNames {
            key,
            address,
            model,
        } = &self.names;
        let hint = match status {
            401 | 403 => format!("; is the key in {key} right?"),
            404 => format!("; are {address} and {model} right?"),
            _ => String::new(),
        };
        format!("the server answers {status}: {}{hint}", words.trim())
    }
}

/// Reads a time in seconds; the other form of the header, a date, is left to the client's own pause.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Sleeps in slices, until the time is over or `stop` is set.
fn sleep(time: Duration, stop: &AtomicBool) -> Result<(), EndpointError> {
    let end = Instant::now() + time;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(EndpointError::Stopped);
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
        assert_eq!(ApiKey::new(" sk-secret\n"), ApiKey::new("sk-secret"));
    }

    #[test]
    fn a_server_names_a_pause_in_seconds() {
        assert_eq!(seconds("2"), Some(Duration::from_secs(2)));
        assert_eq!(seconds("0.5"), Some(Duration::from_millis(500)));
        for text in ["", "-1", "NaN", "inf", "Wed, 21 Oct 2015 07:28:00 GMT"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let names = SettingNames {
            key: "KEY".to_owned(),
            address: "--endpoint",
            model: "--model",
        };
        let error = Endpoint::new("api", None, Patience::default(), Pace::new(0), names);
        assert_eq!(
            error.expect_err("no address").to_string(),
            "`api` is no address of a server; write --endpoint as https://HOST/v1"
        );
    }
}
