//! The lanes of a stream, shared among the processes of a receiver by leases in its database.

use std::{collections::BTreeMap, sync::Arc};

use onewrite_core::{
    Text,
    lease::Fence,
    store::{Batch, Claim, Durability, Item, Op, Outcome},
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::{
    arrival::LaneArrival,
    broker::Lanes,
    feed::LaneFeedOptions,
    lane_task::{LaneTask, Shared, Wish},
    reading::Reading,
};

/// A lane held here.
struct Held {
    fence: Fence,
    wish: watch::Sender<Wish>,
    task: AbortHandle,
}

impl Held {
    fn is_releasing(&self) -> bool {
        *self.wish.borrow() == Wish::Release
    }
}

/// The lanes this process reads, and their leases.
pub(crate) struct Sharing<L> {
    shared: Arc<Shared<L>>,
    arrivals: mpsc::UnboundedSender<LaneArrival>,
    held: BTreeMap<u16, Held>,
    tasks: JoinSet<()>,
    leased_until: watch::Sender<Instant>,
}

impl<L: Lanes> Sharing<L> {
    pub(crate) fn new(shared: Shared<L>, arrivals: mpsc::UnboundedSender<LaneArrival>) -> Self {
        let leased_until = watch::Sender::new(Instant::now());
        let (shared, held, tasks) = (Arc::new(shared), BTreeMap::new(), JoinSet::new());
        Self { shared, arrivals, held, tasks, leased_until }
    }

    fn options(&self) -> &LaneFeedOptions {
        &self.shared.options
    }

    fn reading(&self) -> &Reading {
        &self.shared.options.reading
    }

    fn scope(&self) -> Text {
        format!("feed/{}/{}", self.options().stream, self.reading().consumer).into()
    }

    /// Shares until `closing` says so, then gives everything back.
    pub(crate) async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let mut renew_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                // Without its handles the feed is gone too.
                changed = closing.changed() => if changed.is_err() || *closing.borrow() { break },
                Some(_) = self.tasks.join_next() => self.bury().await,
                () = tokio::time::sleep_until(renew_at) => {
                    renew_at = Instant::now() + self.reading().lease_ttl / 3;
                    self.renew(true).await;
                }
            }
        }
        self.close().await;
    }

    /// Renews the leases, and follows what changed.
    async fn renew(&mut self, take: bool) {
        let asked_at = Instant::now();
        let ttl = self.reading().lease_ttl;
        let claim = Claim {
            scope: self.scope(),
            leases: self.options().lanes,
            owner: self.reading().owner.clone(),
            ttl,
            take,
        };
        match self.reading().store.claim(claim).await {
            Ok(claimed) => {
                self.leased_until.send_replace(asked_at + ttl);
                self.follow(claimed.held);
                self.give_back(claimed.give_back);
            }
            Err(error) => {
                tracing::warn!(%error, "the leases of a feed's lanes were not renewed");
                if *self.leased_until.borrow() <= Instant::now() {
                    // Others may have them by now.
                    self.follow(Vec::new());
                }
            }
        }
    }

    /// Ends the lanes that are lost and begins those that are new.
    fn follow(&mut self, fences: Vec<Fence>) {
        let fences: BTreeMap<u16, Fence> =
            fences.into_iter().map(|fence| (fence.partition, fence)).collect();
        self.held.retain(|lane, held| {
            let is_held = fences.get(lane) == Some(&held.fence);
            if !is_held {
                tracing::info!(lane, "another process reads this lane now");
                held.wish.send_replace(Wish::Lost);
            }
            is_held
        });
        for (lane, fence) in fences {
            if lane < self.options().lanes && !self.held.contains_key(&lane) {
                let held = self.begin(lane, fence);
                self.held.insert(lane, held);
            }
        }
    }

    fn begin(&mut self, lane: u16, fence: Fence) -> Held {
        let (wish, wishes) = watch::channel(Wish::Go);
        let task = LaneTask {
            shared: Arc::clone(&self.shared),
            number: lane,
            arrivals: self.arrivals.clone(),
            wish: wishes,
            leased_until: self.leased_until.subscribe(),
        };
        Held { fence, wish, task: self.tasks.spawn(task.run()) }
    }

    /// Lets go of lanes that others should have, once what is in work there is settled.
    fn give_back(&mut self, count: usize) {
        let releasing = self.held.values().filter(|held| held.is_releasing()).count();
        let going = self.held.values().rev().filter(|held| !held.is_releasing());
        for held in going.take(count.saturating_sub(releasing)) {
            held.wish.send_replace(Wish::Release);
        }
    }

    /// Gives back the leases of lanes whose task has ended.
    async fn bury(&mut self) {
        let ended: Vec<u16> = self
            .held
            .iter()
            .filter(|(_, held)| held.task.is_finished())
            .map(|(lane, _)| *lane)
            .collect();
        let released: Vec<Item> = ended
            .into_iter()
            .filter_map(|lane| self.held.remove(&lane))
            .map(|held| Item {
                fence: Some(held.fence.clone()),
                ops: vec![Op::Release(held.fence)],
            })
            .collect();
        self.commit(released).await;
    }

    async fn close(mut self) {
        let renew_every = self.reading().lease_ttl / 3;
        self.let_go();
        while !self.held.is_empty() {
            tokio::select! {
                ended = self.tasks.join_next() => {
                    self.bury().await;
                    if ended.is_none() {
                        break;
                    }
                }
                // A receiver may take its time over what it has in work.
                () = tokio::time::sleep(renew_every) => {
                    self.renew(false).await;
                    // A lease whose giving back failed began its lane anew.
                    self.let_go();
                }
            }
        }
        let op = Op::Leave { scope: self.scope(), owner: self.reading().owner.clone() };
        self.commit(vec![Item { fence: None, ops: vec![op] }]).await;
    }

    fn let_go(&self) {
        for held in self.held.values().filter(|held| !held.is_releasing()) {
            held.wish.send_replace(Wish::Release);
        }
    }

    async fn commit(&self, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let batch = Batch { durability: Durability::Relaxed, items };
        let failed = match self.reading().store.commit(batch).await {
            Ok(outcomes) => outcomes.into_iter().find_map(|outcome| match outcome {
                Outcome::Failed(error) => Some(error),
                Outcome::Applied(_) | Outcome::Fenced => None,
            }),
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            tracing::warn!(%error, "leases were not given back; they expire by themselves");
        }
    }
}
