//! The inbox whose handlers write through `sqlx` keeps the same promises.

use std::sync::Arc;

use onewrite_core::{
    BoxFuture, Event, Result,
    inbox::{Inbox, Policy},
    sabotage::{Defect, Sabotage},
    store::Store,
};
use onewrite_store_postgres::{
    InboxOptions,
    sqlx::{SqlxInbox, emit},
};
use onewrite_testkit::conformance::{self, Act, InboxFixture, InboxPlace, Remember, Script};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::conformance::{Place, Postgres};

#[derive(Default)]
struct Sqlx(Sabotage);

struct SqlxPlace(Place);

impl InboxFixture for Sqlx {
    fn place(&self) -> BoxFuture<'_, Box<dyn InboxPlace>> {
        let fixture = Postgres { sabotage: self.0, ..Postgres::default() };
        Box::pin(async move { Box::new(SqlxPlace(fixture.place(4).await)) as Box<dyn InboxPlace> })
    }

    fn sabotage(&self) -> Sabotage {
        self.0
    }
}

async fn pool(place: &Place) -> PgPool {
    PgPoolOptions::new().max_connections(4).connect(&place.url).await.unwrap()
}

impl InboxPlace for SqlxPlace {
    fn open(
        &self,
        policy: Policy,
        remember: Remember,
        script: Script,
    ) -> BoxFuture<'_, Result<Arc<dyn Inbox>>> {
        Box::pin(async move {
            let store = self.0.store().await;
            let pool = pool(&self.0).await;
            let table = "CREATE TABLE IF NOT EXISTS effect (n bigserial PRIMARY KEY, id text)";
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
                    sqlx::query("INSERT INTO effect (id) VALUES ($1)")
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

#[tokio::test(flavor = "multi_thread")]
async fn an_event_shares_the_fate_of_the_users_rows() {
    let place = Postgres::default().place(4).await;
    let store = place.store().await;
    let pool = pool(&place).await;
    for (key, kept) in [("kept", true), ("undone", false)] {
        let mut tx = pool.begin().await.unwrap();
        let event = Event::new("Happened", "Thing", key).header("a", "b");
        emit(&mut tx, &event).await.unwrap();
        if kept {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    let found = store.find(onewrite_core::store::Find::All).await.unwrap();
    assert_eq!(found.iter().map(|trace| &*trace.key).collect::<Vec<_>>(), ["kept"]);
}
