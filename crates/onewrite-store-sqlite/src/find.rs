//! Finding events by id, story or key: in the log, the history and the parking lot.

use onewrite_core::{
    Result, Text, Timestamp,
    flow::{Trace, Whereabouts},
    store::Find,
};
use rusqlite::{Connection, ToSql};

use crate::error::While;

/// The log has no index beside its order (each would cost every emit), so a search scans it; the
/// history is indexed.
pub(crate) fn find(connection: &Connection, source: &Text, find: &Find) -> Result<Vec<Trace>> {
    let (column, value): (&str, Option<&Text>) = match find {
        Find::Id(id) => ("id", Some(id)),
        Find::Correlation(id) => ("correlation_id", Some(id)),
        Find::Key(key) => ("key", Some(key)),
        Find::All => ("id", None),
    };
    let condition =
        if value.is_some() { format!("{column} = ?1") } else { "?1 IS NULL".to_owned() };
    // A story's first event carries its own id as correlation id only by convention: find it too.
    let condition = if matches!(find, Find::Correlation(_)) {
        format!("({condition} OR id = ?1)")
    } else {
        condition
    };
    let columns = "partition, sequence, id, type, key, correlation_id, causation_id, time";
    let sql = format!(
        "SELECT {columns}, 0, NULL FROM onewrite_outbox WHERE {condition}
         UNION ALL SELECT {columns}, 1, NULL FROM onewrite_history WHERE {condition}
         UNION ALL SELECT {columns}, 2, origin FROM onewrite_parked WHERE {condition}
         ORDER BY time"
    );
    let mut statement = connection.prepare_cached(&sql).during("search the events")?;
    let bind: &dyn ToSql = &value.map(|text| text.to_string());
    statement
        .query_map([bind], |row| {
            let text = |index: usize| row.get::<_, String>(index).map(Text::from);
            let option =
                |index: usize| row.get::<_, Option<String>>(index).map(|text| text.map(Text::from));
            Ok(Trace {
                source: option(9)?.unwrap_or_else(|| source.clone()),
                partition: row.get(0)?,
                sequence: row.get::<_, i64>(1)?.cast_unsigned(),
                id: text(2)?,
                kind: text(3)?,
                key: text(4)?,
                correlation_id: option(5)?,
                causation_id: option(6)?,
                time: Timestamp(row.get(7)?),
                whereabouts: match row.get::<_, i64>(8)? {
                    0 => Whereabouts::Log,
                    1 => Whereabouts::History,
                    _ => Whereabouts::Parked,
                },
            })
        })
        .and_then(Iterator::collect)
        .during("search the events")
}
