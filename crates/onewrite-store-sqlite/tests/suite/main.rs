//! The SQLite store against real files.

mod emit;
mod guard;
