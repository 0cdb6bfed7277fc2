//! `onewrite guard add|list|remove`.

use clap::Subcommand;
use onewrite::{Result, sqlite::guard};

use super::Stores;
use crate::report;

#[derive(Debug, Subcommand)]
pub(crate) enum Guard {
    /// Refuse changes of a table in transactions that emit no event.
    Add {
        /// The table.
        table: String,
        #[command(flatten)]
        stores: Stores,
    },
    /// List the guarded tables.
    List {
        #[command(flatten)]
        stores: Stores,
    },
    /// Stop guarding a table.
    Remove {
        /// The table.
        table: String,
        #[command(flatten)]
        stores: Stores,
    },
}

pub(crate) async fn run(verb: Guard) -> Result<()> {
    let (stores, said) = match verb {
        Guard::List { stores } => {
            let tables = stores.open_one()?.read_with(guard::list).await?;
            if stores.json {
                report::json(&serde_json::json!(tables));
            } else {
                tables.iter().for_each(|table| report::say!("{table}"));
            }
            return Ok(());
        }
        Guard::Add { table, stores } => {
            let name = table.clone();
            stores.open_one()?.write(move |tx| guard::add(tx, &name)).await?;
            (
                stores,
                format!(
                    "`{table}` is guarded: a transaction that changes it must emit an event afterwards"
                ),
            )
        }
        Guard::Remove { table, stores } => {
            let name = table.clone();
            stores.open_one()?.write(move |tx| guard::remove(tx, &name)).await?;
            (stores, format!("`{table}` is no longer guarded"))
        }
    };
    if stores.json {
        report::json(&serde_json::json!({ "done": said }));
    } else {
        report::say!("{said}");
    }
    Ok(())
}
