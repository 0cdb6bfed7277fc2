//! Sagas: the driver that carries them out, and the typed way to state them.
//!
//! What it guarantees beyond the machine ([`onewrite_core::saga`]): every transition is one item of a
//! group commit, under the lease of the saga's partition; a process that lost its lease begins nothing
//! more once the lease has run out by its own clock, and nothing that it writes is accepted; a saga whose
//! owner ends is carried on by another once the lease has run out. What it does not: that two processes never act
//! at the same time. A stalled one may still be waiting for an answer; the step's key makes that harmless.

mod apart;
mod archive;
mod attempt;
mod beside;
mod children;
mod commands;
mod driver;
mod gate;
mod handle;
mod health;
mod hold;
mod leases;
mod options;
mod participant;
mod plan;
mod publish;
mod retention;
mod runner;
mod start;
mod steer;
mod transaction;
mod write;

pub use archive::Archive;
pub use children::{Child, Children};
pub use commands::Commands;
pub use handle::{Outcome, Sagas, Started};
pub use hold::Hold;
pub use options::SagaOptions;
pub use participant::Participants;
pub use plan::{
    Attempting, Cx, Finished, Forward, Handles, InTransaction, Out, Part, Plan, Retry, SagaType,
    StepError, StepOptions, StepResult, Undoable, Unsettled, UnsettledChild, told,
};
pub use runner::SagaRunner;
