//! `onewrite sink list|resume`.

use clap::Subcommand;
use onewrite::{Code, Error, Result, Timestamp, store::Op};
use serde_json::json;

use super::{Stores, carry_out, done};
use crate::report;

#[derive(Debug, Subcommand)]
pub(crate) enum Sink {
    /// List sinks with what they have not settled.
    List {
        #[command(flatten)]
        stores: Stores,
    },
    /// Let a suspended sink go on; its receiver is told of what the log no longer holds.
    Resume {
        /// The sink.
        sink: String,
        #[command(flatten)]
        stores: Stores,
    },
}

pub(crate) async fn run(verb: Sink) -> Result<()> {
    match verb {
        Sink::List { stores } => list(&stores).await,
        Sink::Resume { sink, stores } => {
            let store = stores.open_one().await?;
            let op = Op::Suspend { sink: sink.clone().into(), reason: None };
            if carry_out(&*store, op).await? == 0 {
                return Err(Error::new(
                    Code::NotFound,
                    format!("there is no sink `{}`", sink.escape_debug()),
                )
                .with_cure("`onewrite sink list` shows the sinks of a store."));
            }
            done(&format!("`{sink}` goes on"), stores.json);
            Ok(())
        }
    }
}

async fn list(stores: &Stores) -> Result<()> {
    let mut sinks = Vec::new();
    for store in stores.open().await? {
        let now = store.now().await?;
        let name = store.source().name;
        sinks.extend(store.sinks().await?.into_iter().map(|sink| (name.clone(), now, sink)));
    }
    let age = |now: Timestamp, oldest: Option<Timestamp>| {
        oldest.map_or(0, |oldest| now.since(oldest).as_secs())
    };
    if stores.json {
        let values = sinks.iter().map(|(store, now, sink)| json!({
            "store": &**store, "sink": &*sink.name, "behind": sink.behind, "bytes_behind": sink.bytes_behind,
            "oldest_s": age(*now, sink.oldest),
            "suspended": sink.suspended.as_ref().map(|(since, why)| json!({ "since": since.to_string(), "why": &**why })),
        }));
        report::json(&values.collect());
        return Ok(());
    }
    let rows = sinks.iter().map(|(store, now, sink)| {
        [
            store.to_string(),
            sink.name.to_string(),
            sink.behind.to_string(),
            sink.bytes_behind.to_string(),
            format!("{} s", age(*now, sink.oldest)),
            sink.suspended
                .as_ref()
                .map(|(since, why)| format!("suspended since {}: {why}", report::second(since)))
                .unwrap_or_default(),
        ]
    });
    report::say!(
        "{}",
        report::table(["store", "sink", "behind", "bytes", "oldest", "state"], rows)
    );
    Ok(())
}
