//! Lanes stopped by a gap: a person compares both sides and accepts.

use onewrite_core::{
    Incarnation, Result,
    inbox::{Gap, Lane},
    relay::gap_id,
};
use rusqlite::{Connection, Row, params};

use crate::{claim::execute, error::While};

pub(crate) fn gaps(connection: &Connection) -> Result<Vec<Gap>> {
    let mut statement = connection
        .prepare_cached(
            "SELECT consumer, source, incarnation, partition, sequence, gap FROM onewrite_inbox
             WHERE gap > sequence ORDER BY consumer, source, partition",
        )
        .during("list the gaps")?;
    let read = |row: &Row<'_>| {
        let life = row.get::<_, String>(2)?.parse().unwrap_or_default();
        let lane = Lane {
            source: row.get::<_, String>(1)?.into(),
            incarnation: life,
            partition: row.get(3)?,
        };
        let number = |index: usize| row.get::<_, i64>(index).map(i64::cast_unsigned);
        Ok(Gap {
            consumer: row.get::<_, String>(0)?.into(),
            lane,
            mark: number(4)?,
            upto: number(5)?,
        })
    };
    statement.query_map([], read).and_then(Iterator::collect).during("list the gaps")
}

/// Moves the marks to the gap events themselves, which are then known when they come again.
pub(crate) fn accept(tx: &Connection, consumer: &str, source: &str) -> Result<u64> {
    let mut accepted = 0;
    for gap in
        gaps(tx)?.iter().filter(|gap| *gap.consumer == *consumer && *gap.lane.source == *source)
    {
        let (life, partition): (Incarnation, _) = (gap.lane.incarnation, gap.lane.partition);
        accepted += execute(
            tx,
            "UPDATE onewrite_inbox SET sequence = gap, last_id = ?5
             WHERE consumer = ?1 AND source = ?2 AND incarnation = ?3 AND partition = ?4",
            params![
                consumer,
                source,
                life.to_string(),
                partition,
                &*gap_id(life, partition, gap.upto)
            ],
        )?;
    }
    Ok(accepted)
}
