//! What a `kafka://` URL says: where the servers are, which topic, and options.

use std::time::Duration;

use onewrite_core::Result;
use onewrite_lanes::url::{decoded, duration, invalid, number};

use crate::{StreamOptions, sink::PartitionBy, stream::Sasl};

/// What one URL says, for both halves: each takes what concerns it.
#[derive(Debug)]
pub(crate) struct KafkaUrl {
    pub(crate) stream: StreamOptions,
    pub(crate) window: Option<usize>,
    pub(crate) message_bytes_max: Option<u32>,
    pub(crate) partition_by: PartitionBy,
    pub(crate) gap_patience: Option<Duration>,
    pub(crate) pending_max: Option<usize>,
    pub(crate) batch_max: Option<usize>,
}

const SHAPE: &str = "a Kafka URL looks like `kafka[+ssl]://[user:password@]host[:9092][,host2:9092]/TOPIC[?option=value&…]`";

const PORT: u16 = 9092;

/// Reads a URL. Messages never hold its user or password.
///
/// # Errors
/// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), naming the part or option;
/// [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting) for a server far away without TLS.
pub(crate) fn parse(url: &str) -> Result<KafkaUrl> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid(SHAPE))?;
    let tls = match scheme {
        "kafka" => None,
        "kafka+ssl" => Some(true),
        _ => return Err(invalid(SHAPE)),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').ok_or_else(|| invalid(SHAPE))?;
    let (user_info, hosts) = match authority.rsplit_once('@') {
        Some((user_info, hosts)) => (Some(user_info), hosts),
        None => (None, authority),
    };
    let servers = hosts.split(',').map(host_and_port).collect::<Result<Vec<_>>>()?;
    let mut stream = StreamOptions::at(servers, decoded(path.trim_end_matches('/'))?);
    stream.tls = tls;
    if let Some(user_info) = user_info {
        let (user, password) = user_info.split_once(':').ok_or_else(|| invalid(SHAPE))?;
        stream.user = Some(decoded(user)?);
        stream.password = Some(decoded(password)?);
    }
    let mut out = KafkaUrl {
        stream,
        window: None,
        message_bytes_max: None,
        partition_by: PartitionBy::Partition,
        gap_patience: None,
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

/// An address of IPv6 stands in brackets.
fn host_and_port(text: &str) -> Result<(String, u16)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or_else(|| invalid(SHAPE))?)),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(invalid(SHAPE));
    }
    let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| invalid(SHAPE)))?;
    Ok((host.to_owned(), port))
}

fn option(out: &mut KafkaUrl, name: &str, value: &str) -> Result<()> {
    match name {
        "lanes" => out.stream.lanes = Some(number(name, value)?),
        "tls" if value == "off" && out.stream.tls.is_none() => out.stream.tls = Some(false),
        "tls" => {
            return Err(invalid(
                "option `tls` of a Kafka URL is `off` or absent, and `kafka+ssl://` means TLS",
            ));
        }
        "tls_ca" => out.stream.tls_ca = Some(value.into()),
        "sasl" => out.stream.sasl = Sasl::parse(value)?,
        "timeout" => out.stream.timeout = duration(name, value)?,
        "window" => out.window = Some(number(name, value)?),
        "message_bytes_max" => out.message_bytes_max = Some(number(name, value)?),
        "partition_by" => out.partition_by = PartitionBy::parse(value)?,
        "gap_patience" => out.gap_patience = Some(duration(name, value)?),
        "pending_max" => out.pending_max = Some(number(name, value)?),
        "batch_max" => out.batch_max = Some(number(name, value)?),
        _ => {
            let name = name.escape_debug();
            return Err(invalid(format!(
                "`{name}` is no option of a Kafka URL; there are lanes, tls, tls_ca, sasl, timeout, window, message_bytes_max, partition_by, gap_patience, pending_max, batch_max"
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
    fn reads_servers_topic_and_options() {
        let url = "kafka://ann:p%40ss@localhost:7000,[::1]/shop.orders?lanes=4&window=50&timeout=3&partition_by=key&sasl=scram-sha-512&gap_patience=90s";
        let read = parse(url).unwrap();
        let stream = &read.stream;
        assert_eq!(stream.servers, [("localhost".to_owned(), 7000), ("::1".to_owned(), 9092)]);
        assert_eq!(stream.user.as_deref(), Some("ann"));
        assert_eq!(stream.password.as_deref(), Some("p@ss"));
        assert_eq!((&*stream.stream, stream.lanes, stream.tls), ("shop.orders", Some(4), None));
        assert_eq!((stream.sasl, read.partition_by), (Sasl::ScramSha512, PartitionBy::Key));
        assert_eq!((read.window, read.gap_patience), (Some(50), Some(Duration::from_secs(90))));
        assert_eq!(stream.timeout, Duration::from_secs(3));
        let by_default = parse("kafka://localhost/S").unwrap();
        assert_eq!(by_default.stream.servers, [("localhost".to_owned(), 9092)]);
        assert_eq!(by_default.partition_by, PartitionBy::Partition);
        assert_eq!(parse("kafka+ssl://far.example.org/S").unwrap().stream.tls, Some(true));
    }

    #[test]
    fn what_is_far_away_needs_tls() {
        for url in ["kafka://far.example.org/S", "kafka://ann:secret@localhost,10.0.0.7:9092/S"] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.code(), Code::UnsafeSetting);
            assert!(
                error.context().contains("kafka+ssl://") && error.context().contains("tls=off")
            );
            assert!(!error.to_string().contains("secret"), "{error}");
            assert_eq!(parse(&format!("{url}?tls=off")).unwrap().stream.tls, Some(false));
        }
        assert!(parse("kafka://127.8.0.1/S").is_ok());
        assert!(parse("kafka+ssl://far.example.org/S?tls=off").is_err());
    }

    #[test]
    fn names_what_is_wrong_and_keeps_secrets() {
        let bad = [
            ("http://localhost/S", "looks like"),
            ("kafka://localhost", "looks like"),
            ("kafka:///S", "looks like"),
            ("kafka://localhost,/S", "looks like"),
            ("kafka://secret@localhost/S", "looks like"),
            ("kafka://ann:secret@localhost:many/S", "looks like"),
            ("kafka://ann:secret@localhost/a:b", "topic"),
            ("kafka://ann:secret@localhost/..", "topic"),
            ("kafka://ann:secret@localhost/S?lanes=many", "`lanes`"),
            ("kafka://ann:secret@localhost/S?lanes=0", "lanes"),
            ("kafka://ann:secret@localhost/S?timeout=soon", "`timeout`"),
            ("kafka://ann:secret@localhost/S?sasl=secret", "`sasl`"),
            ("kafka://ann:secret@localhost/S?partition_by=luck", "`partition_by`"),
            ("kafka://ann:secret@localhost/S?tls=on", "`tls`"),
            ("kafka://ann:secret@localhost/S?speed=9", "`speed`"),
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
        let read = parse("kafka://ann:secret@localhost/S").unwrap();
        assert!(!format!("{read:?}").contains("secret"));
    }
}
