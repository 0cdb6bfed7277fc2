//! URLs to backends: the one place that knows them all.

use std::{sync::Arc, time::Duration};

use onewrite::{
    Code, Error, NullSink, Result, StdoutSink,
    broker::Sink,
    http, memory,
    sqlite::{Copied, Options, SqliteStore},
};

/// The schemes a store can have.
pub(crate) const STORE_SCHEMES: &[&str] = &["sqlite:"];
/// The schemes a sink can have.
pub(crate) const SINK_SCHEMES: &[&str] = &["http://", "https://", "memory:", "stdout:", "null:"];

/// Opens the store at `url`; a missing one is created only when `create` says so.
pub(crate) fn open_store(url: &str, create: bool, copied: Copied) -> Result<SqliteStore> {
    if !url.starts_with("sqlite:") {
        return Err(unknown("store", url, STORE_SCHEMES));
    }
    SqliteStore::open(Options { create, copied, ..Options::from_url(url)? })
}

/// How a sink is reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct SinkTarget {
    /// Its addresses: several of one scheme serve the same consumer.
    pub(crate) urls: Vec<String>,
    /// Whether private and loopback addresses are allowed.
    pub(crate) allow_private: bool,
    /// Standard Webhooks secrets; all of them sign.
    pub(crate) secrets: Vec<String>,
    /// One event a request, for webhooks that know no batches.
    pub(crate) single: bool,
    /// How long an answer may take.
    pub(crate) timeout: Option<Duration>,
}

/// Opens the sink that `target` names.
pub(crate) fn open_sink(target: &SinkTarget) -> Result<Arc<dyn Sink>> {
    let Some(url) = target.urls.first() else {
        return Err(Error::new(Code::InvalidConfig, "a sink needs a URL"));
    };
    match url.split_once(':').map_or("", |(scheme, _)| scheme) {
        "null" => Ok(Arc::new(NullSink::default())),
        "stdout" => Ok(Arc::new(StdoutSink)),
        "memory" => Ok(Arc::new(memory(url.trim_start_matches("memory:").to_owned()).0)),
        "http" | "https" => {
            let secrets =
                target.secrets.iter().map(|secret| secret.parse()).collect::<Result<Vec<_>>>()?;
            let defaults = http::HttpSinkOptions::new(url.clone());
            Ok(Arc::new(http::HttpSink::new(http::HttpSinkOptions {
                urls: target.urls.clone(),
                secrets,
                timeout: target.timeout.unwrap_or(defaults.timeout),
                allow_private: target.allow_private,
                format: if target.single { http::Format::Structured } else { http::Format::Batch },
                ..defaults
            })?))
        }
        _ => Err(unknown("sink", url, SINK_SCHEMES)),
    }
}

fn unknown(what: &str, url: &str, known: &[&str]) -> Error {
    let known = known.join(", ");
    let said = match url.split_once(':') {
        Some((scheme, _)) => format!("no {what} answers to `{}:`", scheme.escape_debug()),
        None => format!("`{}` is not a URL: it has no scheme", url.escape_debug()),
    };
    Error::new(Code::UnknownScheme, format!("{said}; a {what} can be {known}"))
}
