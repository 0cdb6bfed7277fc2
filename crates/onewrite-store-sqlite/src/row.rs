//! The event's columns: one list, one order, for the log and for parked records.

use onewrite_core::{Bytes, Event, Result, Text, Timestamp};
use rusqlite::{Row, types::ValueRef};

use crate::error::While;

/// The event's columns in `onewrite_outbox` and `onewrite_parked`, in this order.
macro_rules! event_columns {
    () => {
        "time, id, type, aggregatetype, aggregateid, key, content_type, schema_version, source, data_schema, \
         correlation_id, causation_id, user_id, dedup_key, traceparent, headers, payload"
    };
}
pub(crate) use event_columns;

/// Copies a batch's texts into a few large allocations instead of one for each attribute.
pub(crate) struct Arena(bytes::BytesMut);

const CHUNK_BYTES: usize = 64 * 1024;

impl Arena {
    pub(crate) fn new() -> Self {
        Self(bytes::BytesMut::new())
    }

    fn bytes(&mut self, data: &[u8]) -> Bytes {
        if data.is_empty() {
            return Bytes::new();
        }
        if self.0.capacity() < data.len() {
            self.0 = bytes::BytesMut::with_capacity(CHUNK_BYTES.max(data.len()));
        }
        self.0.extend_from_slice(data);
        self.0.split().freeze()
    }

    fn text(&mut self, value: ValueRef<'_>) -> Result<Text> {
        let data = match value {
            ValueRef::Text(data) | ValueRef::Blob(data) => self.bytes(data),
            ValueRef::Null => Bytes::new(),
            ValueRef::Integer(number) => self.bytes(number.to_string().as_bytes()),
            ValueRef::Real(number) => self.bytes(number.to_string().as_bytes()),
        };
        // Another program may have cast anything to text; such a row must not stop those behind it.
        Text::try_from(data.clone())
            .or_else(|_| Ok(String::from_utf8_lossy(&data).into_owned().into()))
    }

    fn option(&mut self, value: ValueRef<'_>) -> Result<Option<Text>> {
        if value == ValueRef::Null { Ok(None) } else { self.text(value).map(Some) }
    }
}

/// Reads an event whose columns begin at `first`.
pub(crate) fn event(row: &Row<'_>, first: usize, arena: &mut Arena) -> Result<Event> {
    let column = |index: usize| row.get_ref(first + index).during("read an event");
    let headers = column(15)?;
    Ok(Event {
        time: Some(Timestamp(row.get(first).during("read an event's time")?)),
        id: Some(arena.text(column(1)?)?),
        kind: arena.text(column(2)?)?,
        aggregate_type: arena.text(column(3)?)?,
        aggregate_id: arena.text(column(4)?)?,
        key: arena.option(column(5)?)?,
        content_type: arena.text(column(6)?)?,
        schema_version: row.get(first + 7).during("read an event's schema version")?,
        source: arena.option(column(8)?)?,
        data_schema: arena.option(column(9)?)?,
        correlation_id: arena.option(column(10)?)?,
        causation_id: arena.option(column(11)?)?,
        user_id: arena.option(column(12)?)?,
        dedup_key: arena.option(column(13)?)?,
        traceparent: arena.option(column(14)?)?,
        headers: headers_from(headers),
        data: match column(16)? {
            ValueRef::Text(data) | ValueRef::Blob(data) => arena.bytes(data),
            ValueRef::Null => Bytes::new(),
            ValueRef::Integer(number) => Bytes::from(number.to_string()),
            ValueRef::Real(number) => Bytes::from(number.to_string()),
        },
    })
}

/// Headers as stored. What another program stored in another form is left out, not fatal.
fn headers_from(value: ValueRef<'_>) -> Vec<(Text, Text)> {
    let (ValueRef::Text(text) | ValueRef::Blob(text)) = value else { return Vec::new() };
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
