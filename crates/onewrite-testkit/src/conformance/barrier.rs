//! The barrier's promises: whatever order calls come in and how often, a participant's account is moved once
//! and moved back once, or never moved.

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    Code,
    error::Retry,
    saga::{
        SagaId,
        barrier::{Barrier, KEPT_MIN, Passage},
    },
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use super::{BarrierCall, BarrierFixture, BarrierPlace, same};

/// Runs every case of the barrier's suite.
///
/// # Panics
/// With the name of the first promise that is broken.
pub async fn all(fixture: &impl BarrierFixture) {
    crate::barrier_cases!(all, fixture);
}

/// Each case works with a saga of its own, for some servers have one table for all databases.
fn saga() -> SagaId {
    SagaId(rand::random())
}

fn action(saga: SagaId, step: &str) -> BarrierCall {
    let barrier = Barrier::action(saga, step).expect("a step's name");
    BarrierCall { barrier, amount: 1, commits: true }
}

fn compensation(saga: SagaId, step: &str) -> BarrierCall {
    let barrier = Barrier::compensation(saga, step).expect("a step's name");
    BarrierCall { barrier, amount: -1, commits: true }
}

fn of(op: &str, gid: &str, amount: i64) -> BarrierCall {
    let barrier = Barrier::new("tcc", gid, "01", op).expect("a barrier");
    BarrierCall { barrier, amount, commits: true }
}

/// Makes `call` until it is answered, as a coordinator does.
async fn answered(place: &dyn BarrierPlace, call: &BarrierCall) -> Passage {
    loop {
        match place.call(call.clone()).await {
            Ok(passage) => return passage,
            Err(error) => {
                assert_ne!(error.retry(), Retry::Never, "barrier: a call is refused: {error}");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Makes calls one after the other, and compares what they came to and the ledger behind them.
async fn course(
    promise: &str,
    place: &dyn BarrierPlace,
    calls: &[(BarrierCall, Passage)],
    ledger: &[i64],
) {
    for (place_of, (call, expected)) in calls.iter().enumerate() {
        let found = answered(place, call).await;
        same(&format!("{promise}: call {}", place_of + 1), found, *expected);
    }
    same(promise, place.ledger().await, ledger);
}

/// S1: what comes twice is carried out once.
pub async fn repeated(fixture: &impl BarrierFixture) {
    let (place, saga) = (fixture.participant().await, saga());
    let pay = action(saga, "pay");
    let calls =
        [(pay.clone(), Passage::Act), (pay.clone(), Passage::Repeated), (pay, Passage::Repeated)];
    course("repeated: an action takes effect once", &*place, &calls, &[1]).await;
}

/// S4: what was never carried out is not compensated.
pub async fn empty_compensation(fixture: &impl BarrierFixture) {
    let (place, saga) = (fixture.participant().await, saga());
    let refund = compensation(saga, "pay");
    let calls = [(refund.clone(), Passage::Empty), (refund, Passage::Repeated)];
    course("empty compensation: it changes nothing", &*place, &calls, &[]).await;
}

/// S3: an action does not take effect behind its compensation.
pub async fn late_action(fixture: &impl BarrierFixture) {
    let (place, saga) = (fixture.participant().await, saga());
    let pay = action(saga, "pay");
    let calls = [
        (compensation(saga, "pay"), Passage::Empty),
        (pay.clone(), Passage::Late),
        (pay, Passage::Late),
        (compensation(saga, "pay"), Passage::Repeated),
    ];
    course("late action: it changes nothing", &*place, &calls, &[]).await;
}

/// An action is made good once, and does not come back.
pub async fn compensated_once(fixture: &impl BarrierFixture) {
    let (place, saga) = (fixture.participant().await, saga());
    let refund = compensation(saga, "pay");
    let calls = [
        (action(saga, "pay"), Passage::Act),
        (refund.clone(), Passage::Act),
        (refund, Passage::Repeated),
        (action(saga, "pay"), Passage::Repeated),
    ];
    course("compensated once: moved and moved back", &*place, &calls, &[1, -1]).await;
}

/// S2: a passage shares the fate of its transaction.
pub async fn rolled_back(fixture: &impl BarrierFixture) {
    let (place, saga) = (fixture.participant().await, saga());
    let undone = |call: BarrierCall| BarrierCall { commits: false, ..call };
    let calls = [
        (undone(action(saga, "pay")), Passage::Act),
        (undone(compensation(saga, "pay")), Passage::Empty),
        (action(saga, "pay"), Passage::Act),
        (undone(compensation(saga, "pay")), Passage::Act),
        (compensation(saga, "pay"), Passage::Act),
    ];
    course("rolled back: as if it had not been called", &*place, &calls, &[1, -1]).await;
}

/// Calls that only look alike do not touch one another.
pub async fn apart(fixture: &impl BarrierFixture) {
    let (place, saga, other) = (fixture.participant().await, saga(), saga());
    let second = action(saga, "pay");
    let second = BarrierCall { barrier: second.barrier.nth(2), ..second };
    let calls = [
        (compensation(saga, "pay"), Passage::Empty),
        (action(saga, "PAY"), Passage::Act),
        (action(saga, "pay2"), Passage::Act),
        (action(other, "pay"), Passage::Act),
        (second, Passage::Act),
        (action(saga, "pay"), Passage::Late),
    ];
    course("apart: other steps and sagas are carried out", &*place, &calls, &[1, 1, 1, 1]).await;
}

/// The calls of other coordinators: try, confirm, cancel.
pub async fn foreign_calls(fixture: &impl BarrierFixture) {
    let (place, early, late) =
        (fixture.participant().await, saga().to_string(), saga().to_string());
    let calls = [
        (of("try", &early, 1), Passage::Act),
        (of("confirm", &early, 2), Passage::Act),
        (of("confirm", &early, 2), Passage::Repeated),
        (of("cancel", &late, -1), Passage::Empty),
        (of("try", &late, 1), Passage::Late),
        (of("rollback", &late, -1), Passage::Empty),
        (of("action", &late, 1), Passage::Late),
    ];
    course("foreign calls: each has its own origin", &*place, &calls, &[1, 2]).await;
}

/// An action and a compensation, twice each, in every order.
pub async fn every_order(fixture: &impl BarrierFixture) {
    let place = fixture.participant().await;
    let mut before = 0;
    // Each bit says which of two kinds comes; those with two of each are every order there is.
    for order in (0..16_u8).filter(|order| order.count_ones() == 2) {
        let saga = saga();
        let mut acted = Vec::new();
        for call in 0..4 {
            let undoes = order & (1 << call) != 0;
            let call = if undoes { compensation(saga, "pay") } else { action(saga, "pay") };
            if answered(&*place, &call).await.acts() {
                acted.push(call.amount);
            }
        }
        let starts_with_action = order & 1 == 0;
        let expected: &[i64] = if starts_with_action { &[1, -1] } else { &[] };
        same(&format!("every order: order {order:04b}"), &*acted, expected);
        let ledger = place.ledger().await;
        same(
            "every order: what was to be carried out is in the ledger",
            &ledger[before..],
            expected,
        );
        before = ledger.len();
    }
}

/// An action and a compensation, twice each, at the same time; some end without a commit and come again.
pub async fn at_random(fixture: &impl BarrierFixture) {
    let place: Arc<dyn BarrierPlace> = Arc::from(fixture.participant().await);
    for seed in 1..=12 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (saga, amount) = (saga(), i64::try_from(seed).unwrap());
        let kinds = [action(saga, "pay"), compensation(saga, "pay")];
        let mut calls: Vec<BarrierCall> = kinds.iter().chain(&kinds).cloned().collect();
        calls.shuffle(&mut random);
        let mut tasks = Vec::new();
        for call in calls {
            let (place, fails) = (Arc::clone(&place), random.random_ratio(1, 3));
            let call = BarrierCall { amount: call.amount * amount, ..call };
            tasks.push(tokio::spawn(async move {
                if fails {
                    let _ = place.call(BarrierCall { commits: false, ..call.clone() }).await;
                }
                answered(&*place, &call).await
            }));
        }
        let mut passages = Vec::new();
        for task in tasks {
            passages.push(task.await.unwrap());
        }
        let count = |passage| passages.iter().filter(|found| **found == passage).count();
        let ledger: Vec<i64> =
            place.ledger().await.into_iter().filter(|moved| moved.abs() == amount).collect();
        let course = (count(Passage::Act), count(Passage::Empty), &ledger[..]);
        let moved = course == (2, 0, &[amount, -amount]);
        assert!(moved || course == (0, 1, &[]), "at random: seed {seed}: {passages:?}, {ledger:?}");
    }
}

/// S6: rows are kept for a day at least, and for as long as was said.
pub async fn kept(fixture: &impl BarrierFixture) {
    let (place, saga) = (fixture.participant().await, saga());
    let refused = place.forget(KEPT_MIN - Duration::from_secs(1)).await;
    same("kept: less than a day is refused", refused.unwrap_err().code(), Code::UnsafeSetting);
    for step in ["old", "older"] {
        same("kept: it is passed", answered(&*place, &action(saga, step)).await, Passage::Act);
    }
    place.age(saga, "older", 50).await;
    place.age(saga, "old", 47).await;
    while let Err(error) = place.forget(2 * KEPT_MIN).await {
        assert_ne!(error.retry(), Retry::Never, "kept: old rows cannot be forgotten: {error}");
        tokio::task::yield_now().await;
    }
    let found = answered(&*place, &action(saga, "old")).await;
    same("kept: what is not old enough stays", found, Passage::Repeated);
    let found = answered(&*place, &action(saga, "older")).await;
    same("kept: what is older goes, and its call would be carried out again", found, Passage::Act);
}

/// Making the table again, and by two at once, changes nothing.
pub async fn made_once(fixture: &impl BarrierFixture) {
    let (place, saga) = (fixture.participant().await, saga());
    same("made once: it is passed", answered(&*place, &action(saga, "pay")).await, Passage::Act);
    let (one, other) = tokio::join!(place.create(), place.create());
    one.and(other).expect("made once: making it again is no error");
    same("made once: rows stay", answered(&*place, &action(saga, "pay")).await, Passage::Repeated);
}
