//! Proofs over the whole protocol.

mod model;
mod protocol;
