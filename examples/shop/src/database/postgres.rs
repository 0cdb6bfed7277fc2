//! A service on PostgreSQL.

use std::sync::Arc;

use onewrite::{
    BoxFuture, Code, Error, Event, Record, Result, Store, failpoint,
    inbox::{Inbox, InboxOptions},
    other,
    postgres::{
        self, PostgresInbox, PostgresStore,
        tokio_postgres::{
            Transaction,
            types::{ToSql, Type},
        },
    },
    saga::{Journal, Passage},
};

use super::Database;
use crate::{
    Order, ReactionError, Role, order,
    reaction::noted,
    rows::{Rows, Value, failed},
    saga::deed::Act,
};

/// Every committed reaction, for the audit.
const EFFECTS: &str = "CREATE TABLE IF NOT EXISTS effects (
    n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, source TEXT, event_id TEXT, event_key TEXT, sequence BIGINT)";

/// A lock by name, until the end of the transaction.
const ONE_AT_A_TIME: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";

pub(super) struct Postgres(PostgresStore);

impl Postgres {
    pub(super) async fn open(url: &str, source: Option<Role>) -> Result<Self> {
        let (create, source) = (source.is_some(), source.map(|role| role.name().into()));
        let options = postgres::Options { create, source, ..postgres::Options::from_url(url)? };
        Ok(Self(PostgresStore::open(options).await?))
    }
}

impl Database for Postgres {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    fn create_tables(&self, role: Role) -> BoxFuture<'_, Result<()>> {
        let (tables, _) = role.tables();
        Box::pin(self.0.write(move |tx| {
            Box::pin(async move {
                // `IF NOT EXISTS` alone fails for one of two processes that create the same table.
                PostgresRows(tx).wait_in_line("tables").await.map_err(failed)?;
                for sql in [tables, EFFECTS] {
                    tx.batch_execute(sql).await.map_err(other)?;
                }
                Ok(())
            })
        }))
    }

    fn place(&self, order: Order, emits: bool) -> BoxFuture<'_, Result<Option<Event>>> {
        Box::pin(self.0.write(move |tx| {
            Box::pin(async move {
                let placed = order::place(&mut PostgresRows(tx), &order).await.map_err(failed)?;
                if let Some(event) = placed.as_ref().filter(|_| emits) {
                    postgres::emit(tx, event).await?;
                }
                Ok(placed)
            })
        }))
    }

    fn inbox(&self, role: Role, options: InboxOptions) -> Result<Arc<dyn Inbox>> {
        let inbox = PostgresInbox::new(&self.0, options, move |cx| {
            Box::pin(async move {
                let events = noted(role, &mut PostgresRows(cx.tx()), cx.record()).await?;
                for event in events {
                    cx.emit(event)?;
                }
                Ok(())
            })
        })?;
        Ok(Arc::new(inbox))
    }

    fn react(&self, role: Role, record: Record) -> BoxFuture<'_, Result<Vec<Event>>> {
        Box::pin(self.0.write(move |tx| {
            Box::pin(async move {
                let events = noted(role, &mut PostgresRows(tx), &record)
                    .await
                    .map_err(|error| Error::new(Code::HandlerFailed, error.to_string()))?;
                failpoint::hit("receiver.after_handler_before_commit");
                Ok(events)
            })
        }))
    }

    fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.0.clone())
    }

    fn create_barrier(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let client = self.0.options().connect().await?;
            postgres::barrier::create(&client).await
        })
    }

    fn take_part(&self, act: Act) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.write(move |tx| {
            Box::pin(async move {
                let passage = match act.barrier() {
                    Some(barrier) => postgres::barrier::pass(tx, barrier).await?,
                    None => Passage::Act,
                };
                act.follow(&mut PostgresRows(tx), passage).await.map_err(failed)
            })
        }))
    }

    fn pairs(&self, sql: &'static str) -> BoxFuture<'_, Result<Vec<(String, String)>>> {
        let sql = dialect(sql);
        Box::pin(self.0.write(move |tx| {
            Box::pin(async move {
                let rows = tx.query(&sql, &[]).await.map_err(other)?;
                let pair = |row: &postgres::tokio_postgres::Row| {
                    Ok((row.try_get(0).map_err(other)?, row.try_get(1).map_err(other)?))
                };
                rows.iter().map(pair).collect()
            })
        }))
    }

    fn number(&self, sql: &'static str) -> BoxFuture<'_, Result<i64>> {
        let sql = dialect(sql);
        Box::pin(self.0.write(move |tx| {
            Box::pin(async move {
                let row = tx.query_one(&sql, &[]).await.map_err(other)?;
                row.try_get(0).map_err(other)
            })
        }))
    }
}

/// A statement of the shop in this server's words: the store's tables stand in a schema of their own.
fn dialect(sql: &str) -> String {
    sql.replace("onewrite_saga", "onewrite.saga")
}

struct PostgresRows<'a>(&'a Transaction<'a>);

impl Rows for PostgresRows<'_> {
    async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> std::result::Result<u64, ReactionError> {
        // Their types are known, so nothing has to be prepared: one round trip.
        let values: Vec<(&(dyn ToSql + Sync), Type)> = values
            .iter()
            .map(|value| match value {
                Value::Text(text) => (text as &(dyn ToSql + Sync), Type::TEXT),
                Value::Integer(number) => (number as &(dyn ToSql + Sync), Type::INT8),
            })
            .collect();
        Ok(self.0.execute_typed(sql, &values).await?)
    }

    async fn wait_in_line(&mut self, what: &'static str) -> std::result::Result<(), ReactionError> {
        self.0.execute_typed(ONE_AT_A_TIME, &[(&what, Type::TEXT)]).await?;
        Ok(())
    }
}
