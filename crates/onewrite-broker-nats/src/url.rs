//! What a `nats://` URL says: where the server is, which stream, and options.

use std::time::Duration;

use onewrite_core::Result;
pub(crate) use onewrite_lanes::url::invalid;
use onewrite_lanes::url::{decoded, duration, number};

use crate::StreamOptions;

/// What one URL says, for both halves: each takes what concerns it.
pub(crate) struct NatsUrl {
    pub(crate) stream: StreamOptions,
    pub(crate) window: Option<usize>,
    pub(crate) ack_wait: Option<Duration>,
    pub(crate) pending_max: Option<usize>,
    pub(crate) batch_max: Option<usize>,
}

const SHAPE: &str = "a NATS URL looks like `nats://[user:password@|token@]host[:4222][,host2…]/STREAM[?option=value&…]`";

/// Reads a URL. Messages never hold its user, password or token.
///
/// # Errors
/// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part or option.
pub(crate) fn parse(url: &str) -> Result<NatsUrl> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid(SHAPE))?;
    if !matches!(scheme, "nats" | "tls") {
        return Err(invalid(SHAPE));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').ok_or_else(|| invalid(SHAPE))?;
    let (user_info, hosts) = match authority.rsplit_once('@') {
        Some((user_info, hosts)) => (Some(user_info), hosts),
        None => (None, authority),
    };
    if hosts.is_empty() || hosts.split(',').any(str::is_empty) {
        return Err(invalid(SHAPE));
    }
    let mut stream = StreamOptions::new(
        hosts.split(',').map(|host| format!("{scheme}://{host}")),
        decoded(path.trim_end_matches('/'))?,
    );
    match user_info.map(|info| info.split_once(':')) {
        Some(Some((user, password))) => {
            stream.user = Some((decoded(user)?, decoded(password)?));
        }
        Some(None) => stream.token = user_info.map(decoded).transpose()?,
        None => {}
    }
    let mut out =
        NatsUrl { stream, window: None, ack_wait: None, pending_max: None, batch_max: None };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        option(&mut out, name, &decoded(value)?)?;
    }
    out.stream.check()?;
    Ok(out)
}

fn option(out: &mut NatsUrl, name: &str, value: &str) -> Result<()> {
    match name {
        "lanes" => out.stream.lanes = Some(number(name, value)?),
        "max_age" => out.stream.max_age = duration(name, value)?,
        "max_bytes" => out.stream.bytes_max = Some(number(name, value)?),
        "replicas" => out.stream.replicas = number(name, value)?,
        "allow_memory" => out.stream.allow_memory = number(name, value)?,
        "timeout" => out.stream.timeout = duration(name, value)?,
        "window" => out.window = Some(number(name, value)?),
        "ack_wait" => out.ack_wait = Some(duration(name, value)?),
        "pending_max" => out.pending_max = Some(number(name, value)?),
        "batch_max" => out.batch_max = Some(number(name, value)?),
        _ => {
            let name = name.escape_debug();
            return Err(invalid(format!(
                "`{name}` is no option of a NATS URL; there are lanes, max_age, max_bytes, replicas, allow_memory, timeout, window, ack_wait, pending_max, batch_max"
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
    fn reads_servers_stream_and_options() {
        let url = "nats://ann:p%40ss@one:4222,two/ORDERS?lanes=4&max_age=36h&max_bytes=1000&window=50&timeout=3&allow_memory=true";
        let read = parse(url).unwrap();
        assert_eq!(read.stream.servers, ["nats://one:4222", "nats://two"]);
        assert_eq!(read.stream.user, Some(("ann".into(), "p@ss".into())));
        assert_eq!((&*read.stream.stream, read.stream.lanes), ("ORDERS", Some(4)));
        assert_eq!(read.stream.max_age, Duration::from_secs(36 * 3600));
        assert_eq!((read.stream.bytes_max, read.window), (Some(1000), Some(50)));
        assert_eq!((read.stream.timeout, read.stream.allow_memory), (Duration::from_secs(3), true));
        assert_eq!(parse("tls://secret@one/S").unwrap().stream.token.as_deref(), Some("secret"));
    }

    #[test]
    fn names_what_is_wrong_and_keeps_secrets() {
        let bad = [
            ("http://one/S", "looks like"),
            ("nats://one", "looks like"),
            ("nats:///S", "looks like"),
            ("nats://ann:secret@one/a.b", "stream"),
            ("nats://ann:secret@one/onewrite", "onewrite"),
            ("nats://ann:secret@one/S?lanes=many", "`lanes`"),
            ("nats://ann:secret@one/S?lanes=0", "lanes"),
            ("nats://ann:secret@one/S?max_age=soon", "`max_age`"),
            ("nats://ann:secret@one/S?speed=9", "`speed`"),
        ];
        for (url, part) in bad {
            let error = parse(url).map(drop).unwrap_err();
            assert_eq!(error.code(), Code::InvalidConfig);
            assert!(error.context().contains(part), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
