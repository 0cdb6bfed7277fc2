//! Sagas in a list.

use mysql_async::{Conn, Params, Row, Value};
use onewrite_core::{
    Result,
    sabotage::Sabotage,
    saga::{
        Attribute,
        journal::{ListSagas, SagaHead, State, Waits},
    },
};

use super::read_id;
use crate::row::{self, query};

const COLUMNS: &str = "SELECT id, name, `key`, run, definition, state, waits, due_at, started_at, ended_at, parent FROM onewrite_saga";

/// Sagas in a list, the newest first.
pub(crate) async fn heads(
    conn: &mut Conn,
    list: &ListSagas,
    sabotage: Sabotage,
) -> Result<Vec<SagaHead>> {
    let (which, binds) = which(list, sabotage);
    let found = query(conn, &format!("{COLUMNS} {which}"), binds).await?;
    found.into_iter().map(head).collect()
}

/// Which rows are looked for, with what is bound.
fn which(list: &ListSagas, sabotage: Sabotage) -> (String, Params) {
    let filters = [
        ("name = ?", list.name.as_deref().map(Value::from)),
        ("`key` = ?", list.key.as_deref().map(Value::from)),
        ("started_at >= ?", list.started_from.map(|time| Value::from(time.0))),
        ("started_at < ?", list.started_before.map(|time| Value::from(time.0))),
        ("id < ?", list.behind.map(|id| Value::from(id.0.to_be_bytes().to_vec()))),
    ];
    let (mut conditions, mut binds) = (vec!["TRUE".to_owned()], Vec::new());
    for (condition, bind) in filters {
        if let Some(bind) = bind {
            conditions.push(condition.to_owned());
            binds.push(bind);
        }
    }
    if !list.states.is_empty() {
        let words: Vec<&str> = list.states.iter().map(|state| state.as_str()).collect();
        conditions.push(format!("state IN ('{}')", words.join("', '")));
    }
    for Attribute { name, value } in list.attributes(sabotage) {
        let these = "id IN (SELECT saga FROM onewrite_saga_attribute WHERE name = ? AND value = ?)";
        conditions.push(these.to_owned());
        binds.extend([Value::from(&**name), Value::from(&**value)]);
    }
    if list.only_unfinished() {
        conditions.push("ended_at IS NULL".to_owned());
    }
    let which = format!("WHERE {} ORDER BY id DESC LIMIT {}", conditions.join(" AND "), list.limit);
    (which, Params::Positional(binds))
}

fn head(mut found: Row) -> Result<SagaHead> {
    let found = &mut found;
    let (state, waits) = (row::text(found, 5)?, row::text(found, 6)?);
    let parent = row::option(found, 10)?;
    let head = SagaHead {
        id: read_id(found, 0)?,
        name: row::text(found, 1)?,
        key: row::text(found, 2)?,
        run: row::get(found, 3)?,
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
