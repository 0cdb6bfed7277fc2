//! The event's columns: one list, one order, for the log and for parked records.

use std::error::Error as StdError;

use bytes::BytesMut;
use onewrite_core::{Bytes, Event, Result, Text, Timestamp};
use tokio_postgres::{
    Row,
    types::{FromSql, IsNull, ToSql, Type, to_sql_checked},
};

use crate::error::While;

/// The event's columns in `onewrite.log` and `onewrite.parked`, in this order.
macro_rules! event_columns {
    () => {
        "time, id, type, aggregatetype, aggregateid, key, content_type, schema_version, source, data_schema, \
         correlation_id, causation_id, user_id, dedup_key, traceparent, headers, payload"
    };
}
pub(crate) use event_columns;

/// Between 1970, where our times begin, and 2000, where PostgreSQL's do, in microseconds.
const EPOCH: i64 = 946_684_800_000_000;

/// A `timestamptz` as we count time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Timestamp);

impl<'a> FromSql<'a> for Time {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        let micros = i64::from_sql(kind, raw)?;
        Ok(Self(Timestamp(micros.saturating_add(EPOCH))))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }
}

impl ToSql for Time {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        self.0.0.saturating_sub(EPOCH).to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

/// A column as it came over the wire: text and bytea are the same there.
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::TEXT | Type::VARCHAR | Type::BYTEA)
    }
}

/// Copies a page's texts into a few large allocations instead of one for each attribute.
pub(crate) struct Arena(BytesMut);

const CHUNK_BYTES: usize = 64 * 1024;

impl Arena {
    pub(crate) fn new() -> Self {
        Self(BytesMut::new())
    }

    fn bytes(&mut self, data: &[u8]) -> Bytes {
        if data.is_empty() {
            return Bytes::new();
        }
        if self.0.capacity() < data.len() {
            self.0 = BytesMut::with_capacity(CHUNK_BYTES.max(data.len()));
        }
        self.0.extend_from_slice(data);
        self.0.split().freeze()
    }

    fn text(&mut self, row: &Row, index: usize) -> Result<Text> {
        self.option(row, index).map(Option::unwrap_or_default)
    }

    fn option(&mut self, row: &Row, index: usize) -> Result<Option<Text>> {
        let found: Option<Raw<'_>> = row.try_get(index).during("read an event")?;
        // A database in another encoding may send what is not UTF-8; such a row must not stop others.
        Ok(found.map(|raw| {
            Text::try_from(self.bytes(raw.0))
                .unwrap_or_else(|_| String::from_utf8_lossy(raw.0).into_owned().into())
        }))
    }
}

/// Reads an event whose columns begin at `first`.
pub(crate) fn event(row: &Row, first: usize, arena: &mut Arena) -> Result<Event> {
    let time: Time = row.try_get(first).during("read an event's time")?;
    let version: i64 = row.try_get(first + 7).during("read an event's schema version")?;
    let headers: Option<Raw<'_>> = row.try_get(first + 15).during("read an event's headers")?;
    let data: Option<Raw<'_>> = row.try_get(first + 16).during("read an event's data")?;
    Ok(Event {
        time: Some(time.0),
        id: Some(arena.text(row, first + 1)?),
        kind: arena.text(row, first + 2)?,
        aggregate_type: arena.text(row, first + 3)?,
        aggregate_id: arena.text(row, first + 4)?,
        key: arena.option(row, first + 5)?,
        content_type: arena.text(row, first + 6)?,
        schema_version: u32::try_from(version).unwrap_or_default(),
        source: arena.option(row, first + 8)?,
        data_schema: arena.option(row, first + 9)?,
        correlation_id: arena.option(row, first + 10)?,
        causation_id: arena.option(row, first + 11)?,
        user_id: arena.option(row, first + 12)?,
        dedup_key: arena.option(row, first + 13)?,
        traceparent: arena.option(row, first + 14)?,
        headers: headers.map(|raw| headers_from(raw.0)).unwrap_or_default(),
        data: data.map(|raw| arena.bytes(raw.0)).unwrap_or_default(),
    })
}

/// Headers as stored. What another program stored in another form is left out, not fatal.
fn headers_from(text: &[u8]) -> Vec<(Text, Text)> {
    let pairs: Vec<(String, String)> = serde_json::from_slice(text).unwrap_or_default();
    pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// Headers to store.
pub(crate) fn headers_to(headers: &[(Text, Text)]) -> Option<String> {
    if headers.is_empty() {
        return None;
    }
    let pairs: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    serde_json::to_string(&pairs).ok()
}

/// A number that is never negative.
pub(crate) fn number(row: &Row, index: usize) -> Result<u64> {
    row.try_get::<_, i64>(index).during("read a number").map(i64::cast_unsigned)
}

/// A partition.
pub(crate) fn partition(row: &Row, index: usize) -> Result<u16> {
    let value: i32 = row.try_get(index).during("read a partition")?;
    Ok(u16::try_from(value).unwrap_or(u16::MAX))
}

/// A text.
pub(crate) fn text(row: &Row, index: usize) -> Result<Text> {
    row.try_get::<_, String>(index).during("read a text").map(Text::from)
}

/// A text that may be missing.
pub(crate) fn option(row: &Row, index: usize) -> Result<Option<Text>> {
    let found: Option<String> = row.try_get(index).during("read a text")?;
    Ok(found.map(Text::from))
}

/// A time that may be missing.
pub(crate) fn time(row: &Row, index: usize) -> Result<Option<Timestamp>> {
    let found: Option<Time> = row.try_get(index).during("read a time")?;
    Ok(found.map(|time| time.0))
}
