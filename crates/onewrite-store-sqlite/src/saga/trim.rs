//! Retention of sagas.

use onewrite_core::{
    Result, Timestamp,
    sabotage::{Defect, Sabotage},
    saga::SagaId,
};
use rusqlite::{Connection, Params, params};

use super::hex;
use crate::{claim::execute, error::While};

/// Which sagas `s` may go: those that ended before `?1`. One that is a step of another stays until that one has
/// ended, unless `?2`.
pub(super) const MAY_GO: &str = "ended_at < ?1 AND (?2 OR parent IS NULL OR NOT EXISTS (
     SELECT 1 FROM onewrite_saga p WHERE p.id = unhex(substr(s.parent, 1, 36), '-') AND p.ended_at IS NULL))";

/// Deletes sagas that ended before `before`, the oldest first and at most `limit`, with all that is theirs.
pub(crate) fn trim(
    tx: &Connection,
    before: Timestamp,
    limit: u32,
    only: Option<&[SagaId]>,
    sabotage: Sabotage,
) -> Result<u64> {
    let with_children = sabotage.has(Defect::TrimChildren);
    let gone = match only.filter(|_| !sabotage.has(Defect::TrimOthers)) {
        None => look(tx, "", params![before.0, with_children, limit]),
        Some(only) => {
            let among = "AND id IN (SELECT unhex(value) FROM json_each(?4))";
            look(tx, among, params![before.0, with_children, limit, hex(only)])
        }
    }?;
    for id in &gone {
        if !sabotage.has(Defect::KeepAttributes) {
            execute(tx, "DELETE FROM onewrite_saga_attribute WHERE saga = ?1", params![id])?;
        }
        execute(tx, "DELETE FROM onewrite_saga_journal WHERE saga = ?1", params![id])?;
        execute(tx, "DELETE FROM onewrite_saga WHERE id = ?1", params![id])?;
    }
    Ok(gone.len() as u64)
}

/// Those that may go, among these.
fn look(tx: &Connection, among: &str, binds: impl Params) -> Result<Vec<[u8; 16]>> {
    let sql =
        format!("SELECT id FROM onewrite_saga s WHERE {MAY_GO} {among} ORDER BY ended_at LIMIT ?3");
    tx.prepare_cached(&sql)
        .and_then(|mut statement| {
            statement
                .query_map(binds, |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<[u8; 16]>>>()
        })
        .during("look for sagas that ended long ago")
}
