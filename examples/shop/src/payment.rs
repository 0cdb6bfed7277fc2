//! The payment service: charges and refunds.

use onewrite::{
    Event,
    sqlite::rusqlite::{Connection, params},
};

use crate::{
    Order, ReactionError,
    model::{ACCOUNT_CENTS, POOR_CENTS},
};

pub(crate) const TABLES: &str = "CREATE TABLE IF NOT EXISTS accounts (customer TEXT PRIMARY KEY, opened_with INTEGER, cents INTEGER);
    CREATE TABLE IF NOT EXISTS payments (order_id TEXT, cents INTEGER)";

pub(crate) fn react(tx: &Connection, event: &Event) -> Result<Vec<Event>, ReactionError> {
    let order = Order::of(event)?;
    match &*event.kind {
        "OrderCreated" => charge(tx, &order),
        "StockFailed" | "StockReleased" => refund(tx, &order),
        other => Err(format!("the payment service does not know `{other}` events").into()),
    }
}

fn charge(tx: &Connection, order: &Order) -> Result<Vec<Event>, ReactionError> {
    let first = if order.customer.starts_with("poor") { POOR_CENTS } else { ACCOUNT_CENTS };
    tx.prepare_cached("INSERT INTO accounts (customer, opened_with, cents) VALUES (?1, ?2, ?2) ON CONFLICT DO NOTHING")?
        .execute(params![order.customer, first])?;
    let paid = tx
        .prepare_cached(
            "UPDATE accounts SET cents = cents - ?2 WHERE customer = ?1 AND cents >= ?2",
        )?
        .execute(params![order.customer, order.cents])?;
    if paid == 0 {
        return Ok(vec![order.event("PaymentFailed")?]);
    }
    book(tx, order, order.cents)?;
    Ok(vec![order.event("PaymentCompleted")?])
}

/// The compensation of a charge.
fn refund(tx: &Connection, order: &Order) -> Result<Vec<Event>, ReactionError> {
    tx.prepare_cached("UPDATE accounts SET cents = cents + ?2 WHERE customer = ?1")?
        .execute(params![order.customer, order.cents])?;
    book(tx, order, -order.cents)?;
    Ok(vec![order.event("PaymentRefunded")?])
}

fn book(tx: &Connection, order: &Order, cents: i64) -> Result<(), ReactionError> {
    tx.prepare_cached("INSERT INTO payments (order_id, cents) VALUES (?1, ?2)")?
        .execute(params![order.id, cents])?;
    Ok(())
}
