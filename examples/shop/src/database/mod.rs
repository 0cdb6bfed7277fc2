//! A service's database, of whatever kind: what differs between SQLite and others is below here, and
//! nowhere else.

mod mysql;
mod postgres;
mod sqlite;

use std::sync::Arc;

use onewrite::{
    BoxFuture, Code, Error, Event, Record, Result, Store,
    inbox::{Inbox, InboxOptions},
    saga::Journal,
    store::{Batch, Durability, Item, Op, Outcome},
};

use crate::{Order, Role, broker::scheme, saga::deed::Act};

/// The database of one service.
///
/// 1. **one commit**: rows and events of one call are committed together or not at all.
pub trait Database: Send + Sync {
    /// Its log, as the engine sees it.
    fn store(&self) -> Arc<dyn Store>;

    /// Whether it can refuse changes without an event.
    fn can_guard(&self) -> bool {
        true
    }

    /// Creates the tables of `role`, unless they exist.
    fn create_tables(&self, role: Role) -> BoxFuture<'_, Result<()>>;

    /// Writes an order's row and, when `emits`, its event. Returns the event; nothing when the order
    /// was placed before.
    fn place(&self, order: Order, emits: bool) -> BoxFuture<'_, Result<Option<Event>>>;

    /// The inbox in which `role` reacts.
    ///
    /// # Errors
    /// What the options' check says.
    fn inbox(&self, role: Role, options: InboxOptions) -> Result<Arc<dyn Inbox>>;

    /// Writes the rows of a reaction without inbox and outbox, as a naive service does. Returns the
    /// events that should follow.
    fn react(&self, role: Role, record: Record) -> BoxFuture<'_, Result<Vec<Event>>>;

    /// The sagas that are kept in it.
    fn journal(&self) -> Arc<dyn Journal>;

    /// Creates the table of the barrier, unless it exists.
    fn create_barrier(&self) -> BoxFuture<'_, Result<()>>;

    /// Takes part in a saga: passes the barrier, and carries out what is to be carried out behind it. Fails
    /// with a [`Refusal`](crate::saga::deed::Refusal) where the business says no.
    fn take_part(&self, act: Act) -> BoxFuture<'_, Result<()>>;

    /// The rows that `sql` finds, two columns of text.
    fn pairs(&self, sql: &'static str) -> BoxFuture<'_, Result<Vec<(String, String)>>>;

    /// The one number that `sql` finds.
    fn number(&self, sql: &'static str) -> BoxFuture<'_, Result<i64>>;
}

/// Opens the database at `url`; creates a missing schema, under the name of `source`, only if one is
/// given.
///
/// # Errors
/// What the store says; [`Code::UnknownScheme`].
pub async fn open(url: &str, source: Option<Role>) -> Result<Arc<dyn Database>> {
    match scheme(url) {
        "sqlite" => Ok(Arc::new(sqlite::Sqlite::open(url, source)?)),
        "mysql" | "mariadb" => Ok(Arc::new(mysql::Mysql::open(url, source).await?)),
        "postgres" | "postgresql" => Ok(Arc::new(postgres::Postgres::open(url, source).await?)),
        _ => Err(Error::new(Code::UnknownScheme, "the shop has no database of this scheme")),
    }
}

/// Makes `database` refuse changes of the tables of `role` that emit nothing, if it can.
pub(crate) async fn guard(database: &dyn Database, role: Role) -> Result<()> {
    if !database.can_guard() {
        return Ok(());
    }
    let (_, tables) = role.tables();
    let ops = tables.iter().map(|table| Op::Guard { table: (*table).into() }).collect();
    let items = vec![Item { fence: None, ops }];
    let batch = Batch { durability: Durability::Durable, items };
    match database.store().commit(batch).await?.pop() {
        Some(Outcome::Failed(error)) => Err(error),
        _ => Ok(()),
    }
}
