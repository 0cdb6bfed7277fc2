//! The inbox whose handlers write through `sqlx` keeps the same promises.

use std::sync::Arc;

use onewrite_core::{
    BoxFuture, Result,
    inbox::{Inbox, Policy},
    sabotage::{Defect, Sabotage},
    store::Store,
};
use onewrite_store_sqlite::{InboxOptions, sqlx::SqlxInbox};
use onewrite_testkit::conformance::{self, Act, InboxFixture, InboxPlace, Remember, Script};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

use crate::conformance::{Place, Sqlite};

#[derive(Default)]
struct Sqlx(Sabotage);

struct SqlxPlace(Place);

impl InboxFixture for Sqlx {
    fn place(&self) -> BoxFuture<'_, Box<dyn InboxPlace>> {
        let place = SqlxPlace(Sqlite(self.0).place(4));
        Box::pin(async move { Box::new(place) as Box<dyn InboxPlace> })
    }

    fn sabotage(&self) -> Sabotage {
        self.0
    }
}

impl InboxPlace for SqlxPlace {
    fn open(
        &self,
        policy: Policy,
        remember: Remember,
        script: Script,
    ) -> BoxFuture<'_, Result<Arc<dyn Inbox>>> {
        Box::pin(async move {
            let store = self.0.store();
            let options = SqliteConnectOptions::new()
                .filename(self.0.path())
                .synchronous(SqliteSynchronous::Full);
            let pool = SqlitePool::connect_with(options).await.unwrap();
            let table = "CREATE TABLE IF NOT EXISTS effect (n INTEGER PRIMARY KEY, id TEXT)";
            sqlx::query(table).execute(&pool).await.unwrap();
            let options = InboxOptions {
                policy,
                id_retention: remember.ids,
                redelivery_horizon: remember.horizon,
            };
            let inbox = SqlxInbox::new(&store, pool, options, move |context| {
                let act = script(context.record());
                Box::pin(async move {
                    let id = context.record().id().to_owned();
                    sqlx::query("INSERT INTO effect (id) VALUES (?1)")
                        .bind(id)
                        .execute(context.tx())
                        .await?;
                    match act {
                        Act::Apply => Ok(()),
                        Act::Emit(event) => Ok(context.emit(*event).await.map(|_| ())?),
                        Act::Refuse(reason) => Err(reason.into()),
                        Act::Panic => panic!("on purpose"),
                    }
                })
            })?;
            Ok(Arc::new(inbox) as Arc<dyn Inbox>)
        })
    }

    fn store(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        InboxPlace::store(&self.0)
    }

    fn effects(&self) -> BoxFuture<'_, Vec<String>> {
        self.0.effects()
    }
}

onewrite_testkit::inbox_suite!(Sqlx::default());

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_notices_a_receiver_without_memory() {
    let case = async {
        conformance::inbox::late_duplicate(&Sqlx(Sabotage::default().with(Defect::NoDedup))).await;
    };
    let complaint = conformance::complaint(case).await;
    assert!(complaint.contains("late duplicate: "), "{complaint}");
}
