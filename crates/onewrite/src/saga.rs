//! Sagas: what a user states, runs and reads of them.

pub use onewrite_core::saga::{
    Barrier, Checked, Compensation, Definition, Direction, Ended, Entry, Json, Kind, Mapping,
    Passage, RetryPolicy, SagaId, Step, StepKey, barrier,
    journal::{self, Journal, SavedSaga, State, Waits},
};
pub use onewrite_engine::saga::*;
