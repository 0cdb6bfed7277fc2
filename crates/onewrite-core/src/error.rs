//! What a failure means. Every error answers two questions in one table: is it worth a retry, and
//! what happened to the act that failed?

use std::{borrow::Cow, error::Error as StdError, fmt};

/// The result of anything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether the same act can be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// At once: nothing has to change first.
    Now,
    /// After a pause: the other side has to recover.
    Backoff,
    /// Not before a person or the caller changes something.
    Never,
}

/// What became of the act that failed. A lost reply is [`Certainty::Unknown`], never a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It had no effect.
    NotApplied,
    /// It took effect.
    Applied,
    /// It may have taken effect.
    Unknown,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $retry:ident, $certainty:ident, $cure:literal;)*) => {
        /// A stable name for a kind of failure, with a page each (`onewrite explain CODE`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])* $name,)* }

        impl Code {
            /// Every code, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as printed: `OW0005`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// Whether the act can be tried again.
            #[must_use]
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }

            /// What became of the act.
            #[must_use]
            pub const fn certainty(self) -> Certainty {
                match self { $(Self::$name => Certainty::$certainty,)* }
            }

            /// What to do about it, as one sentence for an operator.
            #[must_use]
            pub const fn cure(self) -> &'static str {
                match self { $(Self::$name => $cure,)* }
            }
        }
    };
}

codes! {
    /// No backend answers to this URL scheme.
    UnknownScheme = "OW0001", Never, NotApplied, "Use one of the schemes listed; a scheme may need a cargo feature.";
    /// The store cannot be opened or reached.
    StoreUnreachable = "OW0002", Backoff, NotApplied, "Check the URL: of a file the path, its directory and the permissions; of a server the address, the user, and that it runs.";
    /// The database holds no onewrite schema.
    SchemaMissing = "OW0003", Never, NotApplied, "Create it with `onewrite store init --store URL`, or let the owning service open it once.";
    /// The database's schema is newer than this program supports, or older than it can migrate.
    SchemaUnsupported = "OW0004", Never, NotApplied, "Run a onewrite version that supports this schema.";
    /// The event takes more bytes than allowed.
    EventTooLarge = "OW0005", Never, NotApplied, "Store the large part elsewhere and emit a reference, or raise the limit.";
    /// The event or its encoding is not valid.
    InvalidEvent = "OW0006", Never, NotApplied, "Correct the attribute named.";
    /// A line or request of the input is not valid.
    InvalidInput = "OW0007", Never, NotApplied, "Correct the place named and run again.";
    /// The database or its directory is read-only.
    ReadOnly = "OW0008", Never, NotApplied, "Make the file and its directory writable for this user, or name another; of servers, name the primary.";
    /// The disk is full.
    DiskFull = "OW0009", Backoff, NotApplied, "Free space on the disk; work goes on by itself afterwards.";
    /// Another writer holds the database for too long.
    StoreBusy = "OW0010", Backoff, NotApplied, "Find the long transaction that holds the database; keep transactions short.";
    /// The commit's result did not arrive.
    CommitUnknown = "OW0011", Backoff, Unknown, "Repeat it with the same ids: what was applied is recognised.";
    /// The store is a copy or a restored backup of the one that was registered.
    StoreCopied = "OW0012", Never, NotApplied, "Say which it is: `onewrite store adopt` (the file was moved) or `onewrite store fork` (copy or restored backup).";
    /// A receiver knows records that its source does not have.
    SinkAhead = "OW0013", Never, NotApplied, "The source went back in time: run `onewrite store fork`, then compare both sides.";
    /// The lease was taken over by another owner.
    Fenced = "OW0014", Now, NotApplied, "Nothing to do: the new owner carries on.";
    /// The sink cannot be reached or does not answer.
    SinkUnreachable = "OW0015", Backoff, Unknown, "Check the address and that the other side runs; a relay that runs already goes on by itself.";
    /// The sink answered, but did not accept.
    SinkRefused = "OW0016", Backoff, NotApplied, "Read the receiver's own log; after enough attempts the key is parked.";
    /// A record's predecessor is missing at the receiver.
    Gap = "OW0017", Backoff, NotApplied, "Nothing to do when the sender still holds the records; else accept the gap by hand after comparing both sides.";
    /// The handler refused the event.
    HandlerFailed = "OW0018", Backoff, NotApplied, "Read the handler's error; after enough attempts the key is parked.";
    /// The key is parked.
    Parked = "OW0019", Never, NotApplied, "`onewrite dead-letter show`, mend the cause, then `dead-letter retry` or `discard`.";
    /// The sink fell further behind than its budget allows and was suspended.
    SinkSuspended = "OW0020", Never, NotApplied, "Mend the sink, then `onewrite sink resume`; its receiver is told of the gap.";
    /// A setting would break a promise.
    UnsafeSetting = "OW0021", Never, NotApplied, "Change the setting named.";
    /// A transaction changed a guarded table and emitted nothing.
    EventForgotten = "OW0022", Never, NotApplied, "Emit an event in the same transaction, or state why none is needed: `onewrite.no_event('reason')`.";
    /// The configuration is not valid.
    InvalidConfig = "OW0023", Never, NotApplied, "Correct what is named: an option, a URL, an environment variable or a key of the configuration.";
    /// The target lies in an address range that webhooks must not reach.
    PrivateAddress = "OW0024", Never, NotApplied, "When the target is yours, allow it on purpose: `allow_private = true` in the configuration, or `--allow-private` (or `?allow_private=true` in the URL) for a verb; `--allow-private-urls` for the URLs that definitions of sagas tell.";
    /// The signature is missing, wrong or too old.
    BadSignature = "OW0025", Never, NotApplied, "Give sender and receiver the same secret and check both clocks.";
    /// There is no such thing.
    NotFound = "OW0026", Never, NotApplied, "Check the spelling, and the store that was asked.";
    /// The file is not a database or is damaged.
    Corrupt = "OW0027", Never, NotApplied, "Keep the damaged file aside, restore the last backup, then `onewrite store fork`.";
    /// An invariant does not hold.
    InvariantBroken = "OW0028", Never, Unknown, "This is a defect of onewrite: please report it with the seed.";
    /// The database refused a statement.
    Database = "OW0029", Backoff, NotApplied, "Read the database's message above; a missing right is granted by the schema's owner.";
    /// A part of the program ended unexpectedly.
    Stopped = "OW0030", Backoff, Unknown, "Start it again; nothing acknowledged is lost.";
    /// The address cannot be listened on.
    CannotListen = "OW0031", Never, NotApplied, "Choose a free address; without a token or secret only loopback is allowed.";
    /// The definition of a saga cannot be run to a known end.
    InvalidSaga = "OW0032", Never, NotApplied, "Correct what is named in the definition.";
    /// A saga of this name and key was started already.
    SagaExists = "OW0033", Never, NotApplied, "Nothing to do if this is a repetition; else choose another key, or another policy for starting.";
    /// A step's participant is not known to the process that runs the saga.
    UnknownParticipant = "OW0034", Backoff, NotApplied, "Start a process that serves the participant named; the step is tried again by itself.";
    /// A saga's journal was advanced by somebody else.
    SagaConflict = "OW0035", Now, NotApplied, "Nothing to do: the saga is read again and goes on.";
    /// A saga waits for a person: a step can neither go on nor be compensated.
    SagaHeld = "OW0036", Never, Unknown, "Read the saga's journal, mend the cause at the participant, then let it try again.";
    /// The signal that a saga was to take is taken.
    SignalTaken = "OW0037", Now, NotApplied, "Nothing to do: the saga waits on.";
    /// Whoever asks may not do this.
    Denied = "OW0038", Never, NotApplied, "Send `Authorization: Bearer TOKEN` with a token whose role permits it.";
    /// The saga's state does not allow this.
    WrongState = "OW0039", Never, NotApplied, "Look at how the saga stands (`onewrite saga show ID`), and ask for what its state allows.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure: a [`Code`], what was being done (never a payload or a secret), and its cause.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    context: String,
    /// What to do about this one, where it is known better than of its kind.
    cure: Option<Cow<'static, str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure of kind `code` while doing what `context` says.
    pub fn new(code: Code, context: impl Into<String>) -> Self {
        Self(Box::new(Inner { code, context: context.into(), cure: None, source: None }))
    }

    /// With the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// With what to do about it, where more is known of that than of its kind: one sentence for an operator.
    #[must_use]
    pub fn with_cure(mut self, cure: impl Into<Cow<'static, str>>) -> Self {
        self.0.cure = Some(cure.into());
        self
    }

    /// With who or what failed, in front of what was being done.
    #[must_use]
    pub fn within(mut self, place: &str) -> Self {
        self.0.context = format!("{place}: {}", self.0.context);
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What was being done.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.0.context
    }

    /// What to do about it: what was said where it failed, or else what is so of its kind.
    #[must_use]
    pub fn cure(&self) -> &str {
        self.said_cure().unwrap_or_else(|| self.code().cure())
    }

    /// What was said of it, or of one of its kind that caused it.
    fn said_cure(&self) -> Option<&str> {
        let inner = || self.0.source.as_deref()?.downcast_ref::<Self>();
        let of_cause = || inner().filter(|cause| cause.code() == self.code())?.said_cure();
        self.0.cure.as_deref().or_else(of_cause)
    }

    /// Whether the act can be tried again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.code().retry()
    }

    /// What became of the act.
    #[must_use]
    pub fn certainty(&self) -> Certainty {
        self.code().certainty()
    }

    /// Whether it concerns every write to the store, and not this one: who writes next is told the same.
    #[must_use]
    pub fn concerns_every_write(&self) -> bool {
        matches!(
            self.code(),
            Code::DiskFull
                | Code::ReadOnly
                | Code::SchemaMissing
                | Code::SchemaUnsupported
                | Code::StoreUnreachable
        )
    }
}

/// `OW0005: context: cause`, on one line.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.context)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_without_gaps() {
        for (index, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.as_str(), format!("OW{:04}", index + 1));
        }
    }

    #[test]
    fn a_lost_reply_is_unknown_and_never_a_failure() {
        for code in [Code::CommitUnknown, Code::SinkUnreachable, Code::Stopped] {
            assert_eq!(code.certainty(), Certainty::Unknown);
            assert_ne!(
                code.retry(),
                Retry::Never,
                "an unknown outcome is repeated with the same ids"
            );
        }
    }

    #[test]
    fn what_was_said_where_it_failed_is_what_to_do() {
        let code = Code::UnknownParticipant;
        let plain = Error::new(code, "check the definition");
        assert_eq!(plain.cure(), code.cure());
        let said = Error::new(code, "no `bank`").with_cure("Name it.");
        let around = Error::new(code, "in a.yaml").with_source(said);
        assert_eq!(around.cure(), "Name it.", "whoever wraps it adds no knowledge");
        let other = Error::new(Code::Stopped, "it ended").with_source(around);
        assert_eq!(other.cure(), Code::Stopped.cure(), "that of another kind is no cure for it");
    }

    #[test]
    fn prints_the_causes_on_one_line() {
        let io = std::io::Error::other("no space left");
        let error = Error::new(Code::DiskFull, "write the event").with_source(io);
        assert_eq!(error.to_string(), "OW0009: write the event: no space left");
    }
}
