//! `onewrite gap list|accept`.

use clap::Subcommand;
use onewrite::{Code, Error, Result, store::Op};
use serde_json::json;

use super::{Stores, carry_out, done};
use crate::report;

#[derive(Debug, Subcommand)]
pub(crate) enum Gap {
    /// List what receivers wait for in vain: their senders no longer have it.
    List {
        #[command(flatten)]
        stores: Stores,
    },
    /// Go on without the missing records, after comparing both sides.
    Accept {
        /// The consumer whose lanes are stopped.
        #[arg(long)]
        consumer: String,
        /// The source whose records are missing.
        #[arg(long)]
        source: String,
        #[command(flatten)]
        stores: Stores,
    },
}

pub(crate) async fn run(verb: Gap) -> Result<()> {
    match verb {
        Gap::List { stores } => list(&stores).await,
        Gap::Accept { consumer, source, stores } => accept(&consumer, &source, &stores).await,
    }
}

async fn list(stores: &Stores) -> Result<()> {
    let mut gaps = Vec::new();
    for store in stores.open().await? {
        gaps.extend(store.gaps().await?);
    }
    if stores.json {
        let values = gaps.iter().map(|gap| {
            json!({
                "consumer": &*gap.consumer, "source": &*gap.lane.source, "partition": gap.lane.partition,
                "incarnation": gap.lane.incarnation.to_string(), "mark": gap.mark, "gone_upto": gap.upto,
            })
        });
        report::json(&values.collect());
        return Ok(());
    }
    let rows = gaps.iter().map(|gap| {
        [
            gap.consumer.to_string(),
            gap.lane.source.to_string(),
            gap.lane.partition.to_string(),
            gap.mark.to_string(),
            gap.upto.to_string(),
        ]
    });
    report::say!(
        "{}",
        report::table(["consumer", "source", "partition", "has up to", "gone up to"], rows)
    );
    Ok(())
}

async fn accept(consumer: &str, source: &str, stores: &Stores) -> Result<()> {
    let store = stores.open_one().await?;
    let op =
        Op::AcceptGaps { consumer: consumer.to_owned().into(), source: source.to_owned().into() };
    let accepted = carry_out(&*store, op).await?;
    if accepted == 0 {
        return Err(Error::new(
            Code::NotFound,
            format!(
                "no lane of consumer `{}` is stopped by a gap of source `{}`",
                consumer.escape_debug(),
                source.escape_debug()
            ),
        )
        .with_cure("`onewrite gap list` shows the lanes that are stopped."));
    }
    done(&format!("{accepted} partitions go on without what is gone"), stores.json);
    Ok(())
}
