//! The attributes of one CloudEvent as they were read, and what delivery they make.

use std::{borrow::Cow, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::is_json;
use crate::{
    Bytes, Delivery, Event, Incarnation, Record, Text, Timestamp, envelope::name, event::JSON,
    record::Order,
};

/// Why an event is not valid: names the attribute, never its value.
type Invalid<T> = Result<T, String>;

type Value<'a> = Option<Cow<'a, str>>;

/// The attributes of one event, each as text.
#[derive(Default)]
pub(super) struct Fields<'a> {
    spec_version: Value<'a>,
    id: Value<'a>,
    kind: Value<'a>,
    source: Value<'a>,
    record_source: Value<'a>,
    time: Value<'a>,
    subject: Value<'a>,
    aggregate_type: Value<'a>,
    aggregate_id: Value<'a>,
    key: Value<'a>,
    schema_version: Value<'a>,
    data_schema: Value<'a>,
    correlation_id: Value<'a>,
    causation_id: Value<'a>,
    user_id: Value<'a>,
    dedup_key: Value<'a>,
    traceparent: Value<'a>,
    headers: Value<'a>,
    incarnation: Value<'a>,
    partition: Value<'a>,
    sequence: Value<'a>,
    previous: Value<'a>,
    redriven: Value<'a>,
    content_type: Value<'a>,
    data: Data<'a>,
    /// Attributes that are not in the table.
    unknown: Vec<(Text, Text)>,
    /// The first member that cannot be read as text.
    unreadable: Option<String>,
}

#[derive(Default)]
enum Data<'a> {
    #[default]
    None,
    /// The JSON text of the member.
    Json(&'a str),
    Base64(Cow<'a, str>),
    Bytes(Bytes),
}

impl<'a> Fields<'a> {
    /// Takes in a member of a JSON object: `json` is its value as it stands there.
    pub(super) fn member(&mut self, name: &str, json: &'a str) {
        if name == name::DATA {
            self.data = Data::Json(json);
            return;
        }
        match scalar(json) {
            Ok(None) => {}
            Ok(Some(value)) if name == name::DATA_BASE64 => self.data = Data::Base64(value),
            Ok(Some(value)) => self.set(name, value),
            Err(()) => {
                self.unreadable.get_or_insert_with(|| unreadable(name));
            }
        }
    }

    /// Takes in the body of a request in binary mode.
    pub(super) fn binary(&mut self, body: Bytes) {
        self.data = Data::Bytes(body);
    }

    /// Takes in one attribute by its CloudEvents name.
    pub(super) fn set(&mut self, name: &str, value: Cow<'a, str>) {
        let field = match name {
            name::SPEC_VERSION => &mut self.spec_version,
            name::ID => &mut self.id,
            name::TYPE => &mut self.kind,
            name::SOURCE => &mut self.source,
            name::RECORD_SOURCE => &mut self.record_source,
            name::TIME => &mut self.time,
            name::SUBJECT => &mut self.subject,
            name::AGGREGATE_TYPE => &mut self.aggregate_type,
            name::AGGREGATE_ID => &mut self.aggregate_id,
            name::KEY => &mut self.key,
            name::SCHEMA_VERSION => &mut self.schema_version,
            name::DATA_SCHEMA => &mut self.data_schema,
            name::CORRELATION_ID => &mut self.correlation_id,
            name::CAUSATION_ID => &mut self.causation_id,
            name::USER_ID => &mut self.user_id,
            name::DEDUP_KEY => &mut self.dedup_key,
            name::TRACEPARENT => &mut self.traceparent,
            name::HEADERS => &mut self.headers,
            name::INCARNATION => &mut self.incarnation,
            name::PARTITION => &mut self.partition,
            name::SEQUENCE => &mut self.sequence,
            name::PREVIOUS => &mut self.previous,
            name::REDRIVEN => &mut self.redriven,
            name::CONTENT_TYPE => &mut self.content_type,
            // A later version may say more about a delivery; that is no header of the event.
            _ if name.starts_with("onewrite") => return,
            _ => return self.unknown.push((name.into(), text(value))),
        };
        *field = Some(value);
    }

    /// The delivery these attributes make.
    pub(super) fn delivery(mut self) -> Invalid<Delivery> {
        if let Some(why) = self.unreadable.take() {
            return Err(why);
        }
        if self.spec_version.as_deref() != Some("1.0") {
            return Err(format!("`{}` is not 1.0", name::SPEC_VERSION));
        }
        let id = required(self.id.take(), name::ID)?;
        let kind = required(self.kind.take(), name::TYPE)?;
        let source = required(self.source.take(), name::SOURCE)?;
        let (record_source, event_source) = match self.record_source.take() {
            Some(record_source) => (text(record_source), Some(source)),
            None => (source, None),
        };
        let place = self.place()?;
        let aggregate_type = self.aggregate_type.take().map_or_else(|| kind.clone(), text);
        let aggregate_id = self
            .aggregate_id
            .take()
            .or_else(|| self.subject.take().filter(|subject| !subject.is_empty()))
            .map_or_else(|| id.clone(), text);
        // A record of a log says its key; an event from elsewhere gets one, to be ordered by.
        let key = match (self.key.take(), place) {
            (Some(key), _) => Some(text(key)),
            (None, Some(_)) => None,
            (None, None) => Some(aggregate_id.clone()),
        };
        let (incarnation, partition, sequence, order) =
            place.unwrap_or((Incarnation(0), 0, 0, Order::ById));
        let headers = self.headers()?;
        let (content_type, data) = self.data()?;
        let event = Event {
            id: Some(id),
            kind,
            source: event_source,
            time: self.time()?,
            aggregate_type,
            aggregate_id,
            key,
            schema_version: parsed(self.schema_version.as_deref(), name::SCHEMA_VERSION)?
                .unwrap_or(1),
            data_schema: self.data_schema.map(text),
            correlation_id: self.correlation_id.map(text),
            causation_id: self.causation_id.map(text),
            user_id: self.user_id.map(text),
            dedup_key: self.dedup_key.map(text),
            traceparent: self.traceparent.map(text),
            headers,
            content_type,
            data,
        };
        let record = Record { source: record_source, incarnation, partition, sequence, event };
        Ok(Delivery { record, order })
    }

    /// Where the record stands, `None` for an event that comes from no log of onewrite. Half a place
    /// is refused: taking it for none would give up the detection of losses without a word.
    fn place(&self) -> Invalid<Option<(Incarnation, u16, u64, Order)>> {
        let life: Option<Incarnation> = parsed(self.incarnation.as_deref(), name::INCARNATION)?;
        let partition = parsed(self.partition.as_deref(), name::PARTITION)?;
        let sequence = parsed(self.sequence.as_deref(), name::SEQUENCE)?;
        let previous = parsed(self.previous.as_deref(), name::PREVIOUS)?;
        let redriven = parsed(self.redriven.as_deref(), name::REDRIVEN)?.unwrap_or(false);
        let order = match (redriven, previous) {
            (true, _) => Some(Order::ById),
            (false, Some(previous)) => Some(Order::Chained { previous }),
            (false, None) => None,
        };
        match (life, partition, sequence, order) {
            (None, None, None, None) => Ok(None),
            (Some(life), Some(partition), Some(sequence), Some(order)) => {
                Ok(Some((life, partition, sequence, order)))
            }
            _ => Err(format!(
                "a place needs `{}`, `{}`, `{}`, and `{}` or `{}`",
                name::INCARNATION,
                name::PARTITION,
                name::SEQUENCE,
                name::PREVIOUS,
                name::REDRIVEN
            )),
        }
    }

    fn time(&self) -> Invalid<Option<Timestamp>> {
        let Some(time) = &self.time else { return Ok(None) };
        Timestamp::parse(time).map(Some).ok_or_else(|| unreadable(name::TIME))
    }

    fn headers(&mut self) -> Invalid<Vec<(Text, Text)>> {
        let unknown = std::mem::take(&mut self.unknown);
        let Some(headers) = &self.headers else { return Ok(unknown) };
        let pairs: Vec<(String, String)> =
            serde_json::from_str(headers).map_err(|_| unreadable(name::HEADERS))?;
        let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into()));
        Ok(pairs.chain(unknown).collect())
    }

    fn data(&mut self) -> Invalid<(Text, Bytes)> {
        let data = std::mem::take(&mut self.data);
        let content_type = match (self.content_type.take(), &data) {
            (Some(content_type), _) => text(content_type),
            (None, Data::None | Data::Json(_)) => JSON,
            (None, Data::Base64(_) | Data::Bytes(_)) => {
                Text::from_static("application/octet-stream")
            }
        };
        let bytes = match data {
            Data::None => Bytes::new(),
            Data::Bytes(bytes) => bytes,
            // Data that is not JSON may stand as a JSON text: its characters are the data.
            Data::Json(json) if json.starts_with('"') && !is_json(&content_type) => {
                let text: String =
                    serde_json::from_str(json).map_err(|_| unreadable(name::DATA))?;
                Bytes::from(text)
            }
            Data::Json(json) => Bytes::copy_from_slice(json.as_bytes()),
            Data::Base64(text) => STANDARD
                .decode(text.as_bytes())
                .map(Bytes::from)
                .map_err(|_| unreadable(name::DATA_BASE64))?,
        };
        Ok((content_type, bytes))
    }
}

/// A JSON scalar as text; `None` for null, and for arrays and objects, which no attribute is.
fn scalar(json: &str) -> Result<Value<'_>, ()> {
    match json.as_bytes().first() {
        Some(b'"') if !json.contains('\\') => Ok(json.get(1..json.len() - 1).map(Cow::Borrowed)),
        Some(b'"') => serde_json::from_str(json).map(|text| Some(Cow::Owned(text))).map_err(drop),
        Some(b'n' | b'[' | b'{') | None => Ok(None),
        Some(_) => Ok(Some(Cow::Borrowed(json))),
    }
}

fn text(value: Cow<'_, str>) -> Text {
    match value {
        Cow::Borrowed(text) => text.into(),
        Cow::Owned(text) => text.into(),
    }
}

fn required(value: Value<'_>, name: &str) -> Invalid<Text> {
    match value {
        Some(value) if !value.is_empty() => Ok(text(value)),
        _ => Err(format!("`{name}` is missing")),
    }
}

fn parsed<T: FromStr>(value: Option<&str>, name: &str) -> Invalid<Option<T>> {
    value.map(|value| value.parse().map_err(|_| unreadable(name))).transpose()
}

/// The name comes from outside when it is not in the table: it is printed harmlessly and briefly.
fn unreadable(name: &str) -> String {
    let name: String = name.chars().take(20).collect();
    format!("`{}` cannot be read", name.escape_debug())
}
