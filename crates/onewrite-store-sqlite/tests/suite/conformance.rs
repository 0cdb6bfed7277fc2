//! The promises of store and inbox on SQLite, case by case, and that the cases notice what breaks them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Event, Result,
    inbox::{Inbox, Policy},
    sabotage::{Defect, Sabotage},
    saga::{Ended, Journaling, Json, Transacted, journal::Journal},
    store::{Batch, Durability, Item, Store},
};
use onewrite_store_sqlite::{
    Context, InboxOptions, Options, SqliteInbox, SqliteStore, emit,
    rusqlite::{self, Connection},
};
use onewrite_testkit::conformance::{
    self, Act, InboxFixture, InboxPlace, JournalFixture, JournalPlace, Remember, Script,
    StoreFixture, StorePlace, UserTx,
};

onewrite_testkit::store_suite!(Sqlite::default());
onewrite_testkit::inbox_suite!(Sqlite::default());
onewrite_testkit::journal_suite!(Sqlite::default());

/// SQLite with what is sabotaged in it.
#[derive(Default, Clone, Copy)]
pub(crate) struct Sqlite(pub(crate) Sabotage);

impl Sqlite {
    pub(crate) fn place(self, partitions: u16) -> Place {
        Place { folder: tempfile::tempdir().unwrap(), partitions, sabotage: self.0 }
    }
}

impl StoreFixture for Sqlite {
    fn place(&self, partitions: u16) -> BoxFuture<'_, Box<dyn StorePlace>> {
        Box::pin(async move { Box::new(Self::place(*self, partitions)) as Box<dyn StorePlace> })
    }
}

impl JournalFixture for Sqlite {
    fn journals(&self) -> BoxFuture<'_, Box<dyn JournalPlace>> {
        Box::pin(async { Box::new(Self::place(*self, 4)) as Box<dyn JournalPlace> })
    }
}

impl InboxFixture for Sqlite {
    fn place(&self) -> BoxFuture<'_, Box<dyn InboxPlace>> {
        Box::pin(async { Box::new(Self::place(*self, 4)) as Box<dyn InboxPlace> })
    }

    fn sabotage(&self) -> Sabotage {
        self.0
    }
}

/// A folder with one database.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    partitions: u16,
    sabotage: Sabotage,
}

impl Place {
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("shop.db")
    }

    pub(crate) fn store(&self) -> SqliteStore {
        let (partitions, sabotage) = (self.partitions, self.sabotage);
        SqliteStore::open(Options { partitions, sabotage, ..Options::new(self.path()) }).unwrap()
    }

    /// A user's own connection. It never waits within a call: who waits holds up the others' tests.
    fn connect(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        connection
    }
}

/// Runs `sql` as soon as no other transaction is in the way.
async fn execute(connection: Connection, sql: &str, binds: &[&str]) -> Connection {
    loop {
        let result = connection.execute(sql, rusqlite::params_from_iter(binds));
        let Err(error) = result else { return connection };
        let busy = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy);
        assert!(busy, "{sql}: {error}");
        tokio::task::yield_now().await;
    }
}

impl StorePlace for Place {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.store()) as Arc<dyn Store> })
    }

    fn begin(&self) -> BoxFuture<'_, Box<dyn UserTx>> {
        Box::pin(async {
            let connection = execute(self.connect(), "BEGIN IMMEDIATE", &[]).await;
            Box::new(Tx(connection)) as Box<dyn UserTx>
        })
    }

    fn insert<'a>(&'a self, aggregate_id: &'a str) -> BoxFuture<'a, ()> {
        let sql = "INSERT INTO onewrite_outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', ?1, 'Created', '{}')";
        Box::pin(async move { drop(execute(self.connect(), sql, &[aggregate_id]).await) })
    }

    fn reaches_disk(&self) -> BoxFuture<'_, Option<bool>> {
        Box::pin(async {
            let store = self.store();
            for durability in [Durability::Durable, Durability::Relaxed, Durability::Durable] {
                let items = vec![Item::default()];
                Store::commit(&store, Batch { durability, items }).await.unwrap();
            }
            let level = |tx: &Connection| {
                Ok(tx.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0)).unwrap())
            };
            Some(store.write(level).await.unwrap() >= 2)
        })
    }
}

/// A transaction on a user's own connection.
struct Tx(Connection);

impl UserTx for Tx {
    fn emit(&mut self, event: Event) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(emit(&self.0, &event).map(|_| ())))
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            execute(self.0, "COMMIT", &[]).await;
            Ok(())
        })
    }

    fn rollback(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { drop(execute(self.0, "ROLLBACK", &[]).await) })
    }
}

impl JournalPlace for Place {
    fn journal(&self) -> BoxFuture<'_, Arc<dyn Journal>> {
        Box::pin(async { Arc::new(self.store()) as Arc<dyn Journal> })
    }

    fn carry_out(
        &self,
        answer: Result<Json, Ended>,
        journal: Journaling,
    ) -> BoxFuture<'_, Result<Transacted>> {
        let sql = "CREATE TABLE IF NOT EXISTS carried_out (n INTEGER PRIMARY KEY)";
        Box::pin(async move {
            execute(self.connect(), sql, &[]).await;
            let work = move |tx: &Connection| {
                tx.execute("INSERT INTO carried_out DEFAULT VALUES", []).unwrap();
                answer.clone()
            };
            self.store().carry_out(work, journal).await
        })
    }

    fn carried_out(&self) -> BoxFuture<'_, i64> {
        let sql = "SELECT count(*) FROM carried_out";
        Box::pin(async { self.connect().query_row(sql, [], |row| row.get(0)).unwrap() })
    }
}

impl InboxPlace for Place {
    fn open(
        &self,
        policy: Policy,
        remember: Remember,
        script: Script,
    ) -> BoxFuture<'_, Result<Arc<dyn Inbox>>> {
        Box::pin(async move {
            let store = self.store();
            let table = "CREATE TABLE IF NOT EXISTS effect (n INTEGER PRIMARY KEY, id TEXT)";
            store
                .write(move |tx| {
                    tx.execute_batch(table).unwrap();
                    Ok(())
                })
                .await?;
            let options = InboxOptions {
                policy,
                id_retention: remember.ids,
                redelivery_horizon: remember.horizon,
            };
            let handler = move |context: &Context<'_>| {
                let id = context.record().id();
                context.tx().execute("INSERT INTO effect (id) VALUES (?1)", [id])?;
                match script(context.record()) {
                    Act::Apply => Ok(()),
                    Act::Emit(event) => Ok(context.emit(*event).map(|_| ())?),
                    Act::Refuse(reason) => Err(reason.into()),
                    Act::Panic => panic!("on purpose"),
                }
            };
            let inbox = SqliteInbox::new(&store, options, handler)?;
            Ok(Arc::new(inbox) as Arc<dyn Inbox>)
        })
    }

    fn store(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        StorePlace::open(self)
    }

    fn effects(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async {
            let connection = self.connect();
            connection.busy_timeout(Duration::from_secs(10)).unwrap();
            let mut statement = connection.prepare("SELECT id FROM effect ORDER BY n").unwrap();
            let rows = statement.query_map([], |row| row.get(0)).unwrap();
            rows.collect::<rusqlite::Result<_>>().unwrap()
        })
    }
}

/// With each defect planted, the case of the promise it breaks fails, and says so.
macro_rules! notices {
    ($($name:ident: $defect:ident, $module:ident::$case:ident, $complaint:literal;)*) => {
        mod sabotage {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let case = async {
                    let fixture = Sqlite(Sabotage::default().with(Defect::$defect));
                    conformance::$module::$case(&fixture).await;
                };
                let complaint = conformance::complaint(case).await;
                assert!(complaint.contains($complaint), "for another reason: {complaint}");
            })*
        }
    };
}

notices! {
    late_writes_of_an_old_owner: NoFence, store::fenced, "fenced: ";
    late_transitions_of_an_old_owner: NoFence, saga::fenced_transition, "fenced: an old owner";
    transitions_of_any_number: NoVersion, saga::next_version, "next version: one that exists";
    signals_taken_twice: TakeTwice, saga::taken_once, "taken once: by two at once";
    children_trimmed: TrimChildren, child::kept_for_its_parent, "kept for its parent: and not for one that is gone";
    attributes_that_stay: KeepAttributes, list::by_attribute, "by attribute: another saga of its id";
    attributes_overlooked: OverlookAttributes, list::by_attribute, "by attribute: one";
    others_trimmed: TrimOthers, child::only_these, "only these: none";
    late_writes_within_a_batch: NoFence, store::independent, "independent: ";
    numbers_used_twice: ReuseSequence, order::never_twice, "is used twice";
    order_taken_from_time: OrderByTime, order::time_is_no_order, "commit order: ";
    rows_that_never_go: NoRetention, cursor::trim, "trim: ";
    commits_that_do_not_reach_the_disk: NoSync, store::durable, "durable: ";
    attempts_that_are_not_stored: NoAttempts, poison::attempt_first, "attempt first: ";
    a_crash_loop_for_ever: NoAttempts, poison::crash_loop, "still not parked";
    duplicates_in_a_stream: NoDedup, inbox::late_duplicate, "late duplicate: ";
    duplicates_of_foreign_events: NoDedup, foreign::foreign_ids, "foreign ids: ";
    duplicates_of_redriven_records: NoDedup, foreign::redriven, "redriven: again";
    losses_taken_for_holes: NoChain, inbox::gap, "gap: it is stepped over";
    redriven_records_judged_by_the_mark: RedriveByMark, foreign::redriven, "redriven: below the mark";
    later_records_of_a_parked_key: NoParking, poison::parked_key, "parked key: ";
    records_behind_a_failed_one: AckPastFailure, inbox::partial_failure, "partial failure: behind it";
    a_source_that_went_back_in_time: NoIncarnation, inbox::diverged, "diverged: receipts";
    a_life_that_overtakes_the_one_before: OrderWithinLife, inbox::lives, "lives: the next life's";
    ids_forgotten_at_once: ForgetIds, foreign::retention, "retention: forgotten before its time";
}
