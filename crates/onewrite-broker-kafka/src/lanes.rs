//! The lanes of a stream as Kafka has them: the partitions of a topic, and for each receiver a group that
//! notes how far it is.
//!
//! Who reads which partition is decided by leases in the receiver's database, as with every broker, and
//! not by the group's own members: they would move partitions at moments of their own, and two processes
//! could each believe to have one. So partitions are assigned by hand, nobody joins the group, and it is
//! only where the numbers are kept, which `kafka-consumer-groups.sh` shows. A process that lost a lane and
//! does not know yet can still commit; what it commits is what its receiver has settled without a hole, so
//! it never passes over anything, and at worst the group goes back and messages come again.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use onewrite_core::{Error, Result};
use onewrite_lanes::{Announcement, Answer, Lanes, Reading, url::invalid};
use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{CommitMode, Consumer as _, ConsumerContext, StreamConsumer},
    error::{KafkaError, KafkaResult},
    producer::{FutureProducer, FutureRecord},
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    StreamOptions,
    connect::{Aside, Server, Talk, drop_aside},
    gaps::{self, gap_topic},
    held::{Held, Token},
    reader::KafkaReader,
    stream::{self, Layout},
};

/// How often the topic is looked at for partitions that were added.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Bytes that the client reads ahead in one lane, in units of 1,024.
const AHEAD_KIB: &str = "4096";

/// What a receiver's client says in the background.
pub(crate) struct ReadContext {
    talk: Talk,
    held: Vec<Arc<Held>>,
}

impl ReadContext {
    fn spoil(&self, lane: i32) {
        let lane = usize::try_from(lane).ok();
        if let Some(held) = lane.and_then(|lane| self.held.get(lane)) {
            held.begin();
        }
    }
}

impl ClientContext for ReadContext {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        self.talk.log(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.talk.error(error, reason);
    }
}

impl ConsumerContext for ReadContext {}

/// The client of a receiver's process: one for all lanes.
pub(crate) type Reads = StreamConsumer<ReadContext>;

/// The lanes of a stream for one receiver.
pub(crate) struct KafkaLanes {
    pub(crate) server: Arc<Server>,
    pub(crate) options: StreamOptions,
    pub(crate) layout: Layout,
    pub(crate) pending_max: usize,
    pub(crate) held: Vec<Arc<Held>>,
    pub(crate) consumer: Arc<Reads>,
    announcer: OnceLock<FutureProducer>,
    background: [JoinHandle<()>; 2],
}

impl KafkaLanes {
    /// Begins a client that reads nothing yet.
    ///
    /// # Errors
    /// For settings that the client does not take.
    pub(crate) fn new(
        server: Arc<Server>,
        options: &StreamOptions,
        layout: Layout,
        reading: &Reading,
    ) -> Result<Self> {
        let held: Vec<Arc<Held>> = (0..layout.lanes).map(|_| Arc::default()).collect();
        let mut config = server.config();
        config.set("group.id", &*reading.consumer).set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false").set("auto.offset.reset", "earliest");
        // Of others' transactions only what was committed.
        config.set("isolation.level", "read_committed");
        config.set("queued.max.messages.kbytes", AHEAD_KIB);
        // More than a fetch may wait, as the client demands.
        let timeout = server.timeout().max(Duration::from_secs(2));
        config.set("socket.timeout.ms", timeout.as_millis().to_string());
        let context = ReadContext { talk: Talk::default(), held: held.clone() };
        let consumer: Reads = config
            .create_with_context(context)
            .map_err(|error| server.failed("does not let its topic be read", error))?;
        let consumer = Arc::new(consumer);
        let looking = look_for_growth(Arc::clone(&server), layout.clone());
        let background = [tokio::spawn(serve(Aside::new(&consumer))), tokio::spawn(looking)];
        let (options, announcer) = (options.clone(), OnceLock::new());
        let pending_max = reading.pending_max;
        Ok(Self { server, options, layout, pending_max, held, consumer, announcer, background })
    }

    pub(crate) fn held(&self, lane: u16) -> Arc<Held> {
        self.held.get(usize::from(lane)).map(Arc::clone).unwrap_or_default()
    }

    /// Tells the group how far a lane is, whatever it was told before, and waits until it has heard it.
    ///
    /// The client says what became of that only to who waits in a thread, as long as there is no server: a
    /// thread of its own, which keeps nothing else from ending.
    async fn commit(&self, lane: u16) {
        let Some(offset) = self.held(lane).floor() else { return };
        let (consumer, topic) = (Aside::new(&self.consumer), self.layout.stream.clone());
        let (heard, hearing) = oneshot::channel();
        let telling = move || {
            let Some(consumer) = consumer.get() else { return };
            let told = place(&topic, lane, Offset::Offset(offset))
                .and_then(|place| consumer.commit(&place, CommitMode::Sync));
            // Perhaps nobody waits any more.
            let _ = heard.send(told);
        };
        let thread = std::thread::Builder::new().name("kafka-commit".into()).spawn(telling);
        if let Err(error) = thread {
            tracing::debug!(%error, lane, "messages come again: no thread can be started");
        }
        match tokio::time::timeout(self.server.timeout(), hearing).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::debug!(%error, lane, "messages come again"),
            Ok(Err(_)) | Err(_) => tracing::debug!(lane, "messages come again: no server answers"),
        }
    }

    fn announcer(&self) -> Result<&FutureProducer, KafkaError> {
        if let Some(announcer) = self.announcer.get() {
            return Ok(announcer);
        }
        let announcer = self.server.config().create()?;
        Ok(self.announcer.get_or_init(|| announcer))
    }
}

impl Drop for KafkaLanes {
    fn drop(&mut self) {
        self.background.iter().for_each(JoinHandle::abort);
        drop_aside((Arc::clone(&self.consumer), self.announcer.take()));
    }
}

/// A place in a lane, as the client names it.
pub(crate) fn place(topic: &str, lane: u16, offset: Offset) -> KafkaResult<TopicPartitionList> {
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, i32::from(lane), offset)?;
    Ok(place)
}

/// Tells the group how far a lane is, if there is news. Whether it heard that is not known.
pub(crate) fn tell(consumer: &Reads, topic: &str, lane: u16, held: &Held) {
    let Some(offset) = held.due() else { return };
    held.tell(offset);
    let told = place(topic, lane, Offset::Offset(offset))
        .and_then(|place| consumer.commit(&place, CommitMode::Async));
    if let Err(error) = told {
        tracing::debug!(%error, lane, "a group is told later how far it is");
        held.not_heard();
    }
}

/// Serves what the client says. Messages come in the queues of their lanes.
async fn serve(consumer: Aside<Reads>) {
    while let Some(consumer) = consumer.get() {
        match consumer.recv().await {
            Ok(message) => {
                let (lane, offset) = (message.partition(), message.offset());
                tracing::error!(lane, offset, "a message came past the queue of its lane");
                // So that nothing behind it is committed: it comes again with the next reader.
                consumer.context().spoil(lane);
            }
            // The client goes on by itself.
            Err(error) => tracing::debug!(%error, "the topic cannot be read now"),
        }
    }
}

/// Tells when the topic has got more partitions than this process knows: a sender that begins now uses
/// them, and nobody here reads them.
async fn look_for_growth(server: Arc<Server>, layout: Layout) {
    let Layout { stream, lanes, .. } = layout;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match server.partitions(&stream).await {
            Ok(Some(found)) if found > lanes => tracing::error!(
                %stream, lanes, found,
                "a topic has got more partitions, which this process does not read: start its receivers anew, and then its relays"
            ),
            Ok(_) | Err(_) => {}
        }
    }
}

impl Lanes for KafkaLanes {
    type Token = Token;
    type Reader = KafkaReader;

    async fn open(&self, lane: u16) -> Result<KafkaReader> {
        // It may have been removed meanwhile; then it is made anew.
        let found = stream::open(&self.server, &self.options).await?;
        if found.lanes < self.layout.lanes {
            let Layout { stream, lanes, .. } = &self.layout;
            return Err(invalid(format!(
                "topic `{stream}` had {lanes} partitions and was replaced by one with {}; start its receivers anew",
                found.lanes
            )));
        }
        KafkaReader::open(self, lane).await
    }

    async fn answer(&self, lane: u16, answer: Answer, tokens: Vec<Token>) {
        match answer {
            // The reader tells the group from time to time.
            Answer::Done | Answer::GiveUp => self.held(lane).remove(&tokens),
            // Kafka waits without limit.
            Answer::InWork => {}
            Answer::Back => {
                self.commit(lane).await;
                self.held(lane).begin();
            }
        }
    }

    async fn announce(&self, said: &Announcement) {
        let Ok(payload) = serde_json::to_vec(said) else { return };
        let topic = gap_topic(&self.layout.stream);
        let record = FutureRecord::<(), _>::to(&topic).partition(gaps::PARTITION).payload(&payload);
        let said = async {
            let announcer = self.announcer()?;
            announcer.send(record, self.server.timeout()).await.map_err(|(error, _)| error)
        };
        let failed = |error: &dyn std::fmt::Display| {
            tracing::debug!(%error, topic, "a gap is announced again later");
        };
        match tokio::time::timeout(self.server.timeout(), said).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        }
    }
}

/// What the client says of a lane that cannot be read.
pub(crate) fn unreadable(server: &Server, error: KafkaError) -> Error {
    server.failed("does not let a lane be read", error)
}
