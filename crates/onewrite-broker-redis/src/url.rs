//! What a `redis://` URL says: where the server is, which stream, and options.

use std::time::Duration;

use onewrite_core::Result;
use onewrite_lanes::url::{Authority, authority, decoded, duration, invalid, number};

use crate::StreamOptions;

/// What one URL says, for both halves: each takes what concerns it.
#[derive(Debug)]
pub(crate) struct RedisUrl {
    pub(crate) stream: StreamOptions,
    pub(crate) window: Option<usize>,
    pub(crate) ack_wait: Option<Duration>,
    pub(crate) pending_max: Option<usize>,
    pub(crate) batch_max: Option<usize>,
}

const SHAPE: &str = "a Redis URL looks like `redis[s]://[user:password@]host[:6379][/database]/STREAM[?option=value&…]`";

const PORT: u16 = 6379;

/// Reads a URL. Messages never hold its user or password.
///
/// # Errors
/// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part or option;
/// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
pub(crate) fn parse(url: &str) -> Result<RedisUrl> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid(SHAPE))?;
    let tls = match scheme {
        "redis" => None,
        "rediss" => Some(true),
        _ => return Err(invalid(SHAPE)),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (address, path) = rest.split_once('/').ok_or_else(|| invalid(SHAPE))?;
    let Authority { login, host, port } = authority(address)?.ok_or_else(|| invalid(SHAPE))?;
    // One part is the stream, two are the database and the stream: also when both are numbers.
    let (database, name) = match path.trim_end_matches('/').split_once('/') {
        Some((database, name)) => (number("database", database)?, name),
        None => (0, path.trim_end_matches('/')),
    };
    let mut stream = StreamOptions::new(host, decoded(name)?);
    (stream.port, stream.database, stream.tls) = (port.unwrap_or(PORT), database, tls);
    if let Some((user, password)) = login {
        stream.user = Some(user).filter(|user| !user.is_empty());
        stream.password = Some(password);
    }
    let mut out =
        RedisUrl { stream, window: None, ack_wait: None, pending_max: None, batch_max: None };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        option(&mut out, name, &decoded(value)?)?;
    }
    out.stream.check()?;
    Ok(out)
}

fn option(out: &mut RedisUrl, name: &str, value: &str) -> Result<()> {
    match name {
        "lanes" => out.stream.lanes = Some(number(name, value)?),
        "tls" if value == "off" && out.stream.tls.is_none() => out.stream.tls = Some(false),
        "tls" => {
            return Err(invalid(
                "option `tls` of a Redis URL is `off` or absent, and `rediss://` means TLS",
            ));
        }
        "tls_ca" => out.stream.tls_ca = Some(value.into()),
        "timeout" => out.stream.timeout = duration(name, value)?,
        "window" => out.window = Some(number(name, value)?),
        "ack_wait" => out.ack_wait = Some(duration(name, value)?),
        "pending_max" => out.pending_max = Some(number(name, value)?),
        "batch_max" => out.batch_max = Some(number(name, value)?),
        _ => {
            let name = name.escape_debug();
            return Err(invalid(format!(
                "`{name}` is no option of a Redis URL; there are lanes, tls, tls_ca, timeout, window, ack_wait, pending_max, batch_max"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use onewrite_core::Code;

    use super::*;

    #[test]
    fn reads_server_stream_and_options() {
        let url =
            "redis://ann:p%40ss@localhost:7000/3/ORDERS?lanes=4&window=50&timeout=3&ack_wait=90s";
        let read = parse(url).unwrap();
        let stream = &read.stream;
        assert_eq!((&*stream.host, stream.port, stream.database), ("localhost", 7000, 3));
        assert_eq!(stream.user.as_deref(), Some("ann"));
        assert_eq!(stream.password.as_deref(), Some("p@ss"));
        assert_eq!((&*stream.stream, stream.lanes, stream.tls), ("ORDERS", Some(4), None));
        assert_eq!((read.window, read.ack_wait), (Some(50), Some(Duration::from_secs(90))));
        assert_eq!(stream.timeout, Duration::from_secs(3));
        let by_default = parse("redis://:secret@[::1]/7").unwrap().stream;
        assert_eq!((&*by_default.host, by_default.port, by_default.database), ("::1", 6379, 0));
        assert_eq!((by_default.user, &*by_default.stream), (None, "7"));
        assert_eq!(parse("rediss://far.example.org/S").unwrap().stream.tls, Some(true));
    }

    #[test]
    fn what_is_far_away_needs_tls() {
        for url in ["redis://far.example.org/S", "redis://:secret@10.0.0.7:6379/S"] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.code(), Code::UnsafeSetting);
            assert!(error.context().contains("rediss://") && error.context().contains("tls=off"));
            assert!(!error.to_string().contains("secret"), "{error}");
            assert_eq!(parse(&format!("{url}?tls=off")).unwrap().stream.tls, Some(false));
        }
        assert!(parse("redis://127.8.0.1/S").is_ok());
        assert!(parse("rediss://far.example.org/S?tls=off").is_err());
    }

    #[test]
    fn names_what_is_wrong_and_keeps_secrets() {
        let bad = [
            ("http://localhost/S", "looks like"),
            ("redis://localhost", "looks like"),
            ("redis:///S", "looks like"),
            ("redis://secret@localhost/S", "looks like"),
            ("redis://ann:secret@localhost:many/S", "looks like"),
            ("redis://ann:secret@localhost/a.b", "stream"),
            ("redis://ann:secret@localhost/x/S", "`database`"),
            ("redis://ann:secret@localhost/S?lanes=many", "`lanes`"),
            ("redis://ann:secret@localhost/S?lanes=0", "lanes"),
            ("redis://ann:secret@localhost/S?ack_wait=soon", "`ack_wait`"),
            ("redis://ann:secret@localhost/S?tls=on", "`tls`"),
            ("redis://ann:secret@localhost/S?speed=9", "`speed`"),
        ];
        for (url, part) in bad {
            let error = parse(url).unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig);
            assert!(error.context().contains(part), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_is_read_prints_without_secrets() {
        let read = parse("redis://ann:secret@localhost/S").unwrap();
        assert!(!format!("{read:?}").contains("secret"));
    }
}
