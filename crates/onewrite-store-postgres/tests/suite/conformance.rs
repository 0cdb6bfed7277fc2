//! The promises of store and inbox on PostgreSQL, case by case, and that the cases notice what breaks
//! them.

use std::sync::Arc;

use onewrite_core::{
    BoxFuture, Event, Result,
    inbox::{Inbox, Policy},
    sabotage::{Defect, Sabotage},
    saga::{Ended, Journaling, Json, Transacted, journal::Journal},
    store::{Batch, Durability, Item, Store},
};
use onewrite_store_postgres::{
    Context, InboxOptions, Options, PostgresInbox, PostgresStore, tokio_postgres,
};
use onewrite_testkit::{
    conformance::{
        self, Act, InboxFixture, InboxPlace, JournalFixture, JournalPlace, Remember, Script,
        StoreFixture, StorePlace, UserTx,
    },
    server,
};
use tokio_postgres::{Client, NoTls};

onewrite_testkit::store_suite!(Postgres::default());
onewrite_testkit::inbox_suite!(Postgres::default());
onewrite_testkit::journal_suite!(Postgres::default());

/// PostgreSQL with what is sabotaged in it, and how its users' events are placed.
#[derive(Default, Clone, Copy)]
pub(crate) struct Postgres {
    pub(crate) sabotage: Sabotage,
    pub(crate) at_once: bool,
}

impl Postgres {
    pub(crate) async fn place(self, partitions: u16) -> Place {
        let server = server::shared_postgres().await.unwrap();
        let name = server::unique("store");
        server.create_database(&name).await.unwrap();
        Place { url: server.url(&name), partitions, fixture: self }
    }
}

impl StoreFixture for Postgres {
    fn place(&self, partitions: u16) -> BoxFuture<'_, Box<dyn StorePlace>> {
        Box::pin(
            async move { Box::new(Self::place(*self, partitions).await) as Box<dyn StorePlace> },
        )
    }
}

impl JournalFixture for Postgres {
    fn journals(&self) -> BoxFuture<'_, Box<dyn JournalPlace>> {
        Box::pin(async { Box::new(Self::place(*self, 4).await) as Box<dyn JournalPlace> })
    }
}

impl InboxFixture for Postgres {
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
    fixture: Postgres,
}

impl Place {
    /// The same database for another user.
    pub(crate) fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    pub(crate) async fn store(&self) -> PostgresStore {
        let (partitions, sabotage) = (self.partitions, self.fixture.sabotage);
        let options = Options { partitions, sabotage, ..Options::from_url(&self.url).unwrap() };
        PostgresStore::open(options).await.unwrap()
    }

    /// A user's own connection.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.url).await
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl StorePlace for Place {
    fn open(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.store().await) as Arc<dyn Store> })
    }

    fn begin(&self) -> BoxFuture<'_, Box<dyn UserTx>> {
        Box::pin(async {
            let client = self.connect().await;
            client.batch_execute("BEGIN").await.unwrap();
            Box::new(Tx { client, at_once: self.fixture.at_once }) as Box<dyn UserTx>
        })
    }

    fn insert<'a>(&'a self, aggregate_id: &'a str) -> BoxFuture<'a, ()> {
        let sql = "INSERT INTO onewrite.outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', $1, 'Created', '{}')";
        Box::pin(async move {
            let inserted = self.connect().await.execute(sql, &[&aggregate_id]).await.unwrap();
            assert_eq!(inserted, 1, "a plain insert is reported as what it is");
        })
    }

    fn reaches_disk(&self) -> BoxFuture<'_, Option<bool>> {
        Box::pin(async {
            let store = self.store().await;
            for durability in [Durability::Durable, Durability::Relaxed, Durability::Durable] {
                let items = vec![Item::default()];
                Store::commit(&store, Batch { durability, items }).await.unwrap();
            }
            None
        })
    }
}

/// A transaction on a user's own connection.
struct Tx {
    client: Client,
    at_once: bool,
}

impl UserTx for Tx {
    fn emit(&mut self, event: Event) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { emit_on(&self.client, &event, self.at_once).await })
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            self.client.batch_execute("COMMIT").await.unwrap();
            Ok(())
        })
    }

    fn rollback(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.client.batch_execute("ROLLBACK").await.unwrap() })
    }
}

/// Emits through the SQL functions, as any language does.
async fn emit_on(client: &Client, event: &Event, at_once: bool) -> Result<()> {
    let placing = if at_once { "emit" } else { "commit" };
    let changed = "UPDATE onewrite.source SET placement = $1 WHERE placement <> $1";
    client.execute(changed, &[&placing]).await.unwrap();
    let sql = "SELECT onewrite.emit($1, $2, $3, key => $4, id => $5, payload_bytes => $6)";
    client
        .execute(
            sql,
            &[
                &&*event.aggregate_type,
                &&*event.aggregate_id,
                &&*event.kind,
                &&**event.order_key(),
                &event.id.as_deref(),
                &&*event.data,
            ],
        )
        .await
        .map(|_| ())
        .map_err(|error| {
            onewrite_core::Error::new(onewrite_core::Code::Database, "emit").with_source(error)
        })
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
            let table = "CREATE TABLE IF NOT EXISTS carried_out (n serial)";
            self.connect().await.batch_execute(table).await.unwrap();
            let store = self.store().await;
            let insert = "INSERT INTO carried_out DEFAULT VALUES";
            store
                .carry_out(
                    |tx| {
                        Box::pin(async move {
                            tx.batch_execute(insert).await.unwrap();
                            answer
                        })
                    },
                    journal,
                )
                .await
        })
    }

    fn carried_out(&self) -> BoxFuture<'_, i64> {
        let sql = "SELECT count(*) FROM carried_out";
        Box::pin(async { self.connect().await.query_one(sql, &[]).await.unwrap().get(0) })
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
            let table = "CREATE TABLE IF NOT EXISTS effect (n bigserial PRIMARY KEY, id text)";
            self.connect().await.batch_execute(table).await.unwrap();
            let options = InboxOptions {
                policy,
                id_retention: remember.ids,
                redelivery_horizon: remember.horizon,
            };
            let inbox = PostgresInbox::new(&store, options, move |context: &mut Context<'_>| {
                let act = script(context.record());
                Box::pin(async move {
                    let id = context.record().id().to_owned();
                    context.tx().execute("INSERT INTO effect (id) VALUES ($1)", &[&id]).await?;
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
            let client = self.connect().await;
            let rows = client.query("SELECT id FROM effect ORDER BY n", &[]).await.unwrap();
            rows.iter().map(|row| row.get(0)).collect()
        })
    }
}

/// The cases of commit order once more, with events that are placed when they are emitted. Without
/// `commit_order`: its transactions emit several events in any order of partitions, and would deadlock,
/// as `emit_at_once` says. `order.rs` does the same in one order.
mod at_once {
    use super::*;

    fn at_once() -> Postgres {
        Postgres { at_once: true, ..Postgres::default() }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn open_transaction() {
        conformance::order::open_transaction(&at_once()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn never_twice() {
        conformance::order::never_twice(&at_once()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn time_is_no_order() {
        conformance::order::time_is_no_order(&at_once()).await;
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
                    let sabotage = Sabotage::default().with(Defect::$defect);
                    let fixture = Postgres { sabotage, ..Postgres::default() };
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
