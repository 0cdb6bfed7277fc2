//! What a transition carries beside itself, in its own commit: what others are told of it.

use onewrite_core::{
    Result,
    saga::{Entry, Saga},
    store::Op,
};

use super::publish::events;

/// What goes with the transition that made `saga` what it is. The end of a child is told to its parent in any
/// case: in a commit of its own it would be lost with the process that dies between the two.
///
/// # Errors
/// [`onewrite_core::Code::InvalidEvent`] and [`onewrite_core::Code::InvalidInput`], which it is not.
pub(super) fn beside(saga: &Saga, entries: &[Entry], publish: bool) -> Result<Vec<Op>> {
    let mut ops = if publish { events(saga, entries)? } else { Vec::new() };
    if let Some(parent) = saga.parent().filter(|_| saga.has_ended()) {
        let told = parent.told(saga.id(), saga.standing().state);
        ops.push(Op::Signal(Box::new(told.signal(parent.saga)?)));
    }
    Ok(ops)
}
