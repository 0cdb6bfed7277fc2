//! Starts and transitions of many sagas, in one transaction: a statement for each table, all sent at once.

use deadpool_postgres::Client;
use futures::FutureExt as _;
use onewrite_core::{
    Code, Error, Result, failpoint,
    lease::Fence,
    saga::{
        Group, Json, Parent,
        journal::{NewSaga, SCOPE, Standing, Transition},
    },
    store::Outcome,
};
use tokio_postgres::{Row, error::SqlState, types::ToSql};

use super::Id;
use crate::{
    error::{While, after_commit},
    row::Time,
};

/// A statement's values.
pub(super) type Binds<'a> = Vec<&'a (dyn ToSql + Sync)>;

/// Writes a group as a whole. `None` when something in it does not hold: a lease has another owner, or a
/// transition of this number exists. Then nothing is written, and each is to be tried by itself.
///
/// An error says that nothing was committed, or, when it is [`Code::CommitUnknown`], that nobody knows.
pub(crate) async fn write_all(
    client: &Client,
    group: &Group<'_>,
    count: usize,
) -> Result<Option<Vec<Outcome>>> {
    let starts = Starts::of(group.starts.iter().map(|(_, _, new)| *new));
    let journal =
        Transitions::of(group.advances.iter().map(|(_, fence, next)| (epoch(*fence), *next)));
    let standings = Standings::of(group.advances.iter().map(|(.., next)| *next));
    let leases: Vec<i32> = group.leases.iter().map(|(partition, _)| (*partition).into()).collect();
    let attributes = Attributes::of(group.starts.iter().map(|(_, _, new)| *new));
    let prepare = async |sql| client.prepare_cached(sql).await.during("prepare a write");
    let (hold, start, note, append, stand) = (
        prepare(HOLD).await?,
        prepare(START_ALL).await?,
        prepare(NOTE_ALL).await?,
        prepare(APPEND_ALL).await?,
        prepare(STAND_ALL).await?,
    );
    let (scope, starting, noting) = (&*SCOPE, starts.binds(), attributes.binds());
    let (holding, appending, standing) =
        ([&scope as &(dyn ToSql + Sync), &leases], journal.binds(), standings.binds());
    let begun = Begun { client, is_over: false };
    // In this order, and none waits for the answer to the one before.
    let (began, held, new, noted, appended, stood) = futures::join!(
        client.batch_execute(BEGIN),
        client.query(&hold, &holding),
        unless(starts.ids.is_empty(), client.query(&start, &starting)),
        unless(attributes.sagas.is_empty(), client.execute(&note, &noting)),
        unless(journal.sagas.is_empty(), client.execute(&append, &appending)),
        unless(standings.sagas.is_empty(), client.execute(&stand, &standing)),
    );
    began.during("begin a write of sagas")?;
    let held = held.during("look at the leases")?;
    let new = new.during("start sagas")?;
    noted.during("start sagas")?;
    if appended.as_ref().is_err_and(is_taken) {
        return begun.roll_back().await.map(|()| None);
    }
    appended.during("advance sagas")?;
    let stood = stood.during("advance sagas")? == standings.sagas.len() as u64;
    if !stood || !holds_all(&held, group) {
        return begun.roll_back().await.map(|()| None);
    }
    failpoint::hit("store.before_commit");
    begun.commit().await?;
    failpoint::hit("store.after_commit_before_reply");
    Ok(Some(outcomes(group, count, &new)))
}

/// Applied is what was written, and of the starts each that is new.
fn outcomes(group: &Group<'_>, count: usize, new: &[Row]) -> Vec<Outcome> {
    let mut new: Vec<Id> = new.iter().map(|row| row.get(0)).collect();
    new.sort_unstable();
    let mut outcomes: Vec<Outcome> = (0..count).map(|_| Outcome::Applied(1)).collect();
    for (place, _, start) in &group.starts {
        outcomes[*place] = Outcome::Applied(new.binary_search(&Id(start.id)).is_ok().into());
    }
    outcomes
}

fn holds_all(held: &[Row], group: &Group<'_>) -> bool {
    let held: Vec<(i32, i64)> = held.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut leases = group.leases.iter();
    leases.all(|(partition, epoch)| held.contains(&((*partition).into(), epoch.cast_signed())))
}

/// What is not to be done answers at once.
async fn unless<T: Default>(
    nothing: bool,
    write: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, tokio_postgres::Error> {
    if nothing { Ok(T::default()) } else { write.await }
}

/// Whether a transition of this number exists.
pub(super) fn is_taken(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

pub(super) fn conflict(transition: &Transition) -> Error {
    let Transition { saga, version, .. } = transition;
    let what = format!("transition {version} of the saga {saga} exists already");
    Error::new(Code::SagaConflict, what)
}

pub(super) fn epoch(fence: Option<&Fence>) -> i64 {
    fence.map_or(0, |fence| fence.epoch.cast_signed())
}

/// A transaction that was begun by hand, for its first statements not to wait until it has. One that is
/// abandoned is rolled back before the connection does anything else.
struct Begun<'a> {
    client: &'a Client,
    is_over: bool,
}

impl Begun<'_> {
    async fn commit(mut self) -> Result<()> {
        let committed = self.client.batch_execute("COMMIT").await;
        self.is_over = true;
        committed.map_err(after_commit)
    }

    async fn roll_back(mut self) -> Result<()> {
        self.is_over = true;
        self.client.batch_execute("ROLLBACK").await.during("undo a write of sagas")
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // It is sent with this; the answer is nobody's concern.
            let _ = self.client.batch_execute("ROLLBACK").now_or_never();
        }
    }
}

/// What follows is on its way before this is answered. Were it refused, each statement would be committed by
/// itself; so each looks whether this was done.
const BEGIN: &str = "BEGIN; SET LOCAL onewrite.begun = 'yes';
     SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";

/// Whether [`BEGIN`] was done in this transaction. It is looked at once for a statement.
macro_rules! begun {
    () => {
        "current_setting('onewrite.begun', true) = 'yes'"
    };
}

/// The leases that are held, locked in one order: a takeover waits for this commit, other writers do not.
const HOLD: &str = "SELECT partition, epoch FROM onewrite.lease
     WHERE scope = $1 AND partition = ANY($2) AND owner IS NOT NULL ORDER BY partition FOR SHARE";

/// Starts sagas where the condition holds; returns the ids of those that are new.
macro_rules! start {
    ($($holds:tt)*) => {
        concat!(
            "INSERT INTO onewrite.saga (id, name, key, run, partition, definition, input, state, waits, due_at, started_at, ended_at, parent)
             SELECT id, name, key, run, partition, definition, input, state, waits, due_at, started_at, CASE WHEN waits = 'nothing' THEN started_at END, parent
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int4[], $5::int4[], $6::text[], $7::text[], $8::text[], $9::text[], $10::timestamptz[],
                 $11::timestamptz[], $12::text[]) AS w (id, name, key, run, partition, definition, input, state, waits, due_at, started_at, parent)
             WHERE NOT EXISTS (SELECT FROM onewrite.saga n WHERE n.name = w.name AND n.key = w.key AND n.run > w.run) AND ",
            $($holds)*,
            " ORDER BY name, key, run ON CONFLICT (name, key, run) DO NOTHING RETURNING id"
        )
    };
}

/// Starts sagas in a transaction that has begun; one of which a later run exists is none.
pub(super) const START: &str = start!("true");

const START_ALL: &str = start!(begun!());

/// Notes what sagas are looked for by, if they are there: of those just started, the new ones.
macro_rules! note {
    ($($holds:tt)*) => {
        concat!(
            "INSERT INTO onewrite.saga_attribute (saga, name, value)
             SELECT saga, name, value FROM unnest($1::uuid[], $2::text[], $3::text[]) AS w (saga, name, value)
             WHERE EXISTS (SELECT FROM onewrite.saga s WHERE s.id = w.saga) AND ",
            $($holds)*,
            " ON CONFLICT DO NOTHING"
        )
    };
}

/// Notes what sagas are looked for by, in a transaction that has begun.
pub(super) const NOTE: &str = note!("true");

const NOTE_ALL: &str = note!(begun!());

/// Appends to journals where the condition holds. Without `ON CONFLICT`, for a row would cost twice as much: a
/// second search, and a second record in the log.
macro_rules! append {
    ($($holds:tt)*) => {
        concat!(
            "INSERT INTO onewrite.saga_journal (saga, version, time, epoch, entries)
             SELECT * FROM unnest($1::uuid[], $2::int4[], $3::timestamptz[], $4::int8[], $5::text[]) WHERE ",
            $($holds)*
        )
    };
}

/// Appends to journals in a transaction that has begun.
pub(super) const APPEND: &str = append!("true");

const APPEND_ALL: &str = append!(begun!());

/// Writes what the rows of sagas say from now on.
const STAND_ALL: &str = concat!(
    "UPDATE onewrite.saga s SET state = w.state, waits = w.waits, due_at = w.due_at, output = w.output,
         ended_at = CASE WHEN w.waits = 'nothing' THEN w.time END
     FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::timestamptz[], $6::text[])
         AS w (saga, time, state, waits, due_at, output)
     WHERE s.id = w.saga AND ",
    begun!()
);

/// Starts, column by column.
#[derive(Default)]
pub(super) struct Starts<'a> {
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
    pub(super) fn of(all: impl Iterator<Item = &'a NewSaga>) -> Self {
        let mut columns = Self::default();
        for new in all {
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

    pub(super) fn binds(&self) -> Binds<'_> {
        vec![
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
        ]
    }
}

/// Attributes of new sagas, column by column.
#[derive(Default)]
pub(super) struct Attributes<'a> {
    sagas: Vec<Id>,
    names: Vec<&'a str>,
    values: Vec<&'a str>,
}

impl<'a> Attributes<'a> {
    pub(super) fn of(all: impl Iterator<Item = &'a NewSaga>) -> Self {
        let mut columns = Self::default();
        for (saga, attribute) in all.flat_map(|new| new.attributes.iter().map(|one| (new.id, one)))
        {
            columns.sagas.push(Id(saga));
            columns.names.push(&attribute.name);
            columns.values.push(&attribute.value);
        }
        columns
    }

    pub(super) fn binds(&self) -> Binds<'_> {
        vec![&self.sagas, &self.names, &self.values]
    }
}

/// Rows of journals, column by column.
#[derive(Default)]
pub(super) struct Transitions<'a> {
    sagas: Vec<Id>,
    versions: Vec<i32>,
    times: Vec<Time>,
    epochs: Vec<i64>,
    entries: Vec<&'a str>,
}

impl<'a> Transitions<'a> {
    /// Each with the epoch of the lease that it is written under.
    pub(super) fn of(all: impl Iterator<Item = (i64, &'a Transition)>) -> Self {
        let mut columns = Self::default();
        for (epoch, next) in all {
            columns.sagas.push(Id(next.saga));
            columns.versions.push(i32::try_from(next.version).unwrap_or(i32::MAX));
            columns.times.push(Time(next.time));
            columns.epochs.push(epoch);
            columns.entries.push(&next.entries);
        }
        columns
    }

    pub(super) fn binds(&self) -> Binds<'_> {
        vec![&self.sagas, &self.versions, &self.times, &self.epochs, &self.entries]
    }
}

/// What changes on the rows of sagas, column by column.
#[derive(Default)]
struct Standings<'a> {
    sagas: Vec<Id>,
    times: Vec<Time>,
    states: Vec<&'a str>,
    waits: Vec<&'a str>,
    due: Vec<Option<Time>>,
    outputs: Vec<Option<&'a str>>,
}

impl<'a> Standings<'a> {
    /// Of transitions with which it changes.
    fn of(all: impl Iterator<Item = &'a Transition>) -> Self {
        let mut columns = Self::default();
        for next in all {
            let Some(Standing { state, waits, due, output }) = &next.standing else { continue };
            columns.sagas.push(Id(next.saga));
            columns.times.push(Time(next.time));
            columns.states.push(state.as_str());
            columns.waits.push(waits.as_str());
            columns.due.push(due.map(Time));
            columns.outputs.push(output.as_ref().map(Json::as_str));
        }
        columns
    }

    fn binds(&self) -> Binds<'_> {
        vec![&self.sagas, &self.times, &self.states, &self.waits, &self.due, &self.outputs]
    }
}

#[cfg(test)]
#[path = "write_test.rs"]
mod write_test;
