//! The promises of store and inbox on MariaDB, case by case, and that the cases notice what breaks them.

use std::sync::Arc;

use mysql_async::{Conn, prelude::Queryable};
use onewrite_core::{
    BoxFuture, Event, Result,
    inbox::{Inbox, Policy},
    sabotage::{Defect, Sabotage},
    saga::{Ended, Journaling, Json, Transacted, journal::Journal},
    store::Store,
};
use onewrite_store_mysql::{
    Context, InboxOptions, MysqlInbox, MysqlStore, Options, emit_all, mysql_async,
};
use onewrite_testkit::{
    conformance::{
        self, Act, InboxFixture, InboxPlace, JournalFixture, JournalPlace, Remember, Script,
        StoreFixture, StorePlace, UserTx,
    },
    server,
};

onewrite_testkit::store_suite!(Mysql::default());
onewrite_testkit::inbox_suite!(Mysql::default());
onewrite_testkit::journal_suite!(Mysql::default());

/// MariaDB with what is sabotaged in it.
#[derive(Default, Clone, Copy)]
pub(crate) struct Mysql {
    pub(crate) sabotage: Sabotage,
}

impl Mysql {
    pub(crate) async fn place(self, partitions: u16) -> Place {
        let server = server::shared_mariadb().await.unwrap();
        let name = server::unique("store");
        server.create_database(&name).await.unwrap();
        Place { url: server.url(&name), partitions, fixture: self }
    }
}

impl StoreFixture for Mysql {
    fn place(&self, partitions: u16) -> BoxFuture<'_, Box<dyn StorePlace>> {
        Box::pin(
            async move { Box::new(Self::place(*self, partitions).await) as Box<dyn StorePlace> },
        )
    }
}

impl JournalFixture for Mysql {
    fn journals(&self) -> BoxFuture<'_, Box<dyn JournalPlace>> {
        Box::pin(async { Box::new(Self::place(*self, 4).await) as Box<dyn JournalPlace> })
    }
}

impl InboxFixture for Mysql {
    fn place(&self) -> BoxFuture<'_, Box<dyn InboxPlace>> {
        Box::pin(async { Box::new(Self::place(*self, 4).await) as Box<dyn InboxPlace> })
    }

    fn sabotage(&self) -> Sabotage {
        self.sabotage
    }
}

/// One database.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) url: String,
    partitions: u16,
    fixture: Mysql,
}

impl Place {
    /// A database that another user may have made.
    pub(crate) fn at(url: &str) -> Self {
        Self { url: url.to_owned(), partitions: 4, fixture: Mysql::default() }
    }

    pub(crate) async fn store(&self) -> MysqlStore {
        let (partitions, sabotage) = (self.partitions, self.fixture.sabotage);
        let options = Options { partitions, sabotage, ..Options::from_url(&self.url).unwrap() };
        MysqlStore::open(options).await.unwrap()
    }

    /// A user's own connection, with the server's own settings.
    pub(crate) async fn connect(&self) -> Conn {
        Conn::from_url(&self.url).await.unwrap()
    }
}

impl StorePlace for Place {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.store().await) as Arc<dyn Store> })
    }

    fn begin(&self) -> BoxFuture<'_, Box<dyn UserTx>> {
        Box::pin(async {
            let mut conn = self.connect().await;
            conn.query_drop("START TRANSACTION").await.unwrap();
            Box::new(Tx { conn, events: Vec::new() }) as Box<dyn UserTx>
        })
    }

    fn insert<'a>(&'a self, aggregate_id: &'a str) -> BoxFuture<'a, ()> {
        let sql = "INSERT INTO onewrite_outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', ?, 'Created', '{}')";
        Box::pin(async move {
            let mut conn = self.connect().await;
            conn.exec_drop(sql, (aggregate_id,)).await.unwrap();
            assert_eq!(conn.affected_rows(), 1, "a plain insert is reported as what it is");
        })
    }
}

/// A transaction on a user's own connection, who emits at its end, as is advised.
struct Tx {
    conn: Conn,
    events: Vec<Event>,
}

impl UserTx for Tx {
    fn emit(&mut self, event: Event) -> BoxFuture<'_, Result<()>> {
        self.events.push(event);
        Box::pin(std::future::ready(Ok(())))
    }

    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            emit_all(&mut self.conn, &self.events).await?;
            self.conn.query_drop("COMMIT").await.unwrap();
            Ok(())
        })
    }

    fn rollback(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.conn.query_drop("ROLLBACK").await.unwrap() })
    }
}

impl JournalPlace for Place {
    fn journal(&self) -> BoxFuture<'_, Arc<dyn Journal>> {
        Box::pin(async { Arc::new(self.store().await) as Arc<dyn Journal> })
    }

    fn carry_out(
        &self,
        answer: Result<Json, Ended>,
        journal: Journaling,
    ) -> BoxFuture<'_, Result<Transacted>> {
        Box::pin(async move {
            let table =
                "CREATE TABLE IF NOT EXISTS carried_out (n BIGINT AUTO_INCREMENT PRIMARY KEY)";
            self.connect().await.query_drop(table).await.unwrap();
            let store = self.store().await;
            let insert = "INSERT INTO carried_out () VALUES ()";
            store
                .carry_out(
                    |tx| {
                        Box::pin(async move {
                            tx.query_drop(insert).await.unwrap();
                            answer
                        })
                    },
                    journal,
                )
                .await
        })
    }

    fn carried_out(&self) -> BoxFuture<'_, i64> {
        Box::pin(async {
            let found = self.connect().await.query_first("SELECT count(*) FROM carried_out").await;
            found.unwrap().unwrap()
        })
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
            let store = self.store().await;
            let table =
                "CREATE TABLE IF NOT EXISTS effect (n BIGINT AUTO_INCREMENT PRIMARY KEY, id TEXT)";
            self.connect().await.query_drop(table).await.unwrap();
            let options = InboxOptions {
                policy,
                id_retention: remember.ids,
                redelivery_horizon: remember.horizon,
            };
            let inbox = MysqlInbox::new(&store, options, move |context: &mut Context<'_>| {
                let act = script(context.record());
                Box::pin(async move {
                    let id = context.record().id().to_owned();
                    context.tx().exec_drop("INSERT INTO effect (id) VALUES (?)", (id,)).await?;
                    match act {
                        Act::Apply => Ok(()),
                        Act::Emit(event) => Ok(context.emit(*event).map(|_| ())?),
                        Act::Refuse(reason) => Err(reason.into()),
                        Act::Panic => panic!("on purpose"),
                    }
                })
            })?;
            Ok(Arc::new(inbox) as Arc<dyn Inbox>)
        })
    }

    fn store(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        StorePlace::open(self)
    }

    fn effects(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async {
            let mut conn = self.connect().await;
            conn.query("SELECT id FROM effect ORDER BY n").await.unwrap()
        })
    }
}

macro_rules! notices {
    ($($name:ident: $defect:ident, $module:ident::$case:ident, $complaint:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let said = conformance::complaint(async {
                let sabotage = Sabotage::default().with(Defect::$defect);
                conformance::$module::$case(&Mysql { sabotage }).await;
            });
            let said = said.await;
            assert!(said.contains($complaint), "{said}");
        })*
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
    order_taken_from_time: OrderByTime, order::time_is_no_order, "commit order: ";
    rows_that_never_go: NoRetention, cursor::trim, "trim: ";
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
