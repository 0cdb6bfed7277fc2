//! The order service: takes orders, completes or cancels them.

use onewrite::{
    Event, other,
    sqlite::rusqlite::{Connection, params},
};

use crate::{Order, ReactionError};

pub(crate) const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (
    id TEXT PRIMARY KEY, customer TEXT, cents INTEGER, state TEXT, reason TEXT, placed_at REAL, ended_at REAL)";

/// Places an order: its row, and the event to emit with it. Nothing to emit when it was placed before.
pub fn place(tx: &Connection, order: &Order) -> Result<Option<Event>, onewrite::Error> {
    let placed = tx
        .prepare_cached(
            "INSERT INTO orders (id, customer, cents, state, placed_at)
             VALUES (?1, ?2, ?3, 'pending', julianday('now')) ON CONFLICT DO NOTHING",
        )
        .and_then(|mut statement| statement.execute(params![order.id, order.customer, order.cents]))
        .map_err(other)?;
    if placed == 0 {
        return Ok(None);
    }
    order.event("OrderCreated").map(Some)
}

pub(crate) fn react(tx: &Connection, event: &Event) -> Result<Vec<Event>, ReactionError> {
    let order = Order::of(event)?;
    let (state, kind) = match &*event.kind {
        "ShippingScheduled" => ("completed", "OrderCompleted"),
        "PaymentFailed" | "PaymentRefunded" => ("cancelled", "OrderCancelled"),
        other => return Err(format!("the order service does not know `{other}` events").into()),
    };
    tx.prepare_cached(
        "UPDATE orders SET state = ?2, reason = ?3, ended_at = julianday('now') WHERE id = ?1",
    )?
    .execute(params![order.id, state, &*event.kind])?;
    Ok(vec![order.event(kind)?])
}
