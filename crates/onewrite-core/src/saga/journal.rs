//! What a store keeps of sagas: definitions, one row for each saga, one for each transition.
//!
//! Written through the write door ([`crate::store::Op::DefineSaga`], [`crate::store::Op::StartSaga`],
//! [`crate::store::Op::AdvanceSaga`]), read through [`Journal`].

use serde::Deserialize as _;

pub use super::list::{ListSagas, SagaHead};
use super::{Attribute, DefinitionId, Entry, Json, Parent, SagaId};
use crate::{
    BoxFuture, Code, Error, Partition, Result, Text, Timestamp,
    lease::{Epoch, Scope},
    store::Store,
};

/// The namespace of the leases under which sagas are run.
pub const SCOPE: Scope = Text::from_static("saga");

/// The partitions that sagas are spread over: the leases of [`SCOPE`]. Fixed; at most so many processes
/// share the sagas of a store.
pub const PARTITIONS: u16 = 32;

/// Where a saga stands, for who looks at its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Its steps are carried out.
    Running,
    /// What was attempted is compensated.
    Compensating,
    /// A step can neither go on nor be compensated without a person. Others may still go on.
    NeedsOperator,
    /// Every step is done.
    Completed,
    /// Everything that was attempted is compensated.
    Compensated,
}

impl State {
    /// Whether nothing more happens to a saga that stands there.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated)
    }
}

/// The one thing that a saga waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Waits {
    /// The owner of its partition, who works on it.
    Lease,
    /// A time.
    Timer,
    /// A signal, at most until a time.
    Signal,
    /// A person.
    Operator,
    /// Nothing: it has ended.
    Nothing,
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal,)* }) => {
        impl $name {
            /// As it is stored and printed.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Reads what [`Self::as_str`] prints.
            ///
            /// # Errors
            /// [`Code::Corrupt`] for anything else.
            pub fn parse(text: &str) -> Result<Self> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(Error::new(
                        Code::Corrupt,
                        concat!("a saga's row holds another word for its ", stringify!($name)),
                    )),
                }
            }
        }
    };
}

words!(State {
    Running = "running",
    Compensating = "compensating",
    NeedsOperator = "needs_operator",
    Completed = "completed",
    Compensated = "compensated",
});

words!(Waits {
    Lease = "lease",
    Timer = "timer",
    Signal = "signal",
    Operator = "operator",
    Nothing = "nothing",
});

/// What a saga's row says about the present.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Where it stands.
    pub state: State,
    /// What it waits for.
    pub waits: Waits,
    /// Until when, for a timer and a signal.
    pub due: Option<Timestamp>,
    /// What it answered, once it is completed.
    pub output: Option<Json>,
}

impl Standing {
    /// Its owner works on it.
    #[must_use]
    pub fn leased(state: State) -> Self {
        Self { state, waits: Waits::Lease, due: None, output: None }
    }

    /// Whoever owns its partition takes it up, at `due` or later.
    #[must_use]
    pub fn waiting(state: State, due: Timestamp) -> Self {
        Self { state, waits: Waits::Timer, due: Some(due), output: None }
    }

    /// It has ended, and nothing more happens to it.
    #[must_use]
    pub fn ended(state: State) -> Self {
        Self { state, waits: Waits::Nothing, due: None, output: None }
    }
}

/// A saga to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSaga {
    /// A new id.
    pub id: SagaId,
    /// The name of its definition.
    pub name: Text,
    /// What it is about: one saga of a name, key and run is started, however often that is tried.
    pub key: Text,
    /// Counts the sagas of this name and key, from 0.
    pub run: u32,
    /// Whose owner runs it.
    pub partition: Partition,
    /// What it is run by; stored before.
    pub definition: DefinitionId,
    /// What it is given.
    pub input: Json,
    /// What it waits for first. One that has ended here never begins: it keeps others from starting it.
    pub standing: Standing,
    /// The signals it waits for.
    pub awaits: Vec<Awaited>,
    /// When, by the store's clock as its starter knows it.
    pub started_at: Timestamp,
    /// The step that it is, if another saga starts it.
    pub parent: Option<Parent>,
    /// What it is looked for by.
    pub attributes: Vec<Attribute>,
}

/// One transition of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The saga.
    pub saga: SagaId,
    /// Its number, from 1, without a gap: a number that exists already is refused.
    pub version: u32,
    /// When it was decided, by the store's clock as the owner knows it. Part of the fact, so that whoever
    /// reads the journal knows what its writer knew.
    pub time: Timestamp,
    /// Its entries, as a JSON array.
    pub entries: Text,
    /// What the saga's row says from now on, if that changes.
    pub standing: Option<Standing>,
    /// The signals it waits for from now on, if that changes.
    pub awaits: Option<Awaits>,
    /// The signal that it takes. Should somebody else have taken it, nothing of the transition is written.
    pub takes: Option<Text>,
}

/// A step that waits for a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// Which step.
    pub step: Text,
    /// What the signal is called.
    pub name: Text,
    /// What it has to be about.
    pub correlation: Text,
}

/// The signals that a saga waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaits {
    /// Whose owner takes them.
    pub partition: Partition,
    /// All of them.
    pub signals: Vec<Awaited>,
}

/// A signal that a saga waits for has come, or a request for a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The saga.
    pub saga: SagaId,
    /// Its step; none for a request, which is for the saga as a whole.
    pub step: Option<Text>,
    /// The signal's id.
    pub signal: Text,
    /// What it brings.
    pub payload: Json,
}

impl Transition {
    /// Whether it has nothing to do with signals.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.awaits.is_none() && self.takes.is_none()
    }
}

/// A transition as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SavedTransition {
    /// Its number.
    pub version: u32,
    /// When it was decided.
    pub time: Timestamp,
    /// The epoch it was written under.
    pub epoch: Epoch,
    /// Its entries, as a JSON array.
    pub json: Text,
}

impl SavedTransition {
    /// Its entries.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when they cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut reader = serde_json::Deserializer::from_str(&self.json);
        Vec::deserialize(&mut reader).map_err(|error| {
            Error::new(Code::Corrupt, format!("read transition {} of a saga", self.version))
                .with_source(error)
        })
    }
}

/// Encodes the entries of one transition.
///
/// # Errors
/// [`Code::InvalidInput`] when an output is no JSON.
pub fn encode(entries: &[Entry]) -> Result<Text> {
    serde_json::to_string(entries).map(Text::from).map_err(|error| {
        Error::new(Code::InvalidInput, "encode the entries of a saga").with_source(error)
    })
}

/// A saga as its store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedSaga {
    /// Its id.
    pub id: SagaId,
    /// The name of its definition.
    pub name: Text,
    /// What it is about.
    pub key: Text,
    /// Counts the sagas of this name and key, from 0.
    pub run: u32,
    /// Whose owner runs it.
    pub partition: Partition,
    /// What it is run by.
    pub definition: DefinitionId,
    /// What it was given.
    pub input: Json,
    /// What its row says.
    pub standing: Standing,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The step that it is, if another saga started it.
    pub parent: Option<Parent>,
    /// Its transitions, in order.
    pub journal: Vec<SavedTransition>,
    /// Why its row cannot be read, if so.
    pub unreadable: Option<Text>,
}

impl SavedSaga {
    /// With what the words of its row say. Where one says nothing, it is noted that the saga cannot be read,
    /// and those that are read with it can be.
    #[must_use]
    pub fn with_words(mut self, state: &str, waits: &str, parent: Option<&str>) -> Self {
        match read_words(state, waits, parent) {
            Ok(read) => (self.standing.state, self.standing.waits, self.parent) = read,
            Err(error) => self.unreadable = Some(error.to_string().into()),
        }
        self
    }

    /// Itself, if its row can be read.
    ///
    /// # Errors
    /// [`Code::Corrupt`].
    pub fn readable(self) -> Result<Self> {
        match &self.unreadable {
            Some(why) => Err(Error::new(Code::Corrupt, format!("the saga {}: {why}", self.id))),
            None => Ok(self),
        }
    }
}

/// What the words of a saga's row say.
///
/// # Errors
/// Where one says nothing.
pub(super) fn read_words(
    state: &str,
    waits: &str,
    parent: Option<&str>,
) -> Result<(State, Waits, Option<Parent>)> {
    let parent = parent.map(str::parse).transpose()?;
    Ok((State::parse(state)?, Waits::parse(waits)?, parent))
}

/// Which sagas to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FindSagas {
    /// This one.
    Id(SagaId),
    /// These, in any order.
    Ids(Vec<SagaId>),
    /// The last one started under this name and key.
    Key {
        /// The name of its definition.
        name: Text,
        /// What it is about.
        key: Text,
    },
    /// Those that wait for the owner of these partitions, by id, behind `after`.
    Leased {
        /// Whose owner.
        partitions: Vec<Partition>,
        /// Read behind this one.
        after: SagaId,
        /// At most so many.
        limit: usize,
    },
    /// Those of these partitions whose time has come, by the store's clock, the longest due first.
    Due {
        /// Those that wait for a signal as well, and not only for a time.
        also_signals: bool,
        /// Whose owner is to take them up.
        partitions: Vec<Partition>,
        /// At most so many.
        limit: usize,
    },
    /// Unfinished sagas that wait for nothing that could come: there are none, unless something is
    /// broken. At most a hundred.
    Forgotten,
    /// Those that [`crate::store::Op::TrimSagas`] would delete, the oldest end first: they ended before `before`,
    /// and so has, or is gone, the saga that one of them is a step of.
    Ended {
        /// When they ended at the latest, exclusively.
        before: Timestamp,
        /// At most so many.
        limit: usize,
    },
}

/// What a store reads back of sagas.
///
/// 1. **journal first**: a transition is visible with everything its item carries, or not at all.
/// 2. **next version**: a transition whose number exists already changes nothing.
/// 3. **start once**: of any number of starts of one name, key and run, one applies, and none beside a later run.
/// 4. **same text**: a definition's id names one text for ever; another text is refused.
/// 5. **own clock**: what is due is judged by the store's clock alone.
/// 6. **taken once**: of any number of transitions that take one signal, one applies; a signal that is sent
///    again while it is kept is not there twice.
///
/// Each of its functions fails with what the store says: [`Code::StoreUnreachable`] or [`Code::StoreBusy`], to be
/// tried again, or [`Code::Database`].
pub trait Journal: Store {
    /// Sagas with their journals.
    fn sagas(&self, find: FindSagas) -> BoxFuture<'_, Result<Vec<SavedSaga>>>;

    /// Sagas in a list, the newest first by their ids. One whose row cannot be read is among them, unless
    /// states are asked for and its own is an odd word.
    fn list<'a>(&'a self, which: &'a ListSagas) -> BoxFuture<'a, Result<Vec<SagaHead>>>;

    /// Signals that have come and that sagas of these partitions wait for, and requests for these sagas, the
    /// oldest first; at most `limit`.
    fn arrived(
        &self,
        partitions: Vec<Partition>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arrived>>>;

    /// What signals of this name bring that are about one of these and that nobody has taken, each with what
    /// it is about, in the order in which they came. Those whose time is over are not among them.
    fn signals<'a>(
        &'a self,
        name: &'a str,
        about: Vec<Text>,
    ) -> BoxFuture<'a, Result<Vec<(Text, Json)>>>;

    /// The text of a definition, if it was stored.
    fn definition<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Text>>>;
}
