//! `onewrite guard add|list|remove`.

use clap::Subcommand;
use onewrite::{Result, store::Op};
use serde_json::json;

use super::{Stores, carry_out, done};
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
    match verb {
        Guard::List { stores } => {
            let mut guards = Vec::new();
            for store in stores.open().await? {
                let name = store.source().name;
                guards.extend(store.guards().await?.into_iter().map(|table| (name.clone(), table)));
            }
            if stores.json {
                let values = guards
                    .iter()
                    .map(|(store, table)| json!({ "store": &**store, "table": &**table }));
                report::json(&values.collect());
                return Ok(());
            }
            let rows = guards.iter().map(|(store, table)| [store.to_string(), table.to_string()]);
            report::say!("{}", report::table(["store", "guarded table"], rows));
        }
        Guard::Add { table, stores } => {
            let op = Op::Guard { table: table.clone().into() };
            carry_out(&*stores.open_one().await?, op).await?;
            let said = format!(
                "`{table}` is guarded: a transaction that changes it must emit an event (on SQLite, after its last change)"
            );
            done(&said, stores.json);
        }
        Guard::Remove { table, stores } => {
            let op = Op::Unguard { table: table.clone().into() };
            carry_out(&*stores.open_one().await?, op).await?;
            done(&format!("`{table}` is no longer guarded"), stores.json);
        }
    }
    Ok(())
}
