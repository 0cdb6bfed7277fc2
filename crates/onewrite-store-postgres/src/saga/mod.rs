//! Sagas: definitions, rows and journals.

mod heads;
mod read;
mod trim;
mod write;

use std::error::Error as StdError;

use bytes::BytesMut;
use deadpool_postgres::Transaction;
use onewrite_core::{
    Code, Error, Result, Text,
    lease::Fence,
    sabotage::{Defect, Sabotage},
    saga::{
        Checked, Json, SagaId,
        journal::{NewSaga, Standing, Transition, Waits},
    },
};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use self::write::{Attributes, Starts, Transitions, conflict, epoch, is_taken};
pub(crate) use self::{heads::heads, read::find, trim::trim, write::write_all};
use crate::{
    commit::execute,
    error::While,
    row::{self, Time},
    signal,
};

/// An id as PostgreSQL sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// Starts one saga: one, or none when one of its name and key exists, of its run or a later one.
pub(crate) async fn start(tx: &Transaction<'_>, saga: &NewSaga) -> Result<u64> {
    let new = execute(tx, write::START, &Starts::of([saga].into_iter()).binds()).await?;
    if new > 0 {
        signal::wait(tx, saga.id, saga.partition, &saga.awaits).await?;
        if !saga.attributes.is_empty() {
            execute(tx, write::NOTE, &Attributes::of([saga].into_iter()).binds()).await?;
        }
    }
    Ok(new)
}

/// Adds one transition to a journal. The item's fence was looked at before; it is only noted here.
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
    let sql = match sabotage.has(Defect::NoVersion) {
        true => &format!(
            "{} ON CONFLICT (saga, version) DO UPDATE SET entries = excluded.entries",
            write::APPEND
        ),
        false => write::APPEND,
    };
    let statement = tx.prepare_cached(sql).await.during("advance a saga")?;
    let row = Transitions::of([(epoch(fence), transition)].into_iter());
    match tx.execute(&statement, &row.binds()).await {
        Err(error) if is_taken(&error) => return Err(conflict(transition)),
        appended => appended.during("advance a saga")?,
    };
    let Some(Standing { state, waits, due, output }) = &transition.standing else { return Ok(1) };
    let ended = (*waits == Waits::Nothing).then_some(Time(transition.time));
    let output = output.as_ref().map(Json::as_str);
    let sql = "UPDATE onewrite.saga SET state = $2, waits = $3, due_at = $4, output = $5, ended_at = $6 WHERE id = $1";
    let id = Id(transition.saga);
    let binds: [&(dyn ToSql + Sync); 6] =
        [&id, &state.as_str(), &waits.as_str(), &due.map(Time), &output, &ended];
    match execute(tx, sql, &binds).await? {
        0 => Err(Error::new(Code::NotFound, format!("there is no saga {}", transition.saga))),
        _ => Ok(1),
    }
}

pub(crate) async fn definition(client: &tokio_postgres::Client, id: &str) -> Result<Option<Text>> {
    let found = client
        .query_opt("SELECT definition FROM onewrite.saga_definition WHERE id = $1", &[&id])
        .await
        .during("read the definition of a saga")?;
    found.map(|found| row::text(&found, 0)).transpose()
}
