//! Leases: renewing, taking a fair share, taking over what has expired.

use deadpool_postgres::Client;
use onewrite_core::{
    Result,
    lease::Fence,
    store::{Claim, Claimed, LeaseState},
};

use crate::{error::While, row};

/// The class of this schema's advisory locks: "onew" in ASCII.
pub(crate) const LOCKS: i32 = 1_869_505_911;

/// One member's claim: one call, carried out by the server as a whole.
pub(crate) async fn claim(client: &Client, claim: &Claim) -> Result<Claimed> {
    let statement = client
        .prepare_cached(
            "SELECT partitions, epochs, give_back FROM onewrite.claim($1, $2, $3, make_interval(secs => $4), $5)",
        )
        .await
        .during("claim leases")?;
    let leases = i32::from(claim.leases);
    let ttl = claim.ttl.as_secs_f64();
    let found = client
        .query_one(&statement, &[&&*claim.scope, &leases, &&*claim.owner, &ttl, &claim.take])
        .await
        .during("claim leases")?;
    let partitions: Option<Vec<i32>> = found.try_get(0).during("claim leases")?;
    let epochs: Option<Vec<i64>> = found.try_get(1).during("claim leases")?;
    let held = partitions.unwrap_or_default().into_iter().zip(epochs.unwrap_or_default());
    let fence = |(partition, epoch): (i32, i64)| {
        let partition = u16::try_from(partition).ok()?;
        Some(Fence { scope: claim.scope.clone(), partition, epoch: epoch.cast_unsigned() })
    };
    let give_back = usize::try_from(found.get::<_, i32>(2)).unwrap_or(0);
    Ok(Claimed { held: held.filter_map(fence).collect(), give_back })
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
