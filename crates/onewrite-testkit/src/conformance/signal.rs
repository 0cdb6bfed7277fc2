//! What servers promise of signals in a user's open transaction. The steps of two tests, between which that
//! transaction begins and ends.

use std::time::{Duration, Instant};

use onewrite_core::{
    Code,
    saga::{Signal, journal::Journal},
    store::{Op, Outcome},
};

use super::{
    apply, commit,
    saga::{advance, alone, arrived, awaiting, definition, new, running, start, taking, words},
    same,
};

/// The signal that is sent in the open transaction.
#[must_use]
pub fn sent() -> Signal {
    let signal = Signal::new("s-1", "paid", "o-1").keep(Duration::from_secs(3_600));
    signal.payload("s-1").expect("a payload")
}

/// A saga begins to wait for the signal.
pub async fn begin_to_wait(store: &dyn Journal) {
    apply(store, vec![Op::DefineSaga(definition())]).await;
    let both = vec![start(awaiting(1, "k1", "o-1")), start(new(2, "k2", running()))];
    same("open: starts", words(&commit(store, both).await), "aa");
}

/// Somebody's transaction works on the row that waits: the match leaves it, and says so.
pub async fn left_while_locked(store: &dyn Journal) {
    let left = words(&commit(store, vec![alone(Op::MatchSignals)]).await);
    same("open: the match leaves what is locked", left, "a");
}

/// The transaction has committed since the saga began to wait: neither saw the other, and the match finds both.
pub async fn found_once_matched(store: &dyn Journal) {
    same("open: neither saw the other", arrived(store).await, vec![]);
    let left = words(&commit(store, vec![alone(Op::MatchSignals)]).await);
    same("open: the match leaves nothing", left, "0");
    same("open: the match finds them", arrived(store).await, vec![(1, "s-1".to_owned())]);
}

/// The transaction that has sent the signal is open, and holds up nobody but the saga that the signal is for.
pub async fn others_go_on(store: &dyn Journal) {
    let begun = Instant::now();
    let both = vec![taking(1, 1, None, &["o-2"]), advance(None, 2, 1)];
    let outcomes = commit(store, both).await;
    let Outcome::Failed(busy) = &outcomes[0] else { panic!("open: its saga: {outcomes:?}") };
    same("open: its saga is tried again", busy.code(), Code::StoreBusy);
    same("open: the other one goes on", words(&outcomes[1..]), "a");
    commit(store, vec![alone(Op::MatchSignals)]).await;
    let waits = vec![start(awaiting(3, "k3", "o-1"))];
    same("open: another begins to wait for it", words(&commit(store, waits).await), "a");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "open: others wait for it: {:?}",
        begun.elapsed()
    );
}
