//! Deliveries as entries of a stream: CloudEvents, with each attribute as a field under its own name and
//! the data as the field `data`.
//!
//! There is no CloudEvents binding for Redis. Fields carry any bytes, so nothing is escaped or prefixed:
//! what a consumer in another language reads are the names and values of the CloudEvents specification.

use std::{fmt, str::FromStr};

use onewrite_core::{
    Bytes, Code, Delivery, Error, Result, cloudevents, envelope::name, record::Order,
    relay::GAP_KIND,
};
use redis::{FromRedisValue, ParsingError, ToRedisArgs, Value};

/// Bits of a place that count entries of the same millisecond.
const PLACE_BITS: u32 = 22;

/// The id of an entry: when it was appended, and a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EntryId {
    ms: u64,
    n: u64,
}

impl EntryId {
    /// Where it stands in its lane. A clock of the server that is set back by minutes can make two entries
    /// share one; then the one that is not answered comes again.
    pub(crate) fn place(self) -> u64 {
        (self.ms << PLACE_BITS).saturating_add(self.n)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.n)
    }
}

impl FromStr for EntryId {
    type Err = ParsingError;

    fn from_str(text: &str) -> Result<Self, ParsingError> {
        let parts = text.split_once('-');
        let read =
            parts.and_then(|(ms, n)| Some(Self { ms: ms.parse().ok()?, n: n.parse().ok()? }));
        read.ok_or_else(|| ParsingError::from("an id of an entry cannot be read"))
    }
}

/// Names and values of an entry.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// An entry as it was read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    pub(crate) fields: Fields,
}

impl FromRedisValue for Entry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (id, fields): (String, Fields) = redis::from_redis_value(value)?;
        Ok(Self { id: id.parse()?, fields })
    }
}

/// Appends what the script takes for one delivery: see `append.lua`.
pub(crate) fn encode(delivery: &Delivery, generation: Option<u64>, to: &mut redis::Cmd) {
    let record = &delivery.record;
    match delivery.order {
        Order::Chained { previous } => {
            to.arg(place(delivery)).arg(decimal(record.sequence)).arg(decimal(previous));
            to.arg(
                generation.map_or_else(|| "-".to_owned(), |generation| format!("{generation:x}")),
            );
        }
        Order::ById => {
            to.arg("").arg("").arg("").arg("");
        }
    }
    let attributes = cloudevents::encode_attributes(delivery);
    to.arg(id_kept(delivery)).arg(2 * (attributes.len() + 1));
    for (name, value) in &attributes {
        to.arg(*name).arg(value);
    }
    to.arg(name::DATA).arg(&*record.event.data);
}

/// The id that is compared with that of the source's record there. An event that stands for records which
/// are gone has none: the last of those still has its own in the source's history.
fn id_kept(delivery: &Delivery) -> &str {
    let is_gap = delivery.record.event.kind == GAP_KIND;
    if is_gap { "" } else { delivery.record.id() }
}

/// The field under which is kept what was appended last in a delivery's partition.
fn place(delivery: &Delivery) -> String {
    let record = &delivery.record;
    format!("{}/{}/{}", record.source, record.incarnation, record.partition)
}

/// A sequence as the script compares it.
fn decimal(sequence: u64) -> String {
    format!("{sequence:020}")
}

/// The delivery in an entry.
///
/// # Errors
/// [`Code::InvalidEvent`], naming the attribute.
pub(crate) fn decode(fields: Fields) -> Result<Delivery> {
    let mut data = Bytes::new();
    let mut attributes = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        if name == name::DATA.as_bytes() {
            data = value.into();
            continue;
        }
        let name = String::from_utf8(name)
            .map_err(|_| Error::new(Code::InvalidEvent, "the name of a field is not UTF-8"))?;
        attributes.push((name, value));
    }
    let attributes = attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    cloudevents::decode_attributes(attributes, data)
}

impl ToRedisArgs for EntryId {
    fn write_redis_args<W: ?Sized + redis::RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(self);
    }
}

#[cfg(test)]
mod tests {
    use onewrite_core::{Event, Incarnation, Record};

    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn places_grow_with_ids() {
        let ids = ["0-1", "1700000000000-0", "1700000000000-7", "1700000000001-0"];
        let places = ids.map(|id| id.parse::<EntryId>().unwrap().place());
        assert!(places.is_sorted_by(|one, next| one < next), "{places:?}");
        assert_eq!("1700000000000-7".parse::<EntryId>().unwrap().to_string(), "1700000000000-7");
        for bad in ["", "7", "a-b", "1-2-3"] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_have_the_names_of_the_attributes() {
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
        let delivery = Delivery { record, order: Order::Chained { previous: 8 } };
        let mut sent = redis::Cmd::new();
        encode(&delivery, Some(255), &mut sent);
        let texts: Vec<String> = sent
            .args_iter()
            .map(|arg| match arg {
                redis::Arg::Simple(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                _ => panic!("only texts are sent"),
            })
            .collect();
        let head = [
            "the shop/0000000000000007/3",
            "00000000000000000009",
            "00000000000000000008",
            "ff",
            "e1",
        ];
        assert_eq!(texts[..5], head);
        assert_eq!(texts[5].parse::<usize>().unwrap(), texts.len() - 6);
        let pairs: Vec<(&str, &str)> =
            texts[6..].chunks(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
        for pair in [
            ("specversion", "1.0"),
            ("id", "e1"),
            ("type", "Happened"),
            ("source", "the shop"),
            ("subject", "Thing/ä \"1\""),
            ("datacontenttype", "application/json"),
            ("data", "{\"n\": 1}"),
        ] {
            assert!(pairs.contains(&pair), "{pair:?} is missing: {pairs:?}");
        }
        let mut read = delivery.clone();
        read.record.event.key = None;
        assert_eq!(decode(fields(&pairs)).unwrap(), read);
    }

    #[test]
    fn reads_what_others_send_and_refuses_what_is_no_event() {
        let foreign = [
            ("specversion", "1.0"),
            ("id", "2"),
            ("type", "T"),
            ("source", "elsewhere"),
            ("datacontenttype", "text/plain"),
            ("data", "hello"),
        ];
        let read = decode(fields(&foreign)).unwrap();
        assert_eq!((read.record.id(), read.order), ("2", Order::ById));
        assert_eq!(read.record.event.data, "hello");
        assert_eq!(decode(fields(&[("message", "hello")])).unwrap_err().code(), Code::InvalidEvent);
    }
}
