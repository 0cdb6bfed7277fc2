//! Which sagas a query asks for.

use axum::extract::{Query, rejection::QueryRejection};
use onewrite::{
    Timestamp,
    saga::{ATTRIBUTES_MAX, Attribute, State, check_text, journal::ListSagas},
};

use super::{
    problem::Problem,
    routes::{invalid, saga_id},
};

/// A query as it came.
pub(super) type Asked = Result<Query<Vec<(String, String)>>, QueryRejection>;

/// What it asks for: so many unless it says how many, and at most so many.
pub(super) fn read(asked: Asked, limit: usize, most: usize) -> Result<ListSagas, Problem> {
    let Query(pairs) = asked.map_err(|error| invalid(&error.body_text()))?;
    let mut which = ListSagas { limit, ..ListSagas::default() };
    let mut said: Vec<&str> = Vec::new();
    for (name, value) in &pairs {
        if said.contains(&name.as_str()) && name != "attribute" {
            return Err(invalid(&format!("`{name}` stands there twice")));
        }
        said.push(name);
        let text = || {
            let bad = |why| invalid(&format!("the {name} {why}"));
            check_text(value).map_err(bad).map(|()| Some(value.clone().into()))
        };
        match name.as_str() {
            "name" => which.name = text()?,
            "key" => which.key = text()?,
            "attribute" => {
                which.attributes.push(Attribute::asked(value).map_err(|why| invalid(&why))?)
            }
            "state" => which.states = value.split(',').map(state).collect::<Result<_, _>>()?,
            "started_from" => which.started_from = Some(time(value)?),
            "started_before" => which.started_before = Some(time(value)?),
            "behind" => which.behind = Some(saga_id(value)?),
            "limit" => {
                let within = value.parse().ok().filter(|limit| (1..=most).contains(limit));
                which.limit = within.ok_or_else(|| invalid(&format!("`limit` is 1 to {most}")))?;
            }
            _ => {
                return Err(invalid(&format!(
                    "`{}` is unknown: there are name, key, attribute, state, started_from, started_before, behind and limit",
                    name.escape_debug()
                )));
            }
        }
    }
    if which.attributes.len() > ATTRIBUTES_MAX {
        return Err(invalid(&format!("at most {ATTRIBUTES_MAX} attributes can be asked for")));
    }
    Ok(which)
}

fn state(text: &str) -> Result<State, Problem> {
    let why = "`state` is one or more of running, compensating, needs_operator, completed and compensated, with commas between";
    State::parse(text).map_err(|_| invalid(why))
}

/// A time as the API tells it.
fn time(text: &str) -> Result<Timestamp, Problem> {
    let why = "a time is written as 2026-11-29T17:00:00Z";
    let time = humantime::parse_rfc3339(text).map_err(|_| invalid(why))?;
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| invalid(why))?;
    Ok(Timestamp(i64::try_from(since.as_micros()).map_err(|_| invalid(why))?))
}
