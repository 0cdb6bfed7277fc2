//! The statements that run on the user's own transaction, in one place: every driver runs the same.

use onewrite_core::inbox::Statement;

use crate::row::event_columns;

/// A session's statement.
pub(crate) const fn of(statement: Statement<'_>) -> &'static str {
    match statement {
        Statement::Remember(_) => REMEMBER,
        Statement::Forget(_) => FORGET,
        Statement::LookParked(_) => IS_PARKED,
        Statement::ParkRecord(_) => PARK_RECORD,
        Statement::ParkKey(..) => PARK_KEY,
        Statement::WaitAgain(..) => REQUEST,
        Statement::Unpark(..) => UNPARK,
        Statement::CountLeft(_) => LEFT,
        Statement::Free(_) => FREE,
    }
}

/// Makes the receiver's rows that are missing. Binds: consumer, sources, incarnations, partitions.
pub(crate) const MAKE_LANES: &str = "INSERT INTO onewrite.inbox (consumer, source, incarnation, partition)
     SELECT $1, * FROM unnest($2::text[], $3::text[], $4::int4[]) ORDER BY 2, 3, 4 ON CONFLICT DO NOTHING";

/// Reads the receiver's rows and locks them, in one order. Binds as [`MAKE_LANES`].
pub(crate) const LOCK_LANES: &str = "SELECT source, incarnation, partition, sequence, last_id, attempt_first, attempts, redriven, gap FROM onewrite.inbox
     WHERE consumer = $1 AND (source, incarnation, partition) IN (SELECT * FROM unnest($2::text[], $3::text[], $4::int4[]))
     ORDER BY source, incarnation, partition FOR NO KEY UPDATE";

/// Writes the receiver's rows. Binds: consumer, then arrays of source, incarnation, partition, sequence,
/// last id, attempt's first, attempts, highest re-driven, gap.
pub(crate) const MOVE_MARKS: &str = "UPDATE onewrite.inbox i SET sequence = s.sequence, last_id = s.last_id, attempt_first = s.attempt_first,
         attempts = s.attempts, redriven = s.redriven, gap = s.gap
     FROM unnest($2::text[], $3::text[], $4::int4[], $5::int8[], $6::text[], $7::int8[], $8::int8[], $9::int8[], $10::int8[])
         AS s (source, incarnation, partition, sequence, last_id, attempt_first, attempts, redriven, gap)
     WHERE i.consumer = $1 AND i.source = s.source AND i.incarnation = s.incarnation AND i.partition = s.partition";

/// Insert first: one row when the id is new, none when it was seen. Binds: consumer, source, id.
pub(crate) const REMEMBER: &str = "INSERT INTO onewrite.inbox_id (consumer, source, id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

/// Takes back [`REMEMBER`]. Binds: consumer, source, id.
pub(crate) const FORGET: &str =
    "DELETE FROM onewrite.inbox_id WHERE consumer = $1 AND source = $2 AND id = $3";

/// Whether any key is parked, and whether any table is guarded. Binds: scope.
pub(crate) const CIRCUMSTANCES: &str = "SELECT EXISTS (SELECT FROM onewrite.parked_key WHERE scope = $1), EXISTS (SELECT FROM onewrite.guard)";

/// A row when the key is parked, locked: a re-drive that would free it waits. Binds: scope, source, key.
pub(crate) const IS_PARKED: &str = "SELECT 1::int8 FROM onewrite.parked_key WHERE scope = $1 AND source = $2 AND key = $3 FOR SHARE";

/// Appends a record to its key's parked ones. Binds: scope, source, incarnation, sequence, partition,
/// then the event's columns, its time in microseconds since 1970 or null.
pub(crate) const PARK_RECORD: &str = concat!(
    "INSERT INTO onewrite.parked (scope, origin, incarnation, sequence, partition, ",
    event_columns!(),
    ") VALUES ($1, $2, $3, $4, $5::int8, coalesce('epoch'::timestamptz + $6::int8 * interval '1 microsecond', clock_timestamp()), \
       $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)"
);

/// Parks a key, unless it is. Binds: scope, source, key, partition, reason.
pub(crate) const PARK_KEY: &str = "INSERT INTO onewrite.parked_key (scope, source, key, partition, reason) VALUES ($1, $2, $3, $4::int8, $5) ON CONFLICT DO NOTHING";

/// What is asked for a parked key, locked. Binds: scope, source, key.
pub(crate) const REQUESTED: &str = "SELECT request FROM onewrite.parked_key WHERE scope = $1 AND source = $2 AND key = $3 FOR UPDATE";

/// Says what is to happen to a key. Binds: scope, key, request, reason or null, source.
pub(crate) const REQUEST: &str = "UPDATE onewrite.parked_key SET request = $3, reason = coalesce($4, reason), redrives = redrives + ($4::text IS NOT NULL)::int
     WHERE scope = $1 AND key = $2 AND source = $5";

/// Removes one parked record. Binds: position, scope, source, key.
pub(crate) const UNPARK: &str =
    "DELETE FROM onewrite.parked WHERE position = $1 AND scope = $2 AND origin = $3 AND key = $4";

/// How many records of a key are parked. Binds: scope, source, key.
pub(crate) const LEFT: &str =
    "SELECT count(*) FROM onewrite.parked WHERE scope = $1 AND origin = $2 AND key = $3";

/// Frees a key. Binds: scope, source, key.
pub(crate) const FREE: &str =
    "DELETE FROM onewrite.parked_key WHERE scope = $1 AND source = $2 AND key = $3";

/// Before a commit that must not be lost: undoes what a handler may have set.
pub(crate) const DURABLE: &str = "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";

/// Begins what one handler writes.
pub(crate) const SAVEPOINT: &str = "SAVEPOINT onewrite";

/// Keeps it.
pub(crate) const RELEASE: &str = "RELEASE SAVEPOINT onewrite";

/// Undoes it.
pub(crate) const ROLL_BACK: &str = "ROLLBACK TO SAVEPOINT onewrite; RELEASE SAVEPOINT onewrite";

/// Each handler answers for its own changes and excuses: forgets those before it, which are settled. Says
/// what was emitted through SQL so far.
pub(crate) const HANDLER_BEGINS: &str = "SELECT CASE WHEN coalesce(current_setting('onewrite.excused', true), '') <> ''
             AND coalesce(current_setting('onewrite.placing', true), '') = ''
         THEN set_config('onewrite.placing', '*', true) ELSE current_setting('onewrite.placing', true) END,
     set_config('onewrite.changed', '', true), set_config('onewrite.excused', '', true)";

/// Whether a guarded table was changed and nothing was said about it; and what was emitted through SQL.
pub(crate) const OWES: &str = "SELECT coalesce(current_setting('onewrite.changed', true), '') = 'yes'
         AND coalesce(current_setting('onewrite.excused', true), '') = '', current_setting('onewrite.placing', true)";
