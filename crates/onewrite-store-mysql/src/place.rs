//! Placing: committed rows of the outbox move to the log and get their sequence there.
//!
//! One transaction at a time does it, under the counter's lock, so sequence order is the order in which
//! records become visible, and no number is missing. Rows of a key stand in the outbox in the order in
//! which their transactions committed: each was given its number while its transaction held the key's
//! lock. Their data never leaves the server.

use mysql_async::{Conn, Row, prelude::Queryable};
use onewrite_core::{
    Result, Sequence,
    position::partition_of,
    sabotage::{Defect, Sabotage},
};

use crate::{
    error::{While, after_commit},
    row,
};

/// Rows that one transaction places at most.
const ROWS_MAX: usize = 2_000;

/// Numbers of UUID_SHORT that one server gives: its id stands in the highest byte.
const SERVER_SPAN: u32 = 56;

/// Places what is committed. Returns the highest sequence that is on disk for certain; `None` when there was
/// nothing to place.
pub(crate) async fn place(
    conn: &mut Conn,
    partitions: u16,
    sabotage: Sabotage,
) -> Result<Option<Sequence>> {
    let mut placed = None;
    let probe = "SELECT 1 FROM onewrite_outbox LIMIT 1";
    while conn.query_first::<Row, _>(probe).await.during("look for events to place")?.is_some() {
        let (sequence, more) = one(conn, partitions, sabotage).await?;
        placed = sequence.or(placed);
        if !more {
            break;
        }
    }
    Ok(placed)
}

/// One transaction; returns the highest sequence it placed, and whether more may have waited. One that finds
/// nothing to place, for another process was quicker, writes nothing, and its commit syncs nothing: then
/// nothing is known to be on disk.
async fn one(
    conn: &mut Conn,
    partitions: u16,
    sabotage: Sabotage,
) -> Result<(Option<Sequence>, bool)> {
    let tx = conn.start_transaction(mysql_async::TxOpts::default()).await;
    let mut tx = tx.during("begin to place events")?;
    let lock = if sabotage.has(Defect::PlaceUnlocked) { "" } else { "FOR UPDATE" };
    let counter = format!("SELECT sequence, @@server_id & 255 FROM onewrite_counter {lock}");
    let (before, server): (i64, u64) =
        tx.query_first(counter).await.during("lock the counter")?.unwrap_or_default();
    let first = server << SERVER_SPAN;
    let last = first + ((1 << SERVER_SPAN) - 1);
    // What another server took in, before a failover, comes first.
    let mut rows = waiting(&mut tx, &format!("entered < {first} OR entered > {last}")).await?;
    let foreign = !rows.is_empty();
    if !foreign {
        rows = waiting(&mut tx, &format!("entered BETWEEN {first} AND {last}")).await?;
    }
    let mut places = Vec::with_capacity(rows.len());
    let mut entered = Vec::with_capacity(rows.len());
    for (found, sequence) in rows.iter_mut().zip(before + 1..) {
        let number: u64 = row::get(found, 0)?;
        let partition = partition_of(&row::text(found, 1)?, partitions);
        places.push(format!("[\"{number}\",{sequence},{partition}]"));
        entered.push(number.to_string());
    }
    let head = before + i64::try_from(places.len()).unwrap_or(i64::MAX);
    if !places.is_empty() {
        move_rows(&mut tx, &places.join(","), &entered.join(","), head).await?;
    }
    tx.commit().await.map_err(after_commit)?;
    let synced = !places.is_empty() || sabotage.has(Defect::TrustEmptyPlacing);
    let placed = synced.then_some(head.cast_unsigned());
    Ok((placed, foreign || places.len() == ROWS_MAX))
}

async fn waiting(tx: &mut impl Queryable, which: &str) -> Result<Vec<Row>> {
    let sql = format!(
        "SELECT entered, `key` FROM onewrite_outbox WHERE {which} ORDER BY entered LIMIT {ROWS_MAX}"
    );
    tx.query(sql).await.during("look for events to place")
}

async fn move_rows(tx: &mut impl Queryable, places: &str, entered: &str, head: i64) -> Result<()> {
    let sql = format!(
        "INSERT INTO onewrite_log (sequence, `partition`, placed_at, time, id, type, aggregatetype, aggregateid, `key`,
             content_type, schema_version, source, data_schema, correlation_id, causation_id, user_id, dedup_key, traceparent,
             headers, payload)
         SELECT j.sequence, j.place, o.entered_at, o.time, o.id, o.type, o.aggregatetype, o.aggregateid, o.`key`,
             o.content_type, o.schema_version, o.source, o.data_schema, o.correlation_id, o.causation_id, o.user_id, o.dedup_key,
             o.traceparent, o.headers, COALESCE(o.payload_bytes, CAST(o.payload AS BINARY))
         FROM JSON_TABLE('[{places}]', '$[*]' COLUMNS (
             entered BIGINT UNSIGNED PATH '$[0]', sequence BIGINT PATH '$[1]', place INT PATH '$[2]')) j
         STRAIGHT_JOIN onewrite_outbox o ON o.entered = j.entered;
         DELETE FROM onewrite_outbox WHERE entered IN ({entered});
         UPDATE onewrite_counter SET sequence = {head}"
    );
    tx.query_drop(sql).await.during("place events")
}
