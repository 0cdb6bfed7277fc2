//! Running the user's handler: what it can be blamed for, and what it cannot.

use std::{
    error::Error as StdError,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    task::Poll,
};

use super::{HandlerError, Savepoints};
use crate::{BoxFuture, Code, Error, Record, Result, Text};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// Why it refused. With [`Care::Savepoints`] what it wrote is undone.
    Refused(Text),
    /// Only with [`Care::Bold`]: savepoints will tell whose fault it is.
    Unclear,
}

/// Runs the handler with as much care as is asked for.
///
/// # Errors
/// Trouble with the database, which is not the event's fault.
pub async fn in_savepoint<S: Savepoints>(
    on: &mut S,
    record: &Record,
    redriven: bool,
    care: Care,
) -> Result<Verdict> {
    if care == Care::Bold {
        let refusal = on.run(record, redriven).await?;
        if on.is_unclear(refusal.is_some()).await? {
            return Ok(Verdict::Unclear);
        }
        return Ok(refusal.map_or(Verdict::Done, Verdict::Refused));
    }
    on.savepoint().await?;
    let mut refusal = on.run(record, redriven).await?;
    if refusal.is_none() {
        refusal = on.overlooked().await?;
    }
    let Some(reason) = refusal else { return on.release().await.map(|()| Verdict::Done) };
    on.roll_back().await?;
    Ok(Verdict::Refused(reason))
}

/// What a handler returns; that it panicked, if it did.
///
/// # Errors
/// The handler's.
pub async fn caught(
    mut handling: BoxFuture<'_, Result<(), HandlerError>>,
) -> Result<(), HandlerError> {
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| handling.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(Err("the handler panicked".into())))
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
