//! What an event is called on each medium, in one table.
//!
//! The CloudEvents codec takes its names from [`name`], and [`TABLE`] is made of the same list, so
//! the two cannot diverge. Columns are those of the outbox table; router fields are options of the
//! Debezium outbox event router.

/// Every HTTP binary-mode header of an attribute is this plus the CloudEvents name.
pub const HEADER_PREFIX: &str = "ce-";

/// What one attribute of the envelope is called on each medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// What the attribute means, as one sentence.
    pub meaning: &'static str,
    /// The CloudEvents JSON member.
    pub cloud: &'static str,
    /// The header in the HTTP binary mode; `None` for what travels in the body.
    pub header: Option<&'static str>,
    /// The column of the outbox table; `None` for what is derived or belongs to the delivery.
    pub column: Option<&'static str>,
    /// The option of the Debezium outbox router that names this column; `None` when the router can
    /// carry it only as an additional field.
    pub router: Option<&'static str>,
}

macro_rules! header {
    (ce $cloud:literal) => {
        Some(concat!("ce-", $cloud))
    };
    (body $cloud:literal) => {
        None
    };
    ($header:literal $cloud:literal) => {
        Some($header)
    };
}

macro_rules! envelope {
    ($(#[doc = $doc:literal] $name:ident: $cloud:literal, $header:tt, $column:expr, $router:expr;)*) => {
        /// The CloudEvents names, as constants that can be matched on.
        pub mod name {
            $(#[doc = $doc] pub const $name: &str = $cloud;)*
        }

        /// Every attribute, in the order of the wire.
        pub const TABLE: &[Row] = &[$(Row {
            meaning: $doc.trim_ascii(),
            cloud: name::$name,
            header: header!($header $cloud),
            column: $column,
            router: $router,
        }),*];
    };
}

envelope! {
    /// The version of CloudEvents, always 1.0.
    SPEC_VERSION: "specversion", ce, None, None;
    /// The event's id, unique within its source.
    ID: "id", ce, Some("id"), Some("table.field.event.id");
    /// What happened.
    TYPE: "type", ce, Some("type"), Some("table.field.event.type");
    /// Who says so: the event's own source, else the record's.
    SOURCE: "source", ce, Some("source"), None;
    /// The record's source, when the event names another one.
    RECORD_SOURCE: "onewritesource", ce, None, None;
    /// When it happened, in RFC 3339.
    TIME: "time", ce, Some("time"), Some("table.field.event.timestamp");
    /// What it happened to: aggregate type, a slash, aggregate id.
    SUBJECT: "subject", ce, None, None;
    /// The kind of thing it happened to.
    AGGREGATE_TYPE: "aggregatetype", ce, Some("aggregatetype"), Some("route.by.field");
    /// Which one it happened to.
    AGGREGATE_ID: "aggregateid", ce, Some("aggregateid"), Some("table.field.event.key");
    /// What must stay in order together (CloudEvents partitioning extension).
    KEY: "partitionkey", ce, Some("key"), None;
    /// The version of the data's schema, an integer.
    SCHEMA_VERSION: "schemaversion", ce, Some("schema_version"), Some("table.field.event.schema.version");
    /// Where the schema can be read.
    DATA_SCHEMA: "dataschema", ce, Some("data_schema"), None;
    /// What the event belongs to from end to end.
    CORRELATION_ID: "correlationid", ce, Some("correlation_id"), None;
    /// The id of the event that caused it.
    CAUSATION_ID: "causationid", ce, Some("causation_id"), None;
    /// Who caused it.
    USER_ID: "userid", ce, Some("user_id"), None;
    /// What receivers outside onewrite deduplicate by, when it is not the id.
    DEDUP_KEY: "dedupkey", ce, Some("dedup_key"), None;
    /// W3C trace context (CloudEvents distributed tracing extension).
    TRACEPARENT: "traceparent", ce, Some("traceparent"), None;
    /// Free headers: a text that holds the JSON array of name and value pairs.
    HEADERS: "onewriteheaders", ce, Some("headers"), None;
    /// The life of the source, 16 hexadecimal digits.
    INCARNATION: "onewriteincarnation", ce, None, None;
    /// The partition, an integer.
    PARTITION: "onewritepartition", ce, Some("partition"), None;
    /// The number in the partition: decimal text, as CloudEvents integers have 32 bits.
    SEQUENCE: "onewritesequence", ce, Some("sequence"), None;
    /// The sequence delivered before it in this partition of this stream, decimal text.
    PREVIOUS: "onewriteprevious", ce, None, None;
    /// True on a record delivered again outside its stream, to be judged by its id.
    REDRIVEN: "onewriteredriven", ce, None, None;
    /// The content type of the data.
    CONTENT_TYPE: "datacontenttype", "content-type", Some("content_type"), None;
    /// The data, when it is JSON: embedded as it was given.
    DATA: "data", body, Some("payload"), Some("table.field.event.payload");
    /// The data in base64, when it is anything else.
    DATA_BASE64: "data_base64", body, None, None;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn unique<'a>(names: impl Iterator<Item = Option<&'a str>>) {
        let mut seen = HashSet::new();
        for name in names.flatten() {
            assert!(seen.insert(name), "`{name}` stands twice");
        }
    }

    #[test]
    fn each_name_stands_for_one_attribute() {
        for row in TABLE {
            println!(
                "{:20} {:24} {:15} {}",
                row.cloud,
                row.header.unwrap_or("(body)"),
                row.column.unwrap_or("-"),
                row.router.unwrap_or("-")
            );
        }
        unique(TABLE.iter().map(|row| Some(row.cloud)));
        unique(TABLE.iter().map(|row| row.header));
        unique(TABLE.iter().map(|row| row.column));
        unique(TABLE.iter().map(|row| row.router));
    }

    #[test]
    fn names_are_what_cloudevents_allows() {
        for row in TABLE.iter().filter(|row| row.cloud != name::DATA_BASE64) {
            let valid = (1..=20).contains(&row.cloud.len())
                && row.cloud.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            assert!(valid, "{}", row.cloud);
        }
    }

    #[test]
    fn headers_are_the_prefixed_names() {
        for row in TABLE {
            let Some(header) = row.header else { continue };
            let expected = format!("{HEADER_PREFIX}{}", row.cloud);
            assert!(header == expected || row.cloud == name::CONTENT_TYPE, "{header}");
        }
    }
}
