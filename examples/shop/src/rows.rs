//! What the business code needs of a transaction, whatever database it belongs to.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{SystemTime, UNIX_EPOCH},
};

use onewrite::{Code, Error};

/// Why a service could not react. It is not a business failure: those are events.
pub type ReactionError = onewrite::inbox::HandlerError;

/// A value of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// A whole number.
    Integer(i64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

/// An open transaction.
pub trait Rows {
    /// Executes a statement with `$1`, `$2`… for its values; returns how many rows it touched.
    fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<u64, ReactionError>> + Send;

    /// Waits until no other transaction works on `what`, and keeps it until the commit. For rows that
    /// events of many keys share: several events are handled in one transaction, and two of those that
    /// lock the same rows in another order would wait for each other.
    fn wait_in_line(
        &mut self,
        what: &'static str,
    ) -> impl Future<Output = Result<(), ReactionError>> + Send;
}

/// Runs `work` that never waits: over a database that is called synchronously, every future is ready
/// when it is first asked.
pub(crate) fn at_once<T>(
    work: impl Future<Output = Result<T, ReactionError>>,
) -> Result<T, ReactionError> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => Err("a reaction waited for something else than its database".into()),
    }
}

/// The error of a reaction as one of a transaction.
pub(crate) fn failed(error: ReactionError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => Error::new(Code::Database, "the work in a transaction").with_source(error),
    }
}

/// This process's clock, in microseconds since 1970. For people to read, never an order.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_waits_is_refused_and_work_that_does_not_is_done() {
        assert_eq!(at_once(std::future::ready(Ok(7))).ok(), Some(7));
        assert!(at_once(std::future::pending::<Result<(), ReactionError>>()).is_err());
    }
}
