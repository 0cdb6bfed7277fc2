//! Inboxes that break one promise each, for which no defect is planted in the inbox itself: the case of
//! that promise notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use onewrite_core::{
    BoxFuture, Delivery, Incarnation, Result, Text,
    broker::{Mark, Receipt},
    inbox::{Attempt, Inbox, LaneState, Policy},
    parking::ParkedKey,
    record::Order,
    sabotage::{Defect, Sabotage},
    store::Store,
};
use onewrite_testkit::conformance::{self, InboxFixture, InboxPlace, Remember, Script};

use crate::conformance::Sqlite;

/// What an inbox does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Looks first whether a record is known, and handles it later, in another transaction.
    CheckThenAct,
    /// Tells foreign events apart by the number that a transport gave them.
    ByTransport,
    /// Accepts what its handler refused.
    Agreeable,
    /// Counts a claim only when its batch is handled, not before.
    AttemptLast,
    /// Re-drives two records where one was asked for.
    Hasty,
}

struct Broken(Fault);

impl Broken {
    fn inner(&self) -> Sqlite {
        let planted = Sabotage::default();
        Sqlite(match self.0 {
            Fault::CheckThenAct => planted.with(Defect::NoDedup),
            _ => planted,
        })
    }
}

impl InboxFixture for Broken {
    fn place(&self) -> BoxFuture<'_, Box<dyn InboxPlace>> {
        Box::pin(async {
            let place = InboxFixture::place(&self.inner()).await;
            Box::new(BrokenPlace { fault: self.0, place }) as Box<dyn InboxPlace>
        })
    }

    fn sabotage(&self) -> Sabotage {
        self.inner().0
    }
}

struct BrokenPlace {
    fault: Fault,
    place: Box<dyn InboxPlace>,
}

impl InboxPlace for BrokenPlace {
    fn open(
        &self,
        policy: Policy,
        remember: Remember,
        script: Script,
    ) -> BoxFuture<'_, Result<Arc<dyn Inbox>>> {
        Box::pin(async move {
            let inbox = self.place.open(policy, remember, script).await?;
            Ok(Arc::new(BrokenInbox { fault: self.fault, inbox }) as Arc<dyn Inbox>)
        })
    }

    fn store(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        self.place.store()
    }

    fn effects(&self) -> BoxFuture<'_, Vec<String>> {
        self.place.effects()
    }
}

struct BrokenInbox {
    fault: Fault,
    inbox: Arc<dyn Inbox>,
}

impl BrokenInbox {
    async fn is_known(&self, delivery: &Delivery) -> Result<bool> {
        let record = &delivery.record;
        let marks = self.inbox.marks(&record.source, record.incarnation).await?;
        let mark = marks.iter().find(|mark| mark.partition == record.partition);
        Ok(mark.is_some_and(|mark| record.sequence <= mark.sequence))
    }
}

impl Inbox for BrokenInbox {
    fn policy(&self) -> &Policy {
        self.inbox.policy()
    }

    fn attempt(
        &self,
        attempts: Vec<Attempt>,
        again: bool,
    ) -> BoxFuture<'_, Result<Vec<(LaneState, bool)>>> {
        if self.fault == Fault::AttemptLast {
            let counted = attempts.iter().map(|_| (LaneState::default(), true)).collect();
            return Box::pin(std::future::ready(Ok(counted)));
        }
        self.inbox.attempt(attempts, again)
    }

    fn receive(
        &self,
        mut deliveries: Vec<Delivery>,
        attempts: Vec<Attempt>,
    ) -> BoxFuture<'_, Result<Vec<Receipt>>> {
        Box::pin(async move {
            if self.fault == Fault::CheckThenAct {
                let mut known = Vec::new();
                for delivery in &deliveries {
                    known.push(self.is_known(delivery).await?);
                }
                if known.iter().all(|known| *known) {
                    return Ok(vec![Receipt::Duplicate; deliveries.len()]);
                }
                // Long enough for the other to look as well.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for delivery in &mut deliveries {
                let record = &mut delivery.record;
                if self.fault == Fault::ByTransport && delivery.order == Order::ById {
                    record.event.id = Some(format!("{}@{}", record.id(), record.sequence).into());
                }
            }
            if self.fault == Fault::AttemptLast {
                self.inbox.attempt(attempts.clone(), false).await?;
            }
            let mut receipts = self.inbox.receive(deliveries, attempts).await?;
            if self.fault == Fault::Agreeable {
                receipts.fill(Receipt::Accepted);
            }
            Ok(receipts)
        })
    }

    fn marks<'a>(&'a self, source: &'a str, life: Incarnation) -> BoxFuture<'a, Result<Vec<Mark>>> {
        self.inbox.marks(source, life)
    }

    fn requested(&self) -> BoxFuture<'_, Result<Vec<ParkedKey>>> {
        self.inbox.requested()
    }

    fn redrive(&self, key: ParkedKey) -> BoxFuture<'_, Result<std::result::Result<u64, Text>>> {
        Box::pin(async {
            if self.fault == Fault::Hasty {
                let _ = self.inbox.redrive(key.clone()).await?;
            }
            self.inbox.redrive(key).await
        })
    }

    fn forget(&self) -> BoxFuture<'_, Result<u64>> {
        self.inbox.forget()
    }
}

macro_rules! notices {
    ($($name:ident: $fault:ident, $module:ident::$case:ident, $complaint:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let case = async { conformance::$module::$case(&Broken(Fault::$fault)).await };
            let complaint = conformance::complaint(case).await;
            assert!(complaint.contains($complaint), "for another reason: {complaint}");
        })*
    };
}

notices! {
    looking_before_handling: CheckThenAct, inbox::insert_first, "insert first: ";
    foreign_events_known_by_their_transport: ByTransport, foreign::foreign_ids, "under another transport id";
    refusals_taken_for_consent: Agreeable, inbox::one_commit, "one commit: a handler that fails";
    failures_passed_over: Agreeable, inbox::partial_failure, "partial failure: ";
    attempts_counted_too_late: AttemptLast, poison::attempt_first, "attempt first: ";
    a_crash_loop_that_is_not_seen: AttemptLast, poison::crash_loop, "still not parked";
    two_records_redriven_for_one: Hasty, poison::parked_key, "redrive: how many wait";
}
