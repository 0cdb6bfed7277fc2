//! URLs to backends: the one place that knows them all, and the one that shows them.

use std::{sync::Arc, time::Duration};

use onewrite::{
    Code, Error, NullSink, Result, StdoutSink, Store,
    broker::Sink,
    http, memory,
    mysql::{self, MysqlStore},
    nats::{NatsSink, NatsSinkOptions},
    postgres::{self, PostgresStore},
    sqlite::{self, SqliteStore},
    store::Copied,
};

/// The schemes a store can have.
pub(crate) const STORE_SCHEMES: &[&str] = &["sqlite:", "postgres://", "mysql://"];
/// The schemes a sink can have.
pub(crate) const SINK_SCHEMES: &[&str] =
    &["http://", "https://", "nats://", "tls://", "memory:", "stdout:", "null:"];

/// Opens the store at `url`; a missing one is created only when `create` says so.
pub(crate) async fn open_store(url: &str, create: bool, copied: Copied) -> Result<Arc<dyn Store>> {
    match scheme(url) {
        "sqlite" => {
            let options = sqlite::Options { create, copied, ..sqlite::Options::from_url(url)? };
            Ok(Arc::new(SqliteStore::open(options)?))
        }
        "postgres" | "postgresql" => {
            let options = postgres::Options { create, copied, ..postgres::Options::from_url(url)? };
            Ok(Arc::new(PostgresStore::open(options).await?))
        }
        "mysql" | "mariadb" => {
            let options = mysql::Options { create, copied, ..mysql::Options::from_url(url)? };
            Ok(Arc::new(MysqlStore::open(options).await?))
        }
        _ => Err(unknown("store", url, STORE_SCHEMES)),
    }
}

/// How a sink is reached.
#[derive(Clone, Default)]
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
pub(crate) async fn open_sink(target: &SinkTarget) -> Result<Arc<dyn Sink>> {
    let Some(url) = target.urls.first() else {
        return Err(Error::new(Code::InvalidConfig, "a sink needs a URL"));
    };
    match scheme(url) {
        "null" => Ok(Arc::new(NullSink::default())),
        "stdout" => Ok(Arc::new(StdoutSink)),
        "memory" => Ok(Arc::new(memory(url.trim_start_matches("memory:").to_owned()).0)),
        "http" | "https" => open_http(target, url),
        "nats" | "tls" => {
            let [url] = target.urls.as_slice() else {
                return Err(Error::new(
                    Code::InvalidConfig,
                    "a sink on NATS has one URL; several servers are named in it with commas",
                ));
            };
            Ok(Arc::new(NatsSink::connect(NatsSinkOptions::from_url(url)?).await?))
        }
        _ => Err(unknown("sink", url, SINK_SCHEMES)),
    }
}

fn open_http(target: &SinkTarget, first: &str) -> Result<Arc<dyn Sink>> {
    let secrets = target.secrets.iter().map(|secret| secret.parse()).collect::<Result<Vec<_>>>()?;
    let defaults = http::HttpSinkOptions::new(first.to_owned());
    Ok(Arc::new(http::HttpSink::new(http::HttpSinkOptions {
        urls: target.urls.clone(),
        secrets,
        timeout: target.timeout.unwrap_or(defaults.timeout),
        allow_private: target.allow_private,
        format: if target.single { http::Format::Structured } else { http::Format::Batch },
        ..defaults
    })?))
}

/// `url` without what may be secret in it: user and password, query and fragment. Whatever is shown or
/// stored of a URL passes here. A path of SQLite holds no secret and stays as it is.
pub(crate) fn shown(url: &str) -> String {
    if scheme(url) == "sqlite" {
        return url.to_owned();
    }
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = plain.split_once("://") else { return plain.to_owned() };
    // An `@` of a path is shown; one of a password that is not encoded is not.
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}

/// What a sink is called that nobody named: its address without the scheme.
pub(crate) fn name_of(url: &str) -> String {
    let shown = shown(url);
    match shown.split_once("://") {
        Some((_, rest)) => rest.trim_end_matches('/').to_owned(),
        None => shown.trim_end_matches(':').to_owned(),
    }
}

/// What stands before the first colon.
pub(crate) fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

fn unknown(what: &str, url: &str, known: &[&str]) -> Error {
    let known = known.join(", ");
    let said = match url.split_once(':') {
        Some((scheme, _)) => format!("no {what} answers to `{}:`", scheme.escape_debug()),
        None => format!("`{}` is not a URL: it has no scheme", shown(url).escape_debug()),
    };
    Error::new(Code::UnknownScheme, format!("{said}; a {what} can be {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_what_is_secret_in_it() {
        let cases = [
            ("https://example.org/hook", "https://example.org/hook"),
            ("https://me:secret@example.org/hook?token=secret#secret", "https://example.org/hook"),
            ("postgres://me:se@cret@db:5432/shop?password=secret", "postgres://db:5432/shop"),
            ("nats://secret@broker:4222/shop", "nats://broker:4222/shop"),
            ("sqlite:a@b?c.db", "sqlite:a@b?c.db"),
            ("stdout:", "stdout:"),
        ];
        for (url, wanted) in cases {
            assert_eq!(shown(url), wanted);
        }
        assert_eq!(name_of("https://me:secret@example.org/hook/?token=secret"), "example.org/hook");
        assert_eq!(name_of("stdout:"), "stdout");
    }
}
