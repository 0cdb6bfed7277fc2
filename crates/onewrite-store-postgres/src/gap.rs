//! Lanes stopped by a gap: a person compares both sides and accepts.

use deadpool_postgres::Transaction;
use onewrite_core::{
    Incarnation, Result,
    inbox::{Gap, Lane},
    relay::gap_id,
};
use tokio_postgres::{Client, Row};

use crate::{commit::execute, error::While, row, trim::query};

const GAPS: &str =
    "SELECT consumer, source, incarnation, partition, sequence, gap FROM onewrite.inbox
     WHERE gap > sequence ORDER BY consumer, source, partition";

fn gap(found: &Row) -> Result<Gap> {
    let lane = Lane {
        source: row::text(found, 1)?,
        incarnation: row::text(found, 2)?.parse().unwrap_or_default(),
        partition: row::partition(found, 3)?,
    };
    let (mark, upto) = (row::number(found, 4)?, row::number(found, 5)?);
    Ok(Gap { consumer: row::text(found, 0)?, lane, mark, upto })
}

pub(crate) async fn gaps(client: &Client) -> Result<Vec<Gap>> {
    let rows = client.query(GAPS, &[]).await.during("list the gaps")?;
    rows.iter().map(gap).collect()
}

/// Moves the marks to the gap events themselves, which are then known when they come again.
pub(crate) async fn accept(tx: &Transaction<'_>, consumer: &str, source: &str) -> Result<u64> {
    let mut accepted = 0;
    for found in &query(tx, GAPS, &[]).await? {
        let gap = gap(found)?;
        if *gap.consumer != *consumer || *gap.lane.source != *source {
            continue;
        }
        let (life, partition): (Incarnation, _) = (gap.lane.incarnation, gap.lane.partition);
        accepted += execute(
            tx,
            "UPDATE onewrite.inbox SET sequence = gap, last_id = $5
             WHERE consumer = $1 AND source = $2 AND incarnation = $3 AND partition = $4 AND gap = $6 AND gap > sequence",
            &[
                &consumer,
                &source,
                &life.to_string(),
                &i32::from(partition),
                &&*gap_id(life, partition, gap.upto),
                &gap.upto.cast_signed(),
            ],
        )
        .await?;
    }
    Ok(accepted)
}
