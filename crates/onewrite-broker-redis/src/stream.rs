//! The stream both halves share: its keys, how it is created, and what is wrong with one that exists.

use std::{fmt, path::PathBuf, time::Duration};

use onewrite_core::{Partition, Result, Text};
use onewrite_lanes::url::{invalid, is_name, refuse_clear};
use redis::{cmd, pipe};

use crate::connect::Server;

/// The lanes of a stream that is created without saying how many.
pub const LANES_DEFAULT: u16 = 8;

/// The field of the stream's own key that says how many lanes it has.
pub(crate) const LANES_FIELD: &str = "lanes";

/// The oldest server: groups forget what was deleted, and scripts are replicated by their effects.
const VERSION_MIN: u32 = 7;

/// Where the stream is, and how to create it when it is missing.
#[derive(Clone)]
pub struct StreamOptions {
    /// The server's name or address.
    pub host: String,
    /// Its port (6379).
    pub port: u16,
    /// `Some(true)` for TLS, verified against the system's certificates or [`Self::tls_ca`];
    /// `Some(false)` for none. Unsaid there is none, and only a server on loopback is accepted.
    pub tls: Option<bool>,
    /// A file of certificates (PEM) to verify the server by, instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// The user; without it, the server's default user.
    pub user: Option<String>,
    /// Its password. Never printed.
    pub password: Option<String>,
    /// The number of the server's database (0).
    pub database: i64,
    /// The stream's name: letters, digits, `-` and `_`. Its keys begin with it.
    pub stream: Text,
    /// Into how many lanes its partitions fall: part of the stream, and the most processes that can
    /// share a receiver's work. Without it, as many as the stream has, or 8 when it is created.
    pub lanes: Option<u16>,
    /// How long to wait for any answer of the server (10 s).
    pub timeout: Duration,
}

impl StreamOptions {
    /// A stream at `host`, with the defaults.
    pub fn new(host: impl Into<String>, stream: impl Into<Text>) -> Self {
        Self {
            host: host.into(),
            port: 6379,
            tls: None,
            tls_ca: None,
            user: None,
            password: None,
            database: 0,
            stream: stream.into(),
            lanes: None,
            timeout: Duration::from_secs(10),
        }
    }

    /// Refuses names and numbers that no stream can have, and a server far away without TLS.
    ///
    /// # Errors
    /// [`InvalidConfig`](onewrite_core::Code::InvalidConfig), [`UnsafeSetting`](onewrite_core::Code::UnsafeSetting).
    pub fn check(&self) -> Result<()> {
        if !is_name(&self.stream) {
            return Err(invalid(
                "the stream of a Redis URL is named with 1 to 200 letters, digits, `-` and `_`",
            ));
        }
        if self.lanes == Some(0) {
            return Err(invalid("a stream has one or more lanes"));
        }
        if self.tls.is_none() {
            refuse_clear(&self.host, "rediss://")?;
        }
        Ok(())
    }
}

/// Removes a stream with its lanes and what was noted of them, whatever they still hold.
///
/// # Errors
/// [`SinkUnreachable`](onewrite_core::Code::SinkUnreachable); what [`StreamOptions::check`] says.
pub async fn remove(options: &StreamOptions) -> Result<()> {
    options.check()?;
    let server = Server::connect(options).await?;
    let what = "does not remove a stream";
    let lanes = cmd("HGET").arg(&*options.stream).arg(LANES_FIELD).to_owned();
    let lanes: Option<u16> = server.ask(what, &lanes).await?;
    let layout = Layout { stream: options.stream.clone(), lanes: lanes.unwrap_or(0) };
    let keys = (0..layout.lanes).flat_map(|lane| [layout.key(lane), layout.last_key(lane)]);
    // The key that says how many lanes there are goes last: a removal that breaks off is begun anew.
    for key in keys.chain([options.stream.to_string()]) {
        server.ask::<u64>(what, &cmd("DEL").arg(key).to_owned()).await?;
    }
    Ok(())
}

/// Without credentials.
impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("stream", &self.stream)
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

/// A stream that was found in order.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) stream: Text,
    pub(crate) lanes: u16,
}

impl Layout {
    /// The lane of a partition.
    pub(crate) fn lane_of(&self, partition: Partition) -> u16 {
        partition % self.lanes
    }

    /// The key of a lane's entries and groups.
    pub(crate) fn key(&self, lane: u16) -> String {
        format!("{}:{lane}", self.stream)
    }

    /// The key of what was appended last in each partition of a lane. The braces put it into the slot of
    /// [`Self::key`], for a script that needs both.
    pub(crate) fn last_key(&self, lane: u16) -> String {
        format!("{{{}:{lane}}}:last", self.stream)
    }
}

/// Finds the stream, or creates it, and refuses what is none.
///
/// # Errors
/// [`InvalidConfig`](onewrite_core::Code::InvalidConfig) with the cure; [`SinkUnreachable`](onewrite_core::Code::SinkUnreachable), [`SinkRefused`](onewrite_core::Code::SinkRefused).
pub(crate) async fn open(server: &Server, options: &StreamOptions) -> Result<Layout> {
    check_version(server).await?;
    let lanes = match stated(server, &options.stream).await? {
        Some(lanes) => lanes,
        None => create(server, options).await?,
    };
    if let Some(wanted) = options.lanes.filter(|wanted| *wanted != lanes) {
        return Err(invalid(format!(
            "stream `{}` has {lanes} lanes and not {wanted}: leave `lanes` out or say {lanes} (another number needs a new stream)",
            options.stream
        )));
    }
    let layout = Layout { stream: options.stream.clone(), lanes };
    check_types(server, &layout).await?;
    Ok(layout)
}

/// The number of lanes that a stream states, if it exists.
async fn stated(server: &Server, stream: &str) -> Result<Option<u16>> {
    let what = "the stream cannot be looked at";
    let found: Option<String> = server.ask(what, cmd("HGET").arg(stream).arg(LANES_FIELD)).await?;
    let Some(found) = found else { return Ok(None) };
    match found.parse() {
        Ok(lanes) if lanes > 0 => Ok(Some(lanes)),
        _ => Err(invalid(format!(
            "the key `{stream}` does not say how many lanes its stream has; if it is new, run `HSET {stream} {LANES_FIELD} {LANES_DEFAULT}`"
        ))),
    }
}

/// Creates it, unless the other half does so at the same moment: then that number counts.
async fn create(server: &Server, options: &StreamOptions) -> Result<u16> {
    let wanted = options.lanes.unwrap_or(LANES_DEFAULT);
    let set = cmd("HSETNX").arg(&*options.stream).arg(LANES_FIELD).arg(wanted).to_owned();
    server.ask::<i64>("the stream cannot be created", &set).await?;
    Ok(stated(server, &options.stream).await?.unwrap_or(wanted))
}

/// A server that does not say its version is taken as it is: its user may not be allowed to ask.
async fn check_version(server: &Server) -> Result<()> {
    let what = "the server cannot be looked at";
    let Some(info) = server.allowed::<String>(what, cmd("INFO").arg("server")).await? else {
        return Ok(());
    };
    let said = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
    if said("redis_mode:") == Some("cluster") {
        return Err(invalid(format!(
            "{} is a node of a Redis Cluster, whose redirections are not followed here; use a server, or a primary with replicas",
            server.address()
        )));
    }
    let version = said("redis_version:").unwrap_or_default();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < VERSION_MIN) {
        return Err(invalid(format!(
            "{} runs Redis {version}, and 7.0 or later is needed",
            server.address()
        )));
    }
    Ok(())
}

/// Keys of another type under the names of the lanes are somebody else's.
async fn check_types(server: &Server, layout: &Layout) -> Result<()> {
    let mut asked = pipe();
    for lane in 0..layout.lanes {
        asked.cmd("TYPE").arg(layout.key(lane)).cmd("TYPE").arg(layout.last_key(lane));
    }
    let types: Vec<String> = server.ask_all("the lanes cannot be looked at", &asked).await?;
    let wanted = (0..layout.lanes)
        .flat_map(|lane| [(layout.key(lane), "stream"), (layout.last_key(lane), "hash")]);
    for (found, (key, wanted)) in types.iter().zip(wanted) {
        if found != "none" && found != wanted {
            return Err(invalid(format!(
                "the key `{key}` holds a {found} where stream `{}` needs a {wanted}: name the stream otherwise, or remove the key",
                layout.stream
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_fall_into_lanes() {
        let layout = Layout { stream: "S".into(), lanes: 4 };
        assert_eq!(layout.lane_of(7), 3);
        assert_eq!((layout.key(3), layout.last_key(3)), ("S:3".into(), "{S:3}:last".into()));
    }
}
