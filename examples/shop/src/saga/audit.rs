//! What sagas and databases say in the end: did each order get what its saga says, once, or nothing at all.

use std::collections::{BTreeMap, BTreeSet};

use onewrite::{
    Result,
    saga::{
        Entry,
        journal::{FindSagas, SavedSaga},
    },
};

use super::{PLACE_ORDER, deed::Refusal};
use crate::{
    Books, Order, Role,
    audit::{Verdict, pairs},
    model::UNREACHABLE,
};

/// Each saga: its key, which is the order's id, and its state.
const SAGAS: &str = "SELECT s.key, s.state FROM onewrite_saga s";

/// Each order that a service did something for.
const EFFECTS: &str = "SELECT DISTINCT event_key, event_key FROM effects";

/// Judges what `books` say of `orders`, given the ids of those that were acknowledged.
///
/// # Errors
/// When a database cannot be read.
pub async fn judge(books: &Books, orders: &[Order], acknowledged: &[String]) -> Result<Verdict> {
    let sagas = pairs(books.of(Role::Order)?, SAGAS).await?;
    let in_state = |wanted: &str| {
        sagas
            .iter()
            .filter(|(_, state)| *state == wanted)
            .map(|(id, _)| id)
            .collect::<BTreeSet<_>>()
    };
    let (completed, compensated) = (in_state("completed"), in_state("compensated"));
    let ended = |id: &String| completed.contains(id) || compensated.contains(id);
    let mut verdict = Verdict {
        orders: sagas.len() as u64,
        completed: completed.len() as u64,
        compensated: compensated.len() as u64,
        lost: acknowledged.iter().filter(|id| !ended(id)).count() as u64,
        ..Verdict::default()
    };
    verdict.weigh(books, &completed).await?;
    let mut faults = contradictions(books, &sagas).await?;
    faults.extend(orphans(books, &sagas).await?);
    for order in orders {
        faults.extend(unfounded(books, order, &sagas).await?);
    }
    let forgotten = books.of(Role::Order)?.journal().sagas(FindSagas::Forgotten).await?;
    faults.extend(forgotten.iter().map(|saga| fault(&saga.key, "its saga waits for nothing")));
    verdict.faults = faults;
    Ok(verdict)
}

/// Orders whose state is not what their saga says.
async fn contradictions(books: &Books, sagas: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let states = pairs(books.of(Role::Order)?, "SELECT id, state FROM orders").await?;
    let expected = |saga: &str| match saga {
        "completed" => Some("confirmed"),
        "compensated" => Some("cancelled"),
        _ => None,
    };
    let mut faults = Vec::new();
    for (id, saga) in sagas {
        let order = states.get(id).map(String::as_str);
        match expected(saga) {
            Some(_) if order == expected(saga) => {}
            Some(_) => {
                let order = order.unwrap_or("unknown");
                faults.push(fault(id, &format!("its saga is {saga}, and it is {order}")));
            }
            None => faults.push(fault(id, &format!("its saga is still {saga}"))),
        }
    }
    Ok(faults)
}

/// Effects for orders that have no saga.
async fn orphans(books: &Books, sagas: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for role in Role::ALL {
        let effects = pairs(books.of(role)?, EFFECTS).await?;
        let orphans = effects.keys().filter(|id| !sagas.contains_key(*id));
        faults.extend(orphans.map(|id| {
            fault(id, &format!("the {} service did something, and no saga knows it", role.name()))
        }));
    }
    Ok(faults)
}

/// What is wrong with how an order's saga ended, seeing what was ordered.
async fn unfounded(
    books: &Books,
    order: &Order,
    sagas: &BTreeMap<String, String>,
) -> Result<Option<String>> {
    match sagas.get(&order.id).map(String::as_str) {
        Some("completed") if order.country == UNREACHABLE => {
            Ok(Some(fault(&order.id, "it is completed, and the carrier does not go there")))
        }
        Some("compensated") => {
            let key = FindSagas::Key { name: PLACE_ORDER.into(), key: order.id.clone().into() };
            let found = books.of(Role::Order)?.journal().sagas(key).await?.pop();
            Ok(match found {
                Some(saga) if was_refused(&saga)? => None,
                _ => Some(fault(&order.id, "it is compensated, and nobody had refused it")),
            })
        }
        _ => Ok(None),
    }
}

/// Whether the business said no: a process that died is no reason to compensate.
fn was_refused(saga: &SavedSaga) -> Result<bool> {
    for transition in &saga.journal {
        for entry in transition.entries()? {
            if let Entry::Failed { reason, .. } = entry {
                return Ok(Refusal::REASONS.iter().any(|known| known.reason() == &*reason));
            }
        }
    }
    Ok(false)
}

fn fault(order: &str, what: &str) -> String {
    format!("order {order}: {what}")
}
