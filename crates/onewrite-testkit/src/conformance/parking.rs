//! Parked keys: set aside in order, asked about, and freed with their last record.

use onewrite_core::{
    Code, Event, Record, Sequence, Text, Timestamp,
    parking::{ParkedKey, ParkedRecord, Request},
    store::{From, Item, Op, Outcome, Store},
};

use super::{StoreFixture, apply, commit, emit, ids, key_of, log, named, same};

const SINK: Text = Text::from_static("search");
const SCOPE: Text = Text::from_static("relay/search");

fn park(record: &Record, reason: &'static str) -> Vec<Op> {
    let (partition, sequence) = (record.partition, record.sequence);
    vec![
        Op::Park { sink: SINK, partition, sequence, reason: reason.into() },
        Op::MoveCursor { sink: SINK, partition, sequence, chain: 0 },
    ]
}

async fn keys(store: &dyn Store) -> Vec<ParkedKey> {
    store.parked_keys(Some(&SCOPE)).await.unwrap()
}

async fn waiting(store: &dyn Store, key: &ParkedKey) -> Vec<ParkedRecord> {
    store.parked_records(key, 100).await.unwrap()
}

fn unpark(key: &ParkedKey, position: Sequence) -> Op {
    let (scope, source) = (key.scope.clone(), key.source.clone());
    Op::Unpark { scope, source, key: key.key.clone(), position }
}

fn ask(store: &dyn Store, key: &str, request: Request, reason: Option<&'static str>) -> Op {
    let (source, key) = (store.source().name, key.to_owned().into());
    Op::Request { scope: SCOPE, source, key, request, reason: reason.map(Into::into) }
}

/// A store with a sink and some records of two keys, and those records.
async fn filled(store: &dyn Store) -> Vec<Record> {
    apply(store, vec![Op::Subscribe { sink: SINK, from: From::Beginning }]).await;
    let rich = Event {
        user_id: Some("ann".into()),
        traceparent: Some("00-1-2-01".into()),
        dedup_key: Some("d".into()),
        data_schema: Some("https://example.com/schema".into()),
        source: Some("elsewhere".into()),
        schema_version: 4,
        ..named("bad-1", "bad")
    }
    .header("a", "1")
    .header("a", "2")
    .bytes("application/octet-stream", vec![0, 159, 146, 150]);
    emit(store, [rich, named("bad-2", "bad"), named("good", "good"), named("bad-3", "bad")]).await;
    log(store).await
}

/// A record is parked from the log, whole, behind the others of its key, and retention may go on.
async fn park_from_log(store: &dyn Store) -> (Vec<Record>, ParkedKey) {
    let records = filled(store).await;
    apply(store, park(&records[0], "refused")).await;
    apply(store, park(&records[1], "its key is parked")).await;
    let key = keys(store).await.pop().expect("park: a key is parked");
    (records, key)
}

/// A record is parked from the log, whole, behind the others of its key, and retention may go on.
pub async fn park_in_order(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    let before = store.now().await.unwrap();
    let (records, key) = park_from_log(&*store).await;
    assert!(before <= key.since, "park: since {:?}, before {before:?}", key.since);
    let expected = ParkedKey {
        scope: SCOPE,
        source: store.source().name,
        partition: records[0].partition,
        key: "bad".into(),
        request: Request::Wait,
        reason: "refused".into(),
        since: key.since,
        waiting: 2,
        redrives: 0,
    };
    same("park: the key", &key, &expected);
    same("park: in the list of all scopes", store.parked_keys(None).await.unwrap(), vec![expected]);
    // The reply was lost, so it is done again.
    apply(&*store, park(&records[1], "its key is parked")).await;
    let queue = |waiting: Vec<ParkedRecord>| -> Vec<Record> {
        waiting.into_iter().map(|parked| parked.record).collect()
    };
    same("park: the records", queue(waiting(&*store, &key).await), records[..2].to_vec());
    same("park: the front alone", store.parked_records(&key, 1).await.unwrap().len(), 1);
    let cursors = store.cursors(&SINK).await.unwrap();
    let partition = usize::from(key.partition);
    same(
        "park: the cursor names the key",
        cursors[partition].parked.clone(),
        vec![key.key.clone()],
    );
    same("park: with the cursor's move", cursors[partition].sequence, records[1].sequence);
    // Its sink was suspended meanwhile, and retention went on: the cursor must not pass it either.
    let gone = Op::Park { sink: SINK, partition: 0, sequence: 10_000, reason: "gone".into() };
    let passes = Op::MoveCursor { sink: SINK, partition: 0, sequence: 10_000, chain: 0 };
    let outcome = commit(&*store, vec![Item { fence: None, ops: vec![gone, passes] }]).await.pop();
    assert!(
        matches!(&outcome, Some(Outcome::Failed(error)) if error.code() == Code::NotFound),
        "park: a record that is gone comes to {outcome:?}"
    );
    let passed = store.cursors(&SINK).await.unwrap().iter().any(|at| at.sequence >= 10_000);
    assert!(!passed, "park: a record that is gone is stepped over");
    same("park: a record that is gone parks no key", keys(&*store).await.len(), 1);
    let (before, history_before) = (Timestamp(i64::MAX), Timestamp(0));
    let end = |partition| Op::MoveCursor { sink: SINK, partition, sequence: 1000, chain: 0 };
    apply(&*store, (0..4).map(end).collect()).await;
    apply(&*store, vec![Op::Trim { before, history_before, limit: 100 }]).await;
    same("park: the log is trimmed", log(&*store).await.len(), 0);
    drop(store);
    let store = place.open().await;
    let kept = queue(waiting(&*store, &key).await);
    same("park: the records after the trim", kept, records[..2].to_vec());
}

/// An operator's request is kept; a failed re-drive waits again, says why and is counted.
pub async fn requested(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    let (_, key) = park_from_log(&*store).await;
    same(
        "request: a key that is not parked",
        apply(&*store, vec![ask(&*store, "good", Request::Retry, None)]).await,
        0,
    );
    apply(&*store, vec![ask(&*store, "bad", Request::Retry, None)]).await;
    let asked = ParkedKey { request: Request::Retry, ..key.clone() };
    same("request: retry", keys(&*store).await, vec![asked]);
    apply(&*store, vec![ask(&*store, "bad", Request::Wait, Some("refused again"))]).await;
    let again = ParkedKey { reason: "refused again".into(), redrives: 1, ..key.clone() };
    same("request: a failed re-drive", keys(&*store).await, vec![again]);
    apply(&*store, vec![ask(&*store, "bad", Request::Discard, None)]).await;
    same("request: discard", keys(&*store).await[0].request, Request::Discard);
}

/// Records leave from the front; the last one frees the key.
pub async fn unpark_front(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    let (records, key) = park_from_log(&*store).await;
    let queue = waiting(&*store, &key).await;
    same("unpark: how many wait", apply(&*store, vec![unpark(&key, queue[0].position)]).await, 1);
    let left = waiting(&*store, &key).await;
    same("unpark: the next is at the front", &left[0].record, &records[1]);
    // The reply was lost, so it is done again.
    same("unpark: again", apply(&*store, vec![unpark(&key, queue[0].position)]).await, 1);
    same("unpark: the last one", apply(&*store, vec![unpark(&key, queue[1].position)]).await, 0);
    same("unpark: the key is free", keys(&*store).await, Vec::new());
    let cursors = store.cursors(&SINK).await.unwrap();
    assert!(
        cursors.iter().all(|cursor| cursor.parked.is_empty()),
        "unpark: a cursor names the key"
    );
    apply(&*store, park(&records[3], "refused anew")).await;
    let anew = keys(&*store).await.remove(0);
    same(
        "unpark: parked anew",
        (&*anew.reason, anew.waiting, anew.redrives),
        ("refused anew", 1, 0),
    );
}

/// Keys are parked for one sink alone, and a position counts only within its own key.
pub async fn scopes(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    let (records, key) = park_from_log(&*store).await;
    apply(&*store, vec![Op::Subscribe { sink: "mail".into(), from: From::Beginning }]).await;
    for (sink, record) in [("mail", &records[0]), ("search", &records[2])] {
        let (partition, sequence) = (record.partition, record.sequence);
        let (sink, reason) = (sink.into(), "refused".into());
        apply(&*store, vec![Op::Park { sink, partition, sequence, reason }]).await;
    }
    same("scopes: keys of all", store.parked_keys(None).await.unwrap().len(), 3);
    let mail = store.parked_keys(Some("relay/mail")).await.unwrap().remove(0);
    same("scopes: the other sink's records", waiting(&*store, &mail).await.len(), 1);
    let foreign = waiting(&*store, &mail).await[0].position;
    apply(&*store, vec![unpark(&key, foreign)]).await;
    same("scopes: a position of another scope", waiting(&*store, &mail).await.len(), 1);
    apply(&*store, vec![ask(&*store, "bad", Request::Retry, None)]).await;
    let mail = store.parked_keys(Some("relay/mail")).await.unwrap().remove(0);
    same("scopes: a request of another scope", mail.request, Request::Wait);
    let of_mail = store.cursors("mail").await.unwrap();
    let parked: usize = of_mail.iter().map(|cursor| cursor.parked.len()).sum();
    same("scopes: keys named by the cursors", parked, 1);
}

/// Each key's queue keeps the order in which its records were parked.
pub async fn queue_order(fixture: &dyn StoreFixture) {
    let place = fixture.place(2).await;
    let store = place.open().await;
    apply(&*store, vec![Op::Subscribe { sink: SINK, from: From::Beginning }]).await;
    let named_keys = [key_of(0, 2, 0), key_of(0, 2, 1), key_of(1, 2, 0)];
    emit(&*store, (0..12_usize).map(|n| named(format!("{n:02}"), &named_keys[n % 3]))).await;
    for record in log(&*store).await {
        apply(&*store, park(&record, "refused")).await;
    }
    let parked = keys(&*store).await;
    same("queue order: keys", parked.len(), 3);
    for key in parked {
        let records: Vec<Record> =
            waiting(&*store, &key).await.into_iter().map(|parked| parked.record).collect();
        same("queue order: records of one key", records.len(), 4);
        assert!(ids(&records).is_sorted(), "queue order: {:?}", ids(&records));
    }
}
