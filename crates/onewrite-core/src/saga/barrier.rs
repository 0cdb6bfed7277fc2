//! The barrier: what a participant passes first in its own local transaction, so that calls which come
//! twice, in the wrong order or too late change nothing.
//!
//! What it guarantees, where it is passed in the transaction of the effect: an action and its compensation
//! take effect once each, a compensation only behind the action that it makes good, and an action never
//! behind its compensation. What it does not: it keeps no outputs, and covers no effect outside that
//! transaction.
//!
//! It inserts first and never looks first: what was read may have changed by the time it is acted on, while
//! an insert under a unique key waits for a rival's transaction to end. The facts are rows of the table
//! `dtm_barrier.barrier` in the participant's own database, the same that clients of dtm use.
//!
//! Source of the idea: dtm, "sub-transaction barrier", 2021.

use std::time::Duration;

use super::SagaId;
use crate::{
    Code, Error, Result, Text,
    sabotage::{Defect, Sabotage},
};

/// The longest that `trans_type` and `op` may be, in characters.
const SHORT_MAX: usize = 45;

/// The longest that `gid` and `branch_id` may be, in characters.
const LONG_MAX: usize = 128;

/// The shortest time for which rows must be kept. A call that comes after its row is gone is carried out
/// again, so keep them for longer than any call can be under way.
pub const KEPT_MIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Longer than anybody keeps anything, and short enough for every server's calendar.
const KEPT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What one call of a participant is recognised by. It is the same for every attempt at the same action or
/// compensation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    trans_type: Text,
    gid: Text,
    branch_id: Text,
    op: Text,
    barrier_id: Text,
    sabotage: Sabotage,
}

impl Barrier {
    /// The barrier of a step's action.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] for a name that no step can have.
    pub fn action(saga: SagaId, step: &str) -> Result<Self> {
        Self::new("saga", &saga.to_string(), step, "action")
    }

    /// The barrier of a step's compensation.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] for a name that no step can have.
    pub fn compensation(saga: SagaId, step: &str) -> Result<Self> {
        Self::new("saga", &saga.to_string(), step, "compensate")
    }

    /// The barrier of a call by any coordinator: the kind of transaction (`saga`, `tcc`), its id, the
    /// branch's id, and what the call is to do: `action`, `compensate`, `try`, `confirm`, `cancel`,
    /// `rollback`. `compensate` and `rollback` undo `action`, `cancel` undoes `try`.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] for what is empty, is too long for its column (45, 128, 128 and 45
    /// characters), or begins or ends with a blank: servers shorten such values or take two of them for
    /// one.
    pub fn new(trans_type: &str, gid: &str, branch_id: &str, op: &str) -> Result<Self> {
        let columns = [
            ("kind of transaction", trans_type, SHORT_MAX),
            ("transaction's id", gid, LONG_MAX),
            ("branch's id", branch_id, LONG_MAX),
            ("operation", op, SHORT_MAX),
        ];
        for (name, value, max) in columns {
            let length = value.chars().count();
            if length == 0 || length > max || value.trim() != value {
                let context = format!(
                    "the {name} of a barrier must have 1 to {max} characters and no blank at either end; this has {length}"
                );
                return Err(Error::new(Code::InvalidInput, context));
            }
        }
        Ok(Self {
            trans_type: trans_type.into(),
            gid: gid.into(),
            branch_id: branch_id.into(),
            op: op.into(),
            barrier_id: number(1),
            sabotage: Sabotage::default(),
        })
    }

    /// The barrier of the call's `n`th transaction, from 1. A call that writes in several transactions
    /// passes one in each, and its compensation those of the same numbers.
    #[must_use]
    pub fn nth(mut self, n: u32) -> Self {
        self.barrier_id = number(n);
        self
    }

    /// With defects planted in it.
    #[doc(hidden)]
    #[must_use]
    pub fn sabotaged(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = sabotage;
        self
    }

    /// Whether stores are to look first and insert then, which is what a barrier must never do.
    #[doc(hidden)]
    #[must_use]
    pub fn looks_first(&self) -> bool {
        self.sabotage.has(Defect::CheckThenAct)
    }

    /// What the call is to do.
    #[must_use]
    pub fn op(&self) -> &str {
        &self.op
    }

    /// The operation that this one undoes, if it undoes one.
    #[must_use]
    pub fn origin(&self) -> Option<&'static str> {
        match &*self.op {
            "compensate" | "rollback" => Some("action"),
            "cancel" => Some("try"),
            _ => None,
        }
    }

    /// The operations whose rows are inserted, in this order: the origin's, if there is one, then its own.
    /// All who pass keep that order, so that no two wait for each other.
    #[must_use]
    pub fn ops(&self) -> Vec<&str> {
        self.origin().into_iter().chain([&*self.op]).collect()
    }

    /// The row of `op`: the values of `trans_type`, `gid`, `branch_id`, `op`, `barrier_id` and `reason`, which
    /// is the operation that inserts it.
    #[must_use]
    pub fn row<'a>(&'a self, op: &'a str) -> [&'a str; 6] {
        [&self.trans_type, &self.gid, &self.branch_id, op, &self.barrier_id, &self.op]
    }

    /// The unique key of the row of `op`: the values of `gid`, `branch_id`, `op` and `barrier_id`.
    #[must_use]
    pub fn key<'a>(&'a self, op: &'a str) -> [&'a str; 4] {
        [&self.gid, &self.branch_id, op, &self.barrier_id]
    }

    /// What follows from the operations whose rows were `inserted`; nothing as long as the reason of its own
    /// row, which was there before, has to be read.
    #[must_use]
    pub fn passage(&self, inserted: &[impl AsRef<str>]) -> Option<Passage> {
        let has = |op: &str| inserted.iter().any(|inserted| inserted.as_ref() == op);
        match (has(&self.op), self.origin()) {
            (true, Some(origin)) if has(origin) => Some(Passage::Empty),
            (true, _) => Some(Passage::Act),
            // Nothing undoes what undoes: its own row is its own.
            (false, Some(_)) => Some(Passage::Repeated),
            (false, None) => None,
        }
    }

    /// What follows from the `reason` of its own row, which was there before.
    ///
    /// # Errors
    /// [`Code::StoreBusy`] when the row is gone meanwhile: nothing is known then.
    pub fn passage_of(&self, reason: Option<&str>) -> Result<Passage> {
        match reason {
            Some(reason) if reason == &*self.op => Ok(Passage::Repeated),
            Some(_) => Ok(Passage::Late),
            None => Err(Error::new(
                Code::StoreBusy,
                "a row of the barrier was there and is gone; pass it again in a new transaction",
            )),
        }
    }
}

/// What a call that passed the barrier is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "the effect may be carried out on `Act` alone"]
pub enum Passage {
    /// Carry it out, in this transaction.
    Act,
    /// It passed before, and that transaction is committed: carry nothing out, and answer as then.
    Repeated,
    /// An action whose compensation came first: carry nothing out, now or ever.
    Late,
    /// A compensation of what was never carried out: there is nothing to make good, and once this transaction
    /// is committed the action can no longer come. Answer that it is compensated.
    Empty,
}

impl Passage {
    /// Whether to carry it out.
    #[must_use]
    pub fn acts(self) -> bool {
        self == Self::Act
    }
}

/// How long rows are kept, in whole seconds.
///
/// # Errors
/// [`Code::UnsafeSetting`] for less than [`KEPT_MIN`].
pub fn kept_secs(kept: Duration) -> Result<i64> {
    if kept < KEPT_MIN {
        return Err(Error::new(
            Code::UnsafeSetting,
            format!(
                "the barrier's rows must be kept for at least {} hours: a call that comes after its row is gone is carried out again",
                KEPT_MIN.as_secs() / 3600
            ),
        ));
    }
    Ok(kept.min(KEPT_MAX).as_secs().cast_signed())
}

/// As clients of dtm print it: `01`.
fn number(n: u32) -> Text {
    format!("{n:02}").into()
}

#[cfg(test)]
#[path = "barrier_test.rs"]
mod barrier_test;
