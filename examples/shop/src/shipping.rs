//! The shipping service: schedules shipments, where the carrier goes.

use onewrite::Event;

use crate::{Order, ReactionError, model::UNREACHABLE, rows::Rows};

pub(crate) const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS shipments (order_id TEXT, country TEXT)";

pub(crate) async fn react<R: Rows>(
    rows: &mut R,
    event: &Event,
) -> Result<Vec<Event>, ReactionError> {
    let order = Order::of(event)?;
    if &*event.kind != "StockReserved" {
        return Err(format!("the shipping service does not know `{}` events", event.kind).into());
    }
    if order.country == UNREACHABLE {
        return Ok(vec![order.event("ShippingFailed")?]);
    }
    schedule(rows, &order).await?;
    Ok(vec![order.event("ShippingScheduled")?])
}

/// Schedules the shipment of an order.
pub(crate) async fn schedule<R: Rows>(rows: &mut R, order: &Order) -> Result<(), ReactionError> {
    let values = [(&order.id).into(), (&order.country).into()];
    rows.execute("INSERT INTO shipments (order_id, country) VALUES ($1, $2)", &values).await?;
    Ok(())
}
