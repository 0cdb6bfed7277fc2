//! What an `amqp://` URL says: where the server is, which stream, and options.

use onewrite_core::{Result, Text};
use onewrite_lanes::url::{Authority, authority, decoded, duration, invalid, number};

use crate::StreamOptions;

/// What one URL says, for both halves: each takes what concerns it.
#[derive(Debug)]
pub(crate) struct RabbitUrl {
    pub(crate) stream: StreamOptions,
    pub(crate) consumers: Vec<Text>,
    pub(crate) window: Option<usize>,
    pub(crate) message_bytes_max: Option<usize>,
    pub(crate) pending_max: Option<u16>,
    pub(crate) batch_max: Option<usize>,
}

const SHAPE: &str = "a RabbitMQ URL looks like `amqp[s]://[user:password@]host[:5672][/vhost]/STREAM[?option=value&…]`";

const PORT: u16 = 5672;
const PORT_TLS: u16 = 5671;

/// Reads a URL. Messages never hold its user or password.
///
/// # Errors
/// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part or option;
/// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
pub(crate) fn parse(url: &str) -> Result<RabbitUrl> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid(SHAPE))?;
    let (tls, default) = match scheme {
        "amqp" => (None, PORT),
        "amqps" => (Some(true), PORT_TLS),
        _ => return Err(invalid(SHAPE)),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (address, path) = rest.split_once('/').ok_or_else(|| invalid(SHAPE))?;
    let Authority { login, host, port } = authority(address)?.ok_or_else(|| invalid(SHAPE))?;
    // One part is the stream, two are the virtual host and the stream.
    let (vhost, name) = match path.trim_end_matches('/').split_once('/') {
        Some((vhost, name)) => (decoded(vhost)?, name),
        None => ("/".to_owned(), path.trim_end_matches('/')),
    };
    let mut stream = StreamOptions::new(host, decoded(name)?);
    (stream.port, stream.vhost, stream.tls) = (port.unwrap_or(default), vhost, tls);
    if let Some((user, password)) = login {
        (stream.user, stream.password) = (user, password);
    }
    let mut out = RabbitUrl {
        stream,
        consumers: Vec::new(),
        window: None,
        message_bytes_max: None,
        pending_max: None,
        batch_max: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        option(&mut out, name, &decoded(value)?)?;
    }
    out.stream.check()?;
    Ok(out)
}

fn option(out: &mut RabbitUrl, name: &str, value: &str) -> Result<()> {
    match name {
        "lanes" => out.stream.lanes = Some(number(name, value)?),
        "tls" if value == "off" && out.stream.tls.is_none() => out.stream.tls = Some(false),
        "tls" => {
            return Err(invalid(
                "option `tls` of a RabbitMQ URL is `off` or absent, and `amqps://` means TLS",
            ));
        }
        "tls_ca" => out.stream.tls_ca = Some(value.into()),
        "timeout" => out.stream.timeout = duration(name, value)?,
        "heartbeat" => out.stream.heartbeat = duration(name, value)?,
        "consumers" => {
            out.consumers = value.split(',').map(|name| name.to_owned().into()).collect()
        }
        "window" => out.window = Some(number(name, value)?),
        "message_bytes_max" => out.message_bytes_max = Some(number(name, value)?),
        "pending_max" => out.pending_max = Some(number(name, value)?),
        "batch_max" => out.batch_max = Some(number(name, value)?),
        _ => {
            let name = name.escape_debug();
            return Err(invalid(format!(
                "`{name}` is no option of a RabbitMQ URL; there are lanes, tls, tls_ca, timeout, heartbeat, consumers, window, message_bytes_max, pending_max, batch_max"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use onewrite_core::Code;

    use super::*;

    #[test]
    fn reads_server_stream_and_options() {
        let url = "amqp://ann:p%40ss@localhost:7000/%2Fshop/ORDERS?lanes=4&window=50&timeout=3&heartbeat=5s&consumers=a,b";
        let read = parse(url).unwrap();
        let stream = &read.stream;
        assert_eq!((&*stream.host, stream.port, &*stream.vhost), ("localhost", 7000, "/shop"));
        assert_eq!((&*stream.user, &*stream.password), ("ann", "p@ss"));
        assert_eq!((&*stream.stream, stream.lanes, stream.tls), ("ORDERS", Some(4), None));
        assert_eq!(read.window, Some(50));
        assert_eq!(read.consumers, ["a", "b"]);
        assert_eq!(stream.timeout, Duration::from_secs(3));
        assert_eq!(stream.heartbeat, Duration::from_secs(5));
        let by_default = parse("amqp://[::1]/S").unwrap().stream;
        assert_eq!((&*by_default.host, by_default.port, &*by_default.vhost), ("::1", 5672, "/"));
        assert_eq!((&*by_default.user, &*by_default.password), ("guest", "guest"));
        let far = parse("amqps://far.example.org/S").unwrap().stream;
        assert_eq!((far.tls, far.port), (Some(true), 5671));
    }

    #[test]
    fn what_is_far_away_needs_tls() {
        for url in ["amqp://far.example.org/S", "amqp://ann:secret@10.0.0.7:5672/S"] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.code(), Code::UnsafeSetting);
            assert!(error.context().contains("amqps://") && error.context().contains("tls=off"));
            assert!(!error.to_string().contains("secret"), "{error}");
            assert_eq!(parse(&format!("{url}?tls=off")).unwrap().stream.tls, Some(false));
        }
        assert!(parse("amqp://127.8.0.1/S").is_ok());
        assert!(parse("amqps://far.example.org/S?tls=off").is_err());
    }

    #[test]
    fn names_what_is_wrong_and_keeps_secrets() {
        let bad = [
            ("http://localhost/S", "looks like"),
            ("amqp://localhost", "looks like"),
            ("amqp:///S", "looks like"),
            ("amqp://secret@localhost/S", "looks like"),
            ("amqp://ann:secret@localhost:many/S", "looks like"),
            ("amqp://ann:secret@localhost/a.b", "stream"),
            ("amqp://ann:secret@localhost/v/w/S", "stream"),
            ("amqp://ann:secret@localhost/S?lanes=many", "`lanes`"),
            ("amqp://ann:secret@localhost/S?lanes=0", "lanes"),
            ("amqp://ann:secret@localhost/S?heartbeat=soon", "`heartbeat`"),
            ("amqp://ann:secret@localhost/S?heartbeat=0", "heartbeat"),
            ("amqp://ann:secret@localhost/S?tls=on", "`tls`"),
            ("amqp://ann:secret@localhost/S?speed=9", "`speed`"),
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
        let read = parse("amqp://ann:secret@localhost/S").unwrap();
        assert!(!format!("{read:?}").contains("secret"));
    }
}
