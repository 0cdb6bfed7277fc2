//! The schema and its versions, and the identity of the file.

use onewrite_core::{
    Code, Error, Incarnation, Result, Sequence,
    position::{START, Source},
    sabotage::Defect,
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{
    Copied, Options, claim,
    error::While,
    identity::{self, Witness},
    writer::now,
};

/// The schema this program writes.
pub const SCHEMA_VERSION: u32 = 6;

/// Migrations in order; the first brings an empty database to version 1.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_spine.sql"),
    include_str!("../migrations/0002_saga.sql"),
    include_str!("../migrations/0003_signal.sql"),
    include_str!("../migrations/0004_child.sql"),
    include_str!("../migrations/0005_journal.sql"),
    include_str!("../migrations/0006_attribute.sql"),
];

/// Programs of at least this version can work with the schema written here.
const MIN_COMPATIBLE: u32 = 1;

/// Brings the schema up to date, checks the file's identity, and says what source it holds.
pub(crate) fn open(connection: &mut Connection, options: &Options) -> Result<Source> {
    let version = version(connection)?;
    if version.is_none() && !options.create {
        return Err(Error::new(
            Code::SchemaMissing,
            format!("the database {} holds no onewrite tables", options.path.display()),
        ));
    }
    if version.is_none_or(|(version, _)| version < SCHEMA_VERSION) {
        migrate(connection, options)?;
    }
    if version.is_some() {
        check_identity(connection, options)?;
    }
    source(connection)
}

/// The schema's version and the oldest program version it works with; `None` without a schema.
fn version(connection: &Connection) -> Result<Option<(u32, u32)>> {
    let exists: bool = connection
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'onewrite_meta'", [], |row| {
            row.get(0)
        })
        .during("read the schema")?;
    if !exists {
        return Ok(None);
    }
    let number = |name: &str| -> Result<u32> {
        let text = meta(connection, name)?.unwrap_or_default();
        text.parse().map_err(|_| {
            Error::new(Code::Corrupt, format!("onewrite_meta holds no number for `{name}`"))
        })
    };
    let found = (number("schema_version")?, number("min_compatible")?);
    if found.1 > SCHEMA_VERSION {
        return Err(Error::new(
            Code::SchemaUnsupported,
            format!(
                "the database has schema version {} and needs a program for version {}; this one knows version {SCHEMA_VERSION}",
                found.0, found.1
            ),
        ));
    }
    Ok(Some(found))
}

fn migrate(connection: &mut Connection, options: &Options) -> Result<()> {
    let tx = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .during("begin the migration")?;
    // Another process may have migrated while this one waited for the lock.
    let from = version(&tx)?.map_or(0, |(version, _)| version);
    for migration in MIGRATIONS.iter().skip(from as usize) {
        tx.execute_batch(migration).during("migrate the schema")?;
    }
    if from == 0 {
        let values = [
            ("source", options.source_name().to_string()),
            ("partitions", options.partitions.max(1).to_string()),
            ("file_identity", identity::of(&options.path)?),
        ];
        for (name, value) in values {
            set_meta(&tx, name, &value)?;
        }
        start_life(&tx, START + 1, "created")?;
    }
    set_meta(&tx, "schema_version", &SCHEMA_VERSION.to_string())?;
    set_meta(&tx, "min_compatible", &MIN_COMPATIBLE.to_string())?;
    tx.commit().during("commit the migration")
}

fn check_identity(connection: &Connection, options: &Options) -> Result<()> {
    let found = identity::of(&options.path)?;
    let moved = meta(connection, "file_identity")?.unwrap_or_default() != found;
    let went_back = Witness::beside(&options.path).contradicts(connection)?
        && !options.sabotage.has(Defect::NoIncarnation);
    let refused = |what: &str| {
        Err(Error::new(Code::StoreCopied, format!("the file {} {what}", options.path.display())))
    };
    match options.copied {
        Copied::Refuse if went_back => {
            refused("no longer has what its log once had: a backup was restored into it")
        }
        Copied::Refuse if moved => refused(
            "is not the one its source was registered with: it was moved, copied or restored",
        ),
        Copied::Refuse => Ok(()),
        Copied::Adopt if went_back => refused(
            "was not just moved: it no longer has what its log once had, so it needs a fork",
        ),
        Copied::Adopt => set_meta(connection, "file_identity", &found),
        Copied::Fork(_) if claim::anybody_lives(connection)? => Err(Error::new(
            Code::UnsafeSetting,
            format!(
                "a relay still works on {}: stop all relays and services, then fork",
                options.path.display()
            ),
        )),
        Copied::Fork(since) => {
            let head = head(connection)?;
            let last = since.unwrap_or(head);
            if last > head {
                return Err(Error::new(
                    Code::InvalidInput,
                    format!(
                        "the log ends at sequence {head}, so nothing can be forked behind {last}"
                    ),
                ));
            }
            start_life(connection, last + 1, "forked")?;
            set_meta(connection, "file_identity", &found)
        }
    }
}

/// Begins a new life with the record `first`.
fn start_life(connection: &Connection, first: Sequence, reason: &str) -> Result<()> {
    let life = Incarnation(uuid::Uuid::new_v4().as_u64_pair().1);
    connection
        .execute(
            "INSERT OR REPLACE INTO onewrite_incarnation (first_sequence, incarnation, since, reason) VALUES (?1, ?2, ?3, ?4)",
            params![first.cast_signed(), life.to_string(), now().0, reason],
        )
        .during("start a new incarnation")
        .map(|_| ())
}

pub(crate) fn source(connection: &Connection) -> Result<Source> {
    let mut statement = connection
        .prepare_cached(
            "SELECT first_sequence, incarnation FROM onewrite_incarnation ORDER BY first_sequence",
        )
        .during("read the incarnations")?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
        .during("read the incarnations")?;
    let mut incarnations = Vec::new();
    for row in rows {
        let (first, life) = row.during("read the incarnations")?;
        incarnations.push((first.cast_unsigned(), life.parse()?));
    }
    let name = meta(connection, "source")?.unwrap_or_default().into();
    let partitions = meta(connection, "partitions")?
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::new(Code::Corrupt, "onewrite_meta holds no number of partitions"))?;
    Ok(Source { name, partitions, incarnations })
}

/// The highest sequence ever drawn.
pub(crate) fn head(connection: &Connection) -> Result<Sequence> {
    let head: Option<i64> = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'onewrite_outbox'")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
        .during("read the head of the log")?;
    Ok(head.unwrap_or(0).cast_unsigned())
}

pub(crate) fn meta(connection: &Connection, name: &str) -> Result<Option<String>> {
    connection
        .prepare_cached("SELECT value FROM onewrite_meta WHERE name = ?1")
        .and_then(|mut statement| statement.query_row([name], |row| row.get(0)).optional())
        .during("read onewrite_meta")
}

pub(crate) fn set_meta(connection: &Connection, name: &str, value: &str) -> Result<()> {
    connection
        .prepare_cached("INSERT INTO onewrite_meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value")
        .and_then(|mut statement| statement.execute([name, value]))
        .during("write onewrite_meta")
        .map(|_| ())
}
