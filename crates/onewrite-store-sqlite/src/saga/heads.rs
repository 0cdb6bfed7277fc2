//! Sagas in a list.

use onewrite_core::{
    Result,
    sabotage::Sabotage,
    saga::{
        Attribute, SagaId,
        journal::{ListSagas, SagaHead, State, Waits},
    },
};
use rusqlite::{Connection, Row, params_from_iter, types::Value};

use super::{bound, number, option, text, time};
use crate::error::While;

const COLUMNS: &str = "SELECT id, name, key, run, definition, state, waits, due_at, started_at, ended_at, parent FROM onewrite_saga";

/// Sagas in a list, the newest first.
pub(crate) fn heads(
    connection: &Connection,
    list: &ListSagas,
    sabotage: Sabotage,
) -> Result<Vec<SagaHead>> {
    let (which, binds) = which(list, sabotage);
    // Not kept as others are: it reads as many ways as there are to ask.
    let mut statement = connection.prepare(&format!("{COLUMNS} {which}")).during("list sagas")?;
    let mut rows = statement.query(params_from_iter(binds)).during("list sagas")?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().during("list sagas")? {
        found.push(head(row)?);
    }
    Ok(found)
}

/// Which rows are looked for, with what is bound.
fn which(list: &ListSagas, sabotage: Sabotage) -> (String, Vec<Value>) {
    let word = |word: &str| Value::Text(word.to_owned());
    let filters = [
        ("name = ?", list.name.as_deref().map(word)),
        ("key = ?", list.key.as_deref().map(word)),
        ("started_at >= ?", list.started_from.map(|time| Value::Integer(time.0))),
        ("started_at < ?", list.started_before.map(|time| Value::Integer(time.0))),
        ("id < ?", list.behind.map(|id| Value::Blob(id.0.to_be_bytes().to_vec()))),
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
        binds.extend([word(name), word(value)]);
    }
    // Without being told, SQLite goes through all sagas in their order, also those that ended.
    let mut by = "";
    if list.only_unfinished() {
        conditions.push("ended_at IS NULL".to_owned());
        if list.name.is_none() && list.attributes.is_empty() {
            by = "INDEXED BY onewrite_saga_open ";
        }
    }
    binds.push(Value::Integer(bound(list.limit)));
    (format!("{by}WHERE {} ORDER BY id DESC LIMIT ?", conditions.join(" AND ")), binds)
}

fn head(row: &Row<'_>) -> Result<SagaHead> {
    let parent = option(row, 10)?;
    let head = SagaHead {
        id: SagaId(u128::from_be_bytes(row.get(0).during("read a saga")?)),
        name: text(row, 1)?,
        key: text(row, 2)?,
        run: number(row.get(3).during("read a saga")?),
        state: State::Running,
        waits: Waits::Lease,
        due: time(row, 7)?,
        started_at: time(row, 8)?.unwrap_or_default(),
        ended_at: time(row, 9)?,
        parent: None,
        definition: text(row, 4)?,
        unreadable: None,
    };
    Ok(head.with_words(&text(row, 5)?, &text(row, 6)?, parent.as_deref()))
}
