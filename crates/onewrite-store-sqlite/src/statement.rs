//! The statements that run on the user's own transaction, in one place: every driver runs the same.

use onewrite_core::inbox::{Bind, Statement};

use crate::{row::event_columns, writer::now};

/// A session's statement, and what it takes.
pub(crate) fn of<'a>(
    statement: Statement<'a>,
    consumer: &'a str,
    scope: &'a str,
) -> (&'static str, Vec<Bind<'a>>) {
    let mut binds = statement.binds(consumer, scope);
    let sql = match statement {
        Statement::Remember(_) => REMEMBER,
        Statement::Forget(_) => FORGET,
        Statement::LookParked(_) => IS_PARKED,
        Statement::ParkRecord(_) => PARK_RECORD,
        Statement::ParkKey(..) => PARK_KEY,
        Statement::WaitAgain(..) => REQUEST,
        Statement::Unpark(..) => UNPARK,
        Statement::CountLeft(_) => LEFT,
        Statement::Free(_) => FREE,
    };
    if matches!(sql, REMEMBER | PARK_RECORD | PARK_KEY) {
        binds.push(now().0.into());
    }
    (sql, binds)
}

/// The receiver's row for a lane. Binds: consumer, source, incarnation, partition.
pub(crate) const LANE_STATE: &str =
    "SELECT sequence, last_id, attempt_first, attempts, redriven, gap FROM onewrite_inbox
     WHERE consumer = ?1 AND source = ?2 AND incarnation = ?3 AND partition = ?4";

/// Writes the receiver's row. Binds: consumer, source, incarnation, partition, sequence, last id,
/// attempt's first, attempts, highest re-driven, gap.
pub(crate) const MOVE_MARK: &str =
    "INSERT INTO onewrite_inbox (consumer, source, incarnation, partition, sequence, last_id, attempt_first, attempts, redriven, gap)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
     ON CONFLICT (consumer, source, incarnation, partition)
     DO UPDATE SET sequence = excluded.sequence, last_id = excluded.last_id,
                   attempt_first = excluded.attempt_first, attempts = excluded.attempts, redriven = excluded.redriven, gap = excluded.gap";

/// Insert first: one row when the id is new, none when it was seen. Binds: consumer, source, id, now.
pub(crate) const REMEMBER: &str = "INSERT INTO onewrite_inbox_id (consumer, source, id, seen_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";

/// Takes back [`REMEMBER`]. Binds: consumer, source, id.
pub(crate) const FORGET: &str =
    "DELETE FROM onewrite_inbox_id WHERE consumer = ?1 AND source = ?2 AND id = ?3";

/// Whether any key is parked. Binds: scope.
pub(crate) const ANY_PARKED: &str =
    "SELECT EXISTS (SELECT 1 FROM onewrite_parked_key WHERE scope = ?1)";

/// How often a key is parked: once or not at all. Binds: scope, source, key.
pub(crate) const IS_PARKED: &str =
    "SELECT count(*) FROM onewrite_parked_key WHERE scope = ?1 AND source = ?2 AND key = ?3";

/// Appends a record to its key's parked ones. Binds: scope, source, incarnation, sequence, partition,
/// then the event's columns, its time or null, and now.
pub(crate) const PARK_RECORD: &str = concat!(
    "INSERT INTO onewrite_parked (scope, origin, incarnation, sequence, partition, ",
    event_columns!(),
    ") VALUES (?1, ?2, ?3, ?4, ?5, coalesce(?6, ?23), ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)"
);

/// Parks a key, unless it is. Binds: scope, source, key, partition, reason, now.
pub(crate) const PARK_KEY: &str =
    "INSERT INTO onewrite_parked_key (scope, source, key, partition, reason, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
     ON CONFLICT DO NOTHING";

/// What is asked for a parked key. Binds: scope, source, key.
pub(crate) const REQUESTED: &str =
    "SELECT request FROM onewrite_parked_key WHERE scope = ?1 AND source = ?2 AND key = ?3";

/// Says what is to happen to a key. Binds: scope, key, request, reason or null, source.
pub(crate) const REQUEST: &str =
    "UPDATE onewrite_parked_key SET request = ?3, reason = coalesce(?4, reason), redrives = redrives + (?4 IS NOT NULL)
     WHERE scope = ?1 AND key = ?2 AND source = ?5";

/// Removes one parked record. Binds: position, scope, source, key.
pub(crate) const UNPARK: &str =
    "DELETE FROM onewrite_parked WHERE position = ?1 AND scope = ?2 AND origin = ?3 AND key = ?4";

/// How many records of a key are parked. Binds: scope, source, key.
pub(crate) const LEFT: &str =
    "SELECT count(*) FROM onewrite_parked WHERE scope = ?1 AND origin = ?2 AND key = ?3";

/// Frees a key. Binds: scope, source, key.
pub(crate) const FREE: &str =
    "DELETE FROM onewrite_parked_key WHERE scope = ?1 AND source = ?2 AND key = ?3";

/// The first table that changed without an event.
pub(crate) const DEBTOR: &str = "SELECT guarded FROM onewrite_debt LIMIT 1";
