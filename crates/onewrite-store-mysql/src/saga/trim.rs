//! Retention of sagas.

use mysql_async::prelude::Queryable;
use onewrite_core::{
    Result, Timestamp,
    sabotage::{Defect, Sabotage},
};

use super::{list, read_id};
use crate::{
    error::While,
    row::{binds, query},
};

/// Deletes sagas that ended before `before`, the oldest first and at most `limit`, and their journals. Rows
/// that another process deletes are left to it.
pub(crate) async fn trim(
    tx: &mut impl Queryable,
    before: Timestamp,
    limit: u32,
    sabotage: Sabotage,
) -> Result<u64> {
    let look = "SELECT id FROM onewrite_saga s
         WHERE ended_at < ? AND (? OR parent IS NULL OR NOT EXISTS (
             SELECT 1 FROM onewrite_saga p WHERE p.id = UNHEX(REPLACE(LEFT(s.parent, 36), '-', '')) AND p.ended_at IS NULL))
         ORDER BY ended_at LIMIT ? FOR UPDATE SKIP LOCKED";
    let binds = binds![before.0, sabotage.has(Defect::TrimChildren), limit];
    let mut gone = Vec::new();
    for mut found in query(tx, look, binds).await? {
        gone.push(read_id(&mut found, 0)?);
    }
    if gone.is_empty() {
        return Ok(0);
    }
    let ids = list(gone.iter().copied());
    for sql in [
        format!("DELETE FROM onewrite_saga_journal WHERE saga IN ({ids})"),
        format!("DELETE FROM onewrite_saga WHERE id IN ({ids})"),
    ] {
        tx.query_drop(sql).await.during("delete sagas that ended long ago")?;
    }
    Ok(gone.len() as u64)
}
