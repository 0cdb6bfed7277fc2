//! Finding events in the log, the history and the parking lot.

use mysql_async::{Conn, Row};
use onewrite_core::{
    Result, Text,
    flow::{Trace, Whereabouts},
    store::Find,
};

use crate::row::{self, binds, query};

/// The log has no index beside its order (each would cost every emit), so a search scans it; the
/// history is indexed.
pub(crate) async fn find(conn: &mut Conn, source: &Text, find: &Find) -> Result<Vec<Trace>> {
    let (condition, value): (&str, Option<&Text>) = match find {
        Find::Id(id) => ("id = ?", Some(id)),
        // A story's first event carries its own id as correlation id only by convention: find it too.
        Find::Correlation(id) => ("? IN (correlation_id, id)", Some(id)),
        Find::Key(key) => ("`key` = ?", Some(key)),
        Find::All => ("? IS NULL", None),
    };
    let columns = "`partition`, sequence, id, type, `key`, correlation_id, causation_id, time";
    let sql = format!(
        "SELECT {columns}, 0, NULL FROM onewrite_log WHERE {condition}
         UNION ALL SELECT {columns}, 1, NULL FROM onewrite_history WHERE {condition}
         UNION ALL SELECT {columns}, 2, origin FROM onewrite_parked WHERE {condition}
         ORDER BY time"
    );
    let value = value.map(|text| &**text);
    let trace = |mut found: Row| {
        let found = &mut found;
        Ok(Trace {
            source: row::option(found, 9)?.unwrap_or_else(|| source.clone()),
            partition: row::get(found, 0)?,
            sequence: row::number(found, 1)?,
            id: row::text(found, 2)?,
            kind: row::text(found, 3)?,
            key: row::text(found, 4)?,
            correlation_id: row::option(found, 5)?,
            causation_id: row::option(found, 6)?,
            time: row::time(found, 7)?.unwrap_or_default(),
            whereabouts: match row::get::<i64>(found, 8)? {
                0 => Whereabouts::Log,
                1 => Whereabouts::History,
                _ => Whereabouts::Parked,
            },
        })
    };
    query(conn, &sql, binds![value, value, value]).await?.into_iter().map(trace).collect()
}
