//! Statements on ids and parked keys, and what each of them takes: the same for every client.

use std::borrow::Cow;

use crate::{
    Event, Record, Sequence, Timestamp,
    parking::{ParkedKey, Request},
};

/// A statement of a session. Answered with the number of rows that were written, or with the number that it
/// asks for.
#[derive(Debug, Clone, Copy)]
pub enum Statement<'a> {
    /// Insert a record's id among those seen: none if it was not new. Takes consumer, source, id.
    Remember(&'a Record),
    /// Delete it again. Takes consumer, source, id.
    Forget(&'a Record),
    /// Ask whether a record's key is parked: 0 if not. Locks it if so: a re-drive that would free it waits. Takes
    /// scope, source, key.
    LookParked(&'a Record),
    /// Append a record to its key's parked ones. Takes scope, source, incarnation, sequence, partition, and
    /// [`event_binds`].
    ParkRecord(&'a Record),
    /// Park its key, unless it is, and say why. Takes scope, source, key, partition, reason.
    ParkKey(&'a Record, &'a str),
    /// Let a parked key wait for an operator again, and say why. Takes scope, key, request, reason, source.
    WaitAgain(&'a ParkedKey, &'a str),
    /// Remove the record of a key that is at this position. Takes position, scope, source, key.
    Unpark(&'a ParkedKey, Sequence),
    /// Ask how many records of a key still wait. Takes scope, source, key.
    CountLeft(&'a ParkedKey),
    /// Free a key. Takes scope, source, key.
    Free(&'a ParkedKey),
}

/// A value that a statement takes.
#[derive(Debug, Clone)]
pub enum Bind<'a> {
    /// Text, or null.
    Text(Option<Cow<'a, str>>),
    /// A number, or null.
    Number(Option<i64>),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl<'a> From<&'a str> for Bind<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Some(text.into()))
    }
}

impl From<i64> for Bind<'_> {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

impl<'a> Statement<'a> {
    /// Whether it asks for a number.
    #[must_use]
    pub fn asks(&self) -> bool {
        matches!(self, Self::LookParked(_) | Self::CountLeft(_))
    }

    /// What it takes, in order.
    #[must_use]
    pub fn binds(self, consumer: &'a str, scope: &'a str) -> Vec<Bind<'a>> {
        let names = |key: &'a ParkedKey| [scope.into(), (&*key.source).into(), (&*key.key).into()];
        match self {
            Self::Remember(record) | Self::Forget(record) => {
                vec![consumer.into(), (&*record.source).into(), record.id().into()]
            }
            Self::LookParked(record) => {
                vec![scope.into(), (&*record.source).into(), (&**record.event.order_key()).into()]
            }
            Self::ParkRecord(record) => {
                let life = Bind::Text(Some(record.incarnation.to_string().into()));
                let sequence = record.sequence.cast_signed().into();
                let partition = i64::from(record.partition).into();
                let place = [scope.into(), (&*record.source).into(), life, sequence, partition];
                let event = event_binds(&record.event, record.id(), record.event.time);
                place.into_iter().chain(event).collect()
            }
            Self::ParkKey(record, reason) => {
                let key = &**record.event.order_key();
                let partition = i64::from(record.partition).into();
                vec![scope.into(), (&*record.source).into(), key.into(), partition, reason.into()]
            }
            Self::WaitAgain(key, reason) => {
                let [scope, source, key] = names(key);
                vec![scope, key, Request::Wait.as_str().into(), reason.into(), source]
            }
            Self::Unpark(key, position) => {
                [position.cast_signed().into()].into_iter().chain(names(key)).collect()
            }
            Self::CountLeft(key) | Self::Free(key) => names(key).into(),
        }
    }
}

/// The values of an event's columns, in the order of every store's tables: time in microseconds since 1970, id,
/// type, aggregate type and id, key, content type, schema version, source, data schema, correlation, causation
/// and user id, dedup key, traceparent, headers in JSON, data.
#[must_use]
pub fn event_binds<'a>(event: &'a Event, id: &'a str, time: Option<Timestamp>) -> [Bind<'a>; 17] {
    let option = |text: &'a Option<crate::Text>| Bind::Text(text.as_deref().map(Cow::from));
    let pairs: Vec<(&str, &str)> = event.headers.iter().map(|(k, v)| (&**k, &**v)).collect();
    let headers = if pairs.is_empty() { None } else { serde_json::to_string(&pairs).ok() };
    [
        Bind::Number(time.map(|time| time.0)),
        id.into(),
        (&*event.kind).into(),
        (&*event.aggregate_type).into(),
        (&*event.aggregate_id).into(),
        (&**event.order_key()).into(),
        (&*event.content_type).into(),
        i64::from(event.schema_version).into(),
        option(&event.source),
        option(&event.data_schema),
        option(&event.correlation_id),
        option(&event.causation_id),
        option(&event.user_id),
        option(&event.dedup_key),
        option(&event.traceparent),
        Bind::Text(headers.map(Cow::from)),
        Bind::Bytes(&event.data),
    ]
}
