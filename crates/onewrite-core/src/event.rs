//! The event a user emits: CloudEvents 1.0 attributes plus what a service needs to be consistent.

use serde::Serialize;

use crate::{Bytes, Code, Error, Result, Text, Timestamp};

/// The largest encoded event accepted unless configured otherwise, in bytes: attributes and data.
pub const EVENT_BYTES_MAX_DEFAULT: usize = 1024 * 1024;

/// The content type of data built with [`Event::json`].
pub const JSON: Text = Text::from_static("application/json");

/// Something that happened, as a user states it. Data is bytes plus a content type and is never
/// rewritten (re-encoding JSON reorders keys and changes numbers, which breaks signatures).
///
/// Built with [`Event::new`] and the chaining setters; `emit` assigns what is left open: the id
/// (UUIDv7), the time and the key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// CloudEvents `id`. Unique within the source; `None` lets `emit` draw a UUIDv7.
    pub id: Option<Text>,
    /// CloudEvents `type`: what happened, in the past tense (`OrderCreated`).
    pub kind: Text,
    /// CloudEvents `source` when it is not the store's own name (foreign events).
    pub source: Option<Text>,
    /// CloudEvents `time`; `None` lets `emit` take the store's clock. Never used as an order.
    pub time: Option<Timestamp>,
    /// The kind of thing it happened to (`Order`).
    pub aggregate_type: Text,
    /// Which one it happened to (`order-17`).
    pub aggregate_id: Text,
    /// What must stay in order together; the aggregate id unless set.
    pub key: Option<Text>,
    /// The version of the data's schema, from 1.
    pub schema_version: u32,
    /// CloudEvents `dataschema`: where the schema can be read.
    pub data_schema: Option<Text>,
    /// What this belongs to from end to end (one order, one booking).
    pub correlation_id: Option<Text>,
    /// The id of the event that caused this one.
    pub causation_id: Option<Text>,
    /// Who caused it.
    pub user_id: Option<Text>,
    /// What receivers outside onewrite deduplicate by, when it is not the id.
    pub dedup_key: Option<Text>,
    /// W3C Trace Context `traceparent`.
    pub traceparent: Option<Text>,
    /// Free headers, in the order given.
    pub headers: Vec<(Text, Text)>,
    /// CloudEvents `datacontenttype`.
    pub content_type: Text,
    /// The data, as it was given.
    pub data: Bytes,
}

impl Event {
    /// An event of type `kind` about one aggregate, with empty JSON data (`null`).
    pub fn new(
        kind: impl Into<Text>,
        aggregate_type: impl Into<Text>,
        aggregate_id: impl Into<Text>,
    ) -> Self {
        Self {
            kind: kind.into(),
            aggregate_type: aggregate_type.into(),
            aggregate_id: aggregate_id.into(),
            schema_version: 1,
            content_type: JSON,
            data: Bytes::from_static(b"null"),
            ..Self::default()
        }
    }

    /// Sets the data to `value` as JSON.
    ///
    /// # Errors
    /// [`Code::InvalidEvent`] when `value` cannot be written as JSON (a map with non-text keys).
    pub fn json(mut self, value: &impl Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            Error::new(Code::InvalidEvent, "the data cannot be written as JSON").with_source(error)
        })?;
        self.data = Bytes::from(bytes);
        self.content_type = JSON;
        Ok(self)
    }

    /// Sets the data to `bytes` of `content_type`.
    #[must_use]
    pub fn bytes(mut self, content_type: impl Into<Text>, bytes: impl Into<Bytes>) -> Self {
        self.content_type = content_type.into();
        self.data = bytes.into();
        self
    }

    /// Sets what must stay in order together, when it is not the aggregate id.
    #[must_use]
    pub fn key(mut self, key: impl Into<Text>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the correlation id: what this belongs to from end to end.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<Text>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Marks this event as caused by `cause`: takes over its correlation id, user and trace unless
    /// they are already set here.
    #[must_use]
    pub fn caused_by(mut self, cause: &Self) -> Self {
        self.causation_id = self.causation_id.or_else(|| cause.id.clone());
        self.correlation_id = self
            .correlation_id
            .or_else(|| cause.correlation_id.clone())
            .or_else(|| cause.id.clone());
        self.user_id = self.user_id.or_else(|| cause.user_id.clone());
        self.traceparent = self.traceparent.or_else(|| cause.traceparent.clone());
        self
    }

    /// Adds a free header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Text>, value: impl Into<Text>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The key that orders this event: its own, else the aggregate id.
    #[must_use]
    pub fn order_key(&self) -> &Text {
        self.key.as_ref().unwrap_or(&self.aggregate_id)
    }

    /// Reads the data as JSON.
    ///
    /// # Errors
    /// [`Code::InvalidEvent`] when the data is not JSON of that shape.
    pub fn data_as<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.data).map_err(|error| {
            Error::new(
                Code::InvalidEvent,
                format!("the data of a `{}` event is not what its reader expects", self.kind),
            )
            .with_source(error)
        })
    }

    /// Roughly the bytes this event takes: attributes, headers and data.
    #[must_use]
    pub fn size(&self) -> usize {
        let option = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.len());
        self.kind.len()
            + self.aggregate_type.len()
            + self.aggregate_id.len()
            + self.content_type.len()
            + self.data.len()
            + [&self.id, &self.source, &self.key, &self.data_schema, &self.correlation_id]
                .into_iter()
                .chain([&self.causation_id, &self.user_id, &self.dedup_key, &self.traceparent])
                .map(option)
                .sum::<usize>()
            + self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    /// Refuses an event that could not be delivered: a missing type or key, control characters in an
    /// attribute (they would break headers), a header name that is not a token, or too many bytes.
    ///
    /// # Errors
    /// [`Code::InvalidEvent`] or [`Code::EventTooLarge`], naming the attribute, never its value.
    pub fn check(&self, bytes_max: usize) -> Result<()> {
        let size = self.size();
        if size > bytes_max {
            return Err(Error::new(
                Code::EventTooLarge,
                format!(
                    "an event of type `{}` takes {size} bytes; the limit is {bytes_max}",
                    self.kind.escape_debug()
                ),
            ));
        }
        let named = [
            ("type", Some(&self.kind)),
            ("key", Some(self.order_key())),
            ("aggregate type", Some(&self.aggregate_type)),
            ("content type", Some(&self.content_type)),
            ("id", self.id.as_ref()),
            ("source", self.source.as_ref()),
        ];
        if let Some((name, _)) =
            named.iter().find(|(_, text)| text.is_some_and(|text| text.is_empty()))
        {
            return Err(Error::new(Code::InvalidEvent, format!("the {name} of an event is empty")));
        }
        let optional = [
            ("aggregate id", Some(&self.aggregate_id)),
            ("data schema", self.data_schema.as_ref()),
            ("correlation id", self.correlation_id.as_ref()),
            ("causation id", self.causation_id.as_ref()),
            ("user id", self.user_id.as_ref()),
            ("dedup key", self.dedup_key.as_ref()),
            ("traceparent", self.traceparent.as_ref()),
        ];
        for (name, text) in named.iter().chain(&optional) {
            if text.is_some_and(|text| text.chars().any(char::is_control)) {
                return Err(Error::new(
                    Code::InvalidEvent,
                    format!("the {name} of an event holds a control character"),
                ));
            }
        }
        for (name, value) in &self.headers {
            let token = !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if !token || value.chars().any(char::is_control) {
                return Err(Error::new(
                    Code::InvalidEvent,
                    "a header of an event has a name other than letters, digits, `-`, `_`, `.`, or a control character in its value",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caused_event_takes_over_the_story() {
        let cause = Event {
            id: Some("e1".into()),
            user_id: Some("ann".into()),
            ..Event::new("A", "Order", "1")
        };
        let effect = Event::new("B", "Order", "1").caused_by(&cause);
        assert_eq!(effect.causation_id.as_deref(), Some("e1"));
        assert_eq!(
            effect.correlation_id.as_deref(),
            Some("e1"),
            "the first event starts the story"
        );
        assert_eq!(effect.user_id.as_deref(), Some("ann"));
    }

    #[test]
    fn refuses_what_could_not_be_delivered() {
        let good = Event::new("A", "Order", "1");
        assert!(good.check(1000).is_ok());
        let code = |event: Event, max| event.check(max).map_err(|error| error.code());
        assert_eq!(code(Event::new("", "Order", "1"), 1000), Err(Code::InvalidEvent));
        assert_eq!(code(Event::new("A", "Order", ""), 1000), Err(Code::InvalidEvent));
        assert_eq!(code(Event::new("A\nB", "Order", "1"), 1000), Err(Code::InvalidEvent));
        assert_eq!(code(good.clone().header("x y", "1"), 1000), Err(Code::InvalidEvent));
        assert_eq!(code(good.bytes("text/plain", vec![0; 2000]), 1000), Err(Code::EventTooLarge));
    }
}
