//! URLs to backends: the one place that knows them all, and the one that shows them.

use std::{sync::Arc, time::Duration};

use onewrite::{
    Code, Error, NullSink, Result, StdoutSink, Store,
    broker::Sink,
    http, memory,
    mysql::{self, MysqlStore},
    postgres::{self, PostgresStore},
    saga::Journal,
    sqlite::{self, SqliteStore},
    store::Copied,
    stream,
};

/// The schemes a store can have.
pub(crate) const STORE_SCHEMES: &[&str] = &["sqlite:", "postgres://", "mysql://"];
/// The schemes a sink can have, beside those of [`stream::SCHEMES`].
const SINK_SCHEMES: &[&str] = &["http://", "https://", "memory:", "stdout:", "null:"];

/// All schemes that a sink can have.
pub(crate) fn sink_schemes() -> Vec<&'static str> {
    [SINK_SCHEMES, stream::SCHEMES].concat()
}

/// Opens the store at `url`; a missing one is created only when `create` says so.
pub(crate) async fn open_store(url: &str, create: bool, copied: Copied) -> Result<Arc<dyn Store>> {
    Ok(open_journal(url, create, copied).await?)
}

/// As [`open_store`], to run sagas from.
pub(crate) async fn open_journal(
    url: &str,
    create: bool,
    copied: Copied,
) -> Result<Arc<dyn Journal>> {
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
    let invalid = |what: String| Err(Error::new(Code::InvalidConfig, what));
    let Some(url) = target.urls.first() else { return invalid("a sink needs a URL".into()) };
    let alone = target.urls.iter().find(|url| !matches!(scheme(url), "http" | "https"));
    if let (Some(url), true) = (alone, target.urls.len() > 1) {
        return invalid(format!(
            "`{}` stands beside another URL: only the http(s) addresses of one consumer are named together (several servers of NATS, with commas in one URL)",
            shown(url).escape_debug()
        ));
    }
    match scheme(url) {
        "null" => Ok(Arc::new(NullSink::default())),
        "stdout" => Ok(Arc::new(StdoutSink)),
        "memory" => Ok(Arc::new(memory(url.trim_start_matches("memory:").to_owned()).0)),
        "http" | "https" => open_http(target, url),
        _ if stream::is_stream(url) => stream::sink(url).await,
        _ => Err(unknown("sink", url, &sink_schemes())),
    }
}

fn open_http(target: &SinkTarget, first: &str) -> Result<Arc<dyn Sink>> {
    let secrets = target.secrets.iter().map(|secret| secret.parse()).collect::<Result<Vec<_>>>()?;
    let defaults = http::HttpSinkOptions::new(first.to_owned());
    let urls = target.urls.iter().map(|url| permitted(url));
    let (urls, permissions): (Vec<String>, Vec<bool>) = urls.unzip();
    Ok(Arc::new(http::HttpSink::new(http::HttpSinkOptions {
        urls,
        secrets,
        timeout: target.timeout.unwrap_or(defaults.timeout),
        allow_private: target.allow_private || permissions.contains(&true),
        format: if target.single { http::Format::Structured } else { http::Format::Batch },
        ..defaults
    })?))
}

/// The address of `url` without the parameter that allows private addresses, and whether it does so. The
/// library does not read it: there, whoever chooses a webhook's target must not allow it to himself.
fn permitted(url: &str) -> (String, bool) {
    let Some((address, query)) = url.split_once('?') else { return (url.to_owned(), false) };
    let is_permission = |pair: &&str| *pair == "allow_private=true";
    let (permissions, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_permission);
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    (format!("{address}{query}"), !permissions.is_empty())
}

/// `url` without what may be secret in it: user and password, query and fragment. Whatever is shown or
/// stored of a URL passes here. A path of SQLite holds no secret and stays as it is.
pub(crate) fn shown(url: &str) -> String {
    if scheme(url) == "sqlite" {
        return url.to_owned();
    }
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let Some((_, rest)) = plain.split_once("://").filter(|_| !scheme(url).is_empty()) else {
        // Not a URL: `host=db password=…`, or a user and password without a scheme.
        return if url.contains(['=', '@']) { "…".to_owned() } else { plain.to_owned() };
    };
    let scheme = scheme(url);
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

/// What stands before the first colon, if it can be a scheme.
pub(crate) fn scheme(url: &str) -> &str {
    let is_plain =
        |scheme: &&str| scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    url.split_once(':').map(|(scheme, _)| scheme).filter(is_plain).unwrap_or_default()
}

fn unknown(what: &str, url: &str, known: &[&str]) -> Error {
    let known = known.join(", ");
    let said = match scheme(url) {
        "" if url.contains(['=', '@']) => {
            format!("this {what} is not a URL, and `key=value` pairs are not read")
        }
        "" => format!("`{}` is not a URL: it has no scheme", shown(url).escape_debug()),
        scheme => format!("no {what} answers to `{scheme}:`"),
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
            ("shop.db", "shop.db"),
            ("host=db user=me password=secret", "…"),
            ("host=db password=se:secret://", "…"),
            ("me:secret@db/shop", "…"),
        ];
        for (url, wanted) in cases {
            assert_eq!(shown(url), wanted);
        }
        assert_eq!(name_of("https://me:secret@example.org/hook/?token=secret"), "example.org/hook");
        assert_eq!(name_of("stdout:"), "stdout");
    }

    #[test]
    fn the_permission_in_a_url_is_read_and_not_sent() {
        let cases = [
            ("http://a/x?allow_private=true", ("http://a/x", true)),
            ("http://a/x?b=c&allow_private=true&d", ("http://a/x?b=c&d", true)),
            ("http://a/x?allow_private=false", ("http://a/x?allow_private=false", false)),
            ("http://a/x", ("http://a/x", false)),
        ];
        for (url, (address, permission)) in cases {
            assert_eq!(permitted(url), (address.to_owned(), permission));
        }
    }

    #[tokio::test]
    async fn only_http_takes_several_addresses() {
        let refused = [
            (["null:", "nats://me:secret@b/s"], "`null:`"),
            (["http://a", "nats://me:secret@b/s"], "`nats://b/s`"),
            (["nats://b/s", "nats://c/s"], "`nats://b/s`"),
        ];
        for (urls, named) in refused {
            let urls = urls.map(str::to_owned).to_vec();
            let error =
                open_sink(&SinkTarget { urls, ..SinkTarget::default() }).await.err().unwrap();
            assert!(error.code() == Code::InvalidConfig && error.context().starts_with(named));
        }
    }
}
