//! The shared writer queue: one thread writes, and what waits at the same time shares one commit.
//!
//! Every job runs in a savepoint of its own: it fails alone. Replies are given after the commit. The
//! engine and the user go through the same queue, so neither starves the other.

use std::{
    error::Error as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use onewrite_core::{
    Code, Error, Result, Timestamp, failpoint,
    sabotage::{Defect, Sabotage},
    store::Durability,
};
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use crate::{
    Options,
    error::{While, database, is_foreign_key},
    guard,
    identity::Witness,
    opened::Opened,
};

/// Jobs that share a commit at most: bounds how long the others wait.
const GROUP_MAX: usize = 256;

/// Between two attempts to take the write lock.
const LOCK_PAUSE: Duration = Duration::from_micros(250);

/// The store's clock: this machine's, which every process that shares the file shares.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX))
}

trait Job: Send {
    fn durability(&self) -> Durability;
    /// Runs in a savepoint. May run again: a group whose commit is refused is repeated job by job.
    fn run(&mut self, tx: &Connection) -> Result<()>;
    fn finish(self: Box<Self>, result: Result<()>);
}

struct Typed<T, F> {
    durability: Durability,
    work: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: FnMut(&Connection) -> Result<T> + Send> Job for Typed<T, F> {
    fn durability(&self) -> Durability {
        self.durability
    }

    fn run(&mut self, tx: &Connection) -> Result<()> {
        self.value = Some((self.work)(tx)?);
        Ok(())
    }

    fn finish(self: Box<Self>, result: Result<()>) {
        let Self { value, reply, .. } = *self;
        // A caller that gave up does not want the reply.
        let _ = reply.send(result.and_then(|()| value.ok_or_else(stopped)));
    }
}

fn stopped() -> Error {
    Error::new(Code::Stopped, "the store's writer has stopped")
}

/// The sending end of the queue. Dropping it ends the thread and closes its connection.
pub(crate) struct Writer {
    queue: Ending<mpsc::Sender<Box<dyn Job>>>,
}

/// What keeps a thread at work, and the thread: dropped in this order and waited for, so that SQLite
/// tidies its files up before the process ends.
pub(crate) struct Ending<T> {
    queue: Option<T>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<T> Ending<T> {
    pub(crate) fn new(queue: T, thread: thread::JoinHandle<()>) -> Self {
        Self { queue: Some(queue), thread: Some(thread) }
    }

    pub(crate) fn queue(&self) -> Result<&T> {
        self.queue.as_ref().ok_or_else(|| Error::new(Code::Stopped, "the store is closing"))
    }
}

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.queue = None;
        let thread = self.thread.take();
        // The last handle may be dropped by work on that very thread, which ends by itself then.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id())
        {
            let _ = thread.join();
        }
    }
}

impl Writer {
    /// Starts the writing thread. `appended` is told whenever a commit added to the log.
    pub(crate) fn start(
        connection: Connection,
        options: &Options,
        appended: Arc<watch::Sender<u64>>,
        opened: Arc<Opened>,
    ) -> Result<Self> {
        connection.busy_timeout(Duration::ZERO).during("set up the writer")?;
        let touched = Arc::new(AtomicBool::new(false));
        let hooked = Arc::clone(&touched);
        connection
            .update_hook(Some(move |_, _: &str, table: &str, _| {
                if table == "onewrite_outbox" {
                    hooked.store(true, Ordering::Relaxed);
                }
            }))
            .during("watch the log for changes")?;
        let mut witness = Witness::beside(&options.path);
        witness.note(&connection, true);
        let (patience, sabotage) = (options.busy_timeout, options.sabotage);
        let level = Durability::Durable;
        let work = Loop { connection, level, patience, sabotage, witness, opened };
        let (queue, jobs) = mpsc::channel();
        let tell = move || {
            if touched.swap(false, Ordering::Relaxed) {
                appended.send_modify(|count| *count = count.wrapping_add(1));
            }
        };
        let thread = thread::Builder::new()
            .name("onewrite-writer".into())
            .spawn(move || work.run(&jobs, tell))
            .map_err(|error| {
                Error::new(Code::Stopped, "start the store's writer").with_source(error)
            })?;
        Ok(Self { queue: Ending::new(queue, thread) })
    }

    /// Runs `work` in the next group commit and reports after the commit.
    ///
    /// `work` may run twice, so it must not have effects outside the transaction.
    pub(crate) async fn write<T, F>(&self, durability: Durability, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Typed { durability, work, value: None, reply };
        self.queue.queue()?.send(Box::new(job)).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

type Group = Vec<(Box<dyn Job>, Result<()>)>;

struct Loop {
    connection: Connection,
    /// The durability the connection is set to.
    level: Durability,
    /// How long to wait for other connections' transactions.
    patience: Duration,
    sabotage: Sabotage,
    witness: Witness,
    opened: Arc<Opened>,
}

impl Loop {
    fn run(mut self, jobs: &mpsc::Receiver<Box<dyn Job>>, tell: impl Fn()) {
        while let Ok(first) = jobs.recv() {
            let mut group: Group = vec![(first, Ok(()))];
            while group.len() < GROUP_MAX
                && let Ok(job) = jobs.try_recv()
            {
                group.push((job, Ok(())));
            }
            let refused = self.commit(&mut group);
            tell();
            match refused {
                Ok(()) => finish(group),
                Err(Refused::Constraint(_)) if group.len() > 1 => {
                    // Some job's deferred constraint: find out whose.
                    for (job, _) in group {
                        let mut alone = vec![(job, Ok(()))];
                        let result = self.commit(&mut alone);
                        tell();
                        match result {
                            Ok(()) => finish(alone),
                            Err(refused) => fail(alone, &refused.error()),
                        }
                    }
                }
                Err(refused) => fail(group, &refused.error()),
            }
            self.note(false);
        }
        self.note(true);
        self.opened.spare_others(&self.connection);
    }

    fn note(&mut self, at_once: bool) {
        // Beside another file it would say of that one what is true of this.
        if self.opened.check().is_ok() {
            self.witness.note(&self.connection, at_once);
        }
    }

    /// Runs a group in one transaction. An error says that nothing of it was committed, or, when it
    /// is [`Code::CommitUnknown`], that nobody knows.
    fn commit(&mut self, group: &mut Group) -> Result<(), Refused> {
        let wanted =
            group.iter().map(|(job, _)| job.durability()).max().unwrap_or(Durability::Durable);
        self.opened.check()?;
        self.set_level(wanted)?;
        self.begin()?;
        if let Err(error) = guard::drop_stale(&self.connection) {
            self.roll_back();
            return Err(error.into());
        }
        for (job, result) in group.iter_mut() {
            *result = in_savepoint(&self.connection, || job.run(&self.connection));
        }
        if self.connection.is_autocommit() {
            return Err(ended_early(group).into());
        }
        if wanted == Durability::Durable {
            failpoint::hit("store.before_commit");
        }
        let committed = self.connection.execute_batch("COMMIT");
        if wanted == Durability::Durable {
            failpoint::hit("store.after_commit_before_reply");
        }
        let Err(error) = committed else { return Ok(()) };
        if is_foreign_key(&error) {
            let refused = guard::refusal(&self.connection, error);
            self.roll_back();
            return Err(Refused::Constraint(refused));
        }
        let known = database("commit", error);
        self.roll_back();
        // Anything but a full disk may have happened after the commit reached the file.
        if known.code() == Code::DiskFull || known.code() == Code::StoreBusy {
            return Err(known.into());
        }
        Err(Error::new(Code::CommitUnknown, "commit").with_source(known).into())
    }

    /// Takes the database's write lock. Other connections hold it for a fraction of a millisecond, and
    /// SQLite's own pauses between attempts grow to a tenth of a second: this thread would starve.
    fn begin(&self) -> Result<()> {
        let until = Instant::now() + self.patience;
        loop {
            match self.connection.execute_batch("BEGIN IMMEDIATE") {
                Err(error)
                    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                        && Instant::now() < until =>
                {
                    thread::sleep(LOCK_PAUSE);
                }
                result => return result.during("begin a write transaction"),
            }
        }
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the store could not roll back");
        }
    }

    /// A relaxed commit leaves the file to the operating system: it survives any process.
    fn set_level(&mut self, wanted: Durability) -> Result<()> {
        if self.level == wanted || self.sabotage.has(Defect::NoSync) {
            return Ok(());
        }
        let synchronous = if wanted == Durability::Durable { "FULL" } else { "NORMAL" };
        self.connection
            .pragma_update(None, "synchronous", synchronous)
            .during("set how far a commit goes")?;
        self.level = wanted;
        Ok(())
    }
}

/// Why a group was not committed.
enum Refused {
    /// A deferred constraint: one job's fault.
    Constraint(Error),
    /// Anything else concerns them all.
    Other(Error),
}

impl Refused {
    fn error(self) -> Error {
        let (Self::Constraint(error) | Self::Other(error)) = self;
        error
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Something ended the transaction before its commit: SQLite itself, which rolls everything back when
/// the disk is full, or a job that ran `COMMIT`, and then nobody knows about those before it.
fn ended_early(group: &Group) -> Error {
    let is_full = |error: &Error| error.code() == Code::DiskFull;
    match group.iter().filter_map(|(_, result)| result.as_ref().err()).find(|error| is_full(error))
    {
        Some(_) => Error::new(Code::DiskFull, "the database rolled back the transaction"),
        None => Error::new(Code::CommitUnknown, "another job ended the transaction they shared"),
    }
}

fn finish(group: Group) {
    for (job, result) in group {
        job.finish(result);
    }
}

fn fail(group: Group, error: &Error) {
    for (job, result) in group {
        let told = Error::new(error.code(), error.context().to_owned());
        let told = match error.source() {
            Some(why) => told.with_source(why.to_string()),
            None => told,
        };
        job.finish(result.and(Err(told)));
    }
}

/// Runs `work` so that its failure, or its panic, undoes its own writes only.
pub(crate) fn in_savepoint<T>(tx: &Connection, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if tx.is_autocommit() {
        // Its savepoint would be a transaction of its own.
        return Err(Error::new(Code::Stopped, "the transaction has ended already"));
    }
    statement(tx, "SAVEPOINT onewrite")?;
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Error::new(Code::HandlerFailed, "the work in a transaction panicked"))
    });
    if tx.is_autocommit() {
        return Err(Error::new(Code::UnsafeSetting, "the work ended the transaction it was given"));
    }
    let result = result.and_then(|value| guard::check(tx).map(|()| value));
    let ended = match &result {
        Ok(_) => statement(tx, "RELEASE onewrite"),
        Err(_) => {
            statement(tx, "ROLLBACK TO onewrite").and_then(|()| statement(tx, "RELEASE onewrite"))
        }
    };
    if let Err(error) = ended {
        // The savepoint is gone: the work ended the transaction and began another. Nothing of this one
        // may be committed as if it were the group's.
        let _ = tx.execute_batch("ROLLBACK");
        return Err(error);
    }
    result
}

fn statement(tx: &Connection, sql: &'static str) -> Result<()> {
    tx.prepare_cached(sql).and_then(|mut statement| statement.execute([])).during(sql).map(|_| ())
}
