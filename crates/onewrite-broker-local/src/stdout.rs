//! `stdout:`: one structured CloudEvent as JSON per line.

use std::io::Write;

use onewrite_core::{
    BoxFuture, Code, Delivery, Error, Result,
    broker::{Receipt, Sink},
    cloudevents,
};

/// Writes each delivery as one line of JSON to standard output, and settles what was flushed.
///
/// At least once: a line may come again after a crash between the flush and the cursor.
#[derive(Debug, Default)]
pub struct StdoutSink;

impl Sink for StdoutSink {
    fn publish<'a>(&'a self, batch: &'a [Delivery]) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        let mut lines = Vec::new();
        for delivery in batch {
            cloudevents::encode_line(delivery, &mut lines);
        }
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(&lines).and_then(|()| stdout.flush());
        Box::pin(std::future::ready(
            written.map(|()| vec![Receipt::Accepted; batch.len()]).map_err(|error| {
                Error::new(Code::SinkUnreachable, "write to standard output").with_source(error)
            }),
        ))
    }
}
