//! CloudEvents 1.0 as onewrite speaks it: JSON batch, JSON event, the HTTP binary mode, and attributes
//! as plain text.
//!
//! Guaranteed: what is encoded here decodes to the same [`Delivery`](crate::Delivery), data byte by
//! byte. JSON data is embedded as it was given, everything else travels in base64. An event from
//! elsewhere, without a place in a log, decodes to a delivery that is judged by its id; attributes
//! that onewrite does not know become free headers.
//!
//! Not guaranteed: that a time outside the years 0 to 9999 survives (RFC 3339 cannot state it), or
//! that a record without id, type or source, which no store holds, comes back at all.
//! Names are those of [`crate::envelope`].

mod decode;
mod encode;
mod fields;
#[cfg(test)]
mod roundtrip_test;

pub use decode::{decode, decode_attributes, decode_batch, decode_binary, decode_event};
pub use encode::{
    Binary, encode_attributes, encode_batch, encode_binary, encode_event, encode_line,
};

/// The content type of several events in one JSON array.
pub const BATCH_TYPE: &str = "application/cloudevents-batch+json";

/// The content type of one event as a JSON object.
pub const EVENT_TYPE: &str = "application/cloudevents+json";

/// How CloudEvents are laid out in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A JSON array of events.
    Batch,
    /// One event as a JSON object.
    Structured,
    /// One event: attributes in headers, data in the body.
    Binary,
}

impl Mode {
    /// The mode a content type announces; what is not a CloudEvents type is binary mode.
    #[must_use]
    pub fn of(content_type: &str) -> Self {
        match essence(content_type) {
            kind if kind.eq_ignore_ascii_case(BATCH_TYPE) => Self::Batch,
            kind if kind.eq_ignore_ascii_case(EVENT_TYPE) => Self::Structured,
            _ => Self::Binary,
        }
    }
}

/// A content type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether data of this content type is JSON: the subtype is `json` or ends in `+json`.
fn is_json(content_type: &str) -> bool {
    if crate::event::JSON == content_type {
        return true;
    }
    let subtype = essence(content_type).split_once('/').map_or("", |(_, subtype)| subtype);
    let suffix = subtype.rsplit('+').next().unwrap_or_default();
    suffix.eq_ignore_ascii_case("json")
}
