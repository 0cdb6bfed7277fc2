//! The four databases of a shop, opened by somebody who only reads them.

use std::{collections::BTreeMap, sync::Arc};

use onewrite::{Code, Error, Result};

use crate::{
    Role,
    database::{self, Database},
};

/// The databases of all services.
pub struct Books(BTreeMap<Role, Arc<dyn Database>>);

impl Books {
    /// Opens those at the URLs of `stores`.
    ///
    /// # Errors
    /// What the stores say.
    pub async fn open(stores: &[(Role, String)]) -> Result<Self> {
        let mut books = BTreeMap::new();
        for (role, url) in stores {
            books.insert(*role, database::open(url, None).await?);
        }
        Ok(Self(books))
    }

    /// The database of `role`.
    ///
    /// # Errors
    /// When it was not named.
    pub fn of(&self, role: Role) -> Result<&dyn Database> {
        let missing =
            || Error::new(Code::NotFound, format!("the {} service has no database", role.name()));
        self.0.get(&role).map(|database| &**database).ok_or_else(missing)
    }

    /// How many orders have ended.
    ///
    /// # Errors
    /// What the database says.
    pub async fn ended(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM orders WHERE state <> 'pending'";
        Ok(self.of(Role::Order)?.number(sql).await?.cast_unsigned())
    }

    /// How many sagas have ended.
    ///
    /// # Errors
    /// What the database says.
    pub async fn sagas_ended(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM onewrite_saga WHERE state IN ('completed', 'compensated')";
        Ok(self.of(Role::Order)?.number(sql).await?.cast_unsigned())
    }

    /// How long orders took from placed to ended, in microseconds, shortest first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn latencies_us(&self) -> Result<Vec<i64>> {
        let sql =
            "SELECT id, CAST(ended_at - placed_at AS TEXT) FROM orders WHERE ended_at IS NOT NULL";
        let rows = self.of(Role::Order)?.pairs(sql).await?;
        let mut times: Vec<i64> =
            rows.iter().filter_map(|(_, micros)| micros.parse().ok()).collect();
        times.sort_unstable();
        Ok(times)
    }

    /// How often a partition was taken from an owner that had not given it back.
    ///
    /// # Errors
    /// What the stores say.
    pub async fn takeovers(&self) -> Result<u64> {
        let mut sum = 0;
        for database in self.0.values() {
            let leases = database.store().leases().await?;
            sum += leases.iter().map(|lease| lease.takeovers).sum::<u64>();
        }
        Ok(sum)
    }
}
