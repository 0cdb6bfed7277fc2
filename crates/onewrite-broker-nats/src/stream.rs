//! The stream both halves share: how it is created, and what is wrong with one that exists.

use std::{fmt, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        Context, ErrorCode,
        context::{
            CreateStreamErrorKind, DeleteStreamErrorKind, GetStreamError, GetStreamErrorKind,
        },
        stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
    },
};
use onewrite_core::{Code, Error, Partition, Result, Text};
use onewrite_lanes::url::{invalid, is_name};

use crate::connect;

/// The lanes of a stream that is created without saying how many.
pub const LANES_DEFAULT: u16 = 8;

/// How long the server remembers message ids, and so recognises what is sent again.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Messages that go sooner may be gone before a receiver that was away for a day comes back.
const MAX_AGE_WANTED: Duration = Duration::from_secs(24 * 60 * 60);

/// Where the stream is, and how to create it when it is missing.
#[derive(Clone)]
pub struct StreamOptions {
    /// Addresses of the servers, `nats://host[:port]` or `tls://host[:port]`, without credentials.
    pub servers: Vec<String>,
    /// User and password. Never printed.
    pub user: Option<(String, String)>,
    /// A token instead of a user. Never printed.
    pub token: Option<String>,
    /// The stream's name: letters, digits, `-` and `_`. Its subjects begin with it.
    pub stream: Text,
    /// Into how many lanes its partitions fall: part of the stream, and the most processes that can
    /// share a receiver's work. Without it, as many as the stream has, or 8 when it is created.
    pub lanes: Option<u16>,
    /// How long a new stream keeps messages (seven days).
    pub max_age: Duration,
    /// The most bytes a new stream keeps; without it, as much as the server allows. Messages stay until
    /// `max_age`, received or not, so it must hold what comes in that time: a full stream refuses new
    /// messages, and the relay waits. For a single receiver, a stream made with retention `workqueue`
    /// keeps only what was not received.
    pub bytes_max: Option<u64>,
    /// Copies of a new stream in a cluster (1).
    pub replicas: usize,
    /// Whether a stream that keeps its messages in memory is accepted.
    pub allow_memory: bool,
    /// How long to wait for any answer of a server (10 s).
    pub timeout: Duration,
}

impl StreamOptions {
    /// A stream at `servers`, with the defaults.
    pub fn new(
        servers: impl IntoIterator<Item = impl Into<String>>,
        stream: impl Into<Text>,
    ) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            user: None,
            token: None,
            stream: stream.into(),
            lanes: None,
            max_age: Duration::from_secs(7 * 24 * 60 * 60),
            bytes_max: None,
            replicas: 1,
            allow_memory: false,
            timeout: Duration::from_secs(10),
        }
    }

    /// Refuses names and numbers that no stream can have.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`].
    pub fn check(&self) -> Result<()> {
        if !is_name(&self.stream) {
            return Err(invalid(
                "the stream of a NATS URL is named with 1 to 200 letters, digits, `-` and `_`",
            ));
        }
        if &*self.stream == "onewrite" {
            return Err(invalid("`onewrite` cannot be a stream's name: its subjects are our own"));
        }
        if self.lanes == Some(0) {
            return Err(invalid("a stream has one or more lanes"));
        }
        Ok(())
    }
}

/// Without credentials.
impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOptions")
            .field("servers", &self.servers)
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
    /// The largest message it takes, in bytes, should it be smaller than the server's.
    pub(crate) message_bytes_max: Option<usize>,
}

impl Layout {
    /// The lane of a partition.
    pub(crate) fn lane_of(&self, partition: Partition) -> u16 {
        partition % self.lanes
    }

    /// Where the records of a partition go.
    pub(crate) fn subject(&self, partition: Partition) -> String {
        format!("{}.{}.{partition}", self.stream, self.lane_of(partition))
    }

    /// Where the records of all partitions of a lane come from.
    pub(crate) fn lane_subjects(&self, lane: u16) -> String {
        format!("{}.{lane}.*", self.stream)
    }
}

/// Removes a stream with its consumers, whatever it still holds.
///
/// # Errors
/// [`Code::SinkUnreachable`], [`Code::InvalidConfig`] for refused credentials; what
/// [`StreamOptions::check`] says.
pub async fn remove(options: &StreamOptions) -> Result<()> {
    options.check()?;
    let (_client, context) = connect::connect(options, "onewrite").await?;
    let stream = &options.stream;
    match context.delete_stream(&**stream).await {
        Err(error) if !is_gone(error.kind()) => {
            let context = format!("stream `{stream}` cannot be deleted");
            Err(Error::new(Code::SinkUnreachable, context).with_source(error))
        }
        _ => Ok(()),
    }
}

fn is_gone(kind: DeleteStreamErrorKind) -> bool {
    matches!(kind, DeleteStreamErrorKind::JetStream(error)
        if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Finds the stream, or creates it, and refuses one that would break a promise.
///
/// # Errors
/// [`Code::UnsafeSetting`] or [`Code::InvalidConfig`] with the cure; [`Code::SinkUnreachable`].
pub(crate) async fn open(context: &Context, options: &StreamOptions) -> Result<Layout> {
    options.check()?;
    let stream = &*options.stream;
    let config = match context.get_stream(stream).await {
        Ok(found) => found.cached_info().config.clone(),
        Err(error) if is_missing(&error) => create(context, options).await?,
        Err(error) => return Err(unanswered(context, error, stream)),
    };
    check(&config, options)
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

async fn create(context: &Context, options: &StreamOptions) -> Result<Config> {
    let lanes = options.lanes.unwrap_or(LANES_DEFAULT);
    let wanted = Config {
        name: options.stream.to_string(),
        description: Some(format!("onewrite lanes={lanes}")),
        subjects: vec![format!("{}.>", options.stream)],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW.min(options.max_age),
        max_age: options.max_age,
        max_bytes: options.bytes_max.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        num_replicas: options.replicas.max(1),
        ..Config::default()
    };
    match context.create_stream(wanted).await {
        Ok(stream) => Ok(stream.cached_info().config.clone()),
        Err(error) => {
            // The other half may have created it at the same moment.
            if let Ok(found) = context.get_stream(&*options.stream).await {
                return Ok(found.cached_info().config.clone());
            }
            let context = format!("stream `{}` cannot be created", options.stream);
            let code = match error.kind() {
                CreateStreamErrorKind::JetStream(_) => Code::InvalidConfig,
                _ => Code::SinkUnreachable,
            };
            Err(Error::new(code, context).with_source(error))
        }
    }
}

/// Why the server says nothing about the stream.
fn unanswered(context: &Context, error: GetStreamError, stream: &str) -> Error {
    let disabled = matches!(
        error.kind(),
        GetStreamErrorKind::JetStream(error) if matches!(
            error.error_code(),
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        )
    );
    if disabled || !context.client().server_info().jetstream {
        return invalid(format!(
            "the NATS server has no JetStream, which is to store stream `{stream}`: start it with `--jetstream` and a `--store_dir`, or enable it for this account"
        ))
        .with_source(error);
    }
    let context = format!("the NATS server does not answer about stream `{stream}`");
    Error::new(Code::SinkUnreachable, context).with_source(error)
}

fn check(config: &Config, options: &StreamOptions) -> Result<Layout> {
    let stream = &config.name;
    let unsafe_setting = |why: String| Err(Error::new(Code::UnsafeSetting, why));
    if config.storage == StorageType::Memory && !options.allow_memory {
        return unsafe_setting(format!(
            "stream `{stream}` keeps its messages in memory: what it acknowledged is gone when the server restarts; recreate it with `--storage file`, or accept that with `allow_memory=true`"
        ));
    }
    if config.retention == RetentionPolicy::Interest {
        return unsafe_setting(format!(
            "stream `{stream}` drops messages while no consumer exists (retention `interest`); recreate it with `--retention limits`"
        ));
    }
    if config.no_ack {
        return unsafe_setting(format!(
            "stream `{stream}` acknowledges nothing; recreate it without `--no-ack`"
        ));
    }
    if config.sealed {
        return Err(invalid(format!("stream `{stream}` is sealed: it takes nothing any more")));
    }
    let subjects = format!("{stream}.>");
    if !config.subjects.contains(&subjects) {
        return Err(invalid(format!(
            "stream `{stream}` does not store the subjects `{subjects}`; add them with `nats stream edit {stream} --subjects '{subjects}'`"
        )));
    }
    let lanes = lanes_of(config)?;
    if let Some(wanted) = options.lanes.filter(|wanted| *wanted != lanes) {
        return Err(invalid(format!(
            "stream `{stream}` has {lanes} lanes and not {wanted}; leave `lanes` out or set it to {lanes} (another number needs a new stream)"
        )));
    }
    let message_bytes_max = usize::try_from(config.max_message_size).ok().filter(|max| *max > 0);
    Ok(Layout { stream: stream.as_str().into(), lanes, message_bytes_max })
}

/// The number of lanes that a stream's description states.
fn lanes_of(config: &Config) -> Result<u16> {
    let description = config.description.as_deref().unwrap_or_default();
    let stated = description.split_once("onewrite lanes=").map(|(_, rest)| rest);
    let digits = stated.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(lanes) if lanes > 0 => Ok(lanes),
        _ => Err(invalid(format!(
            "stream `{0}` does not say how many lanes it has; if it is new, run `nats stream edit {0} --description 'onewrite lanes={LANES_DEFAULT}'`",
            config.name
        ))),
    }
}

/// Whether a server keeps to `discard new`. Earlier ones underestimate what a message takes, let it in and
/// then drop the oldest to keep within `max_bytes` (nats-server issue 4771).
pub(crate) fn refuses_when_full(client: &Client) -> bool {
    client.is_server_compatible(2, 10, 5)
}

/// What weakens a promise, each as one sentence with its cure. `refuses` says whether the server keeps
/// to `discard new`.
pub(crate) fn warnings(config: &Config, refuses: bool) -> Vec<Text> {
    let stream = &config.name;
    let mut out: Vec<String> = Vec::new();
    if config.storage == StorageType::Memory {
        out.push(format!(
            "Stream `{stream}` keeps its messages in memory, so a restart of the server loses what it acknowledged; recreate it with `--storage file`."
        ));
    } else if config.num_replicas <= 1 {
        out.push(format!(
            "Stream `{stream}` has one replica, and NATS acknowledges before it syncs to disk (every 2 minutes unless `sync_interval` says otherwise), so a power cut of its server can lose acknowledged messages; use three replicas, or set `sync_interval: always` where the server knows it, and keep the outbox longer than that."
        ));
    }
    let limited = config.max_bytes > 0 || config.max_messages > 0;
    if config.discard == DiscardPolicy::Old && limited {
        out.push(format!(
            "Stream `{stream}` drops its oldest messages when it is full, whether they were received or not; run `nats stream edit {stream} --discard new`."
        ));
    }
    if config.discard == DiscardPolicy::New && config.max_bytes > 0 && !refuses {
        out.push(format!(
            "Stream `{stream}` is set to refuse messages when it is full, but NATS servers before 2.10.5 drop its oldest ones at `max_bytes` all the same (their issue 4771); run a later server, or limit it with `--max-msgs` instead."
        ));
    }
    if config.max_messages_per_subject > 0 {
        out.push(format!(
            "Stream `{stream}` keeps {} messages for each partition and drops or refuses the others; run `nats stream edit {stream} --max-msgs-per-subject=-1`.",
            config.max_messages_per_subject
        ));
    }
    if !config.max_age.is_zero() && config.max_age < MAX_AGE_WANTED {
        out.push(format!(
            "Stream `{stream}` drops messages after {:?}, so a receiver that is away for longer misses them; run `nats stream edit {stream} --max-age 7d`.",
            config.max_age
        ));
    }
    if config.duplicate_window < DUPLICATE_WINDOW {
        out.push(format!(
            "Stream `{stream}` recognises repeated messages only for {:?}, so more of them reach its receivers; run `nats stream edit {stream} --dupe-window 2m`.",
            config.duplicate_window
        ));
    }
    out.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config {
            name: "S".into(),
            subjects: vec!["S.>".into()],
            description: Some("orders, onewrite lanes=4".into()),
            ..Config::default()
        }
    }

    #[test]
    fn the_description_states_the_lanes() {
        let mut options = StreamOptions::new(["nats://one"], "S");
        assert_eq!(check(&good(), &options).unwrap().lanes, 4);
        options.lanes = Some(8);
        let error = check(&good(), &options).unwrap_err();
        assert!(error.context().contains("has 4 lanes and not 8"), "{error}");
        let unsaid = Config { description: None, ..good() };
        assert_eq!(check(&unsaid, &options).unwrap_err().code(), Code::InvalidConfig);
    }

    #[test]
    fn refuses_what_loses_messages() {
        let options = StreamOptions::new(["nats://one"], "S");
        let memory = Config { storage: StorageType::Memory, ..good() };
        let interest = Config { retention: RetentionPolicy::Interest, ..good() };
        let silent = Config { no_ack: true, ..good() };
        for config in [&memory, &interest, &silent] {
            assert_eq!(check(config, &options).unwrap_err().code(), Code::UnsafeSetting);
        }
        let allowed = StreamOptions { allow_memory: true, ..options };
        assert!(check(&memory, &allowed).is_ok());
    }

    #[test]
    fn an_old_server_does_not_keep_to_its_limit() {
        let mut config = Config { discard: DiscardPolicy::New, ..good() };
        let told = |config: &Config, refuses| {
            warnings(config, refuses).iter().any(|warning| warning.contains("issue 4771"))
        };
        assert!(!told(&config, false), "without a limit");
        config.max_bytes = 1_000_000;
        assert!(told(&config, false) && !told(&config, true));
    }

    #[test]
    fn partitions_fall_into_lanes() {
        let options = StreamOptions::new(["nats://one"], "S");
        let layout = check(&good(), &options).unwrap();
        assert_eq!((layout.lane_of(7), layout.subject(7).as_str()), (3, "S.3.7"));
        assert_eq!(layout.lane_subjects(3), "S.3.*");
    }
}
