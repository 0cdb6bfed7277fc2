//! The barrier of a participant whose effect is in PostgreSQL: passed first, in the transaction of the
//! effect.
//!
//! See [`onewrite_core::saga::barrier`] for what it guarantees. A rival's open transaction is waited for. At
//! `REPEATABLE READ` and above one that commits behind this one's snapshot makes the server refuse this one
//! ([`onewrite_core::Code::StoreBusy`]), which is to be tried again; a passage is never wrong. Facts are
//! stored in the table `dtm_barrier.barrier`, which `sql/barrier.sql` documents for other languages.

use std::time::Duration;

use onewrite_core::{
    Result,
    saga::barrier::{self, Barrier, Passage},
};
use tokio_postgres::{
    GenericClient, Row,
    types::{ToSql, Type},
};

use crate::{UserTransaction, error::While};

/// Makes the table, one process at a time: two that make a schema at once are in each other's way.
pub(crate) const CREATE: &str = concat!(
    "SELECT pg_advisory_xact_lock(hashtext('dtm_barrier.barrier'));\n",
    include_str!("../sql/barrier.sql")
);

/// Whether the table is there. Who may not make it may use it.
pub(crate) const IS_MADE: &str = "SELECT to_regclass('dtm_barrier.barrier') IS NOT NULL";

/// Inserts the rows of a call in their order, the origin's first (an empty text says that there is none), and
/// answers with the operations whose rows were not there. An insert waits for a rival's open transaction;
/// one statement is enough, since it is the unique index that decides and not a snapshot.
pub(crate) const INSERT: &str = "INSERT INTO dtm_barrier.barrier \
    (trans_type, gid, branch_id, barrier_id, op, reason, create_time, update_time) \
    SELECT $1::text, $2::text, $3::text, $4::text, op, $5::text, now(), now() \
    FROM (VALUES (1, $6::text), (2, $5::text)) AS wanted (place, op) WHERE op <> '' ORDER BY place \
    ON CONFLICT ON CONSTRAINT uniq_barrier DO NOTHING RETURNING op::text";

/// Why a row is there. In a statement of its own: the one that inserts does not see what was committed while
/// it waited.
pub(crate) const REASON: &str = "SELECT reason::text FROM dtm_barrier.barrier \
    WHERE gid = $1::text AND branch_id = $2::text AND barrier_id = $3::text AND op = $4::text";

/// The planted defect: which rows of a call are there.
pub(crate) const LOOK: &str = "SELECT op::text FROM dtm_barrier.barrier \
    WHERE gid = $1::text AND branch_id = $2::text AND barrier_id = $3::text";

/// Deletes some of the rows that are older than so many seconds.
pub(crate) const FORGET: &str = "DELETE FROM dtm_barrier.barrier WHERE id IN (SELECT id FROM dtm_barrier.barrier \
    WHERE create_time < now() - $1::int8 * interval '1 second' ORDER BY create_time LIMIT 1000)";

/// What one `FORGET` deletes at most.
pub(crate) const CHUNK: u64 = 1000;

/// What is being done, should it fail.
pub(crate) const PASS: &str = "pass the barrier (`barrier::create` makes its table)";

/// Makes the barrier's table, where it is missing.
///
/// # Errors
/// What the database says.
pub async fn create(client: &impl GenericClient) -> Result<()> {
    let making = "make the barrier's table";
    let found = client.query_typed(IS_MADE, &[]).await.during(making)?;
    if found.first().is_some_and(|row| row.get(0)) {
        return Ok(());
    }
    client.batch_execute(CREATE).await.during(making)
}

/// Passes `barrier` in the transaction `tx`, and says what the call is to do. Pass it before anything else,
/// carry the effect out in the same transaction on [`Passage::Act`] alone, and commit in any case. After an
/// error roll back: the call is to be tried again.
///
/// One round trip, and a second one for an action that came before. Nothing is prepared on a transaction of
/// `tokio-postgres`, so it works behind any pooler.
///
/// # Errors
/// [`onewrite_core::Code::StoreBusy`] when the server ended this transaction for the sake of another,
/// [`onewrite_core::Code::SchemaMissing`], or what the database says.
pub async fn pass(tx: &impl UserTransaction, barrier: &Barrier) -> Result<Passage> {
    run(&mut Typed(tx), barrier).await
}

/// Deletes the rows that are older than `kept`, a thousand at a time; says how many. Call it outside a
/// transaction, now and then. What comes after its row is gone is carried out again, so let `kept` exceed
/// the longest that a call can be under way: retries, queues and stalled processes together.
///
/// Rows without a `create_time`, which programs of dtm leave in a table that dtm itself made, stay.
///
/// # Errors
/// [`onewrite_core::Code::UnsafeSetting`] for less than [`barrier::KEPT_MIN`], or what the database says.
pub async fn forget(client: &impl GenericClient, kept: Duration) -> Result<u64> {
    let kept = barrier::kept_secs(kept)?;
    let mut forgotten = 0;
    loop {
        let deleted = client.execute_typed(FORGET, &[(&kept, Type::INT8)]).await;
        let deleted = deleted.during("forget old rows of the barrier")?;
        forgotten += deleted;
        if deleted < CHUNK {
            return Ok(forgotten);
        }
    }
}

/// What runs the barrier's statements: `tokio_postgres`, or the `sqlx` of a user.
pub(crate) trait Asks {
    /// Runs a statement that takes texts; the texts of the one column that it answers with.
    async fn texts(&mut self, sql: &'static str, binds: &[&str]) -> Result<Vec<String>>;
}

struct Typed<'a, T>(&'a T);

impl<T: UserTransaction> Asks for Typed<'_, T> {
    async fn texts(&mut self, sql: &'static str, binds: &[&str]) -> Result<Vec<String>> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            binds.iter().map(|text| (text as &(dyn ToSql + Sync), Type::TEXT)).collect();
        let rows = self.0.run(sql, &typed).await.during(PASS)?;
        rows.iter().map(|row: &Row| row.try_get(0)).collect::<Result<_, _>>().during(PASS)
    }
}

/// The same for any client.
pub(crate) async fn run(on: &mut impl Asks, barrier: &Barrier) -> Result<Passage> {
    let [trans_type, gid, branch, op, number, _] = barrier.row(barrier.op());
    let origin = barrier.origin().unwrap_or_default();
    let there = match barrier.looks_first() {
        true => Some(on.texts(LOOK, &[gid, branch, number]).await?),
        false => None,
    };
    let binds = [trans_type, gid, branch, number, op, origin];
    let mut inserted = on.texts(INSERT, &binds).await?;
    if let Some(there) = there {
        let missing = barrier.ops().into_iter().filter(|op| !there.iter().any(|there| there == op));
        inserted = missing.map(str::to_owned).collect();
    }
    if let Some(passage) = barrier.passage(&inserted) {
        return Ok(passage);
    }
    let reason = on.texts(REASON, &[gid, branch, number, op]).await?;
    barrier.passage_of(reason.first().map(String::as_str))
}
