//! The store's statements on a connection of `sqlx`.

use mysql_async::{Params, Value};
use onewrite_core::Result;
use sqlx::{
    AssertSqlSafe, Column as _, MySql, MySqlConnection, Row as _, TypeInfo as _, ValueRef as _,
    mysql::{MySqlArguments, MySqlRow},
    query::Query,
};

use super::failed;
use crate::client::{Cells, Client};

/// A connection on which a transaction is open.
pub(super) struct Sqlx<'a>(pub(super) &'a mut MySqlConnection);

impl Client for Sqlx<'_> {
    type Row = MySqlRow;

    async fn execute(&mut self, sql: &str, binds: Params, context: &str) -> Result<u64> {
        let done = bound(sql, binds).execute(&mut *self.0).await;
        done.map(|done| done.rows_affected()).map_err(|error| failed(context, error))
    }

    async fn query(&mut self, sql: &str, binds: Params, context: &str) -> Result<Vec<MySqlRow>> {
        let found = bound(sql, binds).fetch_all(&mut *self.0).await;
        found.map_err(|error| failed(context, error))
    }

    async fn text(&mut self, sql: &str, context: &str) -> Result<Vec<MySqlRow>> {
        let found = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *self.0).await;
        found.map_err(|error| failed(context, error))
    }
}

fn bound(sql: &str, binds: Params) -> Query<'static, MySql, MySqlArguments> {
    let values = if let Params::Positional(values) = binds { values } else { Vec::new() };
    values.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, value| match value {
        Value::Int(number) => query.bind(number),
        Value::UInt(number) => query.bind(number),
        // As text where it is one: compared with a column, bytes would not find its index.
        Value::Bytes(bytes) => match String::from_utf8(bytes) {
            Ok(text) => query.bind(text),
            Err(error) => query.bind(error.into_bytes()),
        },
        _ => query.bind(None::<String>),
    })
}

impl Cells for MySqlRow {
    fn cell(&mut self, index: usize) -> Value {
        let Some(column) = self.columns().get(index) else { return Value::NULL };
        let is_number = column.type_info().name().contains("INT");
        let is_null = self.try_get_raw(index).is_ok_and(|value| value.is_null());
        let value = match (is_null, is_number) {
            (true, _) => return Value::NULL,
            (false, true) => self.try_get_unchecked::<i64, _>(index).map(Value::Int),
            (false, false) => self.try_get_unchecked::<Vec<u8>, _>(index).map(Value::Bytes),
        };
        value.unwrap_or(Value::NULL)
    }
}
