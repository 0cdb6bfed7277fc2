//! Reading CloudEvents as deliveries. Attributes are collected as text, borrowed where they can be,
//! by the same names in each mode; then one function makes the delivery.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Mode, fields::Fields};
use crate::{
    Bytes, Code, Delivery, Error, Result,
    envelope::{HEADER_PREFIX, name},
};

/// Reads the body of a request in the mode that its content type announces.
///
/// # Errors
/// [`Code::InvalidEvent`], naming the place and the attribute, never a value.
pub fn decode<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: Bytes,
) -> Result<Vec<Delivery>> {
    let headers: Vec<_> = headers.into_iter().collect();
    let content_type = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .and_then(|(_, value)| std::str::from_utf8(value).ok());
    match content_type.map_or(Mode::Binary, Mode::of) {
        Mode::Batch => decode_batch(&body),
        Mode::Structured => decode_event(&body).map(|delivery| vec![delivery]),
        Mode::Binary => decode_binary(headers, body).map(|delivery| vec![delivery]),
    }
}

/// Reads a JSON array of events ([`super::BATCH_TYPE`]).
///
/// # Errors
/// [`Code::InvalidEvent`], naming the element by its index from 0, and the attribute.
pub fn decode_batch(body: &[u8]) -> Result<Vec<Delivery>> {
    let text = text(body)?;
    let mut batch = Batch { deliveries: Vec::with_capacity(text.len() / 1024), why: None };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_seq(&mut batch).and_then(|()| json.end());
    let index = batch.deliveries.len();
    match (read, batch.why) {
        (Ok(()), _) => Ok(batch.deliveries),
        (Err(_), Some(why)) => Err(invalid(format!("element {index} of the batch: {why}"))),
        (Err(error), None) => {
            Err(invalid(format!("element {index} of the batch: {}", position(&error))))
        }
    }
}

/// Reads one event as a JSON object ([`super::EVENT_TYPE`]).
///
/// # Errors
/// [`Code::InvalidEvent`], naming the attribute.
pub fn decode_event(body: &[u8]) -> Result<Delivery> {
    let fields: Fields<'_> =
        serde_json::from_str(text(body)?).map_err(|error| invalid(position(&error)))?;
    fields.delivery().map_err(invalid)
}

/// Reads one event in the HTTP binary mode. Headers that are neither `content-type` nor begin with
/// `ce-` are not looked at.
///
/// # Errors
/// [`Code::InvalidEvent`], naming the attribute.
pub fn decode_binary<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: Bytes,
) -> Result<Delivery> {
    let mut fields = Fields::default();
    for (header, value) in headers {
        let header = header.to_ascii_lowercase();
        let name = match header.strip_prefix(HEADER_PREFIX) {
            // The request's own content type says it; an attribute must not contradict it.
            Some(name::CONTENT_TYPE) => continue,
            Some(name) => name,
            None if header == "content-type" => name::CONTENT_TYPE,
            None => continue,
        };
        let value = if name == name::CONTENT_TYPE {
            std::str::from_utf8(value).ok().map(Cow::Borrowed)
        } else {
            percent_decoded(value)
        };
        let value = value.ok_or_else(|| invalid(format!("header `{header}` is not UTF-8")))?;
        fields.set(name, value);
    }
    fields.binary(body);
    fields.delivery().map_err(invalid)
}

/// Reads one event whose attributes are text under their CloudEvents names, with its data beside them.
///
/// # Errors
/// [`Code::InvalidEvent`], naming the attribute.
pub fn decode_attributes<'a>(
    attributes: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    data: Bytes,
) -> Result<Delivery> {
    let mut fields = Fields::default();
    for (name, value) in attributes {
        let value = std::str::from_utf8(value)
            .map_err(|_| invalid(format!("attribute `{name}` is not UTF-8")))?;
        fields.set(name, Cow::Borrowed(value));
    }
    fields.binary(data);
    fields.delivery().map_err(invalid)
}

fn invalid(context: impl Into<String>) -> Error {
    Error::new(Code::InvalidEvent, context)
}

fn text(body: &[u8]) -> Result<&str> {
    std::str::from_utf8(body).map_err(|_| invalid("the body is not UTF-8"))
}

/// Where JSON ends to be CloudEvents. The error's own text is left out: it may quote a value.
fn position(error: &serde_json::Error) -> String {
    format!("not CloudEvents JSON at line {} column {} of the body", error.line(), error.column())
}

/// Collects a batch, and remembers why an element is not valid: a JSON error carries text only.
struct Batch {
    deliveries: Vec<Delivery>,
    why: Option<String>,
}

impl<'de> Visitor<'de> for &mut Batch {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Batch {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match Fields::deserialize(deserializer)?.delivery() {
            Ok(delivery) => {
                self.deliveries.push(delivery);
                Ok(())
            }
            Err(why) => {
                self.why = Some(why);
                Err(D::Error::custom("invalid element"))
            }
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(Name(name)) = map.next_key()? {
            fields.member(&name, map.next_value::<&RawValue>()?.get());
        }
        Ok(fields)
    }
}

/// A member's name, borrowed unless it is written with escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Undoes the encoding of a header value; `None` when it is not UTF-8 afterwards. A percent sign
/// that introduces nothing stands for itself.
fn percent_decoded(value: &[u8]) -> Option<Cow<'_, str>> {
    if !value.contains(&b'%') {
        return std::str::from_utf8(value).ok().map(Cow::Borrowed);
    }
    let digit = |at: usize| value.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(value.len());
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        let escape = if byte == b'%' { digit(at + 1).zip(digit(at + 2)) } else { None };
        match escape.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}
