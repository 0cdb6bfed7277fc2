//! What is larger than a packet of the server.

use std::sync::Arc;

use onewrite_core::{
    Code, Timestamp,
    saga::{
        Checked, Definition, JSON_MAX, Json, SagaId,
        journal::{FindSagas, Journal as _, NewSaga, Standing, State},
    },
    store::{Batch, Durability, Item, Op, Outcome, Store as _},
};

use crate::rig::{database, open};

fn definition() -> Arc<Checked> {
    let json = r#"{"name":"order","steps":[{"name":"pay","compensation":{"by":"refund"}}]}"#;
    Arc::new(Definition::parse(json).unwrap())
}

fn start(id: u128, bytes: usize) -> Item {
    let new = NewSaga {
        id: SagaId(id),
        name: "order".into(),
        key: format!("k-{id}").into(),
        run: 0,
        partition: 3,
        definition: definition().id().clone(),
        input: Json::trusted(format!("\"{}\"", "x".repeat(bytes - 2))),
        standing: Standing::leased(State::Running),
        awaits: Vec::new(),
        attributes: Vec::new(),
        started_at: Timestamp(1),
        parent: None,
    };
    Item { fence: None, ops: vec![Op::StartSaga(Arc::new(new))] }
}

fn batch(items: Vec<Item>) -> Batch {
    Batch { durability: Durability::Durable, items }
}

/// The server takes 16 MiB unless it is told otherwise, and texts stand in a statement as twice as many bytes.
#[tokio::test(flavor = "multi_thread")]
async fn many_large_sagas_share_a_commit() {
    let store = open(&database().await).await;
    let define = Item { fence: None, ops: vec![Op::DefineSaga(definition())] };
    store.commit(batch(vec![define])).await.unwrap();
    let all = (1..=20).map(|id| start(id, JSON_MAX)).collect();
    let outcomes = store.commit(batch(all)).await.unwrap();
    assert!(outcomes.iter().all(|one| matches!(one, Outcome::Applied(1))), "{outcomes:?}");
    let found = store.sagas(FindSagas::Id(SagaId(20))).await.unwrap();
    assert_eq!(found[0].input.as_str().len(), JSON_MAX);
}

/// What no statement can hold is refused, and not taken for a server that is away: it would be sent for ever.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_larger_than_a_packet_is_refused() {
    let store = open(&database().await).await;
    let error = store.commit(batch(vec![start(1, 70 << 20)])).await.unwrap_err();
    assert_eq!(error.code(), Code::Database, "{error}");
    let after = store.commit(batch(vec![start(2, 9)])).await.unwrap();
    assert!(matches!(after[0], Outcome::Applied(1)), "{after:?}");
}
