//! Sagas: what a user states, runs and reads of them.

pub use onewrite_core::saga::{
    Checked, Compensation, Definition, Direction, Ended, Entry, Json, Kind, Mapping, RetryPolicy,
    SagaId, Step, StepKey,
    journal::{self, Journal, SavedSaga, State, Waits},
};
pub use onewrite_engine::saga::*;
