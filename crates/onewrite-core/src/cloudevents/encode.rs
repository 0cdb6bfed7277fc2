//! Writing deliveries as CloudEvents. Text is appended to one buffer; nothing is built in between.

use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;

use super::{EVENT_TYPE, essence, is_json};
use crate::{
    Bytes, Delivery, Event, Timestamp,
    envelope::{HEADER_PREFIX, name},
    record::Order,
};

/// What RFC 3339 can state: the years 0 to 9999, in microseconds since 1970.
const TIMES: std::ops::RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;

/// One event in the HTTP binary mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Header names in lower case, with values: printable ASCII, except that a content type is
    /// passed on as it is.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// Writes `deliveries` as one JSON array ([`super::BATCH_TYPE`]).
#[must_use]
pub fn encode_batch(deliveries: &[Delivery]) -> Vec<u8> {
    let mut out = Vec::with_capacity(deliveries.iter().map(room).sum::<usize>() + 2);
    out.push(b'[');
    for (index, delivery) in deliveries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        object(&mut out, delivery, false);
    }
    out.push(b']');
    out
}

/// Writes one delivery as a JSON object ([`EVENT_TYPE`]).
#[must_use]
pub fn encode_event(delivery: &Delivery) -> Vec<u8> {
    let mut out = Vec::with_capacity(room(delivery));
    object(&mut out, delivery, false);
    out
}

/// Appends one delivery as a JSON object on one line, with its line feed. JSON data that spans lines
/// travels in base64, so that a line is an event and the bytes stay as they are.
pub fn encode_line(delivery: &Delivery, out: &mut Vec<u8>) {
    object(out, delivery, true);
    out.push(b'\n');
}

/// Writes one delivery in the HTTP binary mode.
///
/// Data that is itself a CloudEvent is wrapped in structured mode instead: a receiver would take its
/// content type for the request's.
#[must_use]
pub fn encode_binary(delivery: &Delivery) -> Binary {
    let event = &delivery.record.event;
    let kind = essence(&event.content_type);
    if kind.get(..23).is_some_and(|kind| kind.eq_ignore_ascii_case("application/cloudevents")) {
        let headers = vec![("content-type".to_owned(), EVENT_TYPE.to_owned())];
        return Binary { headers, body: encode_event(delivery).into() };
    }
    let mut headers = Headers(Vec::with_capacity(20));
    headers.0.push(("content-type".to_owned(), event.content_type.to_string()));
    headers.attribute(name::SPEC_VERSION, Value::Text("1.0"));
    attributes(delivery, &mut headers);
    Binary { headers: headers.0, body: event.data.clone() }
}

/// The attributes of one delivery by their CloudEvents names, for media that carry any text as it is; the
/// data travels beside them.
#[must_use]
pub fn encode_attributes(delivery: &Delivery) -> Vec<(&'static str, String)> {
    let mut plain = Plain(Vec::with_capacity(20));
    plain.attribute(name::SPEC_VERSION, Value::Text("1.0"));
    attributes(delivery, &mut plain);
    plain.attribute(name::CONTENT_TYPE, Value::Text(&delivery.record.event.content_type));
    plain.0
}

/// Bytes to set aside for one event: what it holds (twice the data, should it need base64) and the
/// names around it.
fn room(delivery: &Delivery) -> usize {
    let event = &delivery.record.event;
    event.size() + event.data.len() / 2 + delivery.record.source.len() + 640
}

fn object(out: &mut Vec<u8>, delivery: &Delivery, one_line: bool) {
    let event = &delivery.record.event;
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(name::SPEC_VERSION.as_bytes());
    out.extend_from_slice(b"\":\"1.0\"");
    attributes(delivery, out);
    out.attribute(name::CONTENT_TYPE, Value::Text(&event.content_type));
    data(out, event, one_line);
    out.push(b'}');
}

fn data(out: &mut Vec<u8>, event: &Event, one_line: bool) {
    if event.data.is_empty() {
        return;
    }
    if is_json(&event.content_type) && embeddable(&event.data, one_line) {
        member(out, name::DATA);
        out.extend_from_slice(&event.data);
    } else {
        member(out, name::DATA_BASE64);
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode(&event.data).as_bytes());
        out.push(b'"');
    }
}

/// Whether these bytes, put into a JSON object, come out as the same bytes: valid JSON, and no space
/// around it, which a reader would take for the object's own.
fn embeddable(data: &[u8], one_line: bool) -> bool {
    data.trim_ascii().len() == data.len()
        && !(one_line && data.iter().any(|byte| matches!(byte, b'\n' | b'\r')))
        && serde_json::from_slice::<&RawValue>(data).is_ok()
}

/// The value of an attribute, as both modes write it.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    /// Two texts with a slash between.
    Path(&'a str, &'a str),
    Integer(u32),
    /// A number too large for a CloudEvents integer: decimal text.
    Decimal(u64),
    Hex(u64),
    Time(Timestamp),
    True,
}

impl Value<'_> {
    /// The value as text of its own; `written` writes what a user chose.
    fn text(self, written: impl Fn(&str) -> String) -> String {
        match self {
            Self::Text(text) => written(text),
            Self::Path(one, two) => written(&format!("{one}/{two}")),
            Self::Integer(number) => number.to_string(),
            Self::Decimal(number) => number.to_string(),
            Self::Hex(number) => format!("{number:016x}"),
            Self::Time(time) => time.to_string(),
            Self::True => "true".to_owned(),
        }
    }
}

trait Attributes {
    fn attribute(&mut self, name: &'static str, value: Value<'_>);

    fn optional(&mut self, name: &'static str, value: Option<&crate::Text>) {
        if let Some(value) = value {
            self.attribute(name, Value::Text(value));
        }
    }
}

/// Every attribute but the version, the content type and the data, which the modes place themselves.
fn attributes(delivery: &Delivery, to: &mut impl Attributes) {
    let record = &delivery.record;
    let event = &record.event;
    to.attribute(name::ID, Value::Text(record.id()));
    to.attribute(name::TYPE, Value::Text(&event.kind));
    to.attribute(name::SOURCE, Value::Text(event.source.as_ref().unwrap_or(&record.source)));
    if event.source.is_some() {
        to.attribute(name::RECORD_SOURCE, Value::Text(&record.source));
    }
    if let Some(time) = event.time.filter(|time| TIMES.contains(&time.0)) {
        to.attribute(name::TIME, Value::Time(time));
    }
    to.attribute(name::SUBJECT, Value::Path(&event.aggregate_type, &event.aggregate_id));
    to.attribute(name::AGGREGATE_TYPE, Value::Text(&event.aggregate_type));
    to.attribute(name::AGGREGATE_ID, Value::Text(&event.aggregate_id));
    to.optional(name::KEY, event.key.as_ref());
    to.attribute(name::SCHEMA_VERSION, Value::Integer(event.schema_version));
    to.optional(name::DATA_SCHEMA, event.data_schema.as_ref());
    to.optional(name::CORRELATION_ID, event.correlation_id.as_ref());
    to.optional(name::CAUSATION_ID, event.causation_id.as_ref());
    to.optional(name::USER_ID, event.user_id.as_ref());
    to.optional(name::DEDUP_KEY, event.dedup_key.as_ref());
    to.optional(name::TRACEPARENT, event.traceparent.as_ref());
    if !event.headers.is_empty() {
        to.attribute(name::HEADERS, Value::Text(&headers_text(event)));
    }
    place(delivery, to);
}

fn place(delivery: &Delivery, to: &mut impl Attributes) {
    let record = &delivery.record;
    let placed = record.incarnation.0 != 0 || record.partition != 0 || record.sequence != 0;
    if delivery.order == Order::ById && !placed {
        return;
    }
    to.attribute(name::INCARNATION, Value::Hex(record.incarnation.0));
    to.attribute(name::PARTITION, Value::Integer(record.partition.into()));
    to.attribute(name::SEQUENCE, Value::Decimal(record.sequence));
    match delivery.order {
        Order::Chained { previous } => to.attribute(name::PREVIOUS, Value::Decimal(previous)),
        Order::ById => to.attribute(name::REDRIVEN, Value::True),
    }
}

fn headers_text(event: &Event) -> String {
    let mut out = Vec::with_capacity(event.headers.len() * 32);
    for (index, (name, value)) in event.headers.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"[[" } else { b",[" });
        string(&mut out, name);
        out.push(b',');
        string(&mut out, value);
        out.push(b']');
    }
    out.push(b']');
    String::from_utf8(out).unwrap_or_default()
}

impl Attributes for Vec<u8> {
    #[inline]
    fn attribute(&mut self, name: &'static str, value: Value<'_>) {
        member(self, name);
        match value {
            Value::Text(text) => string(self, text),
            Value::Path(one, two) => {
                self.push(b'"');
                escaped(self, one);
                self.push(b'/');
                escaped(self, two);
                self.push(b'"');
            }
            // Writing to a vector cannot fail.
            Value::Integer(number) => drop(write!(self, "{number}")),
            Value::Decimal(number) => drop(write!(self, "\"{number}\"")),
            Value::Hex(number) => drop(write!(self, "\"{number:016x}\"")),
            Value::Time(time) => drop(write!(self, "\"{time}\"")),
            Value::True => self.extend_from_slice(b"true"),
        }
    }
}

#[inline]
fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escaped(out, text);
    out.push(b'"');
}

/// Appends `text` with what RFC 8259 wants escaped: quote, backslash and control characters.
fn escaped(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[start..at]);
        start = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            // Writing to a vector cannot fail.
            _ => drop(write!(out, "\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(&bytes[start..]);
}

struct Plain(Vec<(&'static str, String)>);

impl Attributes for Plain {
    fn attribute(&mut self, name: &'static str, value: Value<'_>) {
        self.0.push((name, value.text(str::to_owned)));
    }
}

struct Headers(Vec<(String, String)>);

impl Attributes for Headers {
    fn attribute(&mut self, name: &'static str, value: Value<'_>) {
        let value = value.text(percent_encoded);
        self.0.push((format!("{HEADER_PREFIX}{name}"), value));
    }
}

/// The encoding that CloudEvents asks of header values: everything but printable ASCII, and also
/// space, quote and percent sign, as `%` and two hexadecimal digits for each byte.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'"' && byte != b'%' => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out
}

const HEX: [char; 16] =
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
