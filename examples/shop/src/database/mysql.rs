//! A service on MariaDB or MySQL.

use std::sync::Arc;

use onewrite::{
    BoxFuture, Code, Error, Event, Record, Result, Store, failpoint,
    inbox::{Inbox, InboxOptions},
    mysql::{
        self, MysqlInbox, MysqlStore,
        mysql_async::{self, Params, Transaction, prelude::Queryable as _},
    },
    other,
    saga::{Journal, Passage},
};

use super::Database;
use crate::{
    Order, ReactionError, Role, order,
    reaction::noted,
    rows::{Rows, Value, failed},
    saga::deed::Act,
};

/// Every committed reaction, for the audit; and what reactions stand in line for.
const EFFECTS: &str = "CREATE TABLE IF NOT EXISTS effects (
        n BIGINT AUTO_INCREMENT PRIMARY KEY, source TEXT, event_id TEXT, event_key TEXT, sequence BIGINT);
    CREATE TABLE IF NOT EXISTS line (what VARCHAR(100) PRIMARY KEY)";

/// A lock by name, until the end of the transaction.
const ONE_AT_A_TIME: &str = "INSERT INTO line VALUES (?) ON DUPLICATE KEY UPDATE what = what";

pub(super) struct Mysql(MysqlStore);

impl Mysql {
    pub(super) async fn open(url: &str, source: Option<Role>) -> Result<Self> {
        let (create, source) = (source.is_some(), source.map(|role| role.name().into()));
        let options = mysql::Options { create, source, ..mysql::Options::from_url(url)? };
        Ok(Self(MysqlStore::open(options).await?))
    }
}

impl Database for Mysql {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    fn can_guard(&self) -> bool {
        false
    }

    fn create_tables(&self, role: Role) -> BoxFuture<'_, Result<()>> {
        let (tables, _) = role.tables();
        Box::pin(async move {
            // Such statements commit by themselves, so no transaction can hold them.
            let mut conn = self.0.options().connect().await?;
            for sql in [tables, EFFECTS] {
                conn.query_drop(dialect(sql)).await.map_err(other)?;
            }
            conn.disconnect().await.map_err(other)
        })
    }

    fn place(&self, order: Order, emits: bool) -> BoxFuture<'_, Result<Option<Event>>> {
        Box::pin(self.0.write(move |tx| {
            Box::pin(async move {
                let placed = order::place(&mut MysqlRows(tx), &order).await.map_err(failed)?;
                if let Some(event) = placed.as_ref().filter(|_| emits) {
                    mysql::emit(tx, event).await?;
                }
                Ok(placed)
            })
        }))
    }

    fn inbox(&self, role: Role, options: InboxOptions) -> Result<Arc<dyn Inbox>> {
        let inbox = MysqlInbox::new(&self.0, options, move |cx| {
            Box::pin(async move {
                let record = cx.record();
                let events = noted(role, &mut MysqlRows(cx.tx()), record).await?;
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
                let events = noted(role, &mut MysqlRows(tx), &record)
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
            let mut conn = self.0.options().connect().await?;
            mysql::barrier::create(&mut conn).await?;
            conn.disconnect().await.map_err(other)
        })
    }

    fn take_part(&self, act: Act) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.write(move |tx| {
            Box::pin(async move {
                let passage = match act.barrier() {
                    Some(barrier) => mysql::barrier::pass(tx, barrier).await?,
                    None => Passage::Act,
                };
                act.follow(&mut MysqlRows(tx), passage).await.map_err(failed)
            })
        }))
    }

    fn pairs(&self, sql: &'static str) -> BoxFuture<'_, Result<Vec<(String, String)>>> {
        let sql = dialect(sql);
        Box::pin(
            self.0.write(move |tx| Box::pin(async move { tx.query(sql).await.map_err(other) })),
        )
    }

    fn number(&self, sql: &'static str) -> BoxFuture<'_, Result<i64>> {
        let sql = dialect(sql);
        Box::pin(self.0.write(move |tx| {
            Box::pin(async move {
                let found: Option<i64> = tx.query_first(sql).await.map_err(other)?;
                found.ok_or_else(|| Error::new(Code::NotFound, "a number was asked for"))
            })
        }))
    }
}

/// A statement of the shop in this server's words.
fn dialect(sql: &str) -> String {
    let sql = sql
        .replace("TEXT PRIMARY KEY", "VARCHAR(255) PRIMARY KEY")
        .replace(" AS TEXT)", " AS CHAR)")
        .replace(" AS BIGINT)", " AS SIGNED)");
    match sql.strip_suffix(" ON CONFLICT DO NOTHING") {
        Some(insert) => insert.replace("INSERT INTO", "INSERT IGNORE INTO"),
        None => sql,
    }
}

/// The same with `?` for its values, and which value stands in each place.
fn positional(sql: &str) -> (String, Vec<usize>) {
    let sql = dialect(sql);
    let mut parts = sql.split('$');
    let (mut out, mut places) = (parts.next().unwrap_or_default().to_owned(), Vec::new());
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = &part[..part.len() - rest.len()];
        places.push(number.parse::<usize>().map_or(0, |number| number - 1));
        out.push('?');
        out.push_str(rest);
    }
    (out, places)
}

struct MysqlRows<'a>(&'a mut Transaction<'static>);

impl Rows for MysqlRows<'_> {
    async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> std::result::Result<u64, ReactionError> {
        let (sql, places) = positional(sql);
        let value = |place: usize| match values.get(place) {
            Some(Value::Text(text)) => mysql_async::Value::from(*text),
            Some(Value::Integer(number)) => (*number).into(),
            None => mysql_async::Value::NULL,
        };
        let values = Params::Positional(places.into_iter().map(value).collect());
        let done = self.0.exec_iter(sql, values).await?;
        let affected = done.affected_rows();
        done.drop_result().await?;
        Ok(affected)
    }

    async fn wait_in_line(&mut self, what: &'static str) -> std::result::Result<(), ReactionError> {
        Ok(self.0.exec_drop(ONE_AT_A_TIME, (what,)).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_put_into_this_servers_words() {
        let sql = "INSERT INTO t (a, b, c) VALUES ($1, $2, $2) ON CONFLICT DO NOTHING";
        let wanted = "INSERT IGNORE INTO t (a, b, c) VALUES (?, ?, ?)";
        assert_eq!(positional(sql), (wanted.to_owned(), vec![0, 1, 1]));
        assert_eq!(dialect("CAST(n AS TEXT)"), "CAST(n AS CHAR)");
    }
}
