//! `onewrite store init|show|adopt|fork`.

use clap::Subcommand;
use onewrite::{Result, Store, sqlite::Copied};
use serde_json::json;

use crate::{backends, report};

#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Create a store, or bring its schema up to date.
    Init {
        /// The store's URL, for example sqlite:shop.db.
        #[arg(long, env = "ONEWRITE_STORE")]
        store: String,
    },
    /// Show a store's source, partitions and lives.
    Show {
        /// The store's URL.
        #[arg(long, env = "ONEWRITE_STORE")]
        store: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// The file was moved as a whole and the original no longer exists: keep its identity.
    Adopt {
        /// The store's URL.
        #[arg(long, env = "ONEWRITE_STORE")]
        store: String,
    },
    /// The file is a copy or a restored backup: begin a new incarnation.
    Fork {
        /// The store's URL.
        #[arg(long, env = "ONEWRITE_STORE")]
        store: String,
    },
}

pub(crate) async fn run(verb: StoreVerb) -> Result<()> {
    let (url, create, copied, json) = match &verb {
        StoreVerb::Init { store } => (store, true, Copied::Refuse, false),
        StoreVerb::Show { store, json } => (store, false, Copied::Refuse, *json),
        StoreVerb::Adopt { store } => (store, false, Copied::Adopt, false),
        StoreVerb::Fork { store } => (store, false, Copied::Fork, false),
    };
    let store = backends::open_store(url, create, copied)?;
    let source = store.source();
    let (head, trimmed) = store.bounds().await?;
    if json {
        let lives: Vec<_> = source
            .incarnations
            .iter()
            .map(
                |(first, life)| json!({ "first_sequence": first, "incarnation": life.to_string() }),
            )
            .collect();
        report::json(&json!({
            "source": &*source.name, "partitions": source.partitions, "head": head, "trimmed": trimmed, "incarnations": lives,
            "schema_version": onewrite::sqlite::SCHEMA_VERSION,
        }));
        return Ok(());
    }
    println!(
        "source {}, {} partitions, head at {head}, trimmed up to {trimmed}",
        source.name, source.partitions
    );
    for (first, life) in &source.incarnations {
        println!("incarnation {life} from sequence {first}");
    }
    Ok(())
}
