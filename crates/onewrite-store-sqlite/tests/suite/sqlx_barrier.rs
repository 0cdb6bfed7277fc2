//! The barrier within transactions of `sqlx`.

use std::time::Duration;

use onewrite_core::{
    BoxFuture, Code, Error, Result,
    saga::{
        SagaId,
        barrier::{Barrier, Passage},
    },
};
use onewrite_store_sqlite::sqlx::barrier::{create, forget, pass};
use onewrite_testkit::conformance::{BarrierCall, BarrierFixture, BarrierPlace};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::barrier::Folder;

onewrite_testkit::barrier_suite!(Participants);

struct Participants;

struct Participant(Folder);

async fn connect(folder: &Folder) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(folder.path());
    sqlx::ConnectOptions::connect(&options).await.unwrap()
}

fn failed(error: sqlx::Error) -> Error {
    Error::new(Code::Database, "move").with_source(error)
}

impl BarrierFixture for Participants {
    fn participant(&self) -> BoxFuture<'_, Box<dyn BarrierPlace>> {
        Box::pin(async { Box::new(Participant(Folder::new())) as _ })
    }
}

impl BarrierPlace for Participant {
    fn create(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { create(&mut connect(&self.0).await).await })
    }

    fn call(&self, call: BarrierCall) -> BoxFuture<'_, Result<Passage>> {
        Box::pin(async move {
            let mut conn = connect(&self.0).await;
            let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
            let passage = pass(&mut tx, &call.barrier).await?;
            if passage.acts() {
                let moved =
                    sqlx::query("INSERT INTO ledger (amount) VALUES (?1)").bind(call.amount);
                moved.execute(&mut *tx).await.map_err(failed)?;
            }
            let ended = if call.commits { tx.commit().await } else { tx.rollback().await };
            ended.map(|()| passage).map_err(failed)
        })
    }

    fn ledger(&self) -> BoxFuture<'_, Vec<i64>> {
        Box::pin(async { self.0.amounts() })
    }

    fn forget(&self, kept: Duration) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { forget(&mut connect(&self.0).await, kept).await })
    }

    fn age<'a>(&'a self, saga: SagaId, step: &'a str, hours: u32) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.0.age(saga, step, hours) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_a_transaction_it_is_refused() {
    let folder = Folder::new();
    let barrier = Barrier::action(SagaId(7), "pay").unwrap();
    let refused = pass(&mut connect(&folder).await, &barrier).await.unwrap_err();
    assert_eq!(refused.code(), Code::UnsafeSetting);
}
