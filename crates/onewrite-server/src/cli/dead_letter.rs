//! `onewrite dead-letter list|show|retry|discard`.

use std::sync::Arc;

use clap::{Args, Subcommand};
use onewrite::{
    Code, Error, Result, Store,
    parking::{ParkedKey, Request},
    store::Op,
};
use serde_json::{Value, json};

use super::{Stores, carry_out, done};
use crate::report;

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetter {
    /// List the parked keys.
    List {
        #[command(flatten)]
        stores: Stores,
    },
    /// Show the events of a parked key, without their data.
    Show(KeyArgs),
    /// Have the events of a parked key delivered again, in order.
    Retry(KeyArgs),
    /// Drop the events of a parked key.
    Discard(KeyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// The key.
    key: String,
    /// Where it is parked, when it is parked in several places: relay/SINK or inbox/CONSUMER.
    #[arg(long)]
    scope: Option<String>,
    #[command(flatten)]
    stores: Stores,
}

pub(crate) async fn run(verb: DeadLetter) -> Result<()> {
    match verb {
        DeadLetter::List { stores } => list(&stores).await,
        DeadLetter::Show(args) => show(&args).await,
        DeadLetter::Retry(args) => request(&args, Request::Retry).await,
        DeadLetter::Discard(args) => request(&args, Request::Discard).await,
    }
}

async fn list(stores: &Stores) -> Result<()> {
    let mut keys = Vec::new();
    for store in stores.open().await? {
        keys.extend(
            store.parked_keys(None).await?.into_iter().map(|key| (store.source().name, key)),
        );
    }
    if stores.json {
        report::json(&keys.iter().map(|(store, key)| to_json(store, key)).collect());
        return Ok(());
    }
    let rows = keys.iter().map(|(store, key)| {
        [
            store.to_string(),
            key.scope.to_string(),
            report::short(&key.key),
            key.waiting.to_string(),
            key.request.as_str().to_owned(),
            key.redrives.to_string(),
            report::second(&key.since),
            key.reason.to_string(),
        ]
    });
    report::say!(
        "{}",
        report::table(
            ["store", "parked at", "key", "events", "request", "re-drives", "since", "why"],
            rows
        )
    );
    Ok(())
}

fn to_json(store: &str, key: &ParkedKey) -> Value {
    json!({
        "store": store, "scope": &*key.scope, "source": &*key.source, "partition": key.partition, "key": &*key.key,
        "waiting": key.waiting, "request": key.request.as_str(), "redrives": key.redrives,
        "since": key.since.to_string(), "reason": &*key.reason,
    })
}

/// The one parked key that `args` names, with its store.
async fn find(args: &KeyArgs) -> Result<(Arc<dyn Store>, ParkedKey)> {
    let mut found = Vec::new();
    for store in args.stores.open().await? {
        for key in store.parked_keys(args.scope.as_deref()).await? {
            if *key.key == *args.key {
                found.push((Arc::clone(&store), key));
            }
        }
    }
    if found.len() > 1 {
        let places: Vec<String> = found
            .iter()
            .map(|(store, key)| format!("{} in store {}", key.scope, store.source().name))
            .collect();
        return Err(Error::new(
            Code::InvalidInput,
            format!(
                "the key is parked in several places; choose with --scope and --store: {}",
                places.join(", ")
            ),
        ));
    }
    found.pop().ok_or_else(|| {
        Error::new(Code::NotFound, format!("the key `{}` is not parked", args.key.escape_debug()))
            .with_cure("`onewrite dead-letter list` shows the keys that are parked.")
    })
}

async fn show(args: &KeyArgs) -> Result<()> {
    let (store, key) = find(args).await?;
    let records = store.parked_records(&key, usize::MAX).await?;
    if args.stores.json {
        let records: Vec<Value> = records
            .iter()
            .map(|parked| json!({
                "position": parked.position, "id": parked.record.id(), "type": &*parked.record.event.kind,
                "partition": parked.record.partition, "sequence": parked.record.sequence,
                "time": parked.record.event.time.map(|time| time.to_string()),
                "bytes": parked.record.event.data.len(),
            }))
            .collect();
        let mut value = to_json(&store.source().name, &key);
        value["events"] = Value::Array(records);
        report::json(&value);
        return Ok(());
    }
    let said =
        format!("{} is parked at {} since {}: {}", key.key, key.scope, key.since, key.reason);
    report::say!("{}", report::plain(&said));
    let rows = records.iter().map(|parked| {
        [
            parked.record.id().to_owned(),
            parked.record.event.kind.to_string(),
            parked.record.event.time.as_ref().map(report::second).unwrap_or_default(),
            parked.record.event.data.len().to_string(),
        ]
    });
    report::say!("{}", report::table(["event", "type", "time", "bytes"], rows));
    Ok(())
}

async fn request(args: &KeyArgs, request: Request) -> Result<()> {
    let (store, key) = find(args).await?;
    let (scope, source) = (key.scope.clone(), key.source.clone());
    let op = Op::Request { scope, source, key: key.key.clone(), request, reason: None };
    carry_out(&*store, op).await?;
    let owner = if key.scope.starts_with("relay/") {
        "the relay that holds its partition"
    } else {
        "its receiver"
    };
    let said = format!(
        "asked to {} {} events of `{}` in order; {owner} does it",
        request.as_str(),
        key.waiting,
        key.key
    );
    done(&said, args.stores.json);
    Ok(())
}
