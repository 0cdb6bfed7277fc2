//! The relay over a backlog on PostgreSQL.

use std::time::Instant;

use anyhow::Result;
use onewrite::{
    Store as _,
    store::{Batch, Durability, Item, Op, Outcome},
};
use onewrite_store_postgres::PostgresStore;
use onewrite_testkit::server::Postgres;

use super::store;
use crate::{drain, load, report::Report};

const CHUNK: u64 = 1_000;

/// Drains `backlog` events into each kind of sink.
///
/// # Errors
/// What the server says, or when a drain does not end.
pub(crate) async fn run(server: &Postgres, backlog: u64, report: &mut Report) -> Result<()> {
    eprintln!("drain: {backlog} events");
    let store = store(server, "drain").await?;
    preload(&store, backlog).await?;
    drain::null(&store, "warm", backlog).await?;
    report.set("drain", "null_per_s", drain::null(&store, "null", backlog).await?);
    report.set("drain", "http_per_s", drain::http(&store, backlog).await?);
    Ok(())
}

async fn preload(store: &PostgresStore, count: u64) -> Result<()> {
    let (began, payload) = (Instant::now(), load::payload());
    for first in (0..count).step_by(usize::try_from(CHUNK)?) {
        let ops = (first..count.min(first + CHUNK))
            .map(|number| Op::Emit(load::event(number, &payload).into()))
            .collect();
        let items = vec![Item { fence: None, ops }];
        for outcome in store.commit(Batch { durability: Durability::Durable, items }).await? {
            if let Outcome::Failed(error) = outcome {
                return Err(error.into());
            }
        }
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    eprintln!("{count} events emitted by thousands, {rate:.0}/s");
    Ok(())
}
