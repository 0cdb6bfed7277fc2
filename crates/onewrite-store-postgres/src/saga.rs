//! Sagas: definitions, rows and journals.
//!
//! Starts and transitions of many sagas go in one statement each.

use std::error::Error as StdError;

use bytes::BytesMut;
use deadpool_postgres::{Client, Transaction};
use onewrite_core::{
    Code, Error, Result, Text, failpoint,
    lease::Fence,
    sabotage::{Defect, Sabotage},
    saga::{
        Checked, Group, Json, Parent, SagaId,
        journal::{
            FindSagas, NewSaga, SCOPE, SavedSaga, SavedTransition, Standing, State, Transition,
            Waits,
        },
    },
    store::Outcome,
};
use tokio_postgres::{
    Row,
    types::{FromSql, IsNull, ToSql, Type, to_sql_checked},
};

use crate::{
    commit::execute,
    error::{While, after_commit},
    row::{self, Time},
    signal, statement,
};

/// An id as PostgreSQL sends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id(pub(crate) SagaId);

impl<'a> FromSql<'a> for Id {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(SagaId(u128::from_be_bytes(raw.try_into()?))))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }
}

impl ToSql for Id {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        out.extend_from_slice(&self.0.0.to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::UUID
    }

    to_sql_checked!();
}

/// Stores a definition, unless it is stored. Another text under the same id is refused.
pub(crate) async fn define(tx: &Transaction<'_>, checked: &Checked) -> Result<u64> {
    let id = &**checked.id();
    let new = execute(
        tx,
        "INSERT INTO onewrite.saga_definition (id, name, definition) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        &[&id, &checked.definition().name, &&**checked.json()],
    )
    .await?;
    if new == 0 && definition(tx.client(), id).await?.as_ref() != Some(checked.json()) {
        return Err(Error::new(
            Code::InvariantBroken,
            format!("the definition {id} is stored with another text"),
        ));
    }
    Ok(new)
}

/// Starts one saga: one, or none when one of its name, key and run exists.
pub(crate) async fn start(tx: &Transaction<'_>, saga: &NewSaga) -> Result<u64> {
    let starts = Starts::of(&[(0, None, saga)]);
    let outcomes = starts.write(tx).await?;
    let is_new = outcomes.first().is_some_and(|(_, outcome)| outcome.1);
    if is_new {
        signal::wait(tx, saga.id, saga.partition, &saga.awaits).await?;
    }
    Ok(u64::from(is_new))
}

/// Adds one transition to a journal.
pub(crate) async fn advance(
    tx: &Transaction<'_>,
    fence: Option<&Fence>,
    transition: &Transition,
    sabotage: Sabotage,
) -> Result<u64> {
    if let Some(taken) = &transition.takes {
        signal::take(tx, transition.saga, taken, sabotage).await?;
    }
    if let Some(awaits) = &transition.awaits {
        signal::wait_instead(tx, transition.saga, awaits).await?;
    }
    // The item's fence was looked at before; it is only noted here.
    let advances = Advances::of(&[(0, fence, transition)], sabotage);
    let outcomes = advances.write(tx).await?;
    match outcomes.first() {
        Some((_, (true, true))) => Ok(1),
        Some((_, (true, false))) => Err(conflict(transition)),
        _ => Err(Error::new(Code::Fenced, "the lease has another owner")),
    }
}

fn conflict(transition: &Transition) -> Error {
    let Transition { saga, version, .. } = transition;
    let what =
        format!("transition {version} of the saga {saga} exists already, or the saga does not");
    Error::new(Code::SagaConflict, what)
}

/// Writes starts and transitions together, in one transaction: two statements and a commit.
pub(crate) async fn write_all(
    client: &mut Client,
    group: &Group<'_>,
    count: usize,
    sabotage: Sabotage,
) -> Result<Vec<Outcome>> {
    let tx = client.transaction().await.during("begin a write of sagas")?;
    let (starts, advances) = (Starts::of(&group.starts), Advances::of(&group.advances, sabotage));
    // Sent together: the second does not wait for the answer to the first.
    let (durable, started, advanced) = futures::future::join3(
        tx.batch_execute(statement::DURABLE),
        starts.write(&tx),
        advances.write(&tx),
    )
    .await;
    durable.during("make the commit durable")?;
    let mut outcomes: Vec<Outcome> = (0..count).map(|_| Outcome::Fenced).collect();
    for (place, (held, new)) in started? {
        if held {
            outcomes[place] = Outcome::Applied(u64::from(new));
        }
    }
    for (index, (held, new)) in advanced? {
        let (place, _, transition) = group.advances[index];
        outcomes[place] = match (held, new) {
            (true, true) => Outcome::Applied(1),
            (true, false) => Outcome::Failed(conflict(transition)),
            (false, _) => Outcome::Fenced,
        };
    }
    failpoint::hit("store.before_commit");
    let committed = tx.commit().await;
    failpoint::hit("store.after_commit_before_reply");
    committed.map_err(after_commit)?;
    Ok(outcomes)
}

/// For each thing to write, where it stands, whether its lease is held, and whether it is new.
type Found = Vec<(usize, (bool, bool))>;

/// The leases that are held, locked in one order: a takeover waits for this commit, other writers do not.
macro_rules! held {
    () => {
        "held AS MATERIALIZED (
            SELECT partition, epoch FROM onewrite.lease
            WHERE scope = $1 AND partition IN (SELECT lease FROM wanted) AND owner IS NOT NULL
            ORDER BY partition FOR SHARE
        ), allowed AS MATERIALIZED (
            SELECT w.* FROM wanted w LEFT JOIN held h ON h.partition = w.lease AND h.epoch = w.epoch
            WHERE w.lease IS NULL OR h.epoch IS NOT NULL OR $2
        )"
    };
}

const START_ALL: &str = concat!(
    "WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest($3::int8[], $4::int4[], $5::int8[], $6::uuid[], $7::text[], $8::text[], $9::int4[], $10::int4[], $11::text[],
            $12::text[], $13::text[], $14::text[], $15::timestamptz[], $16::timestamptz[], $17::text[])
            AS w (n, lease, epoch, id, name, key, run, partition, definition, input, state, waits, due_at, started_at, parent)
    ), ",
    held!(),
    ", written AS (
        INSERT INTO onewrite.saga (id, name, key, run, partition, definition, input, state, waits, due_at, started_at, ended_at, parent)
        SELECT id, name, key, run, partition, definition, input, state, waits, due_at, started_at,
            CASE WHEN waits = 'nothing' THEN started_at END, parent FROM allowed ORDER BY name, key, run
        ON CONFLICT (name, key, run) DO NOTHING RETURNING id
    )
    SELECT w.n, EXISTS (SELECT FROM allowed a WHERE a.n = w.n), EXISTS (SELECT FROM written s WHERE s.id = w.id) FROM wanted w"
);

const ADVANCE_ALL: &str = concat!(
    "WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest($3::int8[], $4::int4[], $5::int8[], $6::uuid[], $7::int4[], $8::timestamptz[], $9::text[], $10::bool[],
            $11::text[], $12::text[], $13::timestamptz[], $14::text[])
            AS w (n, lease, epoch, saga, version, time, entries, changes, state, waits, due_at, output)
    ), ",
    held!(),
    ", written AS (
        INSERT INTO onewrite.saga_journal AS j (saga, version, time, epoch, entries)
        SELECT saga, version, time, coalesce(epoch, 0), entries FROM allowed ORDER BY saga
        ON CONFLICT (saga, version) DO UPDATE SET entries = excluded.entries WHERE $15 RETURNING saga
    ), changed AS (
        UPDATE onewrite.saga s SET state = w.state, waits = w.waits, due_at = w.due_at, output = w.output,
            ended_at = CASE WHEN w.waits = 'nothing' THEN w.time END
        FROM allowed w JOIN written USING (saga) WHERE w.changes AND s.id = w.saga RETURNING s.id
    )
    SELECT w.n, EXISTS (SELECT FROM allowed a WHERE a.n = w.n), EXISTS (SELECT FROM written j WHERE j.saga = w.saga)
        FROM wanted w CROSS JOIN (SELECT count(*) FROM changed) done"
);

/// What every row brings: its place and its lease.
#[derive(Default)]
struct Places {
    places: Vec<i64>,
    leases: Vec<Option<i32>>,
    epochs: Vec<Option<i64>>,
}

impl Places {
    fn add(&mut self, place: usize, fence: Option<&Fence>) {
        self.places.push(i64::try_from(place).unwrap_or(i64::MAX));
        self.leases.push(fence.map(|fence| i32::from(fence.partition)));
        self.epochs.push(fence.map(|fence| fence.epoch.cast_signed()));
    }
}

fn found(rows: &[Row]) -> Found {
    let one = |row: &Row| {
        let place = usize::try_from(row.get::<_, i64>(0)).unwrap_or(usize::MAX);
        (place, (row.get(1), row.get(2)))
    };
    rows.iter().map(one).collect()
}

/// Starts, column by column.
#[derive(Default)]
struct Starts<'a> {
    of: Places,
    ids: Vec<Id>,
    names: Vec<&'a str>,
    keys: Vec<&'a str>,
    runs: Vec<i32>,
    partitions: Vec<i32>,
    definitions: Vec<&'a str>,
    inputs: Vec<&'a str>,
    states: Vec<&'a str>,
    waits: Vec<&'a str>,
    due: Vec<Option<Time>>,
    started: Vec<Time>,
    parents: Vec<Option<String>>,
}

impl<'a> Starts<'a> {
    fn of(all: &[(usize, Option<&'a Fence>, &'a NewSaga)]) -> Self {
        let mut columns = Self::default();
        for (place, fence, new) in all {
            columns.of.add(*place, *fence);
            columns.ids.push(Id(new.id));
            columns.names.push(&new.name);
            columns.keys.push(&new.key);
            columns.runs.push(i32::try_from(new.run).unwrap_or(i32::MAX));
            columns.partitions.push(i32::from(new.partition));
            columns.definitions.push(&new.definition);
            columns.inputs.push(new.input.as_str());
            columns.states.push(new.standing.state.as_str());
            columns.waits.push(new.standing.waits.as_str());
            columns.due.push(new.standing.due.map(Time));
            columns.started.push(Time(new.started_at));
            columns.parents.push(new.parent.as_ref().map(Parent::to_string));
        }
        columns
    }

    async fn write(&self, tx: &Transaction<'_>) -> Result<Found> {
        if self.ids.is_empty() {
            return Ok(Vec::new());
        }
        let statement = tx.prepare_cached(START_ALL).await.during("start sagas")?;
        let binds: [&(dyn ToSql + Sync); 17] = [
            &&*SCOPE,
            &false,
            &self.of.places,
            &self.of.leases,
            &self.of.epochs,
            &self.ids,
            &self.names,
            &self.keys,
            &self.runs,
            &self.partitions,
            &self.definitions,
            &self.inputs,
            &self.states,
            &self.waits,
            &self.due,
            &self.started,
            &self.parents,
        ];
        tx.query(&statement, &binds).await.during("start sagas").map(|rows| found(&rows))
    }
}

/// Transitions, column by column.
#[derive(Default)]
struct Advances<'a> {
    sabotage: Sabotage,
    of: Places,
    sagas: Vec<Id>,
    versions: Vec<i32>,
    times: Vec<Time>,
    entries: Vec<&'a str>,
    changes: Vec<bool>,
    states: Vec<Option<&'a str>>,
    waits: Vec<Option<&'a str>>,
    due: Vec<Option<Time>>,
    outputs: Vec<Option<&'a str>>,
}

impl<'a> Advances<'a> {
    /// The places are those in `all`.
    fn of(all: &[(usize, Option<&'a Fence>, &'a Transition)], sabotage: Sabotage) -> Self {
        let mut columns = Self { sabotage, ..Self::default() };
        for (index, (_, fence, next)) in all.iter().enumerate() {
            let standing = next.standing.as_ref();
            columns.of.add(index, *fence);
            columns.sagas.push(Id(next.saga));
            columns.versions.push(i32::try_from(next.version).unwrap_or(i32::MAX));
            columns.times.push(Time(next.time));
            columns.entries.push(&next.entries);
            columns.changes.push(standing.is_some());
            columns.states.push(standing.map(|standing| standing.state.as_str()));
            columns.waits.push(standing.map(|standing| standing.waits.as_str()));
            columns.due.push(standing.and_then(|standing| standing.due).map(Time));
            let output = standing.and_then(|standing| standing.output.as_ref());
            columns.outputs.push(output.map(Json::as_str));
        }
        columns
    }

    async fn write(&self, tx: &Transaction<'_>) -> Result<Found> {
        if self.sagas.is_empty() {
            return Ok(Vec::new());
        }
        let statement = tx.prepare_cached(ADVANCE_ALL).await.during("advance sagas")?;
        let binds: [&(dyn ToSql + Sync); 15] = [
            &&*SCOPE,
            &self.sabotage.has(Defect::NoFence),
            &self.of.places,
            &self.of.leases,
            &self.of.epochs,
            &self.sagas,
            &self.versions,
            &self.times,
            &self.entries,
            &self.changes,
            &self.states,
            &self.waits,
            &self.due,
            &self.outputs,
            &self.sabotage.has(Defect::NoVersion),
        ];
        tx.query(&statement, &binds).await.during("advance sagas").map(|rows| found(&rows))
    }
}

pub(crate) async fn definition(client: &tokio_postgres::Client, id: &str) -> Result<Option<Text>> {
    let found = client
        .query_opt("SELECT definition FROM onewrite.saga_definition WHERE id = $1", &[&id])
        .await
        .during("read the definition of a saga")?;
    found.map(|found| row::text(&found, 0)).transpose()
}

/// A saga's columns, and its journal as arrays.
const COLUMNS: &str = "SELECT s.id, s.name, s.key, s.run, s.partition, s.definition, s.input, s.state, s.waits, s.due_at, s.output, s.started_at, s.ended_at, s.parent,
     j.versions, j.times, j.epochs, j.entries FROM (SELECT * FROM onewrite.saga ";

const JOURNALS: &str = ") s CROSS JOIN LATERAL (SELECT array_agg(version ORDER BY version) AS versions, array_agg(time ORDER BY version) AS times,
        array_agg(epoch ORDER BY version) AS epochs, array_agg(entries ORDER BY version) AS entries
        FROM onewrite.saga_journal WHERE saga = s.id) j";

/// The time at which the statement began is one value: the index brings what is due, and nothing that waits. What
/// `clock_timestamp` says may differ from row to row, so each row would be looked at.
const DUE: &str = "WHERE partition = ANY($1) AND waits IN ('timer', 'signal') AND ended_at IS NULL AND due_at <= statement_timestamp() ORDER BY due_at LIMIT $2";

/// In the order of the index of those that have not ended, which are few beside those that have.
const FORGOTTEN: &str = "WHERE ended_at IS NULL AND NOT (waits IN ('lease', 'operator') AND due_at IS NULL OR waits IN ('timer', 'signal') AND due_at IS NOT NULL)
     ORDER BY partition, waits, due_at LIMIT 100";

/// Sagas with their journals: one statement, so a saga's row and its journal belong together.
pub(crate) async fn find(client: &Client, find: &FindSagas) -> Result<Vec<SavedSaga>> {
    let bound = |limit: &usize| i64::try_from(*limit).unwrap_or(i64::MAX);
    let small = |partitions: &[u16]| partitions.iter().copied().map(i32::from).collect::<Vec<_>>();
    match find {
        FindSagas::Id(id) => read(client, "WHERE id = $1", "", &[&Id(*id)]).await,
        FindSagas::Key { name, key } => {
            let which = "WHERE name = $1 AND key = $2 ORDER BY run DESC LIMIT 1";
            read(client, which, "", &[&&**name, &&**key]).await
        }
        FindSagas::Leased { partitions, after, limit } => {
            let which = "WHERE partition = ANY($1) AND waits = 'lease' AND ended_at IS NULL AND id > $2 ORDER BY id LIMIT $3";
            let binds: [&(dyn ToSql + Sync); 3] = [&small(partitions), &Id(*after), &bound(limit)];
            read(client, which, " ORDER BY s.id", &binds).await
        }
        FindSagas::Due { partitions, limit } => {
            read(client, DUE, " ORDER BY s.due_at", &[&small(partitions), &bound(limit)]).await
        }
        FindSagas::Forgotten => read(client, FORGOTTEN, "", &[]).await,
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
        state: State::parse(&row::text(found, 7)?)?,
        waits: Waits::parse(&row::text(found, 8)?)?,
        due: row::time(found, 9)?,
        output: row::option(found, 10)?.map(Json::trusted),
    };
    let id: Id = found.try_get(0).during("read a saga")?;
    let run: i32 = found.try_get(3).during("read a saga")?;
    Ok(SavedSaga {
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
        parent: row::option(found, 13)?.map(|parent| parent.parse()).transpose()?,
        journal: journal(found)?,
    })
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
#[path = "saga_test.rs"]
mod saga_test;
