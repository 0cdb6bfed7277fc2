//! Lanes stopped by a gap: a person compares both sides and accepts.

use mysql_async::{Row, prelude::Queryable};
use onewrite_core::{
    Result,
    inbox::{Gap, Lane},
    relay::gap_id,
};

use crate::row::{self, binds, execute, query};

pub(crate) async fn gaps(on: &mut impl Queryable) -> Result<Vec<Gap>> {
    let sql = "SELECT consumer, source, incarnation, `partition`, sequence, gap FROM onewrite_inbox
         WHERE gap > sequence ORDER BY consumer, source, `partition`";
    let gap = |mut found: Row| {
        let found = &mut found;
        let lane = Lane {
            source: row::text(found, 1)?,
            incarnation: row::text(found, 2)?.parse().unwrap_or_default(),
            partition: row::get(found, 3)?,
        };
        let (mark, upto) = (row::number(found, 4)?, row::number(found, 5)?);
        Ok(Gap { consumer: row::text(found, 0)?, lane, mark, upto })
    };
    query(on, sql, binds![]).await?.into_iter().map(gap).collect()
}

/// Moves the marks to the gap events themselves, which are then known when they come again.
pub(crate) async fn accept(tx: &mut impl Queryable, consumer: &str, source: &str) -> Result<u64> {
    let sql = "UPDATE onewrite_inbox SET sequence = gap, last_id = ?
         WHERE consumer = ? AND source = ? AND incarnation = ? AND `partition` = ? AND gap = ? AND gap > sequence";
    let mut accepted = 0;
    for Gap { consumer: whose, lane, upto, .. } in gaps(tx).await? {
        if *whose == *consumer && *lane.source == *source {
            let id = gap_id(lane.incarnation, lane.partition, upto);
            let life = lane.incarnation.to_string();
            let binds = binds![&*id, consumer, source, life, lane.partition, upto.cast_signed()];
            accepted += execute(tx, sql, binds).await?;
        }
    }
    Ok(accepted)
}
