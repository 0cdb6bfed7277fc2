//! `onewrite guard add|list|remove`.

use clap::Subcommand;
use onewrite::{Result, store::Op};

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
            let tables = stores.open_one().await?.guards().await?;
            if stores.json {
                report::json(&tables.iter().map(|table| &**table).collect());
            } else {
                tables.iter().for_each(|table| report::say!("{table}"));
            }
        }
        Guard::Add { table, stores } => {
            let op = Op::Guard { table: table.clone().into() };
            carry_out(&*stores.open_one().await?, op).await?;
            let said = format!(
                "`{table}` is guarded: a transaction that changes it must emit an event afterwards"
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
