//! A relay to standard output ends with whoever reads it: nobody will take its place.

use std::{
    error::Error as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use onewrite::{
    BoxFuture, Code, Delivery, Error, Result, Shutdown,
    broker::{Receipt, Sink},
};

/// Whether the reader of standard output has gone, and what follows.
#[derive(Clone)]
pub(super) struct Reader {
    gone: Arc<AtomicBool>,
    shutdown: Shutdown,
}

impl Reader {
    pub(super) fn new(shutdown: &Shutdown) -> Self {
        Self { gone: Arc::default(), shutdown: shutdown.clone() }
    }

    /// `sink`, which writes to standard output, and begins the end when nobody reads that any more.
    pub(super) fn of(&self, sink: Arc<dyn Sink>) -> Arc<dyn Sink> {
        Arc::new(Read { sink, reader: self.clone() })
    }

    /// # Errors
    /// When it has gone: what it did not take stays in the log.
    pub(super) fn check(&self) -> Result<()> {
        if !self.gone.load(Ordering::Relaxed) {
            return Ok(());
        }
        let what = "nobody reads standard output any more: the relay ended, and its events wait";
        Err(Error::new(Code::SinkUnreachable, what))
    }
}

struct Read {
    sink: Arc<dyn Sink>,
    reader: Reader,
}

impl Sink for Read {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async {
            let published = self.sink.publish(batch).await;
            if published.as_ref().is_err_and(is_closed_pipe) {
                self.reader.gone.store(true, Ordering::Relaxed);
                self.reader.shutdown.begin();
            }
            published
        })
    }
}

fn is_closed_pipe(error: &Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
