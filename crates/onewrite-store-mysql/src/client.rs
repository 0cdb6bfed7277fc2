//! What runs the store's statements: `mysql_async`, or the `sqlx` of a user.

use mysql_async::{Params, Row, Value, prelude::Queryable};
use onewrite_core::Result;

use crate::error::While;

/// A connection or transaction. `context` says what is being done, should it fail.
pub(crate) trait Client {
    type Row: Cells;

    /// Runs a prepared statement; says how many rows it found to write.
    async fn execute(&mut self, sql: &str, binds: Params, context: &str) -> Result<u64>;

    /// Runs a prepared query.
    async fn query(&mut self, sql: &str, binds: Params, context: &str) -> Result<Vec<Self::Row>>;

    /// Runs a statement or query as it stands.
    async fn text(&mut self, sql: &str, context: &str) -> Result<Vec<Self::Row>>;
}

/// A row that was found.
pub(crate) trait Cells {
    /// Takes a column out of it; null if there is none.
    fn cell(&mut self, index: usize) -> Value;
}

impl<Q: Queryable> Client for Q {
    type Row = Row;

    async fn execute(&mut self, sql: &str, binds: Params, context: &str) -> Result<u64> {
        let done = async {
            let result = self.exec_iter(sql, binds).await?;
            let affected = result.affected_rows();
            result.drop_result().await.map(|()| affected)
        };
        done.await.during(context)
    }

    async fn query(&mut self, sql: &str, binds: Params, context: &str) -> Result<Vec<Row>> {
        self.exec(sql, binds).await.during(context)
    }

    async fn text(&mut self, sql: &str, context: &str) -> Result<Vec<Row>> {
        Queryable::query(self, sql).await.during(context)
    }
}

impl Cells for Row {
    fn cell(&mut self, index: usize) -> Value {
        self.take(index).unwrap_or(Value::NULL)
    }
}
