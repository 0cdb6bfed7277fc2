//! Sagas: what a user states, runs and reads of them.

pub use onewrite_core::saga::{
    Barrier, Call, Checked, Compensation, Definition, Direction, Ended, Entry, Json, Kind, Mapping,
    Participant, Passage, RetryPolicy, SagaId, Step, StepKey, Transactional, barrier,
    journal::{self, Journal, SavedSaga, State, Waits},
};
pub use onewrite_engine::saga::*;

#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sqlite;
