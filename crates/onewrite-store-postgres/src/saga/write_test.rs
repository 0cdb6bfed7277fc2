//! What is on its way when BEGIN is refused, on a real server.

use onewrite_core::saga::SagaId;
use onewrite_testkit::server;

use super::*;
use crate::{Options, PostgresStore};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_transaction_nothing_is_written() {
    let server = server::shared_postgres().await.unwrap();
    let name = server::unique("begun");
    server.create_database(&name).await.unwrap();
    let options = Options::from_url(&server.url(&name)).unwrap();
    PostgresStore::open(options.clone()).await.unwrap();
    let client = options.connect().await.unwrap();
    let next = Transition {
        saga: SagaId(7),
        version: 1,
        time: onewrite_core::Timestamp(1),
        entries: "[]".into(),
        standing: None,
        awaits: None,
        takes: None,
    };
    let journal = Transitions::of([(1, &next)].into_iter());
    assert_eq!(client.execute(APPEND_ALL, &journal.binds()).await.unwrap(), 0, "each by itself");
    client.batch_execute(BEGIN).await.unwrap();
    assert_eq!(client.execute(APPEND_ALL, &journal.binds()).await.unwrap(), 1);
    client.batch_execute("ROLLBACK").await.unwrap();
    // The control: the same statement without the look.
    assert_eq!(client.execute(APPEND, &journal.binds()).await.unwrap(), 1);
}
