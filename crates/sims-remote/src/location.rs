//! From a URL and settings to an object store.

use std::path::Path as FolderPath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::RemoteError;
use crate::error::reason;

/// How often a request is tried again that the server failed or the network dropped.
const RETRIES: usize = 3;
/// The longest time for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// An object store and a place in it.
pub(crate) struct Location {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    /// The URL, which holds no credentials.
    pub(crate) url: String,
    /// Added to messages when the store cannot be used.
    pub(crate) hint: Option<&'static str>,
    /// Values that must not be shown.
    pub(crate) secrets: Vec<String>,
}

/// The parts of a URL.
struct Parts<'a> {
    scheme: &'a str,
    authority: &'a str,
    path: &'a str,
}

impl Location {
    /// Reads a URL, or the path of a folder; what else the service needs is in `environment`, under the names that
    /// its own tools use.
    pub(crate) fn open(
        place: &str,
        environment: &[(String, String)],
        timeout: Duration,
    ) -> Result<Self, RemoteError> {
        let url = &url_of(place)?;
        let parts = parts(url)?;
        let refuse = |message: String| RemoteError::BadUrl {
            url: url.to_owned(),
            message,
        };
        let secrets = secrets(environment);
        let fault = |error: object_store::Error| refuse(reason(&error, &secrets));
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: RETRIES,
            retry_timeout: timeout,
        };
        // Bodies may be large: their time is limited where they are read and written.
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT.min(timeout))
            .with_timeout_disabled();
        // The builders have the same methods, but no trait in common.
        macro_rules! build {
            ($builder:ty, $prefix:literal) => {{
                let settings = environment
                    .iter()
                    .filter(|(key, _)| key.starts_with($prefix));
                let builder = <$builder>::new()
                    .with_client_options(client)
                    .with_retry(retry)
                    .with_url(url);
                let builder = settings.fold(builder, |builder, (key, value)| {
                    match key.to_ascii_lowercase().parse() {
                        Ok(key) => builder.with_config(key, value),
                        // A variable of the service's other tools.
                        Err(_) => builder,
                    }
                });
                Arc::new(builder.build().map_err(fault)?) as Arc<dyn ObjectStore>
            }};
        }
        let objects = match parts.scheme {
            "file" => Arc::new(LocalFileSystem::new()) as Arc<dyn ObjectStore>,
            "s3" | "s3a" => build!(AmazonS3Builder, "AWS_"),
            "gs" => build!(GoogleCloudStorageBuilder, "GOOGLE_"),
            "az" | "azure" | "abfs" | "abfss" => build!(MicrosoftAzureBuilder, "AZURE_"),
            "http" | "https" => {
                let builder = HttpBuilder::new()
                    .with_client_options(client.with_allow_http(true))
                    .with_retry(retry)
                    .with_url(format!("{}://{}", parts.scheme, parts.authority));
                Arc::new(builder.build().map_err(fault)?)
            }
            other => {
                return Err(refuse(format!(
                    "`{other}` is not known; give a folder, or s3://BUCKET/…, gs://BUCKET/…, az://CONTAINER/…, or \
                     https://… of a WebDAV server"
                )));
            }
        };
        let prefix = match parts.scheme {
            "file" => Path::from_absolute_path(FolderPath::new(parts.path)),
            _ => Path::parse(parts.path),
        };
        Ok(Self {
            objects,
            prefix: prefix.map_err(|error| refuse(error.to_string()))?,
            url: url.to_owned(),
            hint: hint(parts.scheme, environment),
            secrets,
        })
    }
}

/// Returns the URL of what may be the path of a folder.
fn url_of(place: &str) -> Result<String, RemoteError> {
    if place.contains("://") {
        return Ok(place.to_owned());
    }
    match std::path::absolute(place) {
        Ok(folder) => Ok(format!("file://{}", folder.display())),
        Err(error) => Err(RemoteError::BadUrl {
            url: place.to_owned(),
            message: error.to_string(),
        }),
    }
}

/// Takes a URL apart; one with credentials in it is refused.
fn parts(url: &str) -> Result<Parts<'_>, RemoteError> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("file", url));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    // Azure names the container there, and it has no password.
    let is_container = scheme.starts_with("abfs");
    if user.is_some_and(|user| !is_container || user.contains(':')) {
        let host = authority.rsplit('@').next().unwrap_or_default();
        return Err(RemoteError::BadUrl {
            url: format!("{scheme}://…@{host}"),
            message: "a URL with a user or password would end up in logs; give credentials in the environment \
                      (AWS_…, GOOGLE_…, AZURE_…)"
                .to_owned(),
        });
    }
    if rest.contains(['?', '#']) && scheme != "file" {
        return Err(RemoteError::BadUrl {
            url: format!("{scheme}://{}", rest.split(['?', '#']).next().unwrap_or_default()),
            message: "a URL with `?` or `#` may hold a signature; give it without, and signatures in the environment \
                      (AZURE_STORAGE_SAS_TOKEN)"
                .to_owned(),
        });
    }
    if scheme == "file" {
        return match rest.starts_with('/') {
            true => Ok(Parts {
                scheme,
                authority: "",
                path: rest,
            }),
            false => Err(RemoteError::BadUrl {
                url: url.to_owned(),
                message: "a file URL has three slashes: file:///FOLDER".to_owned(),
            }),
        };
    }
    if authority.is_empty() {
        return Err(RemoteError::BadUrl {
            url: url.to_owned(),
            message: "it names no bucket".to_owned(),
        });
    }
    Ok(Parts {
        scheme,
        authority,
        path,
    })
}

/// Returns the values of settings that are secret, longest first.
fn secrets(environment: &[(String, String)]) -> Vec<String> {
    let is_secret = |key: &str| {
        ["KEY", "SECRET", "TOKEN", "SAS", "PASSWORD", "CREDENTIAL"]
            .iter()
            .any(|word| key.to_ascii_uppercase().contains(word))
    };
    let mut values: Vec<String> = environment
        .iter()
        .filter(|(key, value)| is_secret(key) && value.len() >= 4)
        .map(|(_, value)| value.clone())
        .collect();
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    values
}

fn hint(scheme: &str, environment: &[(String, String)]) -> Option<&'static str> {
    let sources = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ];
    let given = environment
        .iter()
        .any(|(key, _)| sources.contains(&key.as_str()));
    (scheme.starts_with("s3") && !given)
        .then_some("no AWS_ACCESS_KEY_ID is in the environment (profiles of ~/.aws are not read)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match Location::open(url, &[], Duration::from_secs(1)) {
            Ok(_) => panic!("{url} is accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn urls_with_credentials_are_refused_and_not_repeated() {
        for url in [
            "s3://AKIA:hunter2@bucket/cache",
            "https://me:hunter2@host/dav",
            "abfss://container:hunter2@account.dfs.core.windows.net/x",
            "az://container/x?sv=1&sig=hunter2",
            "https://host/dav#hunter2",
        ] {
            let message = refused(url);
            assert!(message.contains("in the environment"), "{message}");
            assert!(
                !message.contains("hunter2") && !message.contains("AKIA"),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_not_a_place_for_objects_is_refused() {
        assert!(refused("ftp://host/x").contains("`ftp` is not known"));
        assert!(refused("s3:///x").contains("no bucket"));
        assert!(refused("file://x").contains("three slashes"));
        assert!(refused("s3://bucket/a//b").contains("s3://bucket/a//b"));
    }

    #[test]
    fn services_are_known_by_their_schemes() {
        let azure = [
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5a2V5"),
            ("AWS_REGION", "eu-central-1"),
        ];
        let environment: Vec<_> = azure
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec();
        for (url, prefix) in [
            ("s3://bucket", ""),
            ("s3://bucket/team/sims", "team/sims"),
            ("az://container/sims", "sims"),
            (
                "abfss://container@account.dfs.core.windows.net/sims",
                "sims",
            ),
            ("http://127.0.0.1:9/dav/sims", "dav/sims"),
            ("file:///srv/sims cache", "srv/sims cache"),
            ("/srv/sims", "srv/sims"),
        ] {
            let location = Location::open(url, &environment, Duration::from_secs(1)).unwrap();
            let found = location.prefix.to_string().replace("%20", " ");
            assert_eq!(found, prefix, "{url}");
        }
    }
}
