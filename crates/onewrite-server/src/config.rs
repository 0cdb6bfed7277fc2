//! `onewrite.toml`: the services and their stores. Flags stand over environment over file.

use std::path::{Path, PathBuf};

use onewrite::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// The file looked for when none is named.
pub(crate) const FILE: &str = "onewrite.toml";

/// The whole configuration. Unknown keys are refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// How relays work.
    pub(crate) relay: RelayConfig,
    /// How long records stay.
    pub(crate) retention: RetentionConfig,
    /// The services.
    pub(crate) service: Vec<ServiceConfig>,
}

/// `[relay]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RelayConfig {
    /// Records in one batch at most.
    pub(crate) batch_max: usize,
    /// Bytes of events in one batch at most.
    pub(crate) batch_bytes_max: usize,
    /// How long leases hold without renewal, in milliseconds.
    pub(crate) lease_ms: u64,
    /// The longest wait between two looks at the log, in milliseconds.
    pub(crate) poll_ms: u64,
    /// A record refused so often parks its key.
    pub(crate) attempts_max: u32,
    /// The first pause after a failure is at most so long, in milliseconds.
    pub(crate) backoff_initial_ms: u64,
    /// No pause is longer, in milliseconds.
    pub(crate) backoff_cap_ms: u64,
    /// A sink further behind is suspended, in seconds.
    pub(crate) budget_age_s: u64,
    /// A sink with more bytes waiting is suspended.
    pub(crate) budget_bytes: u64,
}

impl Default for RelayConfig {
    fn default() -> Self {
        let options = onewrite::RelayOptions::new("");
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            batch_max: options.batch_max,
            batch_bytes_max: options.batch_bytes_max,
            lease_ms: ms(options.lease_ttl),
            poll_ms: ms(options.poll),
            attempts_max: options.attempts_max,
            backoff_initial_ms: ms(options.backoff.initial),
            backoff_cap_ms: ms(options.backoff.cap),
            budget_age_s: options.budget.age.as_secs(),
            budget_bytes: options.budget.bytes,
        }
    }
}

/// `[retention]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetentionConfig {
    /// Settled records stay in the log at least so long, in seconds.
    pub(crate) log_s: u64,
    /// Their stories (no data) stay so long, in seconds.
    pub(crate) history_s: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        let retention = onewrite::Retention::default();
        Self { log_s: retention.log.as_secs(), history_s: retention.history.as_secs() }
    }
}

/// `[[service]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceConfig {
    /// Its name.
    pub(crate) name: String,
    /// Its store's URL; a relative path is relative to the file.
    pub(crate) store: String,
    /// Where its events go.
    #[serde(default)]
    pub(crate) sink: Vec<SinkConfig>,
}

/// `[[service.sink]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkConfig {
    /// Its name.
    pub(crate) name: String,
    /// Its address, or several that serve the same consumer.
    pub(crate) urls: Vec<String>,
    /// Only these event types; all when empty.
    #[serde(default)]
    pub(crate) types: Vec<String>,
    /// Whether private and loopback addresses are allowed.
    #[serde(default)]
    pub(crate) allow_private: bool,
    /// Names of environment variables that hold Standard Webhooks secrets.
    #[serde(default)]
    pub(crate) secrets_env: Vec<String>,
}

impl Config {
    /// Reads `path`, or `onewrite.toml` in this folder if there is one.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self> {
        let Some(path) =
            path.map(PathBuf::from).or_else(|| Path::new(FILE).exists().then(|| FILE.into()))
        else {
            return Ok(Self::default());
        };
        let invalid = |what: String| Error::new(Code::InvalidConfig, what);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            invalid(format!("read the configuration {}", path.display())).with_source(error)
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|error| {
            invalid(format!("the configuration {} is not valid", path.display()))
                .with_source(error.to_string())
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for service in &mut config.service {
            service.store = anchored(&service.store, folder);
        }
        Ok(config)
    }

    /// As TOML.
    pub(crate) fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| {
            Error::new(Code::InvalidConfig, "write the configuration").with_source(error)
        })
    }
}

/// A relative SQLite path, seen from the configuration's folder.
fn anchored(url: &str, folder: &Path) -> String {
    match url.strip_prefix("sqlite:") {
        Some(path) if !path.starts_with('/') => format!("sqlite:{}", folder.join(path).display()),
        _ => url.to_owned(),
    }
}
