//! The order service: takes orders, completes or cancels them.

use onewrite::Event;

use crate::{
    Order, ReactionError,
    rows::{Rows, now},
};

pub(crate) const TABLES: &str = "CREATE TABLE IF NOT EXISTS orders (
    id TEXT PRIMARY KEY, customer TEXT, cents BIGINT, state TEXT, reason TEXT, placed_at BIGINT, ended_at BIGINT)";

/// Places an order: its row, and the event to emit with it. Nothing to emit when it was placed before.
pub async fn place<R: Rows>(rows: &mut R, order: &Order) -> Result<Option<Event>, ReactionError> {
    let placed = rows
        .execute(
            "INSERT INTO orders (id, customer, cents, state, placed_at)
             VALUES ($1, $2, $3, 'pending', $4) ON CONFLICT DO NOTHING",
            &[(&order.id).into(), (&order.customer).into(), order.cents.into(), now().into()],
        )
        .await?;
    if placed == 0 {
        return Ok(None);
    }
    Ok(Some(order.event("OrderCreated")?))
}

pub(crate) async fn react<R: Rows>(
    rows: &mut R,
    event: &Event,
) -> Result<Vec<Event>, ReactionError> {
    let order = Order::of(event)?;
    let (state, kind) = match &*event.kind {
        "ShippingScheduled" => ("completed", "OrderCompleted"),
        "PaymentFailed" | "PaymentRefunded" => ("cancelled", "OrderCancelled"),
        other => return Err(format!("the order service does not know `{other}` events").into()),
    };
    end(rows, &order, state, &event.kind).await?;
    Ok(vec![order.event(kind)?])
}

/// Ends an order, for a reason.
pub(crate) async fn end<R: Rows>(
    rows: &mut R,
    order: &Order,
    state: &str,
    reason: &str,
) -> Result<(), ReactionError> {
    rows.execute(
        "UPDATE orders SET state = $1, reason = $2, ended_at = $3 WHERE id = $4",
        &[state.into(), reason.into(), now().into(), (&order.id).into()],
    )
    .await?;
    Ok(())
}
