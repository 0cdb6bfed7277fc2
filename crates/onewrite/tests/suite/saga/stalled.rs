//! S17, S18: an owner that was stalled past its lease wakes up.

use std::{sync::Arc, time::Duration};

use onewrite::{
    sabotage::{Defect, Sabotage},
    sqlite::{SqliteStore, rusqlite},
};
use onewrite_testkit::child::Child;

use super::world::{self, COUNT, GATE, Running, World, judge, order, run_all};
use crate::{
    rig::{PATIENCE, sound, until, within},
    role,
};

/// Stalls a process whose attempts are in flight, lets another carry on, wakes it, and says what is wrong.
async fn stalled(sabotage: Sabotage) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path(), true).await;
    let store = Arc::new(world::store(folder.path(), sound()));
    let command = role::command("saga-gated", folder.path(), sabotage, None);
    let mut child = Child::start(command).await.unwrap();
    // Every saga has come as far as it can before the gate.
    until("the effects before the gate", async || reserved(&world).await == reservations()).await;
    stall(&child, [&store, &world.store]).await;
    let running = Running::start(store.clone(), &world, "parent", sound());
    tokio::time::timeout(PATIENCE, run_all(&running.sagas)).await.expect("every saga ends");
    std::fs::write(folder.path().join(GATE), "").unwrap();
    child.resume().unwrap();
    // What it had in flight comes to its end, and it writes what it thinks.
    within(Duration::from_millis(500), async || !judge(&*store, &world).await.is_empty()).await;
    child.kill().unwrap();
    let _ = child.wait().await;
    running.stop().await;
    judge(&*store, &world).await
}

/// Stalls it outside of any transaction: on SQLite it would hold up everybody else.
async fn stall(child: &Child, stores: [&SqliteStore; 2]) {
    loop {
        child.stall().unwrap();
        until("its standstill", async || child.stands_still()).await;
        if stores.iter().all(|store| is_free(store)) {
            return;
        }
        child.resume().unwrap();
        tokio::task::yield_now().await;
    }
}

fn is_free(store: &SqliteStore) -> bool {
    let mut probe = rusqlite::Connection::open(&store.options().path).unwrap();
    probe.busy_timeout(Duration::from_millis(100)).unwrap();
    probe.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).is_ok()
}

fn reservations() -> usize {
    let fails = |number| order(number).fails;
    let reserves =
        |number: &usize| fails(*number).is_none_or(|step| step == "schedule" || step == "confirm");
    (0..COUNT).filter(reserves).count()
}

async fn reserved(world: &World) -> usize {
    let effects = world.effects().await;
    effects.values().flatten().filter(|(step, what)| step == "reserve" && what == "done").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_owner_changes_nothing_when_it_wakes() {
    assert_eq!(stalled(sound()).await, Vec::<String>::new());
}

/// It never looks at its leases: what it does is refused all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_does_not_notice_its_loss_is_refused() {
    let sabotage = Sabotage::default().with(Defect::ActWithoutLease);
    assert_eq!(stalled(sabotage).await, Vec::<String>::new());
}

/// The control: without fence and number, what it writes is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn without_fence_and_number_two_owners_mix() {
    let sabotage = Sabotage::default()
        .with(Defect::NoFence)
        .with(Defect::NoVersion)
        .with(Defect::ActWithoutLease);
    assert!(!stalled(sabotage).await.is_empty(), "nobody noticed");
}
