//! What can go wrong with a remote cache, in words that hold no secret.
//!
//! The messages of `object_store` quote requests and answers of the server, in which keys and
//! signatures may stand. So none of them is passed on: only what kind of failure it was, and,
//! where nothing else is known, the first line of the innermost cause, with URLs and the values
//! of secret settings left out.

use std::path::Path;
use std::time::Duration;

use sims_artifact::ArtifactError;
use sims_artifact::store::StoreError;

/// The longest text of a cause that is passed on.
const LONGEST: usize = 160;

/// A remote cache that could not be used, or that holds something wrong.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The URL, or what the environment says about it, is wrong: the user mends it.
    #[error("cannot use the remote cache {url}: {message}")]
    BadUrl {
        /// The URL, without credentials.
        url: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// It cannot be reached, refuses, fails or is too slow; it is not asked again.
    #[error("the remote cache {url} cannot be used: {reason}")]
    Unusable {
        /// The URL.
        url: String,
        /// What happened.
        reason: String,
    },
    /// What it holds for an action is damaged or incomplete.
    #[error("the remote cache {url} holds wrong data: {message}")]
    Damaged {
        /// The URL.
        url: String,
        /// What is wrong.
        message: String,
    },
    /// The local store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system refused.
    #[error(transparent)]
    Local(#[from] ArtifactError),
    /// It was asked to stop.
    #[error("the transfer was stopped")]
    Stopped,
}

/// Why a transfer did not succeed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The object store failed.
    Service(object_store::Error),
    /// It did not answer in time.
    Slow(Duration),
    /// What came is not what was asked for.
    Damaged(String),
    /// A local file could not be read or written.
    Local(ArtifactError),
    /// It was asked to stop.
    Stopped,
}

impl Fault {
    /// Wraps an operating-system error with the local path that it is about.
    pub(crate) fn local(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Local(ArtifactError::io(action, path, source))
    }
}

impl From<object_store::Error> for Fault {
    fn from(error: object_store::Error) -> Self {
        Self::Service(error)
    }
}

/// Says what happened, without quoting requests, answers or secrets.
pub(crate) fn reason(error: &object_store::Error, secrets: &[String]) -> String {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => "not found (404): is the bucket's name right?".to_owned(),
        Error::PermissionDenied { .. } => "permission denied (403)".to_owned(),
        Error::Unauthenticated { .. } => "the credentials are missing or wrong (401)".to_owned(),
        other => innermost(other, secrets),
    }
}

fn innermost(error: &(dyn std::error::Error + 'static), secrets: &[String]) -> String {
    let mut cause = error;
    loop {
        let text = cause.to_string();
        if let Some((_, answer)) = text.split_once("status code: ")
            && let Some(status) = answer.split(':').next()
            && status.len() < 40
        {
            return format!("the server answered {status}");
        }
        match cause.source() {
            Some(source) => cause = source,
            None => return redacted(&text, secrets),
        }
    }
}

/// Keeps the first line, without URLs and without the values of secret settings.
fn redacted(text: &str, secrets: &[String]) -> String {
    let line = text.lines().next().unwrap_or_default();
    let words = line.split(' ').map(|word| match word.contains("://") {
        true => "URL",
        false => word,
    });
    let mut line = words.collect::<Vec<_>>().join(" ");
    for secret in secrets {
        line = line.replace(secret, "***");
    }
    line.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Text(String, #[source] Option<Box<Text>>);

    fn generic(text: &str, source: Option<&str>) -> object_store::Error {
        let source = source.map(|text| Box::new(Text(text.to_owned(), None)));
        object_store::Error::Generic {
            store: "S3",
            source: Box::new(Text(text.to_owned(), source)),
        }
    }

    #[test]
    fn an_answer_of_the_server_is_a_status_and_nothing_more() {
        let error = generic(
            "Error performing PUT https://h/b?X-Amz-Signature=5ec2e7 - Server returned non-2xx status code: \
             503 Service Unavailable: <Error><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>",
            None,
        );
        assert_eq!(
            reason(&error, &[]),
            "the server answered 503 Service Unavailable"
        );
    }

    #[test]
    fn a_cause_loses_urls_and_secrets() {
        let error = generic(
            "error sending request",
            Some("cannot send https://u:p@host/?sig=1 with key hunter2\nmore"),
        );
        assert_eq!(
            reason(&error, &["hunter2".to_owned()]),
            "cannot send URL with key ***"
        );
    }
}
