//! S1, S3, S4, S13: steps of another service, asked by commands and answering by replies over a broker.

use std::{path::Path, sync::Arc, time::Duration};

use onewrite::{
    Receiver, ReceiverOptions, Relay, RelayOptions, Shutdown, memory, other,
    sabotage::Sabotage,
    saga::{
        Answer, Call, Command, Commands, Direction, Ended, Finished, Json, Outcome, Passage, Plan,
        REPLY, Reply, RetryPolicy, SagaId, SagaRunner, SagaType, Signal, StepKey, StepOptions,
    },
    sqlite::{self, Context, HandlerError, InboxOptions, Options, SqliteInbox, SqliteStore},
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::world;
use crate::rig::{PATIENCE, until};

const COUNT: usize = 24;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    number: usize,
}

fn is_sold_out(order: &Order) -> bool {
    order.number % 4 == 1
}

fn saga(commands: &Commands) -> SagaType<(), Order, (usize, usize)> {
    let state = |mut plan: Plan<(), Order>| -> Finished<(), Order, (usize, usize)> {
        let retry = Some(RetryPolicy { initial_ms: 2, cap_ms: 20, ..RetryPolicy::attempts(50) });
        let attempt_timeout = Some(Duration::from_millis(400));
        let options = StepOptions {
            compensation_retry: retry.clone(),
            retry,
            attempt_timeout,
            ..StepOptions::default()
        };
        plan.options(options);
        let order = plan.input();
        let first: onewrite::saga::Out<usize> = plan
            .command("reserve", order, commands, "ReserveStock")
            .compensate_by(commands, "ReleaseStock");
        let second: onewrite::saga::Out<usize> = plan
            .command("pack", order, commands, "PackParcel")
            .compensate_by(commands, "UnpackParcel");
        let both = plan
            .step("note", (first, second), async |_: onewrite::saga::Cx<()>, both| Ok(both))
            .no_compensation("a note is only a note");
        plan.finish(both)
    };
    SagaType::plan("by_command", state).unwrap()
}

/// Carries commands out. What it does not know by its keys alone, the barrier tells it.
fn serve(cx: &Context<'_>, guarded: bool) -> Result<(), HandlerError> {
    let command = Command::read(cx.event())?;
    let order: Order = command.input()?;
    let first = command.attempt == 1 && command.direction == Direction::Action;
    if first && order.number % 4 == 2 {
        cx.emit(command.failed("busy")?)?;
        return Ok(());
    }
    if command.step == "pack" && command.direction == Direction::Action && is_sold_out(&order) {
        // A no is said before the barrier: its compensation finds nothing to make good, and bars it.
        cx.emit(command.aborted("sold out")?)?;
        return Ok(());
    }
    let passage = match guarded {
        true => sqlite::barrier::pass(cx.tx(), &command.barrier()?)?,
        false => Passage::Act,
    };
    if passage == Passage::Act {
        let moved = if command.direction == Direction::Action { 1 } else { -1 };
        cx.tx().execute(
            "UPDATE shelf SET taken = taken + ?1 WHERE step = ?2",
            (moved, &*command.step),
        )?;
    }
    // Carried out, and nobody is told: it is asked again.
    if first && order.number % 4 == 3 {
        return Ok(());
    }
    let reply = match passage {
        Passage::Late => command.aborted("it is compensated")?,
        _ => command.done(&order.number)?,
    };
    cx.emit(reply)?;
    Ok(())
}

/// Two services, and what runs between them.
struct Two {
    orders: SqliteStore,
    stock: SqliteStore,
    shutdown: Shutdown,
    tasks: Vec<JoinHandle<()>>,
}

impl Two {
    async fn open(folder: &Path, test: &'static str, guarded: bool) -> Self {
        let orders = world::store(folder, Sabotage::default());
        let stock = SqliteStore::open(Options::new(folder.join("stock.db"))).unwrap();
        let tables = "CREATE TABLE shelf (step TEXT PRIMARY KEY, taken INTEGER NOT NULL);
            INSERT INTO shelf VALUES ('reserve', 0), ('pack', 0)";
        let made = stock.write(move |tx| {
            sqlite::barrier::create(tx)?;
            tx.execute_batch(tables).map_err(other)
        });
        made.await.unwrap();
        let handler = move |cx: &Context<'_>| serve(cx, guarded);
        let commanded = SqliteInbox::new(&stock, InboxOptions::new("stock"), handler).unwrap();
        let replied = SqliteInbox::new(&orders, InboxOptions::new("orders"), |cx| {
            if let Some(signal) = Reply::signal(cx.event())? {
                sqlite::signal(cx.tx(), &signal)?;
            }
            Ok(())
        });
        let mut two = Self { orders, stock, shutdown: Shutdown::default(), tasks: Vec::new() };
        two.way(&two.orders.clone(), commanded, format!("{test}-commands"));
        two.way(&two.stock.clone(), replied.unwrap(), format!("{test}-replies"));
        two
    }

    /// One way between them.
    fn way(&mut self, from: &SqliteStore, to: SqliteInbox, name: String) {
        let (sink, feed) = memory(name.clone());
        let options = RelayOptions::new(name.clone());
        let relay = Relay::new(Arc::new(from.clone()), Arc::new(sink), options, name);
        let receiver = Receiver::new(Arc::new(to), ReceiverOptions::default());
        self.tasks.push(tokio::spawn(relay.run(self.shutdown.clone())));
        self.tasks.push(tokio::spawn(receiver.run(Box::new(feed), self.shutdown.clone())));
    }

    /// Runs every order, and says what is off the shelves then.
    async fn run_all(mut self) -> (i64, i64) {
        let journal: Arc<dyn onewrite::saga::Journal> = Arc::new(self.orders.clone());
        let saga = saga(&Commands::new(Arc::clone(&journal)));
        let runner = SagaRunner::new(journal, world::options(Sabotage::default()), "one");
        let runner = runner.serve(&saga, &Arc::new(()));
        let sagas = runner.sagas();
        self.tasks.push(tokio::spawn(runner.run(self.shutdown.clone())));
        let mut all = tokio::task::JoinSet::new();
        for number in 0..COUNT {
            let (sagas, saga, order) = (sagas.clone(), saga.clone(), Order { number });
            all.spawn(async move {
                let outcome = sagas.run(&saga, format!("o-{number}"), &order).await.unwrap();
                let wanted = match is_sold_out(&order) {
                    true => Outcome::Compensated,
                    false => Outcome::Completed((number, number)),
                };
                assert_eq!(outcome, wanted, "{order:?}");
            });
        }
        tokio::time::timeout(PATIENCE, all.join_all()).await.expect("every saga ends");
        let shelf = |db: &sqlite::rusqlite::Connection| {
            let sql = "SELECT (SELECT taken FROM shelf WHERE step = 'reserve'), (SELECT taken FROM shelf WHERE step = 'pack')";
            db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(other)
        };
        let taken = self.stock.read_with(shelf).await.unwrap();
        self.shutdown.begin();
        for task in self.tasks {
            task.await.unwrap();
        }
        taken
    }
}

fn right() -> (i64, i64) {
    let kept = (0..COUNT).filter(|number| !is_sold_out(&Order { number: *number })).count() as i64;
    (kept, kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_carried_out_by_commands_and_replies() {
    let folder = tempfile::tempdir().unwrap();
    let two = Two::open(folder.path(), "commanded", true).await;
    assert_eq!(two.run_all().await, right());
}

/// The control: without the barrier, what is asked again is carried out again.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_barrier_a_command_that_is_sent_again_acts_again() {
    let folder = tempfile::tempdir().unwrap();
    let two = Two::open(folder.path(), "commanded-bare", false).await;
    assert_ne!(two.run_all().await, right());
}

/// A person let the step try again, so attempts are counted anew: the no of before says nothing of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_no_that_was_there_before_is_not_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let store = world::store(folder.path(), Sabotage::default());
    let saga = SagaId(7);
    let key = StepKey::action(saga, "reserve");
    let reply = |id: &'static str, outcome| {
        let reply = Reply { key: key.as_str().to_owned().into(), attempt: 1, outcome };
        Signal::new(id, REPLY, reply.key.clone()).payload(&reply).unwrap()
    };
    let old = reply("e-1", Answer::Aborted("sold out".into()));
    assert!(store.write(move |tx| sqlite::signal(tx, &old)).await.unwrap());
    let participant = Commands::new(Arc::new(store.clone())).participant("ReserveStock");
    let asked = tokio::spawn(participant.act(Call {
        saga,
        step: "reserve".into(),
        key: key.clone(),
        direction: Direction::Action,
        attempt: 1,
        epoch: 1,
        deadline: std::time::Instant::now() + PATIENCE,
        input: Json::NULL,
        output: None,
    }));
    let sent = "SELECT count(*) FROM onewrite_outbox WHERE type = 'ReserveStock'";
    until("the command", async || {
        let count = |db: &sqlite::rusqlite::Connection| {
            db.query_row(sent, [], |row| row.get::<_, i64>(0)).map_err(other)
        };
        store.read_with(count).await.unwrap() == 1
    })
    .await;
    let new = reply("e-2", Answer::Failed("busy".into()));
    assert!(store.write(move |tx| sqlite::signal(tx, &new)).await.unwrap());
    let ended = tokio::time::timeout(PATIENCE, asked).await.expect("an answer").unwrap();
    assert_eq!(ended, Ended::Unknown("busy".into()));
}
