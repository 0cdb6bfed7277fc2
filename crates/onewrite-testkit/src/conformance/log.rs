//! Reading the log: pages, kinds, and finding single events.

use onewrite_core::{
    Event, Record, Timestamp,
    flow::{Trace, Whereabouts},
    store::{Find, From, Op, Read, Store},
};

use super::{
    StoreFixture, apply, emit, event, everything, follow, ids, key_of, log, named, same, sequences,
};

/// Fills a store of four partitions with events of differing sizes and kinds.
async fn fill(store: &dyn Store, count: usize) {
    let events = (0..count).map(|n| {
        let partition = u16::try_from(n * n % 7 % 4).unwrap_or(0);
        let kind = ["Created", "Paid", "Shipped"][n % 3];
        let data = vec![b'x'; n * 37 % 400];
        let event = Event { kind: kind.into(), ..named(n, &key_of(partition, 4, n % 5)) };
        event.bytes("application/octet-stream", data)
    });
    emit(store, events).await;
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by_key(|record| (record.partition, record.sequence));
    records
}

/// Paging with `upto` sees every record once, whatever the limits and wherever the cursors stand.
pub async fn pages(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    fill(&*store, 200).await;
    let all = log(&*store).await;
    same("paging: the whole log", all.len(), 200);
    for (limit, bytes_max) in [(1, 1 << 20), (7, 1 << 20), (1000, 1), (1000, 700), (13, 1000)] {
        let mut read = Read { limit, bytes_max, ..everything(&*store) };
        let found = sorted(follow(&*store, &mut read).await);
        same("paging: records lost or repeated", found, sorted(all.clone()));
        // At the end there is nothing more, and what comes later is seen.
        same("paging: after the end", follow(&*store, &mut read).await.len(), 0);
    }
    let page = store.read(Read { limit: 7, ..everything(&*store) }).await.unwrap();
    assert!(page.records.len() <= 7, "paging: {} records for a limit of 7", page.records.len());
    assert!(page.more, "paging: more follows and is not told");
    // Partitions at different places, one of them not asked for.
    let middle = all[100].sequence;
    let last = all[199].sequence;
    let after = vec![(0, middle), (1, 0), (3, last)];
    let mut read = Read { after, limit: 9, ..everything(&*store) };
    let found = sorted(follow(&*store, &mut read).await);
    let wanted = |record: &&Record| match record.partition {
        0 => record.sequence > middle,
        partition => partition == 1,
    };
    let expected: Vec<Record> = sorted(all.clone()).iter().filter(wanted).cloned().collect();
    same("paging: from different places", found, expected);
    let nothing = Read { after: Vec::new(), ..everything(&*store) };
    same("paging: no partition asked for", store.read(nothing).await.unwrap().records.len(), 0);
    let mut read = everything(&*store);
    follow(&*store, &mut read).await;
    emit(&*store, [named("later", "k")]).await;
    same("paging: what comes later", ids(&follow(&*store, &mut read).await), vec!["later"]);
}

/// A page holds at most so many bytes of events, but at least one record.
pub async fn bytes_max(fixture: &dyn StoreFixture) {
    let place = fixture.place(1).await;
    let store = place.open().await;
    emit(&*store, (0..20).map(|n| named(n, "k").bytes("text/plain", vec![b'x'; 1000]))).await;
    let one = log(&*store).await[0].event.size();
    for (bytes_max, expected) in [(0, 1), (one - 1, 1), (one * 3, 3), (one * 4 - 1, 3)] {
        let page = store.read(Read { bytes_max, ..everything(&*store) }).await.unwrap();
        same("bytes max: records of a page", page.records.len(), expected);
        assert!(page.more, "bytes max: more follows and is not told");
        let upto = page.records.last().map(|record| (0, record.sequence));
        same("bytes max: how far the page looked", page.upto.first().copied(), upto);
    }
}

/// Only kinds asked for are read, and `upto` passes over the others.
pub async fn kinds(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    fill(&*store, 120).await;
    let all = log(&*store).await;
    for kinds in [vec!["Paid"], vec!["Paid", "Created"], vec!["Never"]] {
        for limit in [5, 1000] {
            let wanted = kinds.iter().map(|kind| (*kind).into()).collect();
            let mut read = Read { kinds: wanted, limit, ..everything(&*store) };
            let found = sequences(&sorted(follow(&*store, &mut read).await));
            let of_kind = |record: &&Record| kinds.contains(&&*record.event.kind);
            let expected: Vec<Record> = all.iter().filter(of_kind).cloned().collect();
            same("kinds: records read", found, sequences(&sorted(expected)));
            // What is not of a kind asked for need not be looked through again.
            let rest = Read { kinds: Vec::new(), ..read };
            let rest = store.read(rest).await.unwrap().records;
            same("kinds: how far was looked", sequences(&rest), Vec::<u64>::new());
        }
    }
}

/// Events are found by id, story and key, with all that the story needs, wherever they are.
pub async fn find(fixture: &dyn StoreFixture) {
    let place = fixture.place(1).await;
    let store = place.open().await;
    let root = named("root", "order-1");
    let effect = Event { id: Some("effect".into()), ..event("order-1") }.caused_by(&root);
    let far = event("order-2").correlation_id("root");
    let (far, other) = (Event { id: Some("far".into()), ..far }, named("other", "order-3"));
    emit(&*store, [root, effect, far, other]).await;
    let records = log(&*store).await;
    let found = |traces: &[Trace]| {
        let mut ids: Vec<String> = traces.iter().map(|trace| trace.id.to_string()).collect();
        ids.sort_unstable();
        ids
    };
    let story = Find::Correlation("root".into());
    let whole = vec!["effect", "far", "root"];
    same("find: by id", found(&store.find(Find::Id("other".into())).await.unwrap()), vec!["other"]);
    same("find: by story", found(&store.find(story.clone()).await.unwrap()), whole.clone());
    let by_key = store.find(Find::Key("order-1".into())).await.unwrap();
    same("find: by key", found(&by_key), vec!["effect", "root"]);
    same("find: all", store.find(Find::All).await.unwrap().len(), 4);
    same("find: nothing", store.find(Find::Id("none".into())).await.unwrap().len(), 0);
    let trace = store.find(Find::Id("effect".into())).await.unwrap().remove(0);
    let record = &records[1];
    let expected = Trace {
        source: store.source().name,
        partition: record.partition,
        sequence: record.sequence,
        id: "effect".into(),
        kind: record.event.kind.clone(),
        key: "order-1".into(),
        correlation_id: Some("root".into()),
        causation_id: Some("root".into()),
        time: record.event.time.unwrap(),
        whereabouts: Whereabouts::Log,
    };
    same("find: a trace", trace, expected.clone());
    for record in &records {
        let id = store.id_at(record.partition, record.sequence).await.unwrap();
        same("id at: in the log", id.as_deref(), Some(record.id()));
    }
    // Trimmed, they are found in the history; parked, among the parked records.
    apply(&*store, vec![Op::Subscribe { sink: "s".into(), from: From::Beginning }]).await;
    let (sink, reason) = ("s".into(), "refused".into());
    apply(&*store, vec![Op::Park { sink, partition: 0, sequence: record.sequence, reason }]).await;
    let last = records[3].sequence;
    apply(
        &*store,
        vec![Op::MoveCursor { sink: "s".into(), partition: 0, sequence: last, chain: last }],
    )
    .await;
    let (before, history_before) = (Timestamp(i64::MAX), Timestamp(0));
    apply(&*store, vec![Op::Trim { before, history_before, limit: 100 }]).await;
    let mut places: Vec<_> = store.find(Find::Id("effect".into())).await.unwrap();
    places.sort_by_key(|trace| trace.whereabouts == Whereabouts::Parked);
    let at = |whereabouts| Trace { whereabouts, ..expected.clone() };
    same("find: after the trim", places, vec![at(Whereabouts::History), at(Whereabouts::Parked)]);
    let mut told = found(&store.find(story).await.unwrap());
    told.dedup();
    same("find: the story after the trim", told, whole);
    let id = store.id_at(0, record.sequence).await.unwrap();
    same("id at: in the history", id.as_deref(), Some("effect"));
    same("id at: nowhere", store.id_at(0, last + 10).await.unwrap(), None);
}
