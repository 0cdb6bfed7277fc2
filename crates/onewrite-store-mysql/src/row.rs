//! Rows and binds: the event's columns in one order, and what is read from a row.

use mysql_async::{Params, Value, from_value_opt, prelude::FromValue};
use onewrite_core::{
    Bytes, Code, Error, Event, Result, Text, Timestamp,
    inbox::{Bind, event_binds},
};

use crate::client::{Cells, Client};

/// The event's columns in `onewrite_log` and `onewrite_parked`, in this order.
macro_rules! event_columns {
    () => {
        "time, id, type, aggregatetype, aggregateid, `key`, content_type, schema_version, source, data_schema, \
         correlation_id, causation_id, user_id, dedup_key, traceparent, headers, payload"
    };
}
pub(crate) use event_columns;

/// Values to bind, in order.
macro_rules! binds {
    ($($value:expr),* $(,)?) => {
        mysql_async::Params::Positional(vec![$(mysql_async::Value::from($value)),*])
    };
}
pub(crate) use binds;

/// The store's clock, in the engine's own sessions, whose time zone is UTC.
macro_rules! now {
    () => {
        "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)"
    };
}
pub(crate) use now;

/// When the statement began, by the store's clock: one value for all of its rows, so that an index serves to compare
/// with it, where each row may be another [`now`]. The same in every session, whatever its time zone.
macro_rules! began {
    () => {
        "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
    };
}
pub(crate) use began;

/// Runs a statement; says how many rows it found to write.
pub(crate) async fn execute(on: &mut impl Client, sql: &str, binds: Params) -> Result<u64> {
    on.execute(sql, binds, "write").await
}

/// Runs a query.
pub(crate) async fn query<C: Client>(on: &mut C, sql: &str, binds: Params) -> Result<Vec<C::Row>> {
    on.query(sql, binds, "read").await
}

/// Its only row, if it is there.
pub(crate) async fn query_one<C: Client>(
    on: &mut C,
    sql: &str,
    binds: Params,
) -> Result<Option<C::Row>> {
    Ok(query(on, sql, binds).await?.into_iter().next())
}

/// A text within a statement, as bytes: nothing in it can end it.
pub(crate) fn quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::from("_utf8mb4 X'");
    // Writing to a text cannot fail.
    for byte in text.bytes() {
        let _ = write!(out, "{byte:02X}");
    }
    out + "'"
}

/// A column.
pub(crate) fn get<T: FromValue>(row: &mut impl Cells, index: usize) -> Result<T> {
    from_value_opt(row.cell(index))
        .map_err(|error| Error::new(Code::Database, "read a column").with_source(error))
}

/// A number that is never negative.
pub(crate) fn number(row: &mut impl Cells, index: usize) -> Result<u64> {
    get::<i64>(row, index).map(i64::cast_unsigned)
}

/// A text, without copying it. What another program stored in another encoding must not stop others.
pub(crate) fn text(row: &mut impl Cells, index: usize) -> Result<Text> {
    option(row, index).map(Option::unwrap_or_default)
}

/// A text that may be missing.
pub(crate) fn option(row: &mut impl Cells, index: usize) -> Result<Option<Text>> {
    let found: Option<Vec<u8>> = get(row, index)?;
    Ok(found.map(|bytes| match String::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned().into(),
    }))
}

/// A time that may be missing.
pub(crate) fn time(row: &mut impl Cells, index: usize) -> Result<Option<Timestamp>> {
    get::<Option<i64>>(row, index).map(|found| found.map(Timestamp))
}

/// Reads an event whose columns begin at `first`.
pub(crate) fn event(row: &mut impl Cells, first: usize) -> Result<Event> {
    let headers: Option<Vec<u8>> = get(row, first + 15)?;
    let data: Option<Vec<u8>> = get(row, first + 16)?;
    Ok(Event {
        time: time(row, first)?,
        id: option(row, first + 1)?,
        kind: text(row, first + 2)?,
        aggregate_type: text(row, first + 3)?,
        aggregate_id: text(row, first + 4)?,
        key: option(row, first + 5)?,
        content_type: text(row, first + 6)?,
        schema_version: get(row, first + 7)?,
        source: option(row, first + 8)?,
        data_schema: option(row, first + 9)?,
        correlation_id: option(row, first + 10)?,
        causation_id: option(row, first + 11)?,
        user_id: option(row, first + 12)?,
        dedup_key: option(row, first + 13)?,
        traceparent: option(row, first + 14)?,
        headers: headers.map(|text| headers_from(&text)).unwrap_or_default(),
        data: data.map(Bytes::from).unwrap_or_default(),
    })
}

/// The values of an event's columns; its id and time as given.
pub(crate) fn event_values(event: &Event, id: &str, time: Option<Timestamp>) -> Vec<Value> {
    let value = |bind| match bind {
        Bind::Text(text) => text.map_or(Value::NULL, |text| Value::from(&*text)),
        Bind::Number(number) => number.into(),
        Bind::Bytes(bytes) => bytes.into(),
    };
    event_binds(event, id, time).into_iter().map(value).collect()
}

/// Headers as stored. What another program stored in another form is left out, not fatal.
fn headers_from(text: &[u8]) -> Vec<(Text, Text)> {
    let pairs: Vec<(String, String)> = serde_json::from_slice(text).unwrap_or_default();
    pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}
