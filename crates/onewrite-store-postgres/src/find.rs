//! Finding events by id, story or key: in the log, the history and the parking lot.

use onewrite_core::{
    Result, Text,
    flow::{Trace, Whereabouts},
    store::Find,
};
use tokio_postgres::Client;

use crate::{error::While, row};

/// The log has no index beside its order (each would cost every emit), so a search scans it; the
/// history is indexed.
pub(crate) async fn find(client: &Client, source: &Text, find: &Find) -> Result<Vec<Trace>> {
    let (condition, value): (&str, Option<&Text>) = match find {
        Find::Id(id) => ("id = $1", Some(id)),
        // A story's first event carries its own id as correlation id only by convention: find it too.
        Find::Correlation(id) => ("(correlation_id = $1 OR id = $1)", Some(id)),
        Find::Key(key) => ("key = $1", Some(key)),
        Find::All => ("$1::text IS NULL", None),
    };
    let columns = "partition, sequence, id, type, key, correlation_id, causation_id, time";
    let sql = format!(
        "SELECT {columns}, 0, NULL::text FROM onewrite.log l WHERE {condition}
             AND sequence > coalesce((SELECT t.sequence FROM onewrite.trimmed t WHERE t.partition = l.partition), 0)
         UNION ALL SELECT {columns}, 1, NULL FROM onewrite.history WHERE {condition}
         UNION ALL SELECT {columns}, 2, origin FROM onewrite.parked WHERE {condition}
         ORDER BY time"
    );
    let value = value.map(|text| &**text);
    let rows = client.query(&sql, &[&value]).await.during("search the events")?;
    rows.iter()
        .map(|found| {
            Ok(Trace {
                source: row::option(found, 9)?.unwrap_or_else(|| source.clone()),
                partition: row::partition(found, 0)?,
                sequence: row::number(found, 1)?,
                id: row::text(found, 2)?,
                kind: row::text(found, 3)?,
                key: row::text(found, 4)?,
                correlation_id: row::option(found, 5)?,
                causation_id: row::option(found, 6)?,
                time: row::time(found, 7)?.unwrap_or_default(),
                whereabouts: match found.get::<_, i32>(8) {
                    0 => Whereabouts::Log,
                    1 => Whereabouts::History,
                    _ => Whereabouts::Parked,
                },
            })
        })
        .collect()
}
