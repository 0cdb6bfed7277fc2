//! Leases: renewing, taking a fair share, taking over what has expired.

use onewrite_core::{
    Result, Text, Timestamp,
    lease::{Fence, share},
    sabotage::{Defect, Sabotage},
    store::{Claim, Claimed, LeaseState},
};
use rusqlite::{Connection, params};

use crate::{error::While, process, writer::now};

/// One member's claim, in one transaction.
pub(crate) fn claim(tx: &Connection, claim: &Claim) -> Result<Claimed> {
    let partitions = claim.leases;
    let (scope, owner) = (&*claim.scope, &*claim.owner);
    let at = now();
    let until = at.plus(claim.ttl).0;
    let members = join(tx, scope, owner, at, until)?;
    lay_out(tx, scope, partitions)?;
    let held = execute(
        tx,
        "UPDATE onewrite_lease SET expires_at = ?3 WHERE scope = ?1 AND owner = ?2",
        params![scope, owner, until],
    )?;
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let fair = share(
        usize::from(partitions),
        count(members),
        count(held),
        count(extras(tx, scope, owner, partitions, members)?),
    );
    if claim.take && fair.take > 0 {
        execute(
            tx,
            "UPDATE onewrite_lease SET owner = ?2, epoch = epoch + 1, expires_at = ?3, takeovers = takeovers + (owner IS NOT NULL)
             WHERE scope = ?1 AND partition IN (
                 SELECT partition FROM onewrite_lease
                 WHERE scope = ?1 AND (owner IS NULL OR (owner <> ?2 AND expires_at <= ?4))
                 ORDER BY partition LIMIT ?5)",
            params![scope, owner, until, at.0, i64::try_from(fair.take).unwrap_or(i64::MAX)],
        )?;
    }
    Ok(Claimed { held: held_by(tx, claim)?, give_back: fair.give_back })
}

/// Signs the member on, buries those who have gone, and counts the living.
fn join(tx: &Connection, scope: &str, owner: &str, at: Timestamp, until: i64) -> Result<u64> {
    execute(
        tx,
        "INSERT INTO onewrite_member (scope, owner, seen_until, process) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (scope, owner) DO UPDATE SET seen_until = excluded.seen_until, process = excluded.process",
        params![scope, owner, until, process::this()],
    )?;
    let mut statement = tx
        .prepare_cached(
            "SELECT owner, process FROM onewrite_member WHERE scope = ?1 AND process <> ?2",
        )
        .during("list the members")?;
    let others = statement
        .query_map(params![scope, process::this()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .during("list the members")?;
    for (other, _) in others.iter().filter(|(_, process)| process::has_ended(process)) {
        // Its leases are as good as expired: it cannot wake up and renew them.
        execute(
            tx,
            "UPDATE onewrite_lease SET expires_at = 0 WHERE scope = ?1 AND owner = ?2",
            params![scope, other],
        )?;
        leave(tx, scope, other)?;
    }
    execute(
        tx,
        "DELETE FROM onewrite_member WHERE scope = ?1 AND seen_until < ?2",
        params![scope, at.0],
    )?;
    number(tx, "SELECT count(*) FROM onewrite_member WHERE scope = ?1", params![scope])
        .map(i64::cast_unsigned)
}

/// How many other members hold more than the even share.
fn extras(tx: &Connection, scope: &str, owner: &str, partitions: u16, members: u64) -> Result<u64> {
    let even = i64::from(partitions) / members.max(1).cast_signed();
    number(
        tx,
        "SELECT count(*) FROM (SELECT 1 FROM onewrite_lease WHERE scope = ?1 AND owner <> ?2 GROUP BY owner HAVING count(*) > ?3)",
        params![scope, owner, even],
    )
    .map(i64::cast_unsigned)
}

/// Whether any member of any scope may still act, as far as can be told.
pub(crate) fn anybody_lives(connection: &Connection) -> Result<bool> {
    let mut statement = connection
        .prepare("SELECT process FROM onewrite_member WHERE seen_until >= ?1")
        .during("list the members")?;
    let processes = statement
        .query_map([now().0], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .during("list the members")?;
    Ok(processes.iter().any(|process| !process::has_ended(process)))
}

/// Makes the leases of a new scope.
fn lay_out(tx: &Connection, scope: &str, partitions: u16) -> Result<()> {
    if number(tx, "SELECT count(*) FROM onewrite_lease WHERE scope = ?1", params![scope])? > 0 {
        return Ok(());
    }
    execute(
        tx,
        "WITH RECURSIVE every(partition) AS (SELECT 0 UNION ALL SELECT partition + 1 FROM every WHERE partition + 1 < ?2)
         INSERT INTO onewrite_lease (scope, partition) SELECT ?1, partition FROM every",
        params![scope, partitions],
    )
    .map(|_| ())
}

fn held_by(tx: &Connection, claim: &Claim) -> Result<Vec<Fence>> {
    tx.prepare_cached("SELECT partition, epoch FROM onewrite_lease WHERE scope = ?1 AND owner = ?2 ORDER BY partition")
        .and_then(|mut statement| {
            let rows = statement.query_map(params![&*claim.scope, &*claim.owner], |row| {
                let epoch = row.get::<_, i64>(1)?.cast_unsigned();
                Ok(Fence { scope: claim.scope.clone(), partition: row.get(0)?, epoch })
            })?;
            rows.collect()
        })
        .during("read the leases held")
}

/// Whether `fence` is still the current owner's.
fn holds(tx: &Connection, fence: &Fence, sabotage: Sabotage) -> Result<bool> {
    if sabotage.has(Defect::NoFence) {
        return Ok(true);
    }
    let epoch = fence.epoch.cast_signed();
    let found = number(
        tx,
        "SELECT count(*) FROM onewrite_lease WHERE scope = ?1 AND partition = ?2 AND epoch = ?3 AND owner IS NOT NULL",
        params![&*fence.scope, fence.partition, epoch],
    )?;
    Ok(found == 1)
}

/// What was found of the leases that the items of one batch are written under: looked at once, for nobody
/// else writes meanwhile.
#[derive(Default)]
pub(crate) struct Held {
    known: Vec<(Fence, bool)>,
}

impl Held {
    /// Whether `fence` is still the current owner's.
    pub(crate) fn holds(
        &mut self,
        tx: &Connection,
        fence: &Fence,
        sabotage: Sabotage,
    ) -> Result<bool> {
        if let Some((_, holds)) = self.known.iter().find(|(known, _)| known == fence) {
            return Ok(*holds);
        }
        let holds = holds(tx, fence, sabotage)?;
        self.known.push((fence.clone(), holds));
        Ok(holds)
    }

    /// The batch itself has changed a lease, or may have.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }
}

/// Gives a lease back; another owner's lease is left alone.
pub(crate) fn release(tx: &Connection, fence: &Fence) -> Result<u64> {
    execute(
        tx,
        "UPDATE onewrite_lease SET owner = NULL, expires_at = 0 WHERE scope = ?1 AND partition = ?2 AND epoch = ?3",
        params![&*fence.scope, fence.partition, fence.epoch.cast_signed()],
    )
}

/// Takes a member off the list, so that the others share what it held at once.
pub(crate) fn leave(tx: &Connection, scope: &str, owner: &str) -> Result<u64> {
    execute(
        tx,
        "DELETE FROM onewrite_member WHERE scope = ?1 AND owner = ?2",
        params![scope, owner],
    )
}

pub(crate) fn leases(connection: &Connection) -> Result<Vec<LeaseState>> {
    let mut statement = connection
        .prepare_cached("SELECT scope, partition, owner, epoch, expires_at, takeovers FROM onewrite_lease ORDER BY scope, partition")
        .during("list the leases")?;
    statement
        .query_map([], |row| {
            Ok(LeaseState {
                scope: row.get::<_, String>(0)?.into(),
                partition: row.get(1)?,
                owner: row.get::<_, Option<String>>(2)?.map(Text::from),
                epoch: row.get::<_, i64>(3)?.cast_unsigned(),
                expires_at: Timestamp(row.get(4)?),
                takeovers: row.get::<_, i64>(5)?.cast_unsigned(),
            })
        })
        .and_then(Iterator::collect)
        .during("list the leases")
}

pub(crate) fn execute(
    tx: &Connection,
    sql: &'static str,
    binds: impl rusqlite::Params,
) -> Result<u64> {
    tx.prepare_cached(sql)
        .and_then(|mut statement| statement.execute(binds))
        .during("write")
        .map(|count| count as u64)
}

pub(crate) fn number(
    tx: &Connection,
    sql: &'static str,
    binds: impl rusqlite::Params,
) -> Result<i64> {
    tx.prepare_cached(sql)
        .and_then(|mut statement| statement.query_row(binds, |row| row.get(0)))
        .during("count")
}
