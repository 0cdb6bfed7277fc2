//! Sagas: several local transactions that complete together or are compensated.
//!
//! What it guarantees: a saga whose start is durable ends as completed or as compensated, or waits
//! visibly for a person; it is never reported compensated while a compensation is outstanding; no step
//! is begun before what permits it is durable; compensation covers every step that may have been
//! attempted, in reverse order of dependency. What it does not: that an action or a compensation runs
//! once. Both run at least once, under a [`StepKey`] that stays the same, and must be idempotent.
//!
//! A saga is run from its [`Definition`], which is data and is stored before its first instance: a
//! deploy never touches a run in flight, and no user code is replayed. Facts are stored as the rows
//! [`journal`] describes: one for the saga, one for each transition.
//!
//! Source of the idea: Garcia-Molina, Salem, "Sagas", SIGMOD 1987.

mod attempt;
mod attribute;
pub mod barrier;
mod check;
mod command;
mod definition;
mod entry;
mod flaw;
mod fold;
mod form;
mod group;
mod id;
mod in_flight;
pub mod journal;
mod json;
mod list;
mod machine;
mod mapping;
mod open_step;
mod parent;
mod participant;
mod policy;
mod request;
mod standing;
mod steer;
mod turned_back;
mod uncounted;
mod wait;
mod waiting;

pub use attempt::{Attempt, Direction, Ended, Input};
pub use attribute::{ATTRIBUTES_MAX, Attribute};
pub use barrier::{Barrier, Passage};
pub use check::{Checked, DefinitionId, OWN, STEPS_MAX, is_url};
pub use command::{Answer, Command, REPLY, Reply};
pub use definition::{Compensation, Definition, Kind, Step};
pub use entry::Entry;
pub use flaw::Flaw;
pub use fold::Phase;
pub use group::Group;
pub use id::{SagaId, StepKey};
pub use json::{JSON_MAX, Json};
pub use machine::{Cancelled, Saga};
pub use mapping::Mapping;
pub use open_step::OpenStep;
pub use parent::Parent;
pub use participant::{Call, Journaling, Participant, Transacted, Transactional};
pub use policy::RetryPolicy;
pub use request::{REQUEST, Request, STANDS, Verb};
pub use steer::Refusal;
pub use turned_back::TurnedBack;
pub use wait::{SIGNAL_TEXT_MAX, Signal, Wait, check_text};
