//! What the tests share.

use std::{collections::BTreeMap, time::Duration};

use mysql_async::{Conn, prelude::Queryable as _};
use onewrite_core::{
    Event, Partition, Sequence,
    position::START,
    sabotage::Sabotage,
    store::{Read, Store},
};
use onewrite_store_mysql::{MysqlStore, Options, mysql_async};
use onewrite_testkit::server;

/// How long a test waits for what has to happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The URL of a new database on the shared server.
pub(crate) async fn database() -> String {
    let server = server::shared_mariadb().await.unwrap();
    let name = server::unique("suite");
    server.create_database(&name).await.unwrap();
    server.url(&name)
}

/// Opens the store at `url`, with four partitions if it is new.
pub(crate) async fn open(url: &str) -> MysqlStore {
    open_broken(url, Sabotage::default()).await
}

/// The same with something broken in it.
pub(crate) async fn open_broken(url: &str, sabotage: Sabotage) -> MysqlStore {
    let options = Options { partitions: 4, sabotage, ..Options::from_url(url).unwrap() };
    MysqlStore::open(options).await.unwrap()
}

/// A user's own connection, with the server's own settings.
pub(crate) async fn connect(url: &str) -> Conn {
    Conn::from_url(url).await.unwrap()
}

/// Runs statements.
pub(crate) async fn execute(conn: &mut Conn, sql: &str) {
    if let Err(error) = conn.query_drop(sql).await {
        panic!("{sql}: {error}");
    }
}

/// The one number that a query brings.
pub(crate) async fn number(conn: &mut Conn, sql: &str) -> i64 {
    conn.query_first(sql).await.unwrap().unwrap()
}

/// An event of `key`, with an id.
pub(crate) fn event(key: &str, id: impl Into<String>) -> Event {
    Event { id: Some(id.into().into()), ..Event::new("Happened", "Thing", key.to_owned()) }
}

/// Waits until `done`.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !done().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what} did not happen");
}

/// A reader that follows all partitions from the beginning: the ids it has seen, in order.
pub(crate) struct Follower {
    after: BTreeMap<Partition, Sequence>,
    pub(crate) ids: Vec<String>,
}

impl Follower {
    pub(crate) fn new(store: &dyn Store) -> Self {
        let after = (0..store.source().partitions).map(|partition| (partition, START)).collect();
        Self { after, ids: Vec::new() }
    }

    /// Reads one page; says whether more may follow.
    pub(crate) async fn step(&mut self, store: &dyn Store) -> onewrite_core::Result<bool> {
        let after = self.after.iter().map(|(partition, after)| (*partition, *after)).collect();
        let read = Read { after, limit: 100, bytes_max: 1 << 24, kinds: Vec::new() };
        let page = store.read(read).await?;
        self.after.extend(page.upto);
        self.ids.extend(page.records.iter().map(|record| record.id().to_owned()));
        Ok(page.more)
    }

    /// Reads to the end.
    pub(crate) async fn drain(&mut self, store: &dyn Store) {
        while self.step(store).await.unwrap() {}
    }
}

/// The ids of the whole log, in order.
pub(crate) async fn log(store: &dyn Store) -> Vec<String> {
    let mut follower = Follower::new(store);
    follower.drain(store).await;
    follower.ids
}
