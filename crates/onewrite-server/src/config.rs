//! `onewrite.toml`: the services and their stores. The environment stands over the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use onewrite::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use crate::backends::shown;

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

/// Where the value of a key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
        }
    }
}

/// For each `section.key` that the environment may set, where its value comes from.
pub(crate) type Origins = BTreeMap<String, Origin>;

/// The sections whose keys the environment may set: `ONEWRITE_RELAY_LEASE_MS` is `relay.lease_ms`.
const SECTIONS: [&str; 2] = ["relay", "retention"];

impl Config {
    /// Reads `path`, or `onewrite.toml` in this folder if there is one, and the environment.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self> {
        Self::load_with_origins(path).map(|(config, _)| config)
    }

    /// As [`Self::load`], with where each value comes from.
    pub(crate) fn load_with_origins(path: Option<&Path>) -> Result<(Self, Origins)> {
        let path =
            path.map(PathBuf::from).or_else(|| Path::new(FILE).exists().then(|| FILE.into()));
        let (config, written) = match &path {
            Some(path) => Self::read(path)?,
            None => (Self::default(), toml::Table::new()),
        };
        let mut table = toml::Table::try_from(&config)
            .map_err(|error| invalid("write the configuration").with_source(error))?;
        let mut origins = Origins::new();
        for section in SECTIONS {
            let keys = table.get_mut(section).and_then(toml::Value::as_table_mut);
            for (key, value) in keys.into_iter().flatten() {
                let is_written = written.get(section).is_some_and(|keys| keys.get(key).is_some());
                let origin = match path.as_ref().filter(|_| is_written) {
                    Some(path) => Origin::File(path.clone()),
                    None => Origin::Default,
                };
                origins.insert(format!("{section}.{key}"), origin);
                let name = variable(section, key);
                let Ok(text) = std::env::var(&name) else { continue };
                let number: i64 = text.trim().parse().map_err(|_| {
                    invalid(format!("the environment variable {name} needs a whole number"))
                })?;
                *value = toml::Value::Integer(number);
                origins.insert(format!("{section}.{key}"), Origin::Environment(name));
            }
        }
        refuse_unknown_variables(&origins)?;
        let config: Self = table.try_into().map_err(|error: toml::de::Error| {
            invalid("the environment sets a number that is out of range")
                .with_source(error.to_string())
        })?;
        config.check(&origins)?;
        Ok((config, origins))
    }

    /// The file's settings, and the file as it is written.
    fn read(path: &Path) -> Result<(Self, toml::Table)> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            invalid(format!("read the configuration {}", path.display())).with_source(error)
        })?;
        let not_valid = |error: toml::de::Error| {
            invalid(format!("the configuration {} is not valid", path.display()))
                .with_source(error.to_string())
        };
        let mut config: Self = toml::from_str(&text).map_err(not_valid)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for service in &mut config.service {
            service.store = anchored(&service.store, folder);
        }
        Ok((config, text.parse().map_err(not_valid)?))
    }

    /// Refuses what no relay can work with.
    fn check(&self, origins: &Origins) -> Result<()> {
        let relay = &self.relay;
        let least = [
            ("relay.batch_max", relay.batch_max as u64, 1),
            ("relay.batch_bytes_max", relay.batch_bytes_max as u64, 1),
            ("relay.lease_ms", relay.lease_ms, 100),
            ("relay.poll_ms", relay.poll_ms, 1),
            ("relay.attempts_max", relay.attempts_max.into(), 1),
            ("relay.backoff_cap_ms", relay.backoff_cap_ms, 1),
        ];
        let mut names = BTreeSet::new();
        for service in &self.service {
            let sinks = service.sink.iter().map(|sink| Some(&sink.name));
            if let Some(twice) =
                [None].into_iter().chain(sinks).find(|sink| !names.insert((&service.name, *sink)))
            {
                let what = twice.map_or_else(
                    || format!("there are two services `{}`", service.name),
                    |sink| format!("service `{}` has two sinks `{sink}`", service.name),
                );
                return Err(invalid(what));
            }
        }
        for (service, sink) in self
            .service
            .iter()
            .flat_map(|service| service.sink.iter().map(move |sink| (&service.name, sink)))
        {
            sink.types.iter().try_for_each(|kind| check_type(kind)).map_err(|why| {
                invalid(format!("`types` of sink `{}` of service `{service}`: {why}", sink.name))
            })?;
        }
        match least.into_iter().find(|(_, value, least)| value < least) {
            None => Ok(()),
            Some((key, value, least)) => Err(invalid(format!(
                "`{key}` is {value} (from {}), and must be at least {least}",
                origins.get(key).unwrap_or(&Origin::Default)
            ))),
        }
    }

    /// The same with every URL as it may be shown.
    pub(crate) fn without_secrets(mut self) -> Self {
        for service in &mut self.service {
            service.store = shown(&service.store);
            for sink in &mut service.sink {
                sink.urls = sink.urls.iter().map(|url| shown(url)).collect();
            }
        }
        self
    }

    /// As TOML, each key with where it comes from.
    pub(crate) fn to_toml(&self, origins: &Origins) -> Result<String> {
        let text = toml::to_string_pretty(self)
            .map_err(|error| invalid("write the configuration").with_source(error))?;
        let mut section = "";
        let mut annotated = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            }
            let key = line.split(" =").next().unwrap_or_default();
            match origins.get(&format!("{section}.{key}")) {
                Some(origin) => annotated.push_str(&format!("{line}  # {origin}\n")),
                None => annotated.push_str(&format!("{line}\n")),
            }
        }
        Ok(annotated)
    }
}

fn invalid(what: impl Into<String>) -> Error {
    let cure = "Correct the key named; `onewrite config --effective` shows what is in force.";
    Error::new(Code::InvalidConfig, what).with_cure(cure)
}

/// Refuses a type that no event has: its sink would settle everything and deliver nothing.
///
/// # Errors
/// Why.
pub(crate) fn check_type(kind: &str) -> std::result::Result<(), String> {
    if kind.is_empty() || kind.trim() != kind {
        return Err("an event type is not empty and has no space around it".into());
    }
    Ok(())
}

fn variable(section: &str, key: &str) -> String {
    format!("ONEWRITE_{section}_{key}").to_ascii_uppercase()
}

/// A misspelt variable would be ignored silently, as a misspelt key would be in the file.
fn refuse_unknown_variables(origins: &Origins) -> Result<()> {
    let known: Vec<String> = origins
        .keys()
        .filter_map(|key| key.split_once('.'))
        .map(|(section, key)| variable(section, key))
        .collect();
    let prefixes = SECTIONS.map(|section| variable(section, ""));
    let unknown = std::env::vars_os().find_map(|(name, _)| {
        let name = name.to_string_lossy().into_owned();
        let ours = prefixes.iter().any(|prefix| name.starts_with(prefix));
        (ours && !known.contains(&name)).then_some(name)
    });
    match unknown {
        None => Ok(()),
        Some(name) => Err(invalid(format!(
            "the environment variable {} sets nothing; known are {}",
            name.escape_debug(),
            known.join(", ")
        ))),
    }
}

/// A relative SQLite path, seen from the configuration's folder.
fn anchored(url: &str, folder: &Path) -> String {
    match url.strip_prefix("sqlite:") {
        Some(path) if !path.starts_with('/') => format!("sqlite:{}", folder.join(path).display()),
        _ => url.to_owned(),
    }
}
