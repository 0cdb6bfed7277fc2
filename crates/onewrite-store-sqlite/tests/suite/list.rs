//! Lists of sagas whose rows somebody has changed by hand.

use std::sync::Arc;

use onewrite_core::{
    Code, Error, Result, Timestamp,
    saga::{
        Definition, Json, SagaId,
        journal::{Journal as _, ListSagas, NewSaga, Standing, State},
    },
    store::{Batch, Durability, Item, Op, Store as _},
};

use crate::emit::open;

fn start(id: u128, definition: &str) -> Op {
    Op::StartSaga(Arc::new(NewSaga {
        id: SagaId(id),
        name: "order".into(),
        key: format!("k-{id}").into(),
        run: 0,
        partition: 3,
        definition: definition.to_owned().into(),
        input: Json::NULL,
        standing: Standing::leased(State::Running),
        awaits: Vec::new(),
        attributes: Vec::new(),
        started_at: Timestamp(1),
        parent: None,
    }))
}

/// An odd word is told of with its saga, and those that are listed with it are as they were.
#[tokio::test]
async fn a_row_that_cannot_be_read_is_listed() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let json = r#"{"name":"order","steps":[{"name":"pay","compensation":{"by":"refund"}}]}"#;
    let checked = Arc::new(Definition::parse(json)?);
    let id = checked.id().clone();
    let ops = vec![Op::DefineSaga(checked), start(1, &id), start(2, &id), start(3, &id)];
    let items = vec![Item { fence: None, ops }];
    store.commit(Batch { durability: Durability::Durable, items }).await?;
    let damage = "UPDATE onewrite_saga SET waits = CAST(x'6fff' AS TEXT) WHERE key = 'k-1';
        UPDATE onewrite_saga SET state = 'odd', run = -1 WHERE key = 'k-2'";
    let failed = |error| Error::new(Code::Database, "damage").with_source(error);
    store.write(move |tx| tx.execute_batch(damage).map_err(failed)).await?;
    let listed = async |which: ListSagas| {
        let heads = store.list(&which).await.unwrap();
        heads.iter().map(|head| (head.id.0, head.unreadable.is_none())).collect::<Vec<_>>()
    };
    let all = ListSagas::default();
    assert_eq!(listed(all.clone()).await, [(3, true), (2, false), (1, false)]);
    // Whose state is an odd word stands in no state that can be asked for.
    let running = ListSagas { states: vec![State::Running], ..all };
    assert_eq!(listed(running).await, [(3, true), (1, false)]);
    Ok(())
}
