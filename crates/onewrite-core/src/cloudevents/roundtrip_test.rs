//! What is encoded decodes to the same; what comes from elsewhere decodes to what it means.

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{Bytes, Code, Delivery, Event, Incarnation, Record, Text, Timestamp, record::Order};

fn any_text() -> impl Strategy<Value = Text> {
    prop_oneof![
        "[a-z0-9-]{1,12}".prop_map(Text::from),
        "[\u{0}-\u{7f}]{0,12}".prop_map(Text::from),
        any::<String>().prop_map(Text::from),
        Just(Text::from("käse \"и\" \\ \u{1f9c0}\u{2028}\n%41")),
    ]
}

fn named() -> impl Strategy<Value = Text> {
    any_text().prop_map(|text| if text.is_empty() { Text::from("x") } else { text })
}

fn data() -> impl Strategy<Value = (Text, Bytes)> {
    let json = prop_oneof![
        Just("{\"b\":1,\"a\":1.0e+2,\"a\":-0.0}".to_owned()),
        Just("[ 1 ,\n\t2,1E400,123456789012345678901234567890 ]".to_owned()),
        Just(" {\"padded\": true}\n".to_owned()),
        Just("\"\\ud83e\\uddc0 \\ud800 \u{2028}\"".to_owned()),
        Just("null".to_owned()),
        Just("{\"broken\":".to_owned()),
        Just("01".to_owned()),
        Just("1}, {\"id\": 2".to_owned()),
        any::<String>(),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let bytes = prop_oneof![
        json.prop_map(String::into_bytes),
        vec(any::<u8>(), 0..40),
        Just(Vec::new()),
        Just(b"\"\xff\"".to_vec()),
    ];
    let kind = prop_oneof![
        Just("application/json"),
        Just("application/json; charset=utf-8"),
        Just("Application/Problem+JSON"),
        Just("application/cloudevents+json"),
        Just("text/plain"),
        Just("application/octet-stream"),
        Just("json"),
    ];
    (kind.prop_map(Text::from), bytes.prop_map(Bytes::from))
}

fn event() -> impl Strategy<Value = Event> {
    let time =
        option::of((-62_167_219_200_000_000_i64..253_402_300_800_000_000).prop_map(Timestamp));
    let optional = || option::of(any_text());
    (
        (named(), named(), optional(), time, named(), any_text(), named()),
        (any::<u32>(), optional(), optional(), optional(), optional(), optional(), optional()),
        vec((any_text(), any_text()), 0..3),
        data(),
    )
        .prop_map(|(first, second, headers, (content_type, data))| Event {
            id: Some(first.0),
            kind: first.1,
            source: first.2.filter(|source| !source.is_empty()),
            time: first.3,
            aggregate_type: first.4,
            aggregate_id: first.5,
            key: Some(first.6),
            schema_version: second.0,
            data_schema: second.1,
            correlation_id: second.2,
            causation_id: second.3,
            user_id: second.4,
            dedup_key: second.5,
            traceparent: second.6,
            headers,
            content_type,
            data,
        })
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let place = prop_oneof![
        (any::<u64>(), any::<u16>(), any::<u64>(), any::<u64>()).prop_map(
            |(life, p, s, previous)| { (Incarnation(life), p, s, Order::Chained { previous }) }
        ),
        (any::<u64>(), any::<u16>(), any::<u64>()).prop_map(|(life, p, s)| (
            Incarnation(life),
            p,
            s,
            Order::ById
        )),
        Just((Incarnation(0), 0, 0, Order::ById)),
        Just((Incarnation(0), 0, 0, Order::Chained { previous: 0 })),
    ];
    (named(), place, event()).prop_map(
        |(source, (incarnation, partition, sequence, order), event)| Delivery {
            record: Record { source, incarnation, partition, sequence, event },
            order,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_comes_back_as_it_was(batch in vec(delivery(), 0..4)) {
        let json = encode_batch(&batch);
        prop_assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&json).is_ok());
        prop_assert_eq!(decode_batch(&json).unwrap(), batch);
    }

    #[test]
    fn an_event_comes_back_as_it_was(delivery in delivery()) {
        prop_assert_eq!(&decode_event(&encode_event(&delivery)).unwrap(), &delivery);
        let mut line = Vec::new();
        encode_line(&delivery, &mut line);
        prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(decode_event(&line).unwrap(), delivery);
    }

    #[test]
    fn headers_and_body_come_back_as_they_were(delivery in delivery()) {
        let Binary { headers, body } = encode_binary(&delivery);
        for (name, value) in &headers {
            prop_assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{name}: {value}");
        }
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        prop_assert_eq!(decode(headers, body).unwrap(), vec![delivery]);
    }

    #[test]
    fn attributes_and_data_come_back_as_they_were(delivery in delivery()) {
        let attributes = encode_attributes(&delivery);
        let read = attributes.iter().map(|(name, value)| (*name, value.as_bytes()));
        let data = delivery.record.event.data.clone();
        prop_assert_eq!(decode_attributes(read, data).unwrap(), delivery);
    }

    #[test]
    fn no_input_is_a_panic(body in any::<Vec<u8>>(), text in any::<String>()) {
        let _ = decode_batch(&body);
        let _ = decode_batch(format!("[{{\"id\":{text}}}]").as_bytes());
        let _ = decode_event(text.as_bytes());
        let _ = decode([("ce-id", body.as_slice()), ("content-type", text.as_bytes())], Bytes::new());
    }
}

fn refused(body: &str) -> String {
    let error = decode_batch(body.as_bytes()).unwrap_err();
    assert_eq!(error.code(), Code::InvalidEvent);
    error.to_string()
}

#[test]
fn json_data_is_embedded_as_it_was_given() {
    let event = Event::new("A", "Order", "1").bytes("application/json", "{\"b\": 1.0,\"a\":1e2}");
    let record = Record {
        source: "shop".into(),
        incarnation: Incarnation(0xab),
        partition: 7,
        sequence: u64::MAX,
        event: Event { id: Some("e1".into()), key: Some("1".into()), ..event },
    };
    let delivery = Delivery { record, order: Order::Chained { previous: 41 } };
    assert_eq!(
        String::from_utf8(encode_event(&delivery)).unwrap(),
        "{\"specversion\":\"1.0\",\"id\":\"e1\",\"type\":\"A\",\"source\":\"shop\",\
         \"subject\":\"Order/1\",\"aggregatetype\":\"Order\",\"aggregateid\":\"1\",\
         \"partitionkey\":\"1\",\"schemaversion\":1,\"onewriteincarnation\":\"00000000000000ab\",\
         \"onewritepartition\":7,\"onewritesequence\":\"18446744073709551615\",\
         \"onewriteprevious\":\"41\",\"datacontenttype\":\"application/json\",\
         \"data\":{\"b\": 1.0,\"a\":1e2}}"
    );
}

#[test]
fn a_foreign_event_is_judged_by_its_id() {
    let body = r#"{"specversion":"1.0","\u0069d":"7","type":"com.example.paid","source":"/pay",
        "subject":"inv-1","time":"2026-11-20T10:16:19+01:30","sampled":true,"rate":0.5,"none":null,
        "datacontenttype":"text/xml","data":"<a>\u00e9</a>"}"#;
    let Delivery { record, order } = decode_event(body.as_bytes()).unwrap();
    assert_eq!(order, Order::ById);
    assert_eq!((record.source.as_ref(), record.sequence), ("/pay", 0));
    let event = record.event;
    assert_eq!(event.source, None);
    assert_eq!(event.aggregate_type, "com.example.paid");
    assert_eq!(event.aggregate_id, "inv-1");
    assert_eq!(event.key.as_deref(), Some("inv-1"));
    assert_eq!(event.time, Timestamp::parse("2026-11-20T08:46:19Z"));
    assert_eq!(event.data, "<a>é</a>".as_bytes());
    let headers = [("sampled".into(), "true".into()), ("rate".into(), "0.5".into())];
    assert_eq!(event.headers, headers, "what has no attribute here becomes a header");
}

#[test]
fn a_foreign_event_without_subject_is_about_itself() {
    let headers = [
        ("CE-SpecVersion", "1.0"),
        ("ce-id", "7"),
        ("ce-type", "paid"),
        ("ce-source", "/pay%20desk/%E2%82%AC"),
        ("authorization", "not looked at"),
    ];
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    let mut batch = decode(headers, Bytes::from_static(b"\x00\x01")).unwrap();
    let record = batch.pop().unwrap().record;
    assert_eq!(record.source, "/pay desk/€");
    assert_eq!(record.event.order_key(), "7");
    assert_eq!(record.event.content_type, "application/octet-stream");
    assert_eq!(record.event.headers, []);
}

#[test]
fn a_refusal_names_the_element_and_never_a_value() {
    let good = r#"{"specversion":"1.0","id":"1","type":"t","source":"s"}"#;
    let cases = [
        (r#"{"id":"secret","type":"t","source":"s"}"#, "element 1 of the batch: `specversion`"),
        (r#"{"specversion":"0.3","id":"1","type":"t","source":"s"}"#, "`specversion` is not 1.0"),
        (r#"{"specversion":"1.0","type":"t","source":"s"}"#, "`id` is missing"),
        (r#"{"specversion":"1.0","id":"","type":"t","source":"s"}"#, "`id` is missing"),
        (r#"{"specversion":"1.0","id":["secret"],"type":"t","source":"s"}"#, "`id` is missing"),
        (r#"{"specversion":"1.0","id":"1","source":"s"}"#, "`type` is missing"),
        (r#"{"specversion":"1.0","id":"1","type":"t"}"#, "`source` is missing"),
        (r#"{"specversion":"1.0","id":"\ud800","type":"t","source":"s"}"#, "`id` cannot be read"),
        (
            r#"{"specversion":"1.0","id":"1","type":"t","source":"s","time":"secret"}"#,
            "`time` cannot be read",
        ),
        (
            r#"{"specversion":"1.0","id":"1","type":"t","source":"s","onewritesequence":"1"}"#,
            "a place needs",
        ),
        (
            r#"{"specversion":"1.0","id":"1","type":"t","source":"s","data_base64":"se cret"}"#,
            "`data_base64` cannot be read",
        ),
        ("\"secret\"", "element 1 of the batch: not CloudEvents JSON"),
        ("{\"secret\" 1}", "element 1 of the batch: not CloudEvents JSON at line 1"),
    ];
    for (element, expected) in cases {
        let message = refused(&format!("[{good},{element}]"));
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
    assert!(refused("\"secret\"").contains("not CloudEvents JSON"));
    assert!(refused(&format!("[{good}] trailing")).contains("not CloudEvents JSON"));
    assert!(decode_batch(b"[\xff]").is_err());
}

#[test]
fn modes_follow_the_content_type() {
    assert_eq!(Mode::of("application/cloudevents-batch+json; charset=utf-8"), Mode::Batch);
    assert_eq!(Mode::of("Application/CloudEvents+JSON"), Mode::Structured);
    assert_eq!(Mode::of("application/json"), Mode::Binary);
}
