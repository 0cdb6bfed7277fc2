//! One owner: leases, their epochs, and how members share them.

use std::time::Duration;

use onewrite_core::{
    Text,
    lease::Fence,
    store::{Claim, Claimed, Item, LeaseState, Op, Store},
};

use super::{PATIENCE, StoreFixture, apply, commit, same, soon};

/// What the cases lease.
const SCOPE: Text = Text::from_static("relay/search");

/// Long enough to hold while a case runs.
const LONG: Duration = Duration::from_secs(3600);

/// Short enough to wait for its end.
const SHORT: Duration = Duration::from_millis(30);

pub(super) fn request(store: &dyn Store, owner: &str, ttl: Duration, take: bool) -> Claim {
    let leases = store.source().partitions;
    Claim { scope: SCOPE, leases, owner: owner.to_owned().into(), ttl, take }
}

pub(super) async fn claim(store: &dyn Store, owner: &str, ttl: Duration, take: bool) -> Claimed {
    store.claim(request(store, owner, ttl, take)).await.expect("the store takes a claim")
}

/// What `owner` holds after taking all it may.
pub(super) async fn held(store: &dyn Store, owner: &str) -> Vec<Fence> {
    claim(store, owner, LONG, true).await.held
}

/// The owners of all leases, by partition.
pub(super) async fn owners(store: &dyn Store) -> Vec<Option<Text>> {
    store.leases().await.unwrap().into_iter().map(|lease| lease.owner).collect()
}

async fn count_of(store: &dyn Store, owner: &str) -> usize {
    let owner = Text::from(owner.to_owned());
    owners(store).await.iter().filter(|found| **found == Some(owner.clone())).count()
}

async fn lease(store: &dyn Store, partition: u16) -> LeaseState {
    let leases = store.leases().await.unwrap();
    leases
        .into_iter()
        .find(|lease| lease.partition == partition)
        .expect("every partition is leased")
}

async fn give_back(store: &dyn Store, fences: &[Fence]) {
    let release = |fence: &Fence| Item { fence: None, ops: vec![Op::Release(fence.clone())] };
    commit(store, fences.iter().map(release).collect()).await;
}

/// 6: while an owner holds its leases, no other gets them, and renewing keeps the epoch.
pub async fn one_owner(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let (store, other) = (place.open().await, place.open().await);
    let first = held(&*store, "a").await;
    same("one owner: a member alone takes all", first.len(), 4);
    for _ in 0..3 {
        same("one owner: another gets leases that are held", held(&*other, "b").await, Vec::new());
        same("one owner: renewing changes the epoch", held(&*store, "a").await, first.clone());
    }
    let idle = claim(&*other, "c", LONG, false).await.held;
    same("one owner: a claim that does not take takes", idle, Vec::new());
    // Two at the very same moment.
    let (scope, mut rounds) = ("relay/race", 0);
    while rounds < 20 {
        let scope: Text = format!("{scope}-{rounds}").into();
        let race =
            |owner: &str| Claim { scope: scope.clone(), ..request(&*store, owner, LONG, true) };
        let (left, right) = tokio::join!(store.claim(race("a")), other.claim(race("b")));
        let (left, right) = (left.unwrap().held, right.unwrap().held);
        let both = left.iter().filter(|l| right.iter().any(|r| l.partition == r.partition));
        same("one owner: two owners hold one lease", both.count(), 0);
        rounds += 1;
    }
}

/// 6: a lease that is not renewed is taken over: a higher epoch, one more takeover, and the old
/// owner's renewal finds nothing.
pub async fn takeover(fixture: &dyn StoreFixture) {
    let place = fixture.place(1).await;
    let (store, other) = (place.open().await, place.open().await);
    let old = claim(&*store, "a", SHORT, true).await.held.remove(0);
    same("takeover: before it", lease(&*store, 0).await.takeovers, 0);
    let taking = async {
        loop {
            if let Some(fence) = held(&*other, "b").await.pop() {
                return fence;
            }
            tokio::task::yield_now().await;
        }
    };
    let new = soon("takeover: taking an expired lease", taking).await;
    assert!(new.epoch > old.epoch, "takeover: the epoch went from {} to {}", old.epoch, new.epoch);
    let now = lease(&*store, 0).await;
    same("takeover: it is counted", now.takeovers, 1);
    same("takeover: its owner", now.owner, Some(Text::from_static("b")));
    same("takeover: the epoch shown", now.epoch, new.epoch);
    same("takeover: the old owner renews", held(&*store, "a").await, Vec::new());
    give_back(&*other, &[new]).await;
    let again = soon("takeover: taking what was given back", async {
        loop {
            if let Some(fence) = held(&*store, "a").await.pop() {
                return fence;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(again.await.epoch > now.epoch, "takeover: an epoch is used twice");
    same("takeover: what was given back is not counted", lease(&*store, 0).await.takeovers, 1);
}

/// 6: a release lets the other member take the lease at once.
pub async fn release(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let (store, other) = (place.open().await, place.open().await);
    let all = held(&*store, "a").await;
    same("release: the newcomer waits", held(&*other, "b").await.len(), 0);
    let owed = claim(&*store, "a", LONG, true).await.give_back;
    same("release: what the first owes a second", owed, 2);
    give_back(&*store, &all[..2]).await;
    let taken = held(&*other, "b").await;
    let partitions: Vec<u16> = taken.iter().map(|fence| fence.partition).collect();
    same(
        "release: the second takes it at once",
        partitions,
        vec![all[0].partition, all[1].partition],
    );
    assert!(taken[0].epoch > all[0].epoch, "release: the epoch did not rise");
}

/// 6: members that join share the leases evenly, and every lease keeps exactly one owner.
pub async fn fair_share(fixture: &dyn StoreFixture) {
    let place = fixture.place(8).await;
    let members = ["a", "b", "c"];
    let store = place.open().await;
    for count in 1..=members.len() {
        // Each member does what its relay does: gives back what it owes, and claims.
        for _ in 0..4 {
            for owner in &members[..count] {
                let found = claim(&*store, owner, LONG, true).await;
                give_back(&*store, &found.held[..found.give_back]).await;
            }
        }
        let mut shares = Vec::new();
        for owner in &members[..count] {
            shares.push(count_of(&*store, owner).await);
        }
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        same("fair share: leases without an owner", shares.iter().sum::<usize>(), 8);
        assert!(most - least <= 1, "fair share: {count} members hold {shares:?}");
    }
}

/// 6: who leaves and gives back makes room at once; who only stops is missed after its leases end.
pub async fn leave(fixture: &dyn StoreFixture) {
    let place = fixture.place(4).await;
    let store = place.open().await;
    let all = held(&*store, "a").await;
    held(&*store, "b").await;
    give_back(&*store, &all[..2]).await;
    let leaving = held(&*store, "b").await;
    same("leave: both have a share", leaving.len(), 2);
    give_back(&*store, &leaving).await;
    apply(&*store, vec![Op::Leave { scope: SCOPE, owner: "b".into() }]).await;
    same("leave: the other takes all at once", held(&*store, "a").await.len(), 4);
    same("leave: it owes nothing to who left", claim(&*store, "a", LONG, true).await.give_back, 0);
    // A member that ends without a word is missed after its leases have run out.
    claim(&*store, "c", SHORT, true).await;
    let forgotten = async {
        while claim(&*store, "a", PATIENCE, true).await.give_back > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("leave: forgetting a member that ended", forgotten).await;
}
