//! The stock service: reserves and releases.

use onewrite::Event;

use crate::{
    Order, ReactionError,
    model::{RARE_UNITS, STOCK_UNITS},
    rows::Rows,
};

pub(crate) const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS articles (sku TEXT PRIMARY KEY, delivered BIGINT, units BIGINT);
    CREATE TABLE IF NOT EXISTS reservations (order_id TEXT, sku TEXT, units BIGINT)";

pub(crate) async fn react<R: Rows>(
    rows: &mut R,
    event: &Event,
) -> Result<Vec<Event>, ReactionError> {
    let order = Order::of(event)?;
    // Customers are the keys, and all of them want the same few articles.
    rows.wait_in_line("articles").await?;
    match &*event.kind {
        "PaymentCompleted" => reserve(rows, &order).await,
        "ShippingFailed" => release(rows, &order).await,
        other => Err(format!("the stock service does not know `{other}` events").into()),
    }
}

async fn reserve<R: Rows>(rows: &mut R, order: &Order) -> Result<Vec<Event>, ReactionError> {
    let kind = if set_aside(rows, order).await? { "StockReserved" } else { "StockFailed" };
    Ok(vec![order.event(kind)?])
}

/// The compensation of a reservation.
async fn release<R: Rows>(rows: &mut R, order: &Order) -> Result<Vec<Event>, ReactionError> {
    put_back(rows, order).await?;
    Ok(vec![order.event("StockReleased")?])
}

/// Sets aside what is ordered, if there is enough of it.
pub(crate) async fn set_aside<R: Rows>(rows: &mut R, order: &Order) -> Result<bool, ReactionError> {
    let first = if order.sku.starts_with("rare") { RARE_UNITS } else { STOCK_UNITS };
    rows.execute(
        "INSERT INTO articles (sku, delivered, units) VALUES ($1, $2, $2) ON CONFLICT DO NOTHING",
        &[(&order.sku).into(), first.into()],
    )
    .await?;
    let reserved = rows
        .execute(
            "UPDATE articles SET units = units - $1 WHERE sku = $2 AND units >= $1",
            &[order.quantity.into(), (&order.sku).into()],
        )
        .await?;
    if reserved == 0 {
        return Ok(false);
    }
    book(rows, order, order.quantity).await?;
    Ok(true)
}

/// Puts it back.
pub(crate) async fn put_back<R: Rows>(rows: &mut R, order: &Order) -> Result<(), ReactionError> {
    rows.execute(
        "UPDATE articles SET units = units + $1 WHERE sku = $2",
        &[order.quantity.into(), (&order.sku).into()],
    )
    .await?;
    book(rows, order, -order.quantity).await
}

async fn book<R: Rows>(rows: &mut R, order: &Order, units: i64) -> Result<(), ReactionError> {
    let values = [(&order.id).into(), (&order.sku).into(), units.into()];
    rows.execute("INSERT INTO reservations (order_id, sku, units) VALUES ($1, $2, $3)", &values)
        .await?;
    Ok(())
}
