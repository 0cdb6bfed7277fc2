//! Deliveries as Kafka messages: CloudEvents in the binary mode of the Kafka protocol binding.
//!
//! Attributes are headers `ce_…`, the content type of the data is the header `content-type`, the data is the
//! value, and the key is what orders the event. Read is also the structured mode (one JSON object),
//! announced by the `content-type`. A message without a value has no data.

use onewrite_core::{
    Bytes, Code, Delivery, Error, Result,
    cloudevents::{self, EVENT_TYPE, Mode},
    envelope::name,
};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};

/// Before the name of an attribute.
const PREFIX: &str = "ce_";

const CONTENT_TYPE: &str = "content-type";

/// What the content type of a CloudEvent in structured mode begins with.
const STRUCTURED: &str = "application/cloudevents";

/// The headers and value of one delivery.
pub(crate) fn encode(delivery: &Delivery) -> (OwnedHeaders, Bytes) {
    let event = &delivery.record.event;
    let kind = event.content_type.get(..STRUCTURED.len());
    if kind.is_some_and(|kind| kind.eq_ignore_ascii_case(STRUCTURED)) {
        // A receiver would take its content type for the message's.
        let headers = header(OwnedHeaders::new_with_capacity(1), CONTENT_TYPE, EVENT_TYPE);
        return (headers, cloudevents::encode_event(delivery).into());
    }
    let attributes = cloudevents::encode_attributes(delivery);
    let mut headers = OwnedHeaders::new_with_capacity(attributes.len());
    let mut prefixed = String::with_capacity(32);
    for (name, value) in &attributes {
        if *name == name::CONTENT_TYPE {
            headers = header(headers, CONTENT_TYPE, value);
            continue;
        }
        prefixed.clear();
        prefixed.push_str(PREFIX);
        prefixed.push_str(name);
        headers = header(headers, &prefixed, value);
    }
    (headers, event.data.clone())
}

fn header(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// The delivery in a message.
///
/// # Errors
/// [`Code::InvalidEvent`], naming the attribute.
pub(crate) fn decode(message: &impl Message) -> Result<Delivery> {
    let headers = message.headers();
    let pairs = headers.into_iter().flat_map(Headers::iter);
    let pairs: Vec<(&str, &[u8])> =
        pairs.filter_map(|header| Some((header.key, header.value?))).collect();
    decode_parts(&pairs, message.payload().unwrap_or_default())
}

fn decode_parts(headers: &[(&str, &[u8])], payload: &[u8]) -> Result<Delivery> {
    let content_type = headers.iter().rfind(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE));
    let text = content_type.and_then(|(_, value)| std::str::from_utf8(value).ok());
    match text.map_or(Mode::Binary, Mode::of) {
        Mode::Structured => cloudevents::decode_event(payload),
        Mode::Batch => {
            Err(Error::new(Code::InvalidEvent, "a Kafka message is one event, not a batch"))
        }
        Mode::Binary => {
            let attribute = |(header, value): &(&'_ str, &'_ [u8])| {
                let prefix = header.get(..PREFIX.len())?;
                let is_ours = prefix.eq_ignore_ascii_case(PREFIX);
                is_ours.then(|| (header[PREFIX.len()..].to_ascii_lowercase(), value.to_vec()))
            };
            let attributes: Vec<(String, Vec<u8>)> = headers.iter().filter_map(attribute).collect();
            let said = content_type.map(|(_, value)| (name::CONTENT_TYPE, *value));
            let attributes = attributes
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_slice()))
                // The message's own content type says it; an attribute must not contradict it.
                .filter(|(name, _)| *name != name::CONTENT_TYPE)
                .chain(said);
            cloudevents::decode_attributes(attributes, Bytes::copy_from_slice(payload))
        }
    }
}

#[cfg(test)]
mod tests {
    use onewrite_core::{Event, Incarnation, Record, record::Order};

    use super::*;

    fn delivery() -> Delivery {
        let mut event = Event::new("Happened", "Thing", "ä \"1\" 100%");
        event.id = Some("e1".into());
        event.data = Bytes::from_static(b"{\"n\": 1}");
        let incarnation = Incarnation(7);
        let source = "the shop".into();
        let record = Record { source, incarnation, partition: 3, sequence: 9, event };
        Delivery { record, order: Order::Chained { previous: 8 } }
    }

    fn pairs(headers: &OwnedHeaders) -> Vec<(&str, &[u8])> {
        headers.iter().map(|header| (header.key, header.value.unwrap())).collect()
    }

    #[test]
    fn headers_are_those_of_the_binding() {
        let (headers, value) = encode(&delivery());
        let found = pairs(&headers);
        for (name, text) in [
            ("ce_specversion", "1.0"),
            ("ce_id", "e1"),
            ("ce_type", "Happened"),
            ("ce_source", "the shop"),
            ("ce_subject", "Thing/ä \"1\" 100%"),
            ("content-type", "application/json"),
        ] {
            assert!(found.contains(&(name, text.as_bytes())), "{name}: {found:?}");
        }
        assert!(found.iter().all(|(name, _)| *name != "ce_datacontenttype"));
        assert_eq!(decode_parts(&found, &value).unwrap(), delivery());
    }

    #[test]
    fn an_event_as_data_travels_whole() {
        let mut sent = delivery();
        sent.record.event.content_type = "application/cloudevents+json; charset=utf-8".into();
        let (headers, value) = encode(&sent);
        assert_eq!(pairs(&headers), [("content-type", EVENT_TYPE.as_bytes())]);
        assert_eq!(decode_parts(&pairs(&headers), &value).unwrap(), sent);
    }

    #[test]
    fn reads_what_others_send_and_refuses_what_is_no_event() {
        let foreign: [(&str, &[u8]); 6] = [
            ("CE_specversion", b"1.0"),
            ("ce_id", b"2"),
            ("ce_type", b"T"),
            ("ce_source", b"elsewhere"),
            ("trace", b"\xff"),
            ("Content-Type", b"text/plain"),
        ];
        let read = decode_parts(&foreign, b"hello").unwrap();
        assert_eq!((read.record.id(), read.order), ("2", Order::ById));
        assert_eq!(read.record.event.data, "hello");
        assert_eq!(&*read.record.event.content_type, "text/plain");
        for (headers, value) in [
            (vec![], b"hello".as_slice()),
            (vec![("content-type", b"application/cloudevents-batch+json".as_slice())], b"[]"),
        ] {
            let error = decode_parts(&headers, value).unwrap_err();
            assert_eq!(error.code(), Code::InvalidEvent);
        }
    }
}
