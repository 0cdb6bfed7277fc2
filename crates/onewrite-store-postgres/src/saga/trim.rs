//! Retention of sagas.

use deadpool_postgres::Transaction;
use onewrite_core::{
    Result, Timestamp,
    sabotage::{Defect, Sabotage},
    saga::SagaId,
};

use super::Id;
use crate::{commit::execute, row::Time};

/// Which sagas `s` may go: those that ended before `$1`. One that is a step of another stays until that one has
/// ended, unless `$2`.
pub(super) const MAY_GO: &str = "ended_at < $1 AND ($2 OR parent IS NULL OR NOT EXISTS (
            SELECT FROM onewrite.saga p WHERE p.ended_at IS NULL AND p.id =
                CASE WHEN s.parent ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/' THEN left(s.parent, 36)::uuid END))";

/// Deletes sagas that ended before `before`, the oldest first and at most `limit`.
pub(crate) async fn trim(
    tx: &Transaction<'_>,
    before: Timestamp,
    limit: u32,
    only: Option<&[SagaId]>,
    sabotage: Sabotage,
) -> Result<u64> {
    let (before, limit) = (Time(before), i64::from(limit));
    let with_children = sabotage.has(Defect::TrimChildren);
    match only.filter(|_| !sabotage.has(Defect::TrimOthers)) {
        None => execute(tx, &delete("", sabotage), &[&before, &with_children, &limit]).await,
        // A statement of its own: one for both would be planned without knowing that there are few.
        Some(only) => {
            let only: Vec<Id> = only.iter().copied().map(Id).collect();
            let sql = delete("AND id = ANY($4)", sabotage);
            execute(tx, &sql, &[&before, &with_children, &limit, &only]).await
        }
    }
}

/// Rows that another process deletes are left to it. Journal and attributes go with the row of their saga.
fn delete(among: &str, sabotage: Sabotage) -> String {
    let also = !sabotage.has(Defect::KeepAttributes);
    format!(
        "WITH gone AS MATERIALIZED (
            SELECT id FROM onewrite.saga s WHERE {MAY_GO} {among}
            ORDER BY ended_at LIMIT $3 FOR UPDATE SKIP LOCKED
        ), journals AS (
            DELETE FROM onewrite.saga_journal WHERE saga = ANY(ARRAY(SELECT id FROM gone))
        ), attributes AS (
            DELETE FROM onewrite.saga_attribute WHERE saga = ANY(ARRAY(SELECT id FROM gone)) AND {also}
        )
        DELETE FROM onewrite.saga WHERE id = ANY(ARRAY(SELECT id FROM gone))"
    )
}
