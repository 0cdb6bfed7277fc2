//! A receiving service of the tests, and what took effect there.

use std::sync::Arc;

use onewrite_broker_local::MemorySink;
use onewrite_core::{
    inbox::{Inbox, Policy},
    sabotage::Sabotage,
};
use onewrite_store_postgres::{
    Context, InboxOptions, PostgresInbox, PostgresStore, tokio_postgres::Client,
};
use onewrite_testkit::history::{Committed, Verdict, check};

use crate::{
    conformance::Place,
    rig::{Running, execute, place, queue, sound},
};

/// A service with a database of its own, in which each effect is a row.
pub(crate) struct Consumer {
    _place: Place,
    store: PostgresStore,
    client: Client,
}

impl Consumer {
    pub(crate) async fn new() -> Self {
        Self::at(place(4).await).await
    }

    /// One in the database of `place`, whose table of effects is there.
    pub(crate) async fn with(place: Place) -> Self {
        let (store, client) = (place.store().await, place.connect().await);
        Self { _place: place, store, client }
    }

    /// One in the database of `place`.
    pub(crate) async fn at(place: Place) -> Self {
        let client = place.connect().await;
        let table =
            "CREATE TABLE IF NOT EXISTS effect (n bigserial PRIMARY KEY, key text, id text)";
        execute(&client, table).await;
        Self::with(place).await
    }

    /// An inbox whose handler writes the effect.
    pub(crate) fn inbox(&self, sabotage: Sabotage) -> Arc<dyn Inbox> {
        let policy = Policy { sabotage, ..Policy::new("payments") };
        let options = InboxOptions { policy, ..InboxOptions::new("payments") };
        let inbox = PostgresInbox::new(&self.store, options, |context: &mut Context<'_>| {
            Box::pin(async move {
                let (key, id) =
                    (context.event().order_key().to_string(), context.record().id().to_owned());
                let sql = "INSERT INTO effect (key, id) VALUES ($1, $2)";
                context.tx().execute(sql, &[&key, &id]).await?;
                Ok(())
            })
        });
        Arc::new(inbox.unwrap())
    }

    /// Receives from a queue of its own, whose other end is returned.
    pub(crate) fn receive(&self, sabotage: Sabotage) -> (MemorySink, Running) {
        let (sink, feed) = queue();
        (sink, Running::receiver(self.inbox(sabotage), feed))
    }

    /// Receives, and nothing is broken.
    pub(crate) fn receive_well(&self) -> (MemorySink, Running) {
        self.receive(sound())
    }

    /// The effects in the order in which they were committed.
    pub(crate) async fn effects(&self) -> Vec<(String, String)> {
        let rows = self.client.query("SELECT key, id FROM effect ORDER BY n", &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Judges the effects by what was committed.
    pub(crate) async fn verdict(&self, committed: &Committed) -> Verdict {
        assert!(!committed.is_empty(), "nothing was provoked");
        let effects = self.effects().await;
        check(committed, effects.iter().map(|(key, id)| (key.as_str(), id.as_str())))
    }
}
