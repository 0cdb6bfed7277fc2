//! Reading sagas with their journals.

use deadpool_postgres::Client;
use onewrite_core::{
    Result,
    saga::{
        Json,
        journal::{FindSagas, SavedSaga, SavedTransition, Standing, State},
    },
};
use tokio_postgres::{Row, types::ToSql};

use super::{Id, trim::MAY_GO};
use crate::{
    error::While,
    row::{self, Time},
};

/// A saga's columns, and its journal as arrays.
const COLUMNS: &str = "SELECT s.id, s.name, s.key, s.run, s.partition, s.definition, s.input, s.state, s.waits, s.due_at, s.output, s.started_at, s.ended_at, s.parent,
     j.versions, j.times, j.epochs, j.entries FROM (SELECT * FROM onewrite.saga ";

const JOURNALS: &str = ") s CROSS JOIN LATERAL (SELECT array_agg(version ORDER BY version) AS versions, array_agg(time ORDER BY version) AS times,
        array_agg(epoch ORDER BY version) AS epochs, array_agg(entries ORDER BY version) AS entries
        FROM onewrite.saga_journal WHERE saga = s.id) j";

/// The time at which the statement began is one value: the index brings what is due, and nothing that waits. What
/// `clock_timestamp` says may differ from row to row, so each row would be looked at.
const DUE: &str = "WHERE partition = ANY($1) AND waits = ANY($3) AND ended_at IS NULL AND due_at <= statement_timestamp() ORDER BY due_at LIMIT $2";

/// In the order of the index of those that have not ended, which are few beside those that have.
const FORGOTTEN: &str = "WHERE ended_at IS NULL AND NOT (waits IN ('lease', 'operator') AND due_at IS NULL OR waits IN ('timer', 'signal') AND due_at IS NOT NULL)
     ORDER BY partition, waits, due_at LIMIT 100";

/// Sagas with their journals: one statement, so a saga's row and its journal belong together.
pub(crate) async fn find(client: &Client, find: &FindSagas) -> Result<Vec<SavedSaga>> {
    let bound = |limit: &usize| i64::try_from(*limit).unwrap_or(i64::MAX);
    let small = |partitions: &[u16]| partitions.iter().copied().map(i32::from).collect::<Vec<_>>();
    match find {
        FindSagas::Id(id) => read(client, "WHERE id = $1", "", &[&Id(*id)]).await,
        FindSagas::Ids(ids) => {
            let ids: Vec<Id> = ids.iter().copied().map(Id).collect();
            read(client, "WHERE id = ANY($1)", "", &[&ids]).await
        }
        FindSagas::Key { name, key } => {
            let which = "WHERE name = $1 AND key = $2 ORDER BY run DESC LIMIT 1";
            read(client, which, "", &[&&**name, &&**key]).await
        }
        FindSagas::Leased { partitions, after, limit } => {
            let which = "WHERE partition = ANY($1) AND waits = 'lease' AND ended_at IS NULL AND id > $2 ORDER BY id LIMIT $3";
            let binds: [&(dyn ToSql + Sync); 3] = [&small(partitions), &Id(*after), &bound(limit)];
            read(client, which, " ORDER BY s.id", &binds).await
        }
        FindSagas::Due { also_signals, partitions, limit } => {
            let waits: &[&str] = if *also_signals { &["timer", "signal"] } else { &["timer"] };
            let binds: [&(dyn ToSql + Sync); 3] = [&small(partitions), &bound(limit), &waits];
            read(client, DUE, " ORDER BY s.due_at", &binds).await
        }
        FindSagas::Forgotten => read(client, FORGOTTEN, "", &[]).await,
        FindSagas::Ended { before, limit } => {
            let which = format!("s WHERE {MAY_GO} ORDER BY ended_at LIMIT $3");
            let binds: [&(dyn ToSql + Sync); 3] = [&Time(*before), &false, &bound(limit)];
            read(client, &which, " ORDER BY s.ended_at", &binds).await
        }
    }
}

async fn read(
    client: &Client,
    which: &str,
    order: &str,
    binds: &[&(dyn ToSql + Sync)],
) -> Result<Vec<SavedSaga>> {
    let sql = format!("{COLUMNS}{which}{JOURNALS}{order}");
    let statement = client.prepare_cached(&sql).await.during("read sagas")?;
    let rows = client.query(&statement, binds).await.during("read sagas")?;
    rows.iter().map(saga).collect()
}

fn saga(found: &Row) -> Result<SavedSaga> {
    let standing = Standing {
        due: row::time(found, 9)?,
        output: row::option(found, 10)?.map(Json::trusted),
        ..Standing::leased(State::Running)
    };
    let (state, waits) = (row::text(found, 7)?, row::text(found, 8)?);
    let parent = row::option(found, 13)?;
    let id: Id = found.try_get(0).during("read a saga")?;
    let run: i32 = found.try_get(3).during("read a saga")?;
    let saga = SavedSaga {
        id: id.0,
        name: row::text(found, 1)?,
        key: row::text(found, 2)?,
        run: run.cast_unsigned(),
        partition: row::partition(found, 4)?,
        definition: row::text(found, 5)?,
        input: Json::trusted(row::text(found, 6)?),
        standing,
        started_at: row::time(found, 11)?.unwrap_or_default(),
        ended_at: row::time(found, 12)?,
        parent: None,
        journal: journal(found)?,
        unreadable: None,
    };
    Ok(saga.with_words(&state, &waits, parent.as_deref()))
}

fn journal(found: &Row) -> Result<Vec<SavedTransition>> {
    let versions: Option<Vec<i32>> = found.try_get(14).during("read the journal of a saga")?;
    let times: Option<Vec<Time>> = found.try_get(15).during("read the journal of a saga")?;
    let epochs: Option<Vec<i64>> = found.try_get(16).during("read the journal of a saga")?;
    let entries: Option<Vec<String>> = found.try_get(17).during("read the journal of a saga")?;
    let rows = versions.unwrap_or_default().into_iter().zip(times.unwrap_or_default());
    let rows = rows.zip(epochs.unwrap_or_default()).zip(entries.unwrap_or_default());
    let transition =
        |(((version, time), epoch), json): (((i32, Time), i64), String)| SavedTransition {
            version: version.cast_unsigned(),
            time: time.0,
            epoch: epoch.cast_unsigned(),
            json: json.into(),
        };
    Ok(rows.map(transition).collect())
}

#[cfg(test)]
#[path = "read_test.rs"]
mod read_test;
