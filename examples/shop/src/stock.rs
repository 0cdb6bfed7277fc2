//! The stock service: reserves and releases.

use onewrite::{
    Event,
    sqlite::rusqlite::{Connection, params},
};

use crate::{
    Order, ReactionError,
    model::{RARE_UNITS, STOCK_UNITS},
};

pub(crate) const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS articles (sku TEXT PRIMARY KEY, delivered INTEGER, units INTEGER);
    CREATE TABLE IF NOT EXISTS reservations (order_id TEXT, sku TEXT, units INTEGER)";

pub(crate) fn react(tx: &Connection, event: &Event) -> Result<Vec<Event>, ReactionError> {
    let order = Order::of(event)?;
    match &*event.kind {
        "PaymentCompleted" => reserve(tx, &order),
        "ShippingFailed" => release(tx, &order),
        other => Err(format!("the stock service does not know `{other}` events").into()),
    }
}

fn reserve(tx: &Connection, order: &Order) -> Result<Vec<Event>, ReactionError> {
    let first = if order.sku.starts_with("rare") { RARE_UNITS } else { STOCK_UNITS };
    tx.prepare_cached(
        "INSERT INTO articles (sku, delivered, units) VALUES (?1, ?2, ?2) ON CONFLICT DO NOTHING",
    )?
    .execute(params![order.sku, first])?;
    let reserved = tx
        .prepare_cached("UPDATE articles SET units = units - ?2 WHERE sku = ?1 AND units >= ?2")?
        .execute(params![order.sku, order.quantity])?;
    if reserved == 0 {
        return Ok(vec![order.event("StockFailed")?]);
    }
    book(tx, order, order.quantity)?;
    Ok(vec![order.event("StockReserved")?])
}

/// The compensation of a reservation.
fn release(tx: &Connection, order: &Order) -> Result<Vec<Event>, ReactionError> {
    tx.prepare_cached("UPDATE articles SET units = units + ?2 WHERE sku = ?1")?
        .execute(params![order.sku, order.quantity])?;
    book(tx, order, -order.quantity)?;
    Ok(vec![order.event("StockReleased")?])
}

fn book(tx: &Connection, order: &Order, units: i64) -> Result<(), ReactionError> {
    tx.prepare_cached("INSERT INTO reservations (order_id, sku, units) VALUES (?1, ?2, ?3)")?
        .execute(params![order.id, order.sku, units])?;
    Ok(())
}
