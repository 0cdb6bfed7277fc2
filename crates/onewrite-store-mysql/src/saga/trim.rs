//! Retention of sagas.

use mysql_async::prelude::Queryable;
use onewrite_core::{
    Result, Timestamp,
    sabotage::{Defect, Sabotage},
    saga::SagaId,
};

use super::{list, read_id};
use crate::{
    error::While,
    row::{binds, query},
};

/// Which sagas `s` may go: those that ended before the first value. One that is a step of another stays until
/// that one has ended, unless the second.
pub(super) const MAY_GO: &str = "ended_at < ? AND (? OR parent IS NULL OR NOT EXISTS (
         SELECT 1 FROM onewrite_saga p WHERE p.id = UNHEX(REPLACE(LEFT(s.parent, 36), '-', '')) AND p.ended_at IS NULL))";

/// Deletes sagas that ended before `before`, the oldest first and at most `limit`, with all that is theirs. Rows
/// that another process deletes are left to it.
pub(crate) async fn trim(
    tx: &mut impl Queryable,
    before: Timestamp,
    limit: u32,
    only: Option<&[SagaId]>,
    sabotage: Sabotage,
) -> Result<u64> {
    let among = match only.filter(|_| !sabotage.has(Defect::TrimOthers)) {
        None => String::new(),
        // There is no saga of the number 0; an empty list is no SQL.
        Some(only) => {
            format!("AND id IN ({})", list(only.iter().copied().chain([SagaId::default()])))
        }
    };
    let look = format!(
        "SELECT id FROM onewrite_saga s WHERE {MAY_GO} {among} ORDER BY ended_at LIMIT {limit} FOR UPDATE SKIP LOCKED"
    );
    let binds = binds![before.0, sabotage.has(Defect::TrimChildren)];
    let mut gone = Vec::new();
    for mut found in query(tx, &look, binds).await? {
        gone.push(read_id(&mut found, 0)?);
    }
    if gone.is_empty() {
        return Ok(0);
    }
    let ids = list(gone.iter().copied());
    let also = !sabotage.has(Defect::KeepAttributes);
    for sql in [
        format!("DELETE FROM onewrite_saga_attribute WHERE saga IN ({ids}) AND {also}"),
        format!("DELETE FROM onewrite_saga_journal WHERE saga IN ({ids})"),
        format!("DELETE FROM onewrite_saga WHERE id IN ({ids})"),
    ] {
        tx.query_drop(sql).await.during("delete sagas that ended long ago")?;
    }
    Ok(gone.len() as u64)
}
