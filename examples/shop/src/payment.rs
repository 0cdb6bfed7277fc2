//! The payment service: charges and refunds.

use onewrite::Event;

use crate::{
    Order, ReactionError,
    model::{ACCOUNT_CENTS, POOR_CENTS},
    rows::Rows,
};

pub(crate) const TABLES: &str = "CREATE TABLE IF NOT EXISTS accounts (customer TEXT PRIMARY KEY, opened_with BIGINT, cents BIGINT);
    CREATE TABLE IF NOT EXISTS payments (order_id TEXT, cents BIGINT)";

pub(crate) async fn react<R: Rows>(
    rows: &mut R,
    event: &Event,
) -> Result<Vec<Event>, ReactionError> {
    let order = Order::of(event)?;
    match &*event.kind {
        "OrderCreated" => charge(rows, &order).await,
        "StockFailed" | "StockReleased" => refund(rows, &order).await,
        other => Err(format!("the payment service does not know `{other}` events").into()),
    }
}

async fn charge<R: Rows>(rows: &mut R, order: &Order) -> Result<Vec<Event>, ReactionError> {
    let kind = if take(rows, order).await? { "PaymentCompleted" } else { "PaymentFailed" };
    Ok(vec![order.event(kind)?])
}

/// The compensation of a charge.
async fn refund<R: Rows>(rows: &mut R, order: &Order) -> Result<Vec<Event>, ReactionError> {
    give_back(rows, order).await?;
    Ok(vec![order.event("PaymentRefunded")?])
}

/// Takes the price of an order from its customer's account, if that holds enough.
pub(crate) async fn take<R: Rows>(rows: &mut R, order: &Order) -> Result<bool, ReactionError> {
    let first = if order.customer.starts_with("poor") { POOR_CENTS } else { ACCOUNT_CENTS };
    rows.execute(
        "INSERT INTO accounts (customer, opened_with, cents) VALUES ($1, $2, $2) ON CONFLICT DO NOTHING",
        &[(&order.customer).into(), first.into()],
    )
    .await?;
    let paid = rows
        .execute(
            "UPDATE accounts SET cents = cents - $1 WHERE customer = $2 AND cents >= $1",
            &[order.cents.into(), (&order.customer).into()],
        )
        .await?;
    if paid == 0 {
        return Ok(false);
    }
    book(rows, order, order.cents).await?;
    Ok(true)
}

/// Gives it back.
pub(crate) async fn give_back<R: Rows>(rows: &mut R, order: &Order) -> Result<(), ReactionError> {
    rows.execute(
        "UPDATE accounts SET cents = cents + $1 WHERE customer = $2",
        &[order.cents.into(), (&order.customer).into()],
    )
    .await?;
    book(rows, order, -order.cents).await
}

async fn book<R: Rows>(rows: &mut R, order: &Order, cents: i64) -> Result<(), ReactionError> {
    let values = [(&order.id).into(), cents.into()];
    rows.execute("INSERT INTO payments (order_id, cents) VALUES ($1, $2)", &values).await?;
    Ok(())
}
