//! What is wrong with a definition, and where.

use super::check::NAME_MAX;

/// Flaws that are told at most.
const FLAWS_MAX: usize = 100;

/// Something that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Where, as a JSON Pointer (RFC 6901) into the definition: `/steps/2/after/0`.
    pub at: String,
    /// What is wrong, and how it would be right.
    pub what: String,
}

/// What is wrong with a definition, as far as it is known.
#[derive(Default)]
pub(super) struct Flaws(pub(super) Vec<Flaw>);

impl Flaws {
    pub(super) fn add(&mut self, at: impl Into<String>, what: impl Into<String>) {
        if self.0.len() < FLAWS_MAX {
            self.0.push(Flaw { at: at.into(), what: what.into() });
        }
    }

    pub(super) fn of_step(&mut self, step: usize, field: &str, what: impl Into<String>) {
        self.add(format!("/steps/{step}/{field}"), what);
    }
}

/// A text of a message, which may be of any length.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(NAME_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
