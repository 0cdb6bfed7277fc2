//! The inbox whose handlers write through `sqlx` keeps the same promises, and the cases notice what breaks them.

use std::sync::Arc;

use onewrite_core::{
    BoxFuture, Result,
    inbox::{Inbox, Policy},
    sabotage::{Defect, Sabotage},
    store::Store,
};
use onewrite_store_mysql::{InboxOptions, sqlx::SqlxInbox};
use onewrite_testkit::conformance::{self, Act, InboxFixture, InboxPlace, Remember, Script};
use sqlx::MySqlPool;

use crate::conformance::{Mysql, Place};

onewrite_testkit::inbox_suite!(Sqlx::default());

#[derive(Default)]
struct Sqlx(Sabotage);

struct SqlxPlace(Place);

impl InboxFixture for Sqlx {
    fn place(&self) -> BoxFuture<'_, Box<dyn InboxPlace>> {
        let fixture = Mysql { sabotage: self.0 };
        Box::pin(async move { Box::new(SqlxPlace(fixture.place(4).await)) as Box<dyn InboxPlace> })
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
            let store = self.0.store().await;
            let pool = MySqlPool::connect(&self.0.url).await.unwrap();
            let table =
                "CREATE TABLE IF NOT EXISTS effect (n BIGINT AUTO_INCREMENT PRIMARY KEY, id TEXT)";
            sqlx::query(table).execute(&pool).await.unwrap();
            let options = InboxOptions {
                policy,
                id_retention: remember.ids,
                redelivery_horizon: remember.horizon,
            };
            let inbox = SqlxInbox::new(&store, &pool, options, move |context| {
                let act = script(context.record());
                Box::pin(async move {
                    let id = context.record().id().to_owned();
                    let insert = sqlx::query("INSERT INTO effect (id) VALUES (?)").bind(id);
                    insert.execute(context.tx()).await?;
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
        InboxPlace::store(&self.0)
    }

    fn effects(&self) -> BoxFuture<'_, Vec<String>> {
        self.0.effects()
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
                    let fixture = Sqlx(Sabotage::default().with(Defect::$defect));
                    conformance::$module::$case(&fixture).await;
                };
                let complaint = conformance::complaint(case).await;
                assert!(complaint.contains($complaint), "for another reason: {complaint}");
            })*
        }
    };
}

notices! {
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
