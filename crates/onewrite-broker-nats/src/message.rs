//! Deliveries as NATS messages: CloudEvents in the binary mode of the NATS protocol binding.
//!
//! Attributes are `ce-*` headers, the content type of the data among them as `ce-datacontenttype`; the
//! payload is the data. Read is also the structured mode (one JSON object), announced by a
//! `content-type` header or, as the binding has it for clients without headers, by nothing at all.

use async_nats::{
    HeaderMap, HeaderValue,
    header::{HeaderName, NATS_MESSAGE_ID},
};
use bytes::Bytes;
use onewrite_core::{
    Code, Delivery, Error, Result,
    cloudevents::{self, Mode},
    envelope::HEADER_PREFIX,
    record::Order,
};
use serde::{
    Deserialize as _,
    de::{IntoDeserializer as _, value::StringDeserializer},
};

/// What the content type of the data is called: the binding has no header beside those of the event.
const DATA_CONTENT_TYPE: &str = "ce-datacontenttype";

const CONTENT_TYPE: &str = "content-type";

/// The headers and payload of one delivery.
///
/// # Errors
/// [`Code::InvalidEvent`] when an attribute cannot stand in a header.
pub(crate) fn encode(delivery: &Delivery, id: String) -> Result<(HeaderMap, Bytes)> {
    let binary = cloudevents::encode_binary(delivery);
    let is_structured = binary.headers.len() == 1;
    let mut headers = binary.headers;
    for (name, value) in &mut headers {
        if name == CONTENT_TYPE && !is_structured {
            *name = DATA_CONTENT_TYPE.to_owned();
        }
        if value.contains(['\r', '\n']) {
            return Err(Error::new(Code::InvalidEvent, "an attribute holds a line break"));
        }
    }
    let headers = block(&id, &headers).unwrap_or_else(|| plain(id, headers));
    Ok((headers, binary.body))
}

/// The headers as one text that is written to the wire as it is.
///
/// The client keeps headers in a hash map of texts, which takes some sixty allocations for a message of
/// ours: more than everything else that is done for it. It writes a value as it was given, and a value
/// that was deserialized is not looked at, so the lines behind the id can travel inside of its value.
/// They were checked for line breaks before. `None` should a later client look: then they are kept
/// apart, which is slower and the same on the wire.
fn block(id: &str, headers: &[(String, String)]) -> Option<HeaderMap> {
    let bytes = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>();
    let mut text = String::with_capacity(id.len() + bytes);
    text.push_str(id);
    for (name, value) in headers {
        for part in ["\r\n", name, ": ", value] {
            text.push_str(part);
        }
    }
    let text: StringDeserializer<serde::de::value::Error> = text.into_deserializer();
    let value = HeaderValue::deserialize(text).ok()?;
    Some(HeaderMap::from_iter([(NATS_MESSAGE_ID, value)]))
}

fn plain(id: String, headers: Vec<(String, String)>) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(NATS_MESSAGE_ID, id);
    for (name, value) in headers {
        map.insert(name, value);
    }
    map
}

/// The delivery in a message.
///
/// # Errors
/// [`Code::InvalidEvent`], naming the attribute.
pub(crate) fn decode(headers: Option<&HeaderMap>, payload: Bytes) -> Result<Delivery> {
    let Some(headers) = headers.filter(|headers| is_event(headers)) else {
        return cloudevents::decode_event(&payload);
    };
    let pairs: Vec<(&str, &[u8])> = headers
        .iter()
        .filter_map(|(name, values)| Some((name.as_ref(), values.last()?.as_ref())))
        .collect();
    let find = |wanted: &str| pairs.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let content_type = find(CONTENT_TYPE).and_then(|(_, value)| std::str::from_utf8(value).ok());
    match content_type.map_or(Mode::Binary, Mode::of) {
        Mode::Structured => cloudevents::decode_event(&payload),
        Mode::Batch => {
            Err(Error::new(Code::InvalidEvent, "a NATS message is one event, not a batch"))
        }
        Mode::Binary => {
            let said = find(DATA_CONTENT_TYPE).map(|(_, value)| (CONTENT_TYPE, *value));
            let others = pairs
                .iter()
                .copied()
                .filter(|(name, _)| said.is_none() || !name.eq_ignore_ascii_case(CONTENT_TYPE));
            cloudevents::decode_binary(others.chain(said), payload)
        }
    }
}

fn is_event(headers: &HeaderMap) -> bool {
    headers.iter().any(|(header, _)| {
        let header: &str = header.as_ref();
        header.eq_ignore_ascii_case(CONTENT_TYPE)
            || header
                .get(..HEADER_PREFIX.len())
                .is_some_and(|prefix| prefix.eq_ignore_ascii_case(HEADER_PREFIX))
    })
}

/// What the server recognises a repeated message by.
///
/// The predecessor is a part of it: a record that is sent again with another predecessor (the one
/// before it was parked meanwhile) is another message; were it dropped as a repeat, its receiver would
/// wait for the old predecessor for ever. So is `generation`, which changes once a receiver misses
/// something: the server may remember ids of messages that it lost. A record outside the stream is never
/// a repeat for the server, only for its receiver: `attempt` is another one each time.
pub(crate) fn id(
    delivery: &Delivery,
    generation: Option<u64>,
    attempt: impl Fn() -> u64,
) -> String {
    use std::fmt::Write as _;
    let record = &delivery.record;
    let mut id = String::with_capacity(record.source.len() + 64);
    escape(&mut id, &record.source);
    // Writing to a text cannot fail.
    let _ = write!(id, "/{}/{}/{}/", record.incarnation, record.partition, record.sequence);
    match delivery.order {
        Order::Chained { previous } => {
            let _ = write!(id, "{previous}");
            if let Some(generation) = generation {
                let _ = write!(id, "/{generation:x}");
            }
        }
        Order::ById => {
            id.push_str("redriven/");
            escape(&mut id, record.id());
            let _ = write!(id, "/{:016x}", attempt());
        }
    }
    id
}

/// Keeps what may stand in a header; the rest as `%` and two digits for each byte.
fn escape(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'%' => out.push(char::from(byte)),
            // Writing to a text cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
}

/// The bytes that headers take on the wire.
pub(crate) fn wire_bytes(headers: &HeaderMap) -> usize {
    let line = |name: &HeaderName, value: &HeaderValue| {
        let name: &str = name.as_ref();
        name.len() + value.as_str().len() + 4
    };
    let lines = headers.iter().flat_map(|(name, all)| all.iter().map(move |one| line(name, one)));
    lines.sum::<usize>() + "NATS/1.0\r\n\r\n".len()
}

#[cfg(test)]
mod tests {
    use onewrite_core::{Event, Incarnation, Record};

    use super::*;

    fn delivery(order: Order) -> Delivery {
        let mut event = Event::new("Happened", "Thing", "a b").header("shape", "round \"ä\" 100%");
        event.id = Some("id ä".into());
        event.key = Some("a b".into());
        event.data = Bytes::from_static(b"{\"n\": 1}");
        let record = Record {
            source: "the shop".into(),
            incarnation: Incarnation(7),
            partition: 3,
            sequence: 9,
            event,
        };
        Delivery { record, order }
    }

    /// The headers as a client reads them from the wire.
    fn sent_and_read(delivery: &Delivery) -> (HeaderMap, Bytes) {
        let (headers, payload) = encode(delivery, "x".into()).unwrap();
        let mut read = HeaderMap::new();
        for (name, values) in headers.iter() {
            let text = format!("{}: {}", AsRef::<str>::as_ref(name), values[0]);
            for line in text.split("\r\n") {
                let (name, value) = line.split_once(": ").unwrap();
                read.insert(name, value);
            }
        }
        (read, payload)
    }

    #[test]
    fn one_text_is_as_long_on_the_wire_as_headers_kept_apart() {
        let sent = delivery(Order::ById);
        let headers = cloudevents::encode_binary(&sent).headers;
        let one = block("x", &headers).expect("the client takes a value as it is");
        let apart = plain("x".into(), headers);
        assert_eq!((one.len(), wire_bytes(&one)), (1, wire_bytes(&apart)));
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        for order in [Order::Chained { previous: 8 }, Order::ById] {
            let sent = delivery(order);
            let (headers, payload) = sent_and_read(&sent);
            assert_eq!(headers.get(DATA_CONTENT_TYPE).unwrap().as_str(), "application/json");
            assert_eq!(headers.get(NATS_MESSAGE_ID).unwrap().as_str(), "x");
            assert_eq!(payload, sent.record.event.data);
            assert_eq!(decode(Some(&headers), payload).unwrap(), sent);
        }
        let mut wrapped = delivery(Order::ById);
        wrapped.record.event.content_type = cloudevents::EVENT_TYPE.into();
        let (headers, payload) = sent_and_read(&wrapped);
        assert_eq!(decode(Some(&headers), payload).unwrap(), wrapped);
    }

    #[test]
    fn reads_what_others_send() {
        let json =
            br#"{"specversion":"1.0","id":"1","type":"T","source":"elsewhere","data":{"a":1}}"#;
        let bare = decode(None, Bytes::from_static(json)).unwrap();
        assert_eq!((bare.record.id(), bare.order), ("1", Order::ById));
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("Ce-Specversion", "1.0"), ("Ce-Id", "2"), ("Ce-Type", "T"), ("Ce-Source", "s")]
        {
            headers.insert(name, value);
        }
        headers.insert("Content-Type", "text/plain");
        let binary = decode(Some(&headers), Bytes::from_static(b"hello")).unwrap();
        assert_eq!(&*binary.record.event.content_type, "text/plain");
        assert!(decode(None, Bytes::from_static(b"hello")).is_err());
        assert!(decode(Some(&HeaderMap::new()), Bytes::from_static(b"{}")).is_err());
    }

    #[test]
    fn another_predecessor_or_generation_is_another_message() {
        let chained = |previous| delivery(Order::Chained { previous });
        let plain = id(&chained(8), None, || 1);
        assert_eq!(plain, "the%20shop/0000000000000007/3/9/8");
        assert_ne!(plain, id(&chained(7), None, || 1));
        assert_eq!(id(&chained(8), Some(255), || 1), format!("{plain}/ff"));
        let by_id = id(&delivery(Order::ById), None, || 1);
        assert_ne!(by_id, id(&delivery(Order::ById), None, || 2));
        assert!(by_id.is_ascii());
    }

    #[test]
    fn a_line_break_is_refused() {
        let mut odd = delivery(Order::ById);
        odd.record.event.content_type = "a\r\nb".into();
        assert_eq!(encode(&odd, "x".into()).unwrap_err().code(), Code::InvalidEvent);
        let (headers, _) = encode(&delivery(Order::ById), "x".into()).unwrap();
        assert!(wire_bytes(&headers) > 300);
    }
}
