//! Sagas: what a user states, runs and reads of them.

pub use onewrite_core::saga::{
    ATTRIBUTES_MAX, Answer, Attribute, Barrier, Call, Checked, Command, Compensation, Definition,
    Direction, Ended, Entry, Flaw, JSON_MAX, Json, Kind, Mapping, OWN, OpenStep, Parent,
    Participant, Passage, REPLY, Reply, RetryPolicy, SagaId, Signal, Step, StepKey, Transactional,
    TurnedBack, Verb, Wait, barrier, check_text, is_url,
    journal::{self, Journal, SavedSaga, State, Waits},
};
pub use onewrite_engine::saga::*;

#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sqlite;
