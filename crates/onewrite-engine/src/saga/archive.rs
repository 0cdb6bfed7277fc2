//! Where sagas go before retention deletes them.

use std::fmt;

use onewrite_core::{BoxFuture, Result, saga::journal::SavedSaga};

/// Keeps sagas that retention is about to delete.
///
/// Every saga that is deleted was kept at least once: [`Self::keep`] returned without an error before. One may
/// be kept twice, by a process that ends between the two or by several that look at the same time, so who
/// reads the archive goes by its id. What is not promised: that a saga which was kept is gone from the store.
pub trait Archive: Send + Sync {
    /// Keeps sagas with their journals; returns once they are durable. One whose row cannot be read is among
    /// them and says why.
    ///
    /// # Errors
    /// That they are not kept, for whatever reason: then none of them is deleted, and they are given again at
    /// the next look. Nor is anything that ended later, so one saga that is never kept holds up all.
    fn keep(&self, sagas: Vec<SavedSaga>) -> BoxFuture<'_, Result<()>>;
}

/// Its options are printed, and nobody else knows what it is.
impl fmt::Debug for dyn Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Archive")
    }
}
