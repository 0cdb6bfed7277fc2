//! Leases: renewing, taking a fair share, taking over what has expired.

use std::time::Duration;

use deadpool_postgres::Transaction;
use onewrite_core::{
    Result,
    lease::{Fence, share},
    store::{Claim, Claimed, LeaseState},
};
use tokio_postgres::Client;

use crate::{
    error::{While, after_commit},
    row,
};

/// The class of this schema's advisory locks: "onew" in ASCII.
pub(crate) const LOCKS: i32 = 1_869_505_911;

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// One member's claim, in one transaction. Claims of one scope follow one another.
pub(crate) async fn claim(tx: Transaction<'_>, claim: &Claim) -> Result<Claimed> {
    let (scope, owner) = (&*claim.scope, &*claim.owner);
    let ttl = seconds(claim.ttl);
    let counts = join(&tx, claim).await?;
    let fair = share(
        usize::from(claim.leases),
        counts.members,
        counts.held,
        extras(&tx, claim, counts.members).await?,
    );
    let mut taken = 0;
    if claim.take && fair.take > 0 {
        taken = tx
            .execute(
                &tx.prepare_cached(
                    "UPDATE onewrite.lease l SET owner = $2, epoch = l.epoch + 1, expires_at = clock_timestamp() + make_interval(secs => $3),
                         takeovers = l.takeovers + (l.owner IS NOT NULL)::int
                     FROM (SELECT partition FROM onewrite.lease
                           WHERE scope = $1 AND (owner IS NULL OR (owner <> $2 AND expires_at <= clock_timestamp()))
                           ORDER BY partition LIMIT $4 FOR UPDATE SKIP LOCKED) free
                     WHERE l.scope = $1 AND l.partition = free.partition",
                )
                .await
                .during("take leases")?,
                &[&scope, &owner, &ttl, &i64::try_from(fair.take).unwrap_or(i64::MAX)],
            )
            .await
            .during("take leases")?;
    }
    let held = held_by(&tx, claim).await?;
    if taken == 0 {
        // A renewal that a crash of the server undoes only ends a lease early. An epoch must not be
        // undone: the next owner would get the same one.
        tx.batch_execute("SET LOCAL synchronous_commit TO OFF").await.during("renew leases")?;
    }
    tx.commit().await.map_err(after_commit)?;
    Ok(Claimed { held, give_back: fair.give_back })
}

struct Counts {
    members: usize,
    held: usize,
}

/// Signs the member on, removes those who have gone, makes the leases of a new scope, renews.
async fn join(tx: &Transaction<'_>, claim: &Claim) -> Result<Counts> {
    let (scope, owner) = (&*claim.scope, &*claim.owner);
    let ttl = seconds(claim.ttl);
    tx.execute(
        &tx.prepare_cached("SELECT pg_advisory_xact_lock(1869505912, hashtext($1))")
            .await
            .during("claim leases")?,
        &[&scope],
    )
    .await
    .during("wait for another claim")?;
    tx.execute(
        &tx.prepare_cached(
            "INSERT INTO onewrite.member (scope, owner, seen_until) VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
             ON CONFLICT (scope, owner) DO UPDATE SET seen_until = excluded.seen_until",
        )
        .await
        .during("sign on")?,
        &[&scope, &owner, &ttl],
    )
    .await
    .during("sign on")?;
    tx.execute(
        &tx.prepare_cached(
            "DELETE FROM onewrite.member WHERE scope = $1 AND seen_until < clock_timestamp()",
        )
        .await
        .during("sign off who has gone")?,
        &[&scope],
    )
    .await
    .during("sign off who has gone")?;
    tx.execute(
        &tx.prepare_cached(
            "INSERT INTO onewrite.lease (scope, partition) SELECT $1, p FROM generate_series(0, $2::integer - 1) p
             WHERE (SELECT count(*) FROM onewrite.lease WHERE scope = $1) < $2
             ON CONFLICT DO NOTHING",
        )
        .await
        .during("lay out leases")?,
        &[&scope, &i32::from(claim.leases)],
    )
    .await
    .during("lay out leases")?;
    let held = tx
        .execute(
            &tx.prepare_cached(
                "UPDATE onewrite.lease SET expires_at = clock_timestamp() + make_interval(secs => $3) WHERE scope = $1 AND owner = $2",
            )
            .await
            .during("renew leases")?,
            &[&scope, &owner, &ttl],
        )
        .await
        .during("renew leases")?;
    let members = tx
        .query_one(
            &tx.prepare_cached("SELECT count(*) FROM onewrite.member WHERE scope = $1")
                .await
                .during("count the members")?,
            &[&scope],
        )
        .await
        .during("count the members")?;
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Counts { members: count(row::number(&members, 0)?), held: count(held) })
}

/// How many other members hold more than the even share.
async fn extras(tx: &Transaction<'_>, claim: &Claim, members: usize) -> Result<usize> {
    let even = i64::from(claim.leases) / i64::try_from(members.max(1)).unwrap_or(i64::MAX);
    let found = tx
        .query_one(
            &tx.prepare_cached(
                "SELECT count(*) FROM (SELECT 1 FROM onewrite.lease WHERE scope = $1 AND owner <> $2 GROUP BY owner HAVING count(*) > $3) more",
            )
            .await
            .during("compare shares")?,
            &[&&*claim.scope, &&*claim.owner, &even],
        )
        .await
        .during("compare shares")?;
    Ok(usize::try_from(row::number(&found, 0)?).unwrap_or(usize::MAX))
}

async fn held_by(tx: &Transaction<'_>, claim: &Claim) -> Result<Vec<Fence>> {
    let rows = tx
        .query(
            &tx.prepare_cached(
                "SELECT partition, epoch FROM onewrite.lease WHERE scope = $1 AND owner = $2 ORDER BY partition",
            )
            .await
            .during("read the leases held")?,
            &[&&*claim.scope, &&*claim.owner],
        )
        .await
        .during("read the leases held")?;
    rows.iter()
        .map(|found| {
            let (partition, epoch) = (row::partition(found, 0)?, row::number(found, 1)?);
            Ok(Fence { scope: claim.scope.clone(), partition, epoch })
        })
        .collect()
}

pub(crate) async fn leases(client: &Client) -> Result<Vec<LeaseState>> {
    let rows = client
        .query(
            "SELECT scope, partition, owner, epoch, expires_at, takeovers FROM onewrite.lease ORDER BY scope, partition",
            &[],
        )
        .await
        .during("list the leases")?;
    rows.iter()
        .map(|found| {
            Ok(LeaseState {
                scope: row::text(found, 0)?,
                partition: row::partition(found, 1)?,
                owner: row::option(found, 2)?,
                epoch: row::number(found, 3)?,
                expires_at: row::time(found, 4)?.unwrap_or_default(),
                takeovers: row::number(found, 5)?,
            })
        })
        .collect()
}
