//! Sagas in a list.

use std::fmt::Write as _;

use deadpool_postgres::Client;
use onewrite_core::{
    Result,
    sabotage::Sabotage,
    saga::journal::{ListSagas, SagaHead, State, Waits},
};
use tokio_postgres::{Row, types::ToSql};

use super::Id;
use crate::{
    error::While,
    row::{self, Time},
};

/// What is not asked for is null, an empty array or false, and falls away before the statement is planned.
/// `{attributes}` is a condition for each attribute, or nothing: beside an OR it would not be looked up.
const LIST: &str = "SELECT id, name, key, run, definition, state, waits, due_at, started_at, ended_at, parent FROM onewrite.saga
     WHERE ($1::text IS NULL OR name = $1) AND ($2::text IS NULL OR key = $2)
         AND (cardinality($3::text[]) = 0 OR state = ANY($3))
         AND ($4::timestamptz IS NULL OR started_at >= $4) AND ($5::timestamptz IS NULL OR started_at < $5)
         AND ($6::uuid IS NULL OR id < $6) AND (NOT $7::boolean OR ended_at IS NULL)
         {attributes}
     ORDER BY id DESC LIMIT $8";

/// Sagas in a list, the newest first.
pub(crate) async fn heads(
    client: &Client,
    list: &ListSagas,
    sabotage: Sabotage,
) -> Result<Vec<SagaHead>> {
    let (name, key) = (list.name.as_deref(), list.key.as_deref());
    let states: Vec<&str> = list.states.iter().map(|state| state.as_str()).collect();
    let (from, before) = (list.started_from.map(Time), list.started_before.map(Time));
    let (behind, only_unfinished) = (list.behind.map(Id), list.only_unfinished());
    let limit = i64::try_from(list.limit).unwrap_or(i64::MAX);
    let mut binds: Vec<&(dyn ToSql + Sync)> =
        vec![&name, &key, &states, &from, &before, &behind, &only_unfinished, &limit];
    let attributes: Vec<[&str; 2]> =
        list.attributes(sabotage).iter().map(|one| [&*one.name, &*one.value]).collect();
    let mut having = String::new();
    for [name, value] in &attributes {
        let (first, second) = (binds.len() + 1, binds.len() + 2);
        let _ = write!(
            having,
            "AND id IN (SELECT saga FROM onewrite.saga_attribute WHERE name = ${first} AND value = ${second}) "
        );
        binds.extend([name as &(dyn ToSql + Sync), value]);
    }
    // Prepared anew each time, so that it is planned for what is asked.
    let rows =
        client.query(&LIST.replace("{attributes}", &having), &binds).await.during("list sagas")?;
    rows.iter().map(head).collect()
}

fn head(found: &Row) -> Result<SagaHead> {
    let (state, waits) = (row::text(found, 5)?, row::text(found, 6)?);
    let parent = row::option(found, 10)?;
    let id: Id = found.try_get(0).during("read a saga")?;
    let run: i32 = found.try_get(3).during("read a saga")?;
    let head = SagaHead {
        id: id.0,
        name: row::text(found, 1)?,
        key: row::text(found, 2)?,
        run: run.cast_unsigned(),
        state: State::Running,
        waits: Waits::Lease,
        due: row::time(found, 7)?,
        started_at: row::time(found, 8)?.unwrap_or_default(),
        ended_at: row::time(found, 9)?,
        parent: None,
        definition: row::text(found, 4)?,
        unreadable: None,
    };
    Ok(head.with_words(&state, &waits, parent.as_deref()))
}
