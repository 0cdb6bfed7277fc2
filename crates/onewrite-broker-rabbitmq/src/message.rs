//! Deliveries as messages: CloudEvents, with each attribute as a header with the prefix `cloudEvents:`, and
//! the data as the body.
//!
//! The prefix is that of the CloudEvents binding for AMQP, whose properties are the headers here. As
//! there, the content type of the data is the message's own. The message's id is the event's, also as the
//! header `Idempotency-Key`, for consumers that look there for what they have done already.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use onewrite_core::{
    Bytes, Delivery, Result, Text,
    cloudevents::{self, Mode},
    envelope::name,
};

/// What attributes are called.
const PREFIX: &str = "cloudEvents:";

/// And by clients that cannot write a colon.
const PREFIX_OTHER: &str = "cloudEvents_";

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// Kept on disk, where a queue leaves the choice to messages.
const PERSISTENT: u8 = 2;

/// Bytes of headers in one message, at most: they travel in one frame of 128 KiB with the rest.
const HEADER_BYTES_MAX: usize = 120_000;

/// The properties of one delivery; its body is the data.
///
/// # Errors
/// Why the record fits into no message.
pub(crate) fn encode(delivery: &Delivery, data_bytes_max: usize) -> Result<BasicProperties, Text> {
    let data_bytes = delivery.record.event.data.len();
    if data_bytes > data_bytes_max {
        return Err(format!(
            "OW0005: the event's data takes {data_bytes} bytes and the sink accepts {data_bytes_max}; raise the server's `max_message_size` and the sink's `message_bytes_max`, or emit a reference"
        )
        .into());
    }
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(id) = id(delivery) {
        properties = properties.with_message_id(id);
    }
    let mut headers = FieldTable::default();
    let mut bytes = 0;
    for (name, value) in cloudevents::encode_attributes(delivery) {
        bytes += PREFIX.len() + name.len() + value.len() + 6;
        if name == name::CONTENT_TYPE
            && let Ok(value) = ShortString::try_new(value.as_str())
        {
            properties = properties.with_content_type(value);
            continue;
        }
        if name == name::ID {
            bytes += IDEMPOTENCY_KEY.len() + value.len() + 6;
            headers.insert(IDEMPOTENCY_KEY.into(), text(&value));
        }
        headers.insert(format!("{PREFIX}{name}").into(), text(&value));
    }
    if bytes > HEADER_BYTES_MAX {
        return Err(format!(
            "OW0005: the event's attributes take {bytes} bytes and a RabbitMQ message has room for {HEADER_BYTES_MAX}; put them into the data, or emit a reference"
        )
        .into());
    }
    Ok(properties.with_headers(headers))
}

/// The id of a delivery's message; a property has room for 255 bytes.
pub(crate) fn id(delivery: &Delivery) -> Option<ShortString> {
    ShortString::try_new(delivery.record.id()).ok()
}

/// How often a quorum queue has delivered a message before, and got it back.
pub(crate) fn deliveries(properties: &BasicProperties) -> i64 {
    let headers = properties.headers().as_ref();
    let count = headers.and_then(|headers| headers.inner().get("x-delivery-count"));
    count.and_then(plain).and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// The delivery in a message.
///
/// # Errors
/// [`InvalidEvent`](onewrite_core::Code::InvalidEvent), naming the attribute.
pub(crate) fn decode(properties: &BasicProperties, data: Bytes) -> Result<Delivery> {
    let content_type = properties.content_type().as_ref().map(ShortString::as_str);
    if content_type.map(Mode::of) == Some(Mode::Structured) {
        return cloudevents::decode_event(&data);
    }
    let said: Vec<(&str, String)> = properties
        .headers()
        .iter()
        .flat_map(|headers| headers.inner())
        .filter_map(|(name, value)| Some((attribute(name.as_str())?, plain(value)?)))
        .collect();
    let of_data = content_type.map(|value| (name::CONTENT_TYPE, value.as_bytes()));
    let attributes = said.iter().map(|(name, value)| (*name, value.as_bytes()));
    cloudevents::decode_attributes(attributes.chain(of_data), data)
}

fn attribute(header: &str) -> Option<&str> {
    header.strip_prefix(PREFIX).or_else(|| header.strip_prefix(PREFIX_OTHER))
}

/// Other clients write numbers and truths as what they are.
fn plain(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok(),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::Boolean(truth) => Some(truth.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        AMQPValue::LongInt(number) => Some(number.to_string()),
        AMQPValue::LongUInt(number) => Some(number.to_string()),
        AMQPValue::ShortInt(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use onewrite_core::{Code, Event, Incarnation, Record, record::Order};

    use super::*;

    fn delivery() -> Delivery {
        let mut event = Event::new("Happened", "Thing", "ä \"1\"");
        event.id = Some("e1".into());
        event.data = Bytes::from_static(b"{\"n\": 1}");
        let record = Record {
            source: "the shop".into(),
            incarnation: Incarnation(7),
            partition: 3,
            sequence: 9,
            event,
        };
        Delivery { record, order: Order::Chained { previous: 8 } }
    }

    fn with(headers: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    #[test]
    fn headers_have_the_names_of_the_binding() {
        let delivery = delivery();
        let properties = encode(&delivery, 1_000).unwrap();
        let headers = properties.headers().clone().unwrap();
        for (name, value) in [
            ("cloudEvents:specversion", "1.0"),
            ("cloudEvents:id", "e1"),
            ("cloudEvents:type", "Happened"),
            ("cloudEvents:source", "the shop"),
            ("cloudEvents:subject", "Thing/ä \"1\""),
            ("Idempotency-Key", "e1"),
        ] {
            assert_eq!(headers.inner().get(name), Some(&text(value)), "{name}");
        }
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "e1");
        assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
        let mut read = delivery.clone();
        read.record.event.key = None;
        assert_eq!(decode(&properties, delivery.record.event.data.clone()).unwrap(), read);
    }

    #[test]
    fn deliveries_are_counted_by_the_queue() {
        assert_eq!(deliveries(&BasicProperties::default()), 0);
        for (count, read) in [(AMQPValue::LongLongInt(7), 7), (text("many"), 0)] {
            assert_eq!(deliveries(&with(&[("x-delivery-count", count)])), read);
        }
    }

    #[test]
    fn what_is_too_long_for_a_property_stays_a_header() {
        let mut delivery = delivery();
        delivery.record.event.id = Some("x".repeat(300).into());
        let properties = encode(&delivery, 1_000).unwrap();
        assert!(properties.message_id().is_none());
        let read = decode(&properties, Bytes::new()).unwrap();
        assert_eq!(read.record.id().len(), 300);
        delivery.record.event.id = Some("x".repeat(70_000).into());
        assert!(encode(&delivery, 1_000).unwrap_err().contains("attributes"));
        delivery.record.event.data = vec![b'7'; 1_001].into();
        assert!(encode(&delivery, 1_000).unwrap_err().contains("`max_message_size`"));
    }

    #[test]
    fn reads_what_others_send_and_refuses_what_is_no_event() {
        let foreign = with(&[
            ("cloudEvents_specversion", text("1.0")),
            ("cloudEvents_id", AMQPValue::LongLongInt(2)),
            ("cloudEvents_type", text("T")),
            ("cloudEvents_source", text("elsewhere")),
            ("x-delivery-count", AMQPValue::LongLongInt(3)),
        ]);
        let foreign = foreign.with_content_type("text/plain".into());
        let read = decode(&foreign, Bytes::from_static(b"hello")).unwrap();
        assert_eq!((read.record.id(), read.order), ("2", Order::ById));
        assert_eq!(read.record.event.data, "hello");
        let json = br#"{"specversion":"1.0","id":"7","type":"T","source":"elsewhere"}"#;
        let structured =
            BasicProperties::default().with_content_type("application/cloudevents+json".into());
        assert_eq!(decode(&structured, Bytes::from_static(json)).unwrap().record.id(), "7");
        for none in [BasicProperties::default(), with(&[("message", text("hello"))])] {
            assert_eq!(
                decode(&none, Bytes::from_static(json)).unwrap_err().code(),
                Code::InvalidEvent
            );
        }
    }
}
