//! The reading thread: a connection that cannot write, so reads never wait for writers.
//!
//! Between reads it watches for commits of other processes (`PRAGMA data_version`), which wakes the
//! relay; commits of this process are told by the writer.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use onewrite_core::{Code, Error, Result};
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use crate::writer::Ending;

/// How often to look for other processes' commits: it bounds the latency across processes.
const LOOK_EVERY: Duration = Duration::from_millis(5);

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// The sending end of the queue. Dropping it ends the thread and closes its connection.
pub(crate) struct Reader {
    queue: Ending<mpsc::Sender<Job>>,
}

impl Reader {
    pub(crate) fn start(connection: Connection, changed: Arc<watch::Sender<u64>>) -> Result<Self> {
        let (queue, jobs) = mpsc::channel::<Job>();
        let thread = thread::Builder::new()
            .name("onewrite-reader".into())
            .spawn(move || run(&connection, &jobs, &changed))
            .map_err(|error| {
                Error::new(Code::Stopped, "start the store's reader").with_source(error)
            })?;
        Ok(Self { queue: Ending::new(queue, thread) })
    }

    /// Runs `work` on the reading connection.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let stopped = || Error::new(Code::Stopped, "the store's reader has stopped");
        let (reply, answer) = oneshot::channel();
        let job = move |connection: &Connection| {
            // A caller that gave up does not want the reply.
            let _ = reply.send(work(connection));
        };
        self.queue.queue()?.send(Box::new(job)).map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn run(connection: &Connection, jobs: &mpsc::Receiver<Job>, changed: &watch::Sender<u64>) {
    let mut seen = 0;
    loop {
        match jobs.recv_timeout(LOOK_EVERY) {
            Ok(job) => job(connection),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let version: i64 = connection
                    .prepare_cached("PRAGMA data_version")
                    .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
                    .unwrap_or(seen);
                if version != seen {
                    seen = version;
                    changed.send_modify(|count| *count = count.wrapping_add(1));
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}
