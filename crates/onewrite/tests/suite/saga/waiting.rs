//! S15: signals and times outlive the processes that wait for them, and come to one saga once.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use onewrite::{
    Shutdown, Store as _, Text,
    sabotage::Sabotage,
    saga::{
        Cx, Finished, Journal as _, Outcome, Plan, Retry, SagaOptions, SagaRunner, SagaType, Sagas,
        Signal, State, StepResult, Waits,
    },
    sqlite,
};
use onewrite_testkit::child::{Child, End};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::world;
use crate::{
    rig::{PATIENCE, until},
    role,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Booking {
    id: String,
}

type BookingSaga = SagaType<(), Booking, (String, i64)>;

fn booking_saga(within: Duration) -> BookingSaga {
    let state = move |mut plan: Plan<(), Booking>| -> Finished<(), Booking, (String, i64)> {
        let booking = plan.input();
        let ticket = plan.step("hold", booking, hold).compensate(free);
        let paid: onewrite::saga::Out<i64> =
            plan.signal("paid", "payment", booking.at::<String>("/id"), within);
        plan.sleep("rest", Duration::from_millis(30));
        let both =
            plan.step("issue", (ticket, paid), issue).no_compensation("a paper is only printed");
        plan.finish(both)
    };
    SagaType::plan("booking", state).unwrap()
}

async fn hold(_: Cx<()>, booking: Booking) -> StepResult<String> {
    Ok(format!("ticket of {}", booking.id))
}

async fn free(_: Cx<()>, _: Booking, _: Option<String>) -> Result<(), Retry> {
    Ok(())
}

async fn issue(_: Cx<()>, both: (String, i64)) -> StepResult<(String, i64)> {
    Ok(both)
}

struct Office {
    sagas: Sagas,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Office {
    /// Nothing that waits is kept in memory.
    fn open(store: &Arc<sqlite::SqliteStore>, within: Duration, owner: &str) -> Self {
        let options = SagaOptions { keep: Duration::ZERO, ..world::options(Sabotage::default()) };
        let owner = Text::from(owner.to_owned());
        let runner = SagaRunner::new(store.clone(), options, owner);
        let runner = runner.serve(&booking_saga(within), &Arc::new(()));
        let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
        let task = tokio::spawn(runner.run(shutdown.clone()));
        Self { sagas, shutdown, task }
    }

    async fn close(self) {
        self.shutdown.begin();
        self.task.await.unwrap();
    }
}

const LONG: Duration = Duration::from_secs(3_600);

fn booking(number: usize) -> Booking {
    Booking { id: format!("b-{number}") }
}

fn payment(number: usize) -> Signal {
    let id = format!("payment-{number}");
    Signal::new(id, "payment", booking(number).id).payload(&(number as i64)).unwrap()
}

fn store(folder: &Path) -> Arc<sqlite::SqliteStore> {
    Arc::new(world::store(folder, Sabotage::default()))
}

async fn waits(sagas: &Sagas, id: onewrite::saga::SagaId) -> Waits {
    sagas.show(id).await.unwrap().standing.waits
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_come_to_the_sagas_that_wait_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let office = Office::open(&store, LONG, "one");
    let saga = booking_saga(LONG);
    // Half of the payments come before their bookings, half after; each comes twice.
    for number in 0..10 {
        assert!(office.sagas.signal(payment(number)).await.unwrap());
    }
    let mut ids = Vec::new();
    for number in 0..20 {
        let key = format!("b-{number}");
        ids.push(office.sagas.start(&saga, key, &booking(number)).await.unwrap().id);
    }
    for id in &ids[10..] {
        until("the wait", async || waits(&office.sagas, *id).await == Waits::Signal).await;
    }
    for number in 0..20 {
        assert_eq!(office.sagas.signal(payment(number)).await.unwrap(), number >= 10);
    }
    for (number, id) in ids.iter().enumerate() {
        let ended = tokio::time::timeout(PATIENCE, office.sagas.ended(*id)).await;
        let Outcome::Completed(output) = ended.expect("it ends").unwrap() else {
            panic!("{number} is compensated");
        };
        assert_eq!(output.as_str(), format!("[\"ticket of b-{number}\",{number}]"));
    }
    assert_eq!(store.arrived((0..32).collect(), 100).await.unwrap(), vec![]);
    office.close().await;
}

/// Whoever was told that the signal is durable was told so in time, whenever somebody looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_in_time_counts_though_it_is_found_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let within = Duration::from_secs(3);
    let office = Office::open(&store, within, "one");
    let saga = booking_saga(within);
    let id = office.sagas.start(&saga, "b-1", &booking(1)).await.unwrap().id;
    until("the wait", async || waits(&office.sagas, id).await == Waits::Signal).await;
    let due = office.sagas.show(id).await.unwrap().standing.due.unwrap();
    let sagas = office.sagas.clone();
    office.close().await;
    assert!(sagas.signal(payment(1)).await.unwrap());
    assert!(store.now().await.unwrap() < due, "this machine is too slow for the test");
    until("its time is over", async || store.now().await.unwrap() > due).await;
    let office = Office::open(&store, within, "two");
    let ended = tokio::time::timeout(PATIENCE, office.sagas.ended(id)).await;
    assert!(matches!(ended.expect("it ends").unwrap(), Outcome::Completed(_)));
    office.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_signal_in_time_the_saga_is_compensated() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let office = Office::open(&store, Duration::from_millis(50), "one");
    let saga = booking_saga(Duration::from_millis(50));
    let started = office.sagas.start(&saga, "b-1", &booking(1)).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, office.sagas.ended(started.id)).await;
    assert_eq!(ended.expect("it ends").unwrap(), Outcome::Compensated);
    // It comes too late for this one, and another one takes it.
    assert!(office.sagas.signal(payment(1)).await.unwrap());
    let again = office.sagas.start(&saga, "b-1 again", &booking(1)).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, office.sagas.ended(again.id)).await;
    assert!(matches!(ended.expect("it ends").unwrap(), Outcome::Completed(_)));
    office.close().await;
}

/// Signals are sent in a user's own transaction: with what else it writes, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_sent_with_the_transaction_it_stands_in() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let office = Office::open(&store, LONG, "one");
    let saga = booking_saga(LONG);
    let started = office.sagas.start(&saga, "b-1", &booking(1)).await.unwrap();
    until("the wait", async || waits(&office.sagas, started.id).await == Waits::Signal).await;
    let undone = store.write(|tx| {
        sqlite::signal(tx, &payment(1))?;
        Err::<(), _>(onewrite::Error::new(onewrite::Code::HandlerFailed, "on purpose"))
    });
    undone.await.unwrap_err();
    assert_eq!(store.arrived((0..32).collect(), 100).await.unwrap(), vec![]);
    assert!(store.write(|tx| sqlite::signal(tx, &payment(1))).await.unwrap());
    let ended = tokio::time::timeout(PATIENCE, office.sagas.ended(started.id)).await;
    assert!(matches!(ended.expect("it ends").unwrap(), Outcome::Completed(_)));
    office.close().await;
}

/// Bookings that the child starts and pays for.
const COUNT: usize = 20;

/// The child: starts bookings and pays for them.
pub(crate) async fn child(folder: &Path) {
    let store = store(folder);
    let office = Office::open(&store, LONG, "child");
    role::ready();
    pay_all(&office.sagas, &HashSet::new()).await;
    // Its parent kills it, here at the latest.
    std::future::pending::<()>().await;
}

/// Starts bookings and pays for them, but for those of which somebody was told that it is done; says so.
async fn pay_all(sagas: &Sagas, paid: &HashSet<usize>) -> Vec<State> {
    let saga = booking_saga(LONG);
    let mut ids = Vec::new();
    for number in 0..COUNT {
        let started = sagas.start(&saga, format!("b-{number}"), &booking(number)).await.unwrap();
        if !paid.contains(&number) {
            sagas.signal(payment(number)).await.unwrap();
            println!("paid {number}");
        }
        ids.push(started.id);
    }
    let mut states = Vec::new();
    for id in ids {
        sagas.ended(id).await.unwrap();
        states.push(sagas.show(id).await.unwrap().standing.state);
    }
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_outlives_a_process_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut paid = HashSet::new();
    for (point, hits) in [
        ("saga.after_start_before_attempt", 9),
        ("saga.after_journal_before_attempt", 20),
        ("store.before_commit", 12),
        ("store.after_commit_before_reply", 17),
    ] {
        let command = role::command("saga-waiting", folder.path(), Sabotage::default(), None);
        let mut child = Child::start(command).await.unwrap();
        child.arm(point, hits).await.unwrap();
        // What was acknowledged is not sent again.
        let said = async {
            while let Some(line) = child.line().await.unwrap() {
                paid.extend(
                    line.strip_prefix("paid ").map(|number| number.parse::<usize>().unwrap()),
                );
            }
        };
        tokio::time::timeout(PATIENCE, said).await.expect("the point is passed");
        assert_eq!(child.wait().await.unwrap(), End::Killed, "{point}");
    }
    assert!(!paid.is_empty(), "nothing was acknowledged");
    let store = store(folder.path());
    let office = Office::open(&store, LONG, "parent");
    let all = pay_all(&office.sagas, &paid);
    let states = tokio::time::timeout(PATIENCE, all).await.expect("all end");
    assert_eq!(states, vec![State::Completed; COUNT]);
    office.close().await;
}

/// More signals than one look brings, for sagas whose time is over when somebody looks: none is compensated.
#[tokio::test(flavor = "multi_thread")]
async fn however_many_signals_came_in_time_all_of_them_count() {
    const MANY: usize = 1_300;
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let within = Duration::from_secs(4);
    let saga = booking_saga(within);
    let office = Office::open(&store, within, "one");
    let mut ids = Vec::new();
    let mut starting = tokio::task::JoinSet::new();
    for number in 0..MANY {
        let (sagas, saga) = (office.sagas.clone(), saga.clone());
        starting.spawn(async move {
            sagas.start(&saga, format!("b-{number}"), &booking(number)).await.unwrap().id
        });
    }
    while let Some(id) = starting.join_next().await {
        ids.push(id.unwrap());
    }
    let waiting = "SELECT count(*) FROM onewrite_saga WHERE waits = 'signal'";
    until("the waits", async || count(&store, waiting).await == MANY as i64).await;
    office.close().await;
    // The process is away while the payments come, in time, and the time is over.
    let paid = store.write(|tx| {
        (0..MANY).try_for_each(|number| sqlite::signal(tx, &payment(number)).map(drop))
    });
    paid.await.unwrap();
    let first = count(&store, "SELECT min(due_at) FROM onewrite_saga").await;
    assert!(store.now().await.unwrap().0 < first, "this machine is too slow for the test");
    let last = count(&store, "SELECT max(due_at) FROM onewrite_saga").await;
    until("their time is over", async || store.now().await.unwrap().0 > last).await;
    let office = Office::open(&store, within, "two");
    for id in ids {
        let ended = tokio::time::timeout(PATIENCE, office.sagas.ended(id)).await;
        assert!(matches!(ended.expect("it ends").unwrap(), Outcome::Completed(_)), "{id}");
    }
    office.close().await;
}

async fn count(store: &sqlite::SqliteStore, sql: &'static str) -> i64 {
    let read = |db: &sqlite::rusqlite::Connection| {
        db.query_row(sql, [], |row| row.get(0)).map_err(onewrite::other)
    };
    store.read_with(read).await.unwrap()
}

/// Waits for both at once.
fn agreed(names: [&'static str; 2]) -> SagaType<(), Booking, (i64, i64)> {
    let state = move |mut plan: Plan<(), Booking>| -> Finished<(), Booking, (i64, i64)> {
        let booking = plan.input();
        let id = booking.at::<String>("/id");
        let within = Duration::from_secs(2);
        let both = plan.parallel(|plan| {
            (plan.signal("one", names[0], id, within), plan.signal("two", names[1], id, within))
        });
        let both = plan.step("note", both, note).no_compensation("a note is only taken");
        plan.finish(both)
    };
    SagaType::plan("agreed", state).unwrap()
}

async fn note(_: Cx<()>, both: (i64, i64)) -> StepResult<(i64, i64)> {
    Ok(both)
}

/// Both came in time, and are found when it is over: what the saga answers.
async fn agreed_in_time(names: [&'static str; 2]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let saga = agreed(names);
    let open = |owner: &'static str| {
        let options = SagaOptions { keep: Duration::ZERO, ..world::options(Sabotage::default()) };
        let runner = SagaRunner::new(store.clone(), options, Text::from_static(owner));
        let runner = runner.serve(&saga, &Arc::new(()));
        let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
        let task = tokio::spawn(runner.run(shutdown.clone()));
        Office { sagas, shutdown, task }
    };
    let office = open("one");
    let id = office.sagas.start(&saga, "b-1", &booking(1)).await.unwrap().id;
    until("the wait", async || waits(&office.sagas, id).await == Waits::Signal).await;
    let due = office.sagas.show(id).await.unwrap().standing.due.unwrap();
    let sagas = office.sagas.clone();
    office.close().await;
    for (number, name) in (1..).zip(names) {
        let signal = Signal::new(format!("s-{number}"), name, booking(1).id);
        assert!(sagas.signal(signal.payload(&number).unwrap()).await.unwrap());
    }
    assert!(store.now().await.unwrap() < due, "this machine is too slow for the test");
    until("its time is over", async || store.now().await.unwrap() > due).await;
    let office = open("two");
    let ended = tokio::time::timeout(PATIENCE, office.sagas.ended(id)).await;
    let ended = match ended.expect("it ends").unwrap() {
        Outcome::Completed(output) => output.as_str().to_owned(),
        Outcome::Compensated => "compensated".to_owned(),
    };
    office.close().await;
    ended
}

/// Neither is judged before both are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn two_signals_in_time_count_though_they_are_found_later() {
    assert_eq!(agreed_in_time(["buyer", "seller"]).await, "[1,2]");
}

/// Of two of one name each step takes one.
#[tokio::test(flavor = "multi_thread")]
async fn two_signals_of_one_name_in_time_count_though_they_are_found_later() {
    assert_eq!(agreed_in_time(["approval", "approval"]).await, "[1,2]");
}
