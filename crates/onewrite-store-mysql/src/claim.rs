//! Leases: renewing, taking a fair share, taking over what has expired.

use mysql_async::{Conn, Row, prelude::Queryable};
use onewrite_core::{
    Result,
    lease::Fence,
    saga::journal::SCOPE,
    store::{Claim, Claimed, LeaseState},
};

use crate::{
    error::While,
    row::{self, binds, query},
};

/// One member's claim: one call, carried out by the server as a whole.
pub(crate) async fn claim(conn: &mut Conn, claim: &Claim) -> Result<Claimed> {
    let ttl = i64::try_from(claim.ttl.as_micros()).unwrap_or(i64::MAX);
    let binds = binds![&*claim.scope, claim.leases, &*claim.owner, ttl, claim.take];
    let (held, give_back) = async {
        let mut results = conn.exec_iter("CALL onewrite_claim(?, ?, ?, ?, ?)", binds).await?;
        let held: Vec<Row> = results.collect().await?;
        let give_back: Vec<Row> = results.collect().await?;
        results.drop_result().await.map(|()| (held, give_back))
    }
    .await
    .during("claim leases")?;
    let fence = |mut found: Row| {
        let partition = row::get(&mut found, 0)?;
        Ok(Fence { scope: claim.scope.clone(), partition, epoch: row::number(&mut found, 1)? })
    };
    let give_back = give_back.into_iter().next();
    let give_back = give_back.map_or(Ok(0), |mut found| row::get(&mut found, 0))?;
    Ok(Claimed { held: held.into_iter().map(fence).collect::<Result<_>>()?, give_back })
}

/// Whether `fence` is still the current owner's. Locks the lease: a takeover waits for this commit. Other
/// writers of sagas do not.
pub(crate) async fn holds(tx: &mut impl Queryable, fence: &Fence) -> Result<bool> {
    let sql = match fence.scope == SCOPE {
        true => {
            "SELECT 1 FROM onewrite_lease WHERE scope = ? AND `partition` = ? AND epoch = ? AND owner IS NOT NULL LOCK IN SHARE MODE"
        }
        false => {
            "SELECT 1 FROM onewrite_lease WHERE scope = ? AND `partition` = ? AND epoch = ? AND owner IS NOT NULL FOR UPDATE"
        }
    };
    let binds = binds![&*fence.scope, fence.partition, fence.epoch.cast_signed()];
    Ok(!query(tx, sql, binds).await?.is_empty())
}

pub(crate) async fn leases(conn: &mut Conn) -> Result<Vec<LeaseState>> {
    let sql = "SELECT scope, `partition`, owner, epoch, expires_at, takeovers FROM onewrite_lease ORDER BY scope, `partition`";
    let lease = |mut found: Row| {
        Ok(LeaseState {
            scope: row::text(&mut found, 0)?,
            partition: row::get(&mut found, 1)?,
            owner: row::option(&mut found, 2)?,
            epoch: row::number(&mut found, 3)?,
            expires_at: row::time(&mut found, 4)?.unwrap_or_default(),
            takeovers: row::number(&mut found, 5)?,
        })
    };
    query(conn, sql, binds![]).await?.into_iter().map(lease).collect()
}
