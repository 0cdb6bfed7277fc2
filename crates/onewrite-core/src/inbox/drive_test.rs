//! What a session is asked for, in which order, whatever its client is.

use std::collections::BTreeSet;

use super::*;
use crate::{
    BoxFuture, Event, Incarnation, Record,
    inbox::{Act, HandlerError, at_once, caught, refusal},
    parking::ParkedRecord,
    record::Order,
};

/// What becomes of each handler, by the event's id, and what the commit says.
#[derive(Default)]
struct World {
    refuses: BTreeSet<&'static str>,
    overlooks: BTreeSet<&'static str>,
    panics: Option<Panics>,
    trouble: Option<Code>,
    commit: Option<Code>,
    unclear: bool,
    request: Option<Request>,
    /// How many parked records are left.
    left: u64,
    /// No claim has been counted yet.
    calm: bool,
    said: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Panics {
    AtOnce,
    Later,
}

struct Tx<'a>(&'a mut World);

impl Tx<'_> {
    fn says(&mut self, what: impl Into<String>) {
        self.0.said.push(what.into());
    }
}

impl Rows for Tx<'_> {
    async fn states(&mut self, lanes: &BTreeSet<Lane>) -> Result<Vec<(Lane, LaneState)>> {
        self.says("states");
        let counted = LaneState { attempt_first: 1, attempts: 1, ..LaneState::default() };
        let state = if self.0.calm { LaneState::default() } else { counted };
        Ok(lanes.iter().map(|lane| (lane.clone(), state.clone())).collect())
    }

    async fn write(&mut self, changed: &[(&Lane, &LaneState)]) -> Result<()> {
        let mut marks: Vec<_> =
            changed.iter().map(|(_, state)| state.sequence.to_string()).collect();
        marks.sort();
        self.says(format!("marks {}", marks.join(",")));
        Ok(())
    }

    async fn commit(mut self) -> Result<()> {
        self.says("commit");
        self.0.commit.take().map_or(Ok(()), |code| Err(Error::new(code, "commit")))
    }
}

impl Session for Tx<'_> {
    const FAULTS_SHOW_LATER: bool = true;

    async fn any_parked(&mut self) -> Result<bool> {
        Ok(false)
    }

    async fn execute(&mut self, statement: Statement<'_>) -> Result<u64> {
        let (said, rows) = match statement {
            Statement::LookParked(_) => return Ok(0),
            Statement::Remember(record) => (format!("remember {}", record.id()), 1),
            Statement::Forget(record) => (format!("forget {}", record.id()), 1),
            Statement::ParkRecord(record) => (format!("park {}", record.id()), 1),
            Statement::ParkKey(record, _) => (format!("park {}", record.event.order_key()), 1),
            Statement::WaitAgain(_, reason) => (format!("wait again: {reason}"), 1),
            Statement::Unpark(_, position) => (format!("unpark {position}"), 1),
            Statement::CountLeft(_) => return Ok(self.0.left),
            Statement::Free(key) => (format!("free {}", key.key), 1),
        };
        self.says(said);
        Ok(rows)
    }

    async fn act(&mut self, act: Act) -> Result<()> {
        self.says(format!("{act:?}").to_lowercase());
        Ok(())
    }

    async fn finish(self) -> Result<()> {
        self.commit().await
    }

    async fn undo(mut self) -> Result<()> {
        self.says("undo");
        Ok(())
    }

    async fn parked(&mut self, _: &ParkedKey) -> Result<(Option<Request>, Option<ParkedRecord>)> {
        self.says("parked");
        let front = ParkedRecord { position: 9, record: delivery(1, "a").record };
        Ok((self.0.request, Some(front)))
    }

    async fn run(&mut self, record: &Record, redriven: bool) -> Result<Option<Text>> {
        self.says(format!("run {}{}", record.id(), if redriven { " again" } else { "" }));
        let handled: Result<(), HandlerError> = match self.0.refuses.contains(record.id()) {
            true => Err(format!("no {}", record.id()).into()),
            false => Ok(()),
        };
        let (panics, trouble) = (self.0.panics, self.0.trouble);
        let handling = || -> BoxFuture<'_, Result<(), HandlerError>> {
            assert!(panics != Some(Panics::AtOnce), "on purpose");
            Box::pin(async move {
                assert!(panics.is_none(), "on purpose");
                handled
            })
        };
        refusal(caught(handling).await, |_| trouble, ToString::to_string)
    }

    async fn overlooked(&mut self) -> Result<Option<Text>> {
        Ok(self.0.said.last().and_then(|said| {
            let id = said.strip_prefix("run ").unwrap_or_default();
            self.0.overlooks.contains(id).then(|| "overlooked".into())
        }))
    }

    async fn is_unclear(&mut self, _: bool) -> Result<bool> {
        Ok(std::mem::take(&mut self.0.unclear))
    }
}

/// With the marks moved first, the same batch is a repeat when it comes again.
#[test]
fn marks_that_are_planted_to_move_first_are_a_transaction_of_their_own() {
    let mut world = World::default();
    let deliveries = [delivery(0, "a")];
    let attempts = Attempt::of(&deliveries);
    let sabotage = crate::sabotage::Sabotage::default();
    #[cfg(feature = "sabotage")]
    let sabotage = sabotage.with(Defect::MarkBeforeEffect);
    let policy = Policy { sabotage, ..Policy::new("c") };
    let mut course = Course::new(&policy, &deliveries, &attempts, Care::Bold);
    let first = at_once(course.handle(Tx(&mut world))).unwrap();
    let moved_first = "states; marks 1; commit";
    let said = std::mem::take(&mut world.said).join("; ");
    if cfg!(feature = "sabotage") {
        assert_eq!((first, &*said), (None, moved_first));
        assert!(at_once(course.handle(Tx(&mut world))).unwrap().is_some());
        assert_eq!(world.said.join("; "), "run a; marks 1; commit");
    } else {
        assert_eq!(said, "states; run a; marks 1; commit");
    }
}

/// Each of a partition of its own.
fn delivery(partition: u16, id: &str) -> Delivery {
    let event = Event { id: Some(id.to_owned().into()), ..Event::new("T", "Thing", "k") };
    let incarnation = Incarnation(1);
    let record = Record { source: "shop".into(), incarnation, partition, sequence: 1, event };
    Delivery { record, order: Order::Chained { previous: 0 } }
}

/// Handles a, b, c and so on; each transaction's statements, and what came of the batch.
fn receive(world: &mut World, care: Care, ids: &[&str]) -> (Vec<String>, Result<Vec<Receipt>>) {
    let deliveries: Vec<_> = (0..).zip(ids).map(|(n, id)| delivery(n, id)).collect();
    let attempts = Attempt::of(&deliveries);
    let policy = Policy::new("c");
    let mut course = Course::new(&policy, &deliveries, &attempts, care);
    let mut transactions = Vec::new();
    loop {
        let handled = at_once(course.handle(Tx(world)));
        transactions.push(std::mem::take(&mut world.said).join("; "));
        match handled {
            Ok(None) => {}
            Ok(Some(receipts)) => return (transactions, Ok(receipts)),
            Err(error) => return (transactions, Err(error)),
        }
    }
}

fn retry(id: &str) -> Receipt {
    Receipt::Retry(format!("no {id}").into())
}

#[test]
fn a_batch_without_a_refusal_is_one_transaction_without_savepoints() {
    let (transactions, receipts) = receive(&mut World::default(), Care::Bold, &["a", "b"]);
    assert_eq!(transactions, ["states; run a; run b; marks 1,1; commit"]);
    assert_eq!(receipts.unwrap(), [Receipt::Accepted, Receipt::Accepted]);
}

#[test]
fn a_bold_refusal_undoes_everything_and_its_handler_does_not_run_again() {
    let mut world = World { refuses: ["b"].into(), ..World::default() };
    let (transactions, receipts) = receive(&mut world, Care::Bold, &["a", "b", "c"]);
    let first = "states; run a; run b; undo";
    assert_eq!(transactions[0], first);
    assert!(transactions[1].starts_with("states; run a; run c; marks "), "{}", transactions[1]);
    assert_eq!(receipts.unwrap(), [Receipt::Accepted, retry("b"), Receipt::Accepted]);
}

#[test]
fn many_refusals_make_it_careful() {
    let mut world = World { refuses: ["a", "b", "c", "d"].into(), ..World::default() };
    let (transactions, receipts) = receive(&mut world, Care::Bold, &["a", "b", "c", "d"]);
    assert_eq!(transactions.len(), BOLD_MAX + 1);
    let last = "states; savepoint; run d; rollback; marks ";
    assert!(transactions[3].starts_with(last), "{}", transactions[3]);
    assert_eq!(receipts.unwrap(), ["a", "b", "c", "d"].map(retry));
}

#[test]
fn with_savepoints_a_refusal_and_what_was_overlooked_are_undone_alone() {
    let (refuses, overlooks) = (["a"].into(), ["b"].into());
    let mut world = World { refuses, overlooks, ..World::default() };
    let (transactions, receipts) = receive(&mut world, Care::Savepoints, &["a", "b", "c"]);
    let handled =
        "states; savepoint; run a; rollback; savepoint; run b; rollback; savepoint; run c; release";
    assert!(transactions[0].starts_with(handled), "{}", transactions[0]);
    let overlooked = Receipt::Retry("overlooked".into());
    assert_eq!(receipts.unwrap(), [retry("a"), overlooked, Receipt::Accepted]);
}

#[test]
fn what_is_unclear_and_what_shows_later_is_asked_of_savepoints_once() {
    let mut unclear = World { unclear: true, ..World::default() };
    let (transactions, _) = receive(&mut unclear, Care::Bold, &["a"]);
    let careful = "states; savepoint; run a; release; marks 1; commit";
    assert_eq!(transactions, ["states; run a; undo", careful]);
    let mut later = World { commit: Some(Code::Database), ..World::default() };
    let (transactions, receipts) = receive(&mut later, Care::Bold, &["a"]);
    assert_eq!(transactions, ["states; run a; marks 1; commit", careful]);
    assert_eq!(receipts.unwrap(), [Receipt::Accepted]);
    let mut still = World { commit: Some(Code::Database), ..World::default() };
    let (_, receipts) = receive(&mut still, Care::Savepoints, &["a"]);
    assert_eq!(receipts.unwrap_err().code(), Code::Database);
}

#[test]
fn an_unknown_commit_and_trouble_with_the_database_fail_the_batch() {
    for code in [Code::CommitUnknown, Code::StoreBusy, Code::StoreUnreachable] {
        let mut world = World { commit: Some(code), ..World::default() };
        let (transactions, receipts) = receive(&mut world, Care::Bold, &["a"]);
        assert_eq!((transactions.len(), receipts.unwrap_err().code()), (1, code));
    }
    let trouble = Some(Code::DiskFull);
    let mut world = World { refuses: ["a"].into(), trouble, ..World::default() };
    let (transactions, receipts) = receive(&mut world, Care::Savepoints, &["a"]);
    assert_eq!(transactions, ["states; savepoint; run a"]);
    assert_eq!(receipts.unwrap_err().code(), Code::DiskFull);
}

#[test]
fn a_panic_is_a_refusal() {
    for panics in [Panics::AtOnce, Panics::Later] {
        let mut world = World { panics: Some(panics), ..World::default() };
        let (_, receipts) = receive(&mut world, Care::Savepoints, &["a"]);
        let [Receipt::Retry(reason)] = &receipts.unwrap()[..] else { panic!("it was accepted") };
        assert_eq!(reason, "the handler panicked");
    }
}

#[test]
fn a_parked_front_is_carried_out_as_asked() {
    let key = ParkedKey {
        scope: "inbox/c".into(),
        source: "shop".into(),
        partition: 1,
        key: "k".into(),
        request: Request::Retry,
        reason: "why".into(),
        since: crate::Timestamp::default(),
        waiting: 3,
        redrives: 0,
    };
    let refused = "no a";
    let cases = [
        (None, "", "parked".to_owned()),
        (Some(Request::Wait), "", "parked".to_owned()),
        (Some(Request::Discard), "a", "parked; remember a; unpark 9; commit".to_owned()),
        (
            Some(Request::Retry),
            "",
            "parked; savepoint; run a again; release; remember a; unpark 9; commit".to_owned(),
        ),
        (
            Some(Request::Retry),
            "a",
            format!("parked; savepoint; run a again; rollback; wait again: {refused}; commit"),
        ),
    ];
    for (request, refuses, said) in cases {
        let refuses = [refuses].into();
        let mut world = World { request, refuses, left: 2, ..World::default() };
        let left = at_once(redrive(Tx(&mut world), &key)).unwrap();
        assert_eq!(world.said.join("; "), said);
        let expected = match said.rsplit("; ").nth(1) {
            None => Ok(3),
            Some("unpark 9") => Ok(2),
            Some(_) => Err(refused.into()),
        };
        assert_eq!(left, expected);
    }
}

#[test]
fn a_claim_is_counted_with_one_write_and_not_twice() {
    let attempts = Attempt::of(&[delivery(0, "a"), delivery(1, "b")]);
    let mut world = World { calm: true, ..World::default() };
    let counted = at_once(count(Tx(&mut world), &Policy::new("c"), &attempts, false)).unwrap();
    assert_eq!(world.said.join("; "), "states; marks 0,0; commit");
    assert!(counted.iter().all(|(state, counted)| *counted && state.attempts == 1));
}

#[test]
fn work_that_waits_is_refused_to_a_client_that_blocks() {
    let waiting = at_once(std::future::pending::<Result<()>>());
    assert_eq!(waiting.unwrap_err().code(), Code::Stopped);
}
