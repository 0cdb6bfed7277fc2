//! `onewrite store init|show|adopt|fork`.

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use onewrite::{Result, store::Copied};
use serde_json::json;

use crate::{backends, report};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Create a store, or bring its schema up to date.
    Init(StoreArgs),
    /// Show a store's source, partitions and lives.
    Show(StoreArgs),
    /// The file was moved as a whole and the original no longer exists: keep its identity.
    Adopt(StoreArgs),
    /// The file is a copy or a restored backup: begin a new incarnation.
    Fork {
        /// The last record that is also in the original: what was emitted behind it since the restore
        /// belongs to the new incarnation too. The end of the log by default.
        #[arg(long)]
        since: Option<u64>,
        #[command(flatten)]
        store: StoreArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// The store's URL, for example sqlite:shop.db.
    #[arg(long, env = "ONEWRITE_STORE", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    store: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(verb: StoreVerb) -> Result<()> {
    let (args, create, copied) = match &verb {
        StoreVerb::Init(args) => (args, true, Copied::Refuse),
        StoreVerb::Show(args) => (args, false, Copied::Refuse),
        StoreVerb::Adopt(args) => (args, false, Copied::Adopt),
        StoreVerb::Fork { since, store } => (store, false, Copied::Fork(*since)),
    };
    let store = backends::open_store(&args.store, create, copied).await?;
    let source = store.source();
    let head = store.head().await?;
    let trimmed = store.trimmed().await?.into_iter().map(|(_, last)| last).max().unwrap_or(0);
    if args.json {
        let lives: Vec<_> = source
            .incarnations
            .iter()
            .map(
                |(first, life)| json!({ "first_sequence": first, "incarnation": life.to_string() }),
            )
            .collect();
        report::json(&json!({
            "source": &*source.name, "partitions": source.partitions, "head": head, "trimmed": trimmed, "incarnations": lives,
        }));
        return Ok(());
    }
    report::say!(
        "source {}, {} partitions, head at {head}, trimmed up to {trimmed}",
        source.name,
        source.partitions
    );
    for (first, life) in &source.incarnations {
        report::say!("incarnation {life} from sequence {first}");
    }
    Ok(())
}
