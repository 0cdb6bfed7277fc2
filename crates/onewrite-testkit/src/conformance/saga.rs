//! The journal's promises: sagas started once, transitions in order, each under its lease.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Code, Text, Timestamp,
    lease::Fence,
    saga::{
        Checked, Definition, Ended, Entry, Json, Request, SagaId, Signal, Transacted, Verb,
        journal::{
            self, Arrived, Awaited, Awaits, FindSagas, Journal, NewSaga, PARTITIONS, SCOPE,
            SavedSaga, Standing, State, Transition, Waits,
        },
    },
    store::{Claim, Item, Op, Outcome},
};

use super::{JournalFixture, apply, commit, emits, ids, log, named, same};

/// Runs every case of the journal's suite.
///
/// # Panics
/// With the name of the first promise that is broken.
pub async fn all(fixture: &impl JournalFixture) {
    crate::journal_cases!(all, fixture);
}

const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn definition() -> Arc<Checked> {
    let json = r#"{"name":"order","steps":[{"name":"pay","compensation":{"by":"refund"}}]}"#;
    Arc::new(Definition::parse(json).expect("a definition"))
}

pub(super) fn new(id: u128, key: &str, standing: Standing) -> NewSaga {
    NewSaga {
        id: SagaId(id),
        name: "order".into(),
        key: key.to_owned().into(),
        run: 0,
        partition: 3,
        definition: definition().id().clone(),
        input: Json::trusted(r#"{"é":1.10}"#),
        standing,
        awaits: Vec::new(),
        attributes: Vec::new(),
        started_at: Timestamp(1_700_000_000_000_001),
        parent: None,
    }
}

/// The start of a saga of this number, of the definition that [`super::signal::begin_to_wait`] stores.
#[must_use]
pub fn started(id: u128) -> Item {
    start(new(id, &format!("k{id}"), running()))
}

pub(super) fn running() -> Standing {
    Standing::leased(State::Running)
}

pub(super) fn start(saga: NewSaga) -> Item {
    Item { fence: None, ops: vec![Op::StartSaga(Arc::new(saga))] }
}

fn done(output: &'static str) -> Text {
    let output = Json::trusted(output);
    journal::encode(&[Entry::Done { step: "pay".into(), attempt: 1, output }]).expect("entries")
}

pub(super) fn transition(saga: u128, version: u32, standing: Option<Standing>) -> Op {
    let (saga, time) = (SagaId(saga), Timestamp(1_700_000_000_000_002));
    let (entries, awaits, takes) = (done("7"), None, None);
    let next = Transition { saga, version, time, entries, standing, awaits, takes };
    Op::AdvanceSaga(Arc::new(next))
}

pub(super) fn advance(fence: Option<&Fence>, saga: u128, version: u32) -> Item {
    Item { fence: fence.cloned(), ops: vec![transition(saga, version, None)] }
}

async fn leased(store: &dyn Journal, owner: &'static str, ttl: Duration) -> Vec<Fence> {
    let owner = Text::from_static(owner);
    let claim = Claim { scope: SCOPE, leases: PARTITIONS, owner, ttl, take: true };
    store.claim(claim).await.expect("leases").held
}

pub(super) async fn find(store: &dyn Journal, id: u128) -> SavedSaga {
    let mut found = store.sagas(FindSagas::Id(SagaId(id))).await.expect("sagas can be read");
    same("journal: a saga is found by its id", found.len(), 1);
    found.remove(0)
}

pub(super) fn words(outcomes: &[Outcome]) -> String {
    let word = |outcome: &Outcome| match outcome {
        Outcome::Applied(0) => '0',
        Outcome::Applied(_) => 'a',
        Outcome::Fenced => 'f',
        Outcome::Failed(error) if error.code() == Code::SagaConflict => 'c',
        Outcome::Failed(error) if error.code() == Code::SignalTaken => 't',
        Outcome::Failed(_) => 'x',
    };
    outcomes.iter().map(word).collect()
}

fn versions(saga: &SavedSaga) -> Vec<u32> {
    saga.journal.iter().map(|transition| transition.version).collect()
}

/// What is read back is what was written, to the byte.
pub async fn as_written(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    let ended = Standing {
        state: State::Completed,
        waits: Waits::Nothing,
        due: None,
        output: Some(Json::trusted(r#"{"n": 1.0}"#)),
    };
    let saga = new(u128::MAX - 1, "k'\"\\é", running());
    apply(&*store, vec![Op::StartSaga(Arc::new(saga.clone()))]).await;
    let fences = leased(&*store, "a", HOUR).await;
    let fence = fences.into_iter().find(|fence| fence.partition == 3).expect("a lease");
    let item = |op| Item { fence: Some(fence.clone()), ops: vec![op] };
    let outcomes = commit(&*store, vec![item(transition(saga.id.0, 1, None))]).await;
    same("journal: a transition", words(&outcomes), "a");
    let last = transition(saga.id.0, 2, Some(ended.clone()));
    same("journal: a transition", words(&commit(&*store, vec![item(last)]).await), "a");
    drop(store);
    let store = place.journal().await;
    let found = find(&*store, saga.id.0).await;
    same("journal: its key", found.key.clone(), saga.key);
    same("journal: its input", found.input.clone(), saga.input);
    same("journal: its partition", found.partition, 3);
    same("journal: its start", found.started_at, saga.started_at);
    same("journal: its end", found.ended_at, Some(Timestamp(1_700_000_000_000_002)));
    same("journal: what its row says", found.standing.clone(), ended);
    same("journal: its transitions", versions(&found), vec![1, 2]);
    same("journal: its entries", found.journal[0].json.clone(), done("7"));
    same("journal: its epoch", found.journal[0].epoch, fence.epoch);
    let key = FindSagas::Key { name: "order".into(), key: found.key.clone() };
    same("journal: found by its key", store.sagas(key).await.unwrap(), vec![found]);
    let missing = store.sagas(FindSagas::Id(SagaId(5))).await.unwrap();
    same("journal: one that is not there", missing, Vec::new());
}

/// 1: a transition is visible with everything its item carries, or not at all.
pub async fn journal_first(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    commit(&*store, vec![start(new(1, "k", running()))]).await;
    let with_event = |version, id: &'static str| Item {
        fence: None,
        ops: vec![emits(named(id, "k")), transition(1, version, Some(running()))],
    };
    let outcomes = commit(&*store, vec![with_event(1, "first")]).await;
    same("journal first: a transition with an event", words(&outcomes), "a");
    let outcomes = commit(&*store, vec![with_event(1, "again"), with_event(2, "second")]).await;
    same("journal first: a transition that exists", words(&outcomes), "ca");
    let events = log(&*store).await;
    same(
        "journal first: a refused transition left an event",
        ids(&events),
        vec!["first", "second"],
    );
    same("journal first: transitions", versions(&find(&*store, 1).await), vec![1, 2]);
}

/// 2: a transition whose number exists already changes nothing, and the others of its batch apply.
pub async fn next_version(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    let all = (1..=3).map(|id| start(new(id, &format!("k{id}"), running()))).collect();
    same("next version: starts", words(&commit(&*store, all).await), "aaa");
    let fences = leased(&*store, "a", HOUR).await;
    let fence = fences.iter().find(|fence| fence.partition == 3);
    let first = (1..=3).map(|id| advance(fence, id, 1)).collect();
    same("next version: the first", words(&commit(&*store, first).await), "aaa");
    let mixed = vec![advance(fence, 1, 2), advance(fence, 2, 1), advance(fence, 3, 2)];
    same("next version: one that exists", words(&commit(&*store, mixed).await), "aca");
    same("next version: its saga", versions(&find(&*store, 2).await), vec![1]);
    let end = |saga, version| {
        let standing = Some(Standing::ended(State::Completed));
        Item { fence: fence.cloned(), ops: vec![transition(saga, version, standing)] }
    };
    let missing = vec![end(77, 1), advance(fence, 2, 2)];
    same("next version: of no saga", words(&commit(&*store, missing).await), "xa");
    same("next version: its neighbour", versions(&find(&*store, 3).await), vec![1, 2]);
    // Two owners at the same moment: one of them is refused.
    let other = place.journal().await;
    for version in 3..20 {
        let (left, right) = tokio::join!(
            commit(&*store, vec![advance(fence, 1, version)]),
            commit(&*other, vec![advance(fence, 1, version)])
        );
        let mut both: Vec<char> = (words(&left) + &words(&right)).chars().collect();
        both.sort_unstable();
        same("next version: two at once", both, vec!['a', 'c']);
    }
}

/// A transition under a lease that another owner has by now changes nothing.
pub async fn fenced_transition(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    // Over at once: also for the one who claims it.
    let short = Duration::ZERO;
    let before = leased(&*store, "a", short).await;
    let old = before.iter().find(|fence| fence.partition == 3).cloned();
    let mut owned = start(new(1, "k", running()));
    owned.fence = old.clone();
    same("fenced: its owner starts", words(&commit(&*store, vec![owned]).await), "a");
    let after = super::soon("another owner", async {
        loop {
            let held = leased(&*store, "b", HOUR).await;
            if let Some(fence) = held.into_iter().find(|fence| fence.partition == 3) {
                return fence;
            }
            tokio::task::yield_now().await;
        }
    });
    let current = after.await;
    let mut late = start(new(2, "k2", running()));
    late.fence = old.clone();
    // The current owner's stands in a batch of its own: a group has one transition of each saga.
    let (current_one, late_ones) =
        (advance(Some(&current), 1, 1), vec![advance(old.as_ref(), 1, 1), late]);
    same("fenced: an old owner writes", words(&commit(&*store, late_ones).await), "ff");
    let outcomes = commit(&*store, vec![current_one]).await;
    same("fenced: the owner writes", words(&outcomes), "a");
    let found = find(&*store, 1).await;
    same("fenced: whose transition it is", found.journal[0].epoch, current.epoch);
    same("fenced: a late start", store.sagas(FindSagas::Id(SagaId(2))).await.unwrap(), vec![]);
}

/// A step in a transaction: its effect is committed with its transition, or not at all.
pub async fn one_commit(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    commit(&*store, vec![start(new(1, "k", running()))]).await;
    let fences = leased(&*store, "a", HOUR).await;
    let fence = fences.into_iter().find(|fence| fence.partition == 3).expect("a lease");
    let old = Fence { epoch: fence.epoch - 1, ..fence.clone() };
    let step = async |fence: &Fence, version: u32, answer: Result<&'static str, Ended>| {
        let item = advance(Some(fence), 1, version);
        let journal = Arc::new(move |_: Json| Ok(item.clone()));
        match place.carry_out(answer.map(Json::trusted), journal).await.expect("a transaction") {
            Transacted::Written(outcome) => words(&[outcome]),
            Transacted::Ended(ended) => format!("{ended:?}"),
        }
    };
    same("one commit: a step", step(&fence, 1, Ok("7")).await, "a");
    same("one commit: its effect", place.carried_out().await, 1);
    same("one commit: where the journal went on", step(&fence, 1, Ok("7")).await, "c");
    same("one commit: under an old lease", step(&old, 2, Ok("7")).await, "f");
    let no = Ended::Aborted("no".into());
    same("one commit: a no", step(&fence, 2, Err(no.clone())).await, format!("{no:?}"));
    same("one commit: no effect of what is refused", place.carried_out().await, 1);
    same("one commit: its transitions", versions(&find(&*store, 1).await), vec![1]);
    same("one commit: another step", step(&fence, 2, Ok("7")).await, "a");
    same("one commit: its effect", place.carried_out().await, 2);
    same("one commit: its transitions", versions(&find(&*store, 1).await), vec![1, 2]);
}

/// 3: of any number of starts of one name, key and run, one applies.
pub async fn start_once(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let (store, other) = (place.journal().await, place.journal().await);
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    let twice = vec![start(new(1, "k", running())), start(new(2, "k", running()))];
    same("start once: twice in a batch", words(&commit(&*store, twice).await), "a0");
    same(
        "start once: again",
        words(&commit(&*store, vec![start(new(3, "k", running()))]).await),
        "0",
    );
    for round in 0..20_u128 {
        let key = format!("race-{round}");
        let saga = |id| vec![start(new(100 + round * 2 + id, &key, running()))];
        let (left, right) = tokio::join!(commit(&*store, saga(0)), commit(&*other, saga(1)));
        let mut both: Vec<char> = (words(&left) + &words(&right)).chars().collect();
        both.sort_unstable();
        same("start once: two at once", both, vec!['0', 'a']);
    }
    let again = NewSaga { run: 1, ..new(50, "k", running()) };
    same("start once: another run", words(&commit(&*store, vec![start(again)]).await), "a");
    let key = FindSagas::Key { name: "order".into(), key: "k".into() };
    let found = store.sagas(key).await.unwrap();
    same(
        "start once: the last run",
        found.iter().map(|saga| saga.id.0).collect::<Vec<_>>(),
        vec![50],
    );
}

/// 4: a definition's id names one text for ever.
pub async fn same_text(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    let checked = definition();
    same("same text: not stored yet", store.definition(checked.id()).await.unwrap(), None);
    apply(&*store, vec![Op::DefineSaga(Arc::clone(&checked))]).await;
    apply(&*store, vec![Op::DefineSaga(Arc::clone(&checked))]).await;
    let found = store.definition(checked.id()).await.unwrap();
    same("same text: as it was given", found, Some(checked.json().clone()));
}

/// 5: what is due is judged by the store's clock, and what waits is found by what it waits for.
pub async fn due(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    let now = store.now().await.unwrap();
    let timer = |at| Standing::waiting(State::Running, at);
    let ago = |seconds: i64| Timestamp(now.0 - seconds * 1_000_000);
    let sagas = [
        (1, timer(ago(1))),
        (2, timer(now.plus(HOUR))),
        (3, timer(ago(9))),
        (4, running()),
        (5, running()),
        (6, Standing { waits: Waits::Operator, ..running() }),
    ];
    let starts = sagas.map(|(id, standing)| start(new(id, &format!("k{id}"), standing)));
    commit(&*store, starts.to_vec()).await;
    let elsewhere = NewSaga { partition: 4, ..new(7, "k7", timer(ago(5))) };
    commit(&*store, vec![start(elsewhere)]).await;
    let found = async |find| {
        let sagas = store.sagas(find).await.expect("sagas can be read");
        sagas.iter().map(|saga: &SavedSaga| saga.id.0).collect::<Vec<_>>()
    };
    let due = |partitions: &[u16], limit| FindSagas::Due {
        also_signals: true,
        partitions: partitions.to_vec(),
        limit,
    };
    same("due: the longest due first", found(due(&[3], 9)).await, vec![3, 1]);
    same("due: at most so many", found(due(&[3, 4], 2)).await, vec![3, 7]);
    same("due: of no partition", found(due(&[], 9)).await, vec![]);
    let leased =
        |after, limit| FindSagas::Leased { partitions: vec![3], after: SagaId(after), limit };
    same("leased: by id", found(leased(0, 9)).await, vec![4, 5]);
    same("leased: page by page", found(leased(4, 1)).await, vec![5]);
    same("forgotten: none", found(FindSagas::Forgotten).await, vec![]);
    let nothing = Standing { due: None, ..timer(now) };
    commit(&*store, vec![start(new(8, "k8", nothing))]).await;
    same("forgotten: a timer without a time", found(FindSagas::Forgotten).await, vec![8]);
    commit(&*store, vec![advance(None, 3, 1)]).await;
    let woken = Item { fence: None, ops: vec![transition(3, 2, Some(running()))] };
    commit(&*store, vec![woken]).await;
    same("due: not any more", found(due(&[3], 9)).await, vec![1]);
}

fn sent(id: &str, correlation: &str, keep: Duration) -> Op {
    let signal = Signal::new(id.to_owned(), "paid", correlation.to_owned()).keep(keep);
    Op::Signal(Box::new(signal.payload(&id).expect("a payload")))
}

pub(super) fn alone(op: Op) -> Item {
    Item { fence: None, ops: vec![op] }
}

pub(super) fn awaiting(id: u128, key: &str, correlation: &str) -> NewSaga {
    let due = Timestamp(i64::MAX / 2);
    let standing = Standing { waits: Waits::Signal, due: Some(due), ..running() };
    NewSaga { awaits: vec![awaited(correlation)], ..new(id, key, standing) }
}

fn awaited(correlation: &str) -> Awaited {
    Awaited { step: "pay".into(), name: "paid".into(), correlation: correlation.to_owned().into() }
}

pub(super) fn taking(saga: u128, version: u32, takes: Option<&str>, awaits: &[&str]) -> Item {
    let signals = awaits.iter().map(|correlation| awaited(correlation)).collect();
    let Op::AdvanceSaga(mut next) = transition(saga, version, Some(running())) else {
        return Item::default();
    };
    let changed = Arc::make_mut(&mut next);
    changed.takes = takes.map(|id| id.to_owned().into());
    changed.awaits = Some(Awaits { partition: 3, signals });
    alone(Op::AdvanceSaga(next))
}

pub(super) async fn arrived(store: &dyn Journal) -> Vec<(u128, String)> {
    let found = store.arrived(vec![3], 100).await.expect("signals can be read");
    let pair = |one: Arrived| {
        same("signals: the step", one.step.as_deref(), Some("pay"));
        same("signals: what it brings", one.payload.as_str(), &*format!("{:?}", &*one.signal));
        (one.saga.0, one.signal.to_string())
    };
    found.into_iter().map(pair).collect()
}

/// 6: a signal meets what waits for it, whichever comes first, and is taken once.
pub async fn taken_once(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let (store, other) = (place.journal().await, place.journal().await);
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    // One comes before the saga that waits for it, one after.
    let early = vec![alone(sent("s-1", "o-1", HOUR)), start(awaiting(1, "k1", "o-1"))];
    same("taken once: early", words(&commit(&*store, early).await), "aa");
    let late = vec![start(awaiting(2, "k2", "o-2")), alone(sent("s-2", "o-2", HOUR))];
    same("taken once: late", words(&commit(&*store, late).await), "aa");
    let aside = vec![alone(sent("s-3", "o-9", HOUR)), start(awaiting(3, "k3", "o-3"))];
    commit(&*store, aside).await;
    let both = vec![(1, "s-1".to_owned()), (2, "s-2".to_owned())];
    same("taken once: who has a signal", arrived(&*store).await, both);
    let elsewhere = store.arrived(vec![4], 100).await.unwrap();
    same("taken once: of another partition", elsewhere, vec![]);
    let again = vec![alone(sent("s-1", "o-1", HOUR))];
    same("taken once: sent again", words(&commit(&*store, again).await), "0");
    // Two sagas, and both see the same signal.
    commit(&*store, vec![start(awaiting(4, "k4", "o-1"))]).await;
    let (left, right) = tokio::join!(
        commit(&*store, vec![taking(1, 1, Some("s-1"), &[])]),
        commit(&*other, vec![taking(4, 1, Some("s-1"), &[])])
    );
    let mut words: Vec<char> = (words(&left) + &words(&right)).chars().collect();
    words.sort_unstable();
    same("taken once: by two at once", words, vec!['a', 't']);
    let journals = find(&*store, 1).await.journal.len() + find(&*store, 4).await.journal.len();
    same("taken once: what is refused is not journaled", journals, 1);
    same("taken once: who has a signal", arrived(&*store).await, vec![(2, "s-2".to_owned())]);
    let again = vec![alone(sent("s-1", "o-1", HOUR))];
    same(
        "taken once: sent again when it is taken",
        self::words(&commit(&*store, again).await),
        "0",
    );
}

/// What a saga waits for is replaced with its transition; what nobody waits for is kept, and forgotten.
pub async fn awaits(fixture: &dyn JournalFixture) {
    let place = fixture.journals().await;
    let store = place.journal().await;
    apply(&*store, vec![Op::DefineSaga(definition())]).await;
    let started = vec![start(awaiting(1, "k1", "o-1")), start(awaiting(9, "k1", "o-1"))];
    same("awaits: started twice", words(&commit(&*store, started).await), "a0");
    same("awaits: forgotten", store.sagas(FindSagas::Forgotten).await.unwrap(), vec![]);
    commit(&*store, vec![taking(1, 1, None, &["o-2"])]).await;
    commit(&*store, vec![alone(sent("s-1", "o-1", HOUR)), alone(sent("s-2", "o-2", HOUR))]).await;
    same("awaits: something else", arrived(&*store).await, vec![(1, "s-2".to_owned())]);
    let refused = vec![taking(1, 1, None, &["o-1"])];
    same("awaits: a transition that exists", words(&commit(&*store, refused).await), "c");
    same("awaits: as before", arrived(&*store).await, vec![(1, "s-2".to_owned())]);
    commit(&*store, vec![taking(1, 2, Some("s-2"), &[])]).await;
    same("awaits: nothing", arrived(&*store).await, vec![]);
    // A signal whose time is over is not there, and may be sent anew once it is forgotten.
    commit(&*store, vec![alone(sent("s-3", "o-3", Duration::ZERO))]).await;
    commit(&*store, vec![start(awaiting(5, "k5", "o-3"))]).await;
    same("awaits: one whose time is over", arrived(&*store).await, vec![]);
    commit(&*store, vec![alone(Op::TrimSignals { limit: 9 })]).await;
    let anew = vec![alone(sent("s-3", "o-3", HOUR))];
    same("awaits: sent anew", words(&commit(&*store, anew).await), "a");
    same("awaits: sent anew", arrived(&*store).await, vec![(5, "s-3".to_owned())]);
    let about = vec!["o-3".into(), "o-1".into(), "o-7".into()];
    let found = store.signals("paid", about).await.unwrap();
    let found: Vec<_> = found.iter().map(|(about, brings)| (&**about, brings.as_str())).collect();
    let free = vec![("o-1", r#""s-1""#), ("o-3", r#""s-3""#)];
    same("awaits: signals that nobody has taken", found, free);
    same(
        "awaits: of another name",
        store.signals("due", vec!["o-1".into()]).await.unwrap(),
        vec![],
    );
    // No store counts for ever.
    let long = vec![alone(sent("s-4", "o-4", Duration::MAX))];
    same("awaits: one that is kept for ever", words(&commit(&*store, long).await), "a");
    // A request is for a saga that need not wait for anything.
    let (id, actor, reason) = ("r-1".into(), "ann".into(), "so".into());
    let request = Request { id, verb: Verb::Cancel, actor, reason };
    let asks = |saga: u128| Op::Signal(Box::new(request.signal(SagaId(saga)).expect("a signal")));
    same("awaits: a request", words(&commit(&*store, vec![alone(asks(5))]).await), "a");
    let found = store.arrived(vec![3], 9).await.unwrap();
    let found = found.into_iter().find(|one| one.step.is_none()).expect("a request");
    same("awaits: whose request", (found.saga, &*found.signal), (SagaId(5), "r-1"));
    same("awaits: what is wanted", found.payload.read("a request").ok(), Some(request.clone()));
    let drop = || Op::DropSignal { saga: SagaId(5), signal: "r-1".into() };
    same("awaits: dropped", words(&commit(&*store, vec![alone(drop())]).await), "a");
    same("awaits: dropped again", words(&commit(&*store, vec![alone(drop())]).await), "0");
    same("awaits: one signal is left", arrived(&*store).await.len(), 1);
    // A deadline is a time that comes.
    let mut overdue = awaiting(6, "k6", "o-6");
    overdue.standing.due = Some(Timestamp(1));
    commit(&*store, vec![start(overdue)]).await;
    let due = FindSagas::Due { also_signals: true, partitions: vec![3], limit: 9 };
    let found = store.sagas(due).await.unwrap();
    let due: Vec<u128> = found.iter().map(|one| one.id.0).collect();
    same("awaits: whose time is over", due, vec![6]);
}
