//! What the four databases say in the end: who lost, who doubled, does the money add up.

use std::collections::{BTreeMap, BTreeSet};

use onewrite::Result;
use serde::Serialize;

use crate::{Books, Role, database::Database};

/// The verdict over a whole run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Orders the order service knows.
    pub orders: u64,
    /// Orders that ended well.
    pub completed: u64,
    /// Orders that ended undone.
    pub compensated: u64,
    /// Acknowledged orders that are unknown or never ended.
    pub lost: u64,
    /// Events that took effect more than once.
    pub duplicated: u64,
    /// Effects that came before an earlier event of their key.
    pub out_of_order: u64,
    /// What else contradicts the sagas, order by order. Nothing of events.
    pub faults: Vec<String>,
    /// Whether every cent is on an account or in exactly one completed order.
    pub money_balanced: bool,
    /// Whether every unit is in the store or in exactly one completed order.
    pub stock_balanced: bool,
}

impl Verdict {
    /// Whether every promise held.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0
            && self.duplicated == 0
            && self.out_of_order == 0
            && self.faults.is_empty()
            && self.money_balanced
            && self.stock_balanced
    }
}

impl Verdict {
    /// Counts effects, money and stock, given the orders that ended well.
    pub(crate) async fn weigh(
        &mut self,
        books: &Books,
        completed: &BTreeSet<&String>,
    ) -> Result<()> {
        for role in Role::ALL {
            let database = books.of(role)?;
            self.duplicated += database.number(DUPLICATED).await?.cast_unsigned();
            self.out_of_order += database.number(OUT_OF_ORDER).await?.cast_unsigned();
        }
        self.money_balanced = money_balances(books, completed).await?;
        self.stock_balanced = stock_balances(books, completed).await?;
        Ok(())
    }
}

/// Events that took effect more than once, in any database.
const DUPLICATED: &str = "SELECT CAST(coalesce(sum(times - 1), 0) AS BIGINT)
    FROM (SELECT count(*) AS times FROM effects GROUP BY source, event_id) AS counted";

/// Effects that came before an earlier event of their key, in any database.
const OUT_OF_ORDER: &str = "SELECT count(*) FROM (
    SELECT sequence, lag(sequence) OVER (PARTITION BY source, event_key ORDER BY n) AS previous
    FROM effects WHERE sequence > 0) AS ordered WHERE previous >= sequence";

/// Judges what `books` say, given the ids of all orders that were acknowledged.
///
/// # Errors
/// When a database cannot be read.
pub async fn judge(books: &Books, acknowledged: &[String]) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let orders = books.of(Role::Order)?;
    let states = pairs(orders, "SELECT id, state FROM orders").await?;
    verdict.orders = states.len() as u64;
    let in_state = |wanted: &str| states.values().filter(|state| *state == wanted).count() as u64;
    verdict.completed = in_state("completed");
    verdict.compensated = in_state("cancelled");
    let ended = |id: &String| states.get(id).is_some_and(|state| state != "pending");
    verdict.lost = acknowledged.iter().filter(|id| !ended(id)).count() as u64;
    let completed: BTreeSet<&String> =
        states.iter().filter(|(_, state)| *state == "completed").map(|(id, _)| id).collect();
    verdict.weigh(books, &completed).await?;
    Ok(verdict)
}

async fn money_balances(books: &Books, completed: &BTreeSet<&String>) -> Result<bool> {
    let (orders, payments) = (books.of(Role::Order)?, books.of(Role::Payment)?);
    let spent = payments
        .number("SELECT CAST(coalesce(sum(opened_with - cents), 0) AS BIGINT) FROM accounts")
        .await?;
    let sold = orders
        .number(
            "SELECT CAST(coalesce(sum(cents), 0) AS BIGINT) FROM orders WHERE state IN ('completed', 'confirmed')",
        )
        .await?;
    let sql = "SELECT order_id, CAST(sum(cents) AS TEXT) FROM payments GROUP BY order_id";
    Ok(spent == sold && is_owed_for(completed, &pairs(payments, sql).await?))
}

async fn stock_balances(books: &Books, completed: &BTreeSet<&String>) -> Result<bool> {
    let (stock, shipping) = (books.of(Role::Stock)?, books.of(Role::Shipping)?);
    let gone = stock
        .number("SELECT CAST(coalesce(sum(delivered - units), 0) AS BIGINT) FROM articles")
        .await?;
    let reserved =
        stock.number("SELECT CAST(coalesce(sum(units), 0) AS BIGINT) FROM reservations").await?;
    let sql = "SELECT order_id, CAST(count(*) AS TEXT) FROM shipments GROUP BY order_id";
    let shipped = pairs(shipping, sql).await?;
    let once = shipped.values().all(|times| times == "1");
    let sql = "SELECT order_id, CAST(sum(units) AS TEXT) FROM reservations GROUP BY order_id";
    Ok(gone == reserved
        && once
        && completed.iter().copied().eq(shipped.keys())
        && is_owed_for(completed, &pairs(stock, sql).await?))
}

/// Whether each completed order, and none else, has a sum that is not zero.
fn is_owed_for(completed: &BTreeSet<&String>, sums: &BTreeMap<String, String>) -> bool {
    sums.iter().all(|(id, sum)| (sum == "0") != completed.contains(id))
        && completed.iter().all(|id| sums.contains_key(*id))
}

pub(crate) async fn pairs(
    database: &dyn Database,
    sql: &'static str,
) -> Result<BTreeMap<String, String>> {
    Ok(database.pairs(sql).await?.into_iter().collect())
}
