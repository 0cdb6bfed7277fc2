//! Running the user's handler: what it can be blamed for, and what it cannot.

use std::{
    error::Error as StdError,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    task::Poll,
};

use super::{Act, HandlerError, Session};
use crate::{BoxFuture, Code, Error, Event, Record, Result, Text};

/// Whether each handler runs in a savepoint of its own. Savepoints are dear: a round trip or two each, and
/// many of them in one transaction slow some servers down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// None: should one refuse, everything is undone and done again without that one.
    Bold,
    /// One for each.
    Savepoints,
}

/// What became of a handler.
pub(super) enum Verdict {
    Done,
    /// With [`Care::Savepoints`] what it wrote is undone.
    Refused(Text),
    /// Only with [`Care::Bold`]: savepoints will tell whose fault it is.
    Unclear,
}

/// Runs the handler with as much care as is asked for. An error is trouble with the database.
pub(super) async fn handle<S: Session>(
    session: &mut S,
    record: &Record,
    redriven: bool,
    care: Care,
) -> Result<Verdict> {
    if care == Care::Bold {
        let refusal = session.run(record, redriven).await?;
        if session.is_unclear(refusal.is_some()).await? {
            return Ok(Verdict::Unclear);
        }
        return Ok(refusal.map_or(Verdict::Done, Verdict::Refused));
    }
    session.act(Act::Savepoint).await?;
    let mut refusal = session.run(record, redriven).await?;
    if refusal.is_none() {
        refusal = session.overlooked().await?;
    }
    let end = if refusal.is_some() { Act::RollBack } else { Act::Release };
    session.act(end).await?;
    Ok(refusal.map_or(Verdict::Done, Verdict::Refused))
}

/// What a handler is given of a delivery, whatever its database is.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    record: &'a Record,
    redriven: bool,
}

impl<'a> Received<'a> {
    /// A record that came in order, or that an operator had delivered again.
    #[must_use]
    pub fn new(record: &'a Record, redriven: bool) -> Self {
        Self { record, redriven }
    }

    /// What happened.
    #[must_use]
    pub fn event(&self) -> &'a Event {
        &self.record.event
    }

    /// What happened, with its place in the source's log.
    #[must_use]
    pub fn record(&self) -> &'a Record {
        self.record
    }

    /// Whether an operator had this event delivered again.
    #[must_use]
    pub fn is_redriven(&self) -> bool {
        self.redriven
    }
}

/// What a handler returns; that it panicked, if it did, be it before it waits for anything.
///
/// # Errors
/// The handler's.
pub async fn caught<'a>(
    handler: impl FnOnce() -> BoxFuture<'a, Result<(), HandlerError>>,
) -> Result<(), HandlerError> {
    let panicked = || HandlerError::from("the handler panicked");
    let mut handling = catch_unwind(AssertUnwindSafe(handler)).map_err(|_| panicked())?;
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())))
    })
    .await
}

/// Why a handler refused, if it did. `code` says what an error of the database's client means, `told` how it
/// reads.
///
/// # Errors
/// What a handler came to that every event would come to ([`is_trouble`]).
pub fn refusal(
    handled: Result<(), HandlerError>,
    code: impl Fn(&(dyn StdError + 'static)) -> Option<Code>,
    told: impl Fn(&(dyn StdError + 'static)) -> String,
) -> Result<Option<Text>> {
    let Err(error) = handled else { return Ok(None) };
    let own = error.downcast_ref::<Error>().map(Error::code);
    match own.or_else(|| code(&*error)).filter(|code| is_trouble(*code)) {
        Some(code) => {
            Err(Error::new(code, "the handler could not write").with_source(told(&*error)))
        }
        None => Ok(Some(told(&*error).into())),
    }
}

/// A refusal with the code that operators look up.
#[must_use]
pub fn coded(reason: &str) -> Text {
    Error::new(Code::HandlerFailed, reason.to_owned()).to_string().into()
}

/// Whether an error is the database's own, and would befall every event.
#[must_use]
pub fn is_trouble(code: Code) -> bool {
    matches!(
        code,
        Code::DiskFull | Code::StoreBusy | Code::ReadOnly | Code::Corrupt | Code::StoreUnreachable
    )
}
