//! Emitting: into the outbox of the user's own open transaction, or appended to the log at once.

use onewrite_core::{
    BoxFuture, Code, Error, Event, Partition, Result, Sequence, Text, position::partition_of,
};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::{
    error::While,
    row::{self, Time},
};

/// The statement every emitting program runs, given how its client tells the event's own time. (Each
/// expression costs every emit.)
macro_rules! emit_statement {
    ($time:literal) => {
        concat!(
            "INSERT INTO onewrite.outbox (id, type, aggregatetype, aggregateid, key, content_type, schema_version, source, \
             data_schema, correlation_id, causation_id, user_id, dedup_key, traceparent, headers, payload_bytes, time) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, coalesce(",
            $time,
            ", clock_timestamp()))"
        )
    };
}
#[cfg(feature = "sqlx")]
pub(crate) use emit_statement;

const EMIT: &str = emit_statement!("$17");

/// Appends events at once; the arguments are arrays, one element for each event.
pub(crate) const APPEND: &str = "SELECT onewrite.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17), (SELECT partitions FROM onewrite.source)";

/// A user's open transaction: of `tokio-postgres`, or of `deadpool-postgres`, whose connections remember
/// prepared statements.
pub trait UserTransaction: Sync {
    /// Runs one statement within it.
    fn run<'a>(
        &'a self,
        sql: &'static str,
        binds: &'a [(&'a (dyn ToSql + Sync), Type)],
    ) -> BoxFuture<'a, Result<Vec<Row>, tokio_postgres::Error>>;
}

/// Without a prepared statement: it costs the server more, and works behind any pooler.
impl UserTransaction for tokio_postgres::Transaction<'_> {
    fn run<'a>(
        &'a self,
        sql: &'static str,
        binds: &'a [(&'a (dyn ToSql + Sync), Type)],
    ) -> BoxFuture<'a, Result<Vec<Row>, tokio_postgres::Error>> {
        Box::pin(self.query_typed(sql, binds))
    }
}

impl UserTransaction for deadpool_postgres::Transaction<'_> {
    fn run<'a>(
        &'a self,
        sql: &'static str,
        binds: &'a [(&'a (dyn ToSql + Sync), Type)],
    ) -> BoxFuture<'a, Result<Vec<Row>, tokio_postgres::Error>> {
        Box::pin(async move {
            let types: Vec<Type> = binds.iter().map(|(_, kind)| kind.clone()).collect();
            let statement = self.prepare_typed_cached(sql, &types).await?;
            let values: Vec<&(dyn ToSql + Sync)> = binds.iter().map(|(value, _)| *value).collect();
            self.query(&statement, &values).await
        })
    }
}

/// Emits `event` within the transaction `tx`: it is committed with the caller's own rows or not at all.
/// Returns its id. It takes its place when the transaction commits, so it may be emitted at any time.
///
/// One round trip.
///
/// # Errors
/// [`Code::InvalidEvent`], [`Code::EventTooLarge`], [`Code::SchemaMissing`], or what the database says;
/// the transaction is then aborted.
pub async fn emit(tx: &impl UserTransaction, event: &Event) -> Result<Text> {
    let id = event.id.clone().unwrap_or_else(new_id);
    // The trigger checks the size against the source's own limit.
    event.check(usize::MAX)?;
    let time = event.time.map(Time);
    let headers = row::headers_to(&event.headers);
    let version = i64::from(event.schema_version);
    let option = |text: &Option<Text>| text.as_deref().map(str::to_owned);
    let (source, schema) = (option(&event.source), option(&event.data_schema));
    let (correlation, causation) = (option(&event.correlation_id), option(&event.causation_id));
    let (user, dedup) = (option(&event.user_id), option(&event.dedup_key));
    let trace = option(&event.traceparent);
    let text = Type::TEXT;
    let binds: [(&(dyn ToSql + Sync), Type); 17] = [
        (&&*id, text.clone()),
        (&&*event.kind, text.clone()),
        (&&*event.aggregate_type, text.clone()),
        (&&*event.aggregate_id, text.clone()),
        (&&**event.order_key(), text.clone()),
        (&&*event.content_type, text.clone()),
        (&version, Type::INT8),
        (&source, text.clone()),
        (&schema, text.clone()),
        (&correlation, text.clone()),
        (&causation, text.clone()),
        (&user, text.clone()),
        (&dedup, text.clone()),
        (&trace, text.clone()),
        (&headers, text),
        (&&*event.data, Type::BYTEA),
        (&time, Type::TIMESTAMPTZ),
    ];
    tx.run(EMIT, &binds).await.during("emit an event")?;
    Ok(id)
}

/// Where an event was placed at once. Final once the transaction commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its id.
    pub id: Text,
    /// Its partition.
    pub partition: Partition,
    /// Its sequence.
    pub sequence: Sequence,
}

/// Emits `event` and places it at once: its position is known, and its partition stays locked until the
/// transaction ends. For short transactions, and last in them: others that emit to the same partition
/// wait, and two transactions that place several events this way can deadlock. See [`emit`] for the rest.
///
/// # Errors
/// As [`emit`].
pub async fn emit_at_once(tx: &impl UserTransaction, event: &Event) -> Result<Placed> {
    let placed = append(tx, std::slice::from_ref(event)).await?;
    placed.into_iter().next().ok_or_else(|| Error::new(Code::Database, "nothing was appended"))
}

/// Appends events in order, in one statement, which checks their size as well.
pub(crate) async fn append(tx: &impl UserTransaction, events: &[Event]) -> Result<Vec<Placed>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    for event in events {
        event.check(usize::MAX)?;
    }
    let columns = Columns::of(events);
    let found = tx.run(APPEND, &columns.binds()).await.during("append events")?;
    let Some(found) = found.first() else { return Ok(Vec::new()) };
    let context = "read where events were placed";
    let drawn: Option<Vec<i64>> = found.try_get(0).during(context)?;
    let partitions = row::partition(found, 1)?;
    let keys = columns.texts[3].iter();
    let placed = columns.ids.iter().zip(keys).zip(drawn.unwrap_or_default());
    Ok(placed
        .map(|((id, key), sequence)| Placed {
            id: (*id).clone().into(),
            partition: partition_of(key, partitions),
            sequence: sequence.cast_unsigned(),
        })
        .collect())
}

/// Events as columns, to be bound as arrays.
struct Columns<'a> {
    times: Vec<Option<Time>>,
    ids: Vec<String>,
    texts: [Vec<&'a str>; 5],
    versions: Vec<i64>,
    options: [Vec<Option<&'a str>>; 7],
    headers: Vec<Option<String>>,
    payloads: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    fn of(events: &'a [Event]) -> Self {
        let text = |pick: fn(&'a Event) -> &'a str| events.iter().map(pick).collect::<Vec<_>>();
        let option =
            |pick: fn(&'a Event) -> Option<&'a str>| events.iter().map(pick).collect::<Vec<_>>();
        Self {
            times: events.iter().map(|event| event.time.map(Time)).collect(),
            ids: events
                .iter()
                .map(|event| event.id.clone().unwrap_or_else(new_id).to_string())
                .collect(),
            texts: [
                text(|event| &event.kind),
                text(|event| &event.aggregate_type),
                text(|event| &event.aggregate_id),
                text(|event| event.order_key()),
                text(|event| &event.content_type),
            ],
            versions: events.iter().map(|event| i64::from(event.schema_version)).collect(),
            options: [
                option(|event| event.source.as_deref()),
                option(|event| event.data_schema.as_deref()),
                option(|event| event.correlation_id.as_deref()),
                option(|event| event.causation_id.as_deref()),
                option(|event| event.user_id.as_deref()),
                option(|event| event.dedup_key.as_deref()),
                option(|event| event.traceparent.as_deref()),
            ],
            headers: events.iter().map(|event| row::headers_to(&event.headers)).collect(),
            payloads: events.iter().map(|event| &*event.data).collect(),
        }
    }

    fn binds(&self) -> [(&(dyn ToSql + Sync), Type); 17] {
        let text = Type::TEXT_ARRAY;
        [
            (&self.times, Type::TIMESTAMPTZ_ARRAY),
            (&self.ids, text.clone()),
            (&self.texts[0], text.clone()),
            (&self.texts[1], text.clone()),
            (&self.texts[2], text.clone()),
            (&self.texts[3], text.clone()),
            (&self.texts[4], text.clone()),
            (&self.versions, Type::INT8_ARRAY),
            (&self.options[0], text.clone()),
            (&self.options[1], text.clone()),
            (&self.options[2], text.clone()),
            (&self.options[3], text.clone()),
            (&self.options[4], text.clone()),
            (&self.options[5], text.clone()),
            (&self.options[6], text.clone()),
            (&self.headers, text),
            (&self.payloads, Type::BYTEA_ARRAY),
        ]
    }
}

/// A fresh UUIDv7: ordered by time, so that an index of ids grows at its end.
pub(crate) fn new_id() -> Text {
    uuid::Uuid::now_v7().to_string().into()
}
