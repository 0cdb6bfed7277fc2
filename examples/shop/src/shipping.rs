//! The shipping service: schedules shipments, where the carrier goes.

use onewrite::{
    Event,
    sqlite::rusqlite::{Connection, params},
};

use crate::{Order, ReactionError, model::UNREACHABLE};

pub(crate) const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS shipments (order_id TEXT, country TEXT)";

pub(crate) fn react(tx: &Connection, event: &Event) -> Result<Vec<Event>, ReactionError> {
    let order = Order::of(event)?;
    if &*event.kind != "StockReserved" {
        return Err(format!("the shipping service does not know `{}` events", event.kind).into());
    }
    if order.country == UNREACHABLE {
        return Ok(vec![order.event("ShippingFailed")?]);
    }
    tx.prepare_cached("INSERT INTO shipments (order_id, country) VALUES (?1, ?2)")?
        .execute(params![order.id, order.country])?;
    Ok(vec![order.event("ShippingScheduled")?])
}
