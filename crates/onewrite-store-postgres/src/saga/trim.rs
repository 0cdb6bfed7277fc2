//! Retention of sagas.

use deadpool_postgres::Transaction;
use onewrite_core::{
    Result, Timestamp,
    sabotage::{Defect, Sabotage},
};

use crate::{commit::execute, row::Time};

/// Rows that another process deletes are left to it. The journal goes with the row of its saga.
const TRIM: &str = "WITH gone AS MATERIALIZED (
        SELECT id FROM onewrite.saga s
        WHERE ended_at < $1 AND ($3 OR parent IS NULL OR NOT EXISTS (
            SELECT FROM onewrite.saga p WHERE p.ended_at IS NULL AND p.id =
                CASE WHEN s.parent ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/' THEN left(s.parent, 36)::uuid END))
        ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ), journals AS (
        DELETE FROM onewrite.saga_journal WHERE saga = ANY(ARRAY(SELECT id FROM gone))
    )
    DELETE FROM onewrite.saga WHERE id = ANY(ARRAY(SELECT id FROM gone))";

/// Deletes sagas that ended before `before`, the oldest first and at most `limit`.
pub(crate) async fn trim(
    tx: &Transaction<'_>,
    before: Timestamp,
    limit: u32,
    sabotage: Sabotage,
) -> Result<u64> {
    let with_children = sabotage.has(Defect::TrimChildren);
    execute(tx, TRIM, &[&Time(before), &i64::from(limit), &with_children]).await
}
