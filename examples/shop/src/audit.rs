//! What the four databases say in the end: who lost, who doubled, does the money add up.

use std::{collections::BTreeMap, path::Path};

use onewrite::{
    Result, other,
    sqlite::rusqlite::{self, Connection, OpenFlags, types::ValueRef},
};
use serde::Serialize;

use crate::Role;

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
            && self.money_balanced
            && self.stock_balanced
    }
}

/// Judges the databases in `folder`, given the ids of all orders that were acknowledged.
///
/// # Errors
/// When a database cannot be read.
pub fn judge(folder: &Path, acknowledged: &[String]) -> Result<Verdict> {
    let open = |role: Role| {
        let path = folder.join(format!("{}.db", role.name()));
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(other)
    };
    let (orders, payments) = (open(Role::Order)?, open(Role::Payment)?);
    let (stock, shipping) = (open(Role::Stock)?, open(Role::Shipping)?);
    let mut verdict = Verdict::default();
    let states = pairs(&orders, "SELECT id, state FROM orders")?;
    verdict.orders = states.len() as u64;
    let in_state = |wanted: &str| states.values().filter(|state| *state == wanted).count() as u64;
    verdict.completed = in_state("completed");
    verdict.compensated = in_state("cancelled");
    let ended = |id: &String| states.get(id).is_some_and(|state| state != "pending");
    verdict.lost = acknowledged.iter().filter(|id| !ended(id)).count() as u64;
    for database in [&orders, &payments, &stock, &shipping] {
        verdict.duplicated += number(
            database,
            "SELECT coalesce(sum(times - 1), 0) FROM (SELECT count(*) AS times FROM effects GROUP BY source, event_id)",
        )?;
        verdict.out_of_order += number(
            database,
            "SELECT count(*) FROM (SELECT sequence, lag(sequence) OVER (PARTITION BY source, key ORDER BY n) AS before FROM effects WHERE sequence > 0) WHERE before >= sequence",
        )?;
    }
    let completed: std::collections::BTreeSet<&String> =
        states.iter().filter(|(_, state)| *state == "completed").map(|(id, _)| id).collect();
    let sums = |database: &Connection, sql: &str| -> Result<bool> {
        let owed = pairs(database, sql)?;
        Ok(owed.iter().all(|(id, sum)| (sum == "0") != completed.contains(id))
            && completed.iter().all(|id| owed.contains_key(*id)))
    };
    let accounts = number(&payments, "SELECT coalesce(sum(opened_with - cents), 0) FROM accounts")?;
    let sold =
        number(&orders, "SELECT coalesce(sum(cents), 0) FROM orders WHERE state = 'completed'")?;
    verdict.money_balanced = accounts == sold
        && sums(&payments, "SELECT order_id, sum(cents) FROM payments GROUP BY order_id")?;
    let gone = number(&stock, "SELECT coalesce(sum(delivered - units), 0) FROM articles")?;
    let reserved = number(&stock, "SELECT coalesce(sum(units), 0) FROM reservations")?;
    let shipped = pairs(
        &shipping,
        "SELECT order_id, CASE count(*) WHEN 1 THEN 'once' ELSE 'often' END FROM shipments GROUP BY order_id",
    )?;
    let shipped_once = shipped.values().all(|times| times == "once")
        && completed.iter().copied().eq(shipped.keys());
    verdict.stock_balanced = gone == reserved
        && shipped_once
        && sums(&stock, "SELECT order_id, sum(units) FROM reservations GROUP BY order_id")?;
    Ok(verdict)
}

fn number(database: &Connection, sql: &str) -> Result<u64> {
    let value: i64 = database.query_row(sql, [], |row| row.get(0)).map_err(other)?;
    // A negative sum is a broken balance; as a huge number it matches nothing.
    Ok(value.cast_unsigned())
}

fn pairs(database: &Connection, sql: &str) -> Result<BTreeMap<String, String>> {
    let mut statement = database.prepare(sql).map_err(other)?;
    let text = |row: &rusqlite::Row<'_>, index| -> rusqlite::Result<String> {
        match row.get_ref(index)? {
            ValueRef::Integer(number) => Ok(number.to_string()),
            value => Ok(String::from_utf8_lossy(value.as_bytes().unwrap_or_default()).into_owned()),
        }
    };
    let rows = statement.query_map([], |row| Ok((text(row, 0)?, text(row, 1)?))).map_err(other)?;
    rows.collect::<std::result::Result<_, _>>().map_err(other)
}
