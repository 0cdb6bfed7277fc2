//! Sagas as they are read from files and shown: what the verbs and the server share.

pub(crate) mod bulk;
pub(crate) mod file;
pub(crate) mod graph;
pub(crate) mod naming;
pub(crate) mod tree;
pub(crate) mod unique;
pub(crate) mod view;

/// The JSON Schema of a definition.
pub(crate) const SCHEMA: &str = include_str!("schema.json");
