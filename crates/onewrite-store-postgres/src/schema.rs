//! The schema and its versions, and the identity of the database.

use deadpool_postgres::{Client, Transaction};
use onewrite_core::{
    Code, Error, Incarnation, Result, Sequence, Text, position::Source, sabotage::Defect,
    store::Copied,
};

use crate::{Options, claim, error::While, row};

/// The schema this program writes.
pub const SCHEMA_VERSION: u32 = 6;

/// Migrations in order, each in its parts; the first brings an empty database to version 1.
const MIGRATIONS: &[&[&str]] = &[
    &[
        include_str!("../migrations/0001_spine.sql"),
        include_str!("../migrations/0001_place.sql"),
        include_str!("../migrations/0001_receive.sql"),
        include_str!("../migrations/0001_roles.sql"),
    ],
    &[include_str!("../migrations/0002_saga.sql")],
    &[include_str!("../migrations/0003_signal.sql")],
    &[include_str!("../migrations/0004_child.sql")],
    &[include_str!("../migrations/0005_retention.sql")],
    &[include_str!("../migrations/0006_attribute.sql")],
];

/// Programs of at least this version can work with the schema written here.
const MIN_COMPATIBLE: u32 = 1;

/// One process at a time creates or migrates.
const MIGRATION_LOCK: i32 = -2;

/// Brings the schema up to date, checks the database's identity, and says what source it holds.
pub(crate) async fn open(client: &mut Client, options: &Options) -> Result<Source> {
    let standby = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
    if standby.during("look at the server")?.get(0) {
        return Err(Error::new(
            Code::ReadOnly,
            format!("the server of {} is a standby: connect to its primary", name(options)),
        ));
    }
    let version = version(client).await?;
    if version.is_none() && !options.create {
        return Err(Error::new(
            Code::SchemaMissing,
            format!("the database {} holds no onewrite schema", name(options)),
        ));
    }
    if version.is_none_or(|(version, _)| version < SCHEMA_VERSION) {
        migrate(client, options).await?;
    }
    if version.is_some() {
        check_identity(client, options).await?;
    }
    source(client).await
}

fn name(options: &Options) -> &str {
    options.config.get_dbname().unwrap_or_default()
}

/// The schema's version and the oldest program version it works with; `None` without a schema.
async fn version(client: &tokio_postgres::Client) -> Result<Option<(u32, u32)>> {
    let exists = client
        .query_one("SELECT to_regclass('onewrite.source') IS NOT NULL", &[])
        .await
        .during("look for the schema")?;
    if !exists.get::<_, bool>(0) {
        return Ok(None);
    }
    let found = client
        .query_opt("SELECT schema_version, min_compatible FROM onewrite.source", &[])
        .await
        .during("read the schema's version")?;
    let Some(found) = found else { return Ok(None) };
    let number = |index| u32::try_from(found.get::<_, i32>(index)).unwrap_or(u32::MAX);
    let (version, needed) = (number(0), number(1));
    if needed > SCHEMA_VERSION {
        return Err(Error::new(
            Code::SchemaUnsupported,
            format!(
                "the database has schema version {version} and needs a program for version {needed}; this one knows version {SCHEMA_VERSION}"
            ),
        ));
    }
    Ok(Some((version, needed)))
}

async fn migrate(client: &mut Client, options: &Options) -> Result<()> {
    let tx = client.transaction().await.during("begin the migration")?;
    let lock = format!("SELECT pg_advisory_xact_lock({}, {MIGRATION_LOCK})", claim::LOCKS);
    tx.batch_execute(&lock).await.during("wait for another migration")?;
    // Another process may have migrated while this one waited for the lock.
    let from = version(tx.client()).await?.map_or(0, |(version, _)| version);
    for migration in &MIGRATIONS[(from as usize).min(MIGRATIONS.len())..] {
        for part in *migration {
            tx.batch_execute(part).await.during("migrate the schema")?;
        }
    }
    if from == 0 {
        create_source(&tx, options).await?;
    }
    tx.execute(
        "UPDATE onewrite.source SET schema_version = $1, min_compatible = greatest(min_compatible, $2)
         WHERE schema_version < $1",
        &[&SCHEMA_VERSION.cast_signed(), &MIN_COMPATIBLE.cast_signed()],
    )
    .await
    .during("note the schema's version")?;
    tx.commit().await.during("commit the migration")
}

async fn create_source(tx: &Transaction<'_>, options: &Options) -> Result<()> {
    tx.execute(
        "INSERT INTO onewrite.source (name, partitions, event_bytes_max, place, registered, schema_version, min_compatible)
         VALUES ($1, $2, $3, onewrite.place(), (SELECT system_identifier FROM pg_control_system()) || ' ' || pg_relation_filepath('onewrite.sequence'), $4, $5)",
        &[
            &&*options.source_name(),
            &i32::from(options.partitions.max(1)),
            &i32::try_from(options.event_bytes_max).unwrap_or(i32::MAX),
            &SCHEMA_VERSION.cast_signed(),
            &MIN_COMPATIBLE.cast_signed(),
        ],
    )
    .await
    .during("register the source")?;
    tx.execute(
        "INSERT INTO onewrite.incarnation (first_sequence, incarnation, reason)
         VALUES (1, onewrite.new_incarnation(), 'created')",
        &[],
    )
    .await
    .during("begin the first life")
    .map(|_| ())
}

/// Another cluster or another file: a copy, a restored dump, or a planned move. A failover of the same
/// cluster is told by its timeline, and begins a new life by itself when the first event is placed.
async fn check_identity(client: &mut Client, options: &Options) -> Result<()> {
    let found = client
        .query_one(
            "SELECT (SELECT system_identifier FROM pg_control_system()) || ' ' || pg_relation_filepath('onewrite.sequence'),
                    registered FROM onewrite.source",
            &[],
        )
        .await
        .during("look at the database's identity")?;
    let (here, registered): (String, String) = (found.get(0), found.get(1));
    let moved = here != registered && !options.sabotage.has(Defect::NoIncarnation);
    match options.copied {
        Copied::Refuse if moved => Err(Error::new(
            Code::StoreCopied,
            format!(
                "the database {} is not the one its source was registered with: it was moved, copied or restored",
                name(options)
            ),
        )),
        Copied::Refuse => Ok(()),
        Copied::Adopt => register(client, &here).await,
        Copied::Fork(since) => fork(client, &here, since).await,
    }
}

async fn register(client: &tokio_postgres::Client, here: &str) -> Result<()> {
    client
        .execute("UPDATE onewrite.source SET registered = $1", &[&here])
        .await
        .during("note the database's identity")
        .map(|_| ())
}

async fn fork(client: &mut Client, here: &str, since: Option<Sequence>) -> Result<()> {
    let tx = client.transaction().await.during("begin a fork")?;
    let living = tx
        .query_one(
            "SELECT count(*) FROM onewrite.member WHERE seen_until >= clock_timestamp()",
            &[],
        )
        .await
        .during("look for living relays")?;
    if living.get::<_, i64>(0) > 0 {
        return Err(Error::new(
            Code::UnsafeSetting,
            "a relay or receiver still works on this database: stop all of them, then fork",
        ));
    }
    let last = head(tx.client()).await?;
    match since {
        Some(since) if since > last => {
            return Err(Error::new(
                Code::InvalidInput,
                format!("the log ends at sequence {last}, so nothing can be forked behind {since}"),
            ));
        }
        Some(since) => {
            tx.execute(
                "INSERT INTO onewrite.incarnation (first_sequence, incarnation, reason)
                 VALUES ($1, onewrite.new_incarnation(), 'forked')
                 ON CONFLICT (first_sequence) DO UPDATE SET incarnation = excluded.incarnation, reason = 'forked'",
                &[&(since + 1).cast_signed()],
            )
            .await
            .during("begin a new life")?;
            // Begun by itself since, behind that one: the operator's word stands for all of it.
            tx.execute(
                "DELETE FROM onewrite.incarnation WHERE first_sequence > $1 AND reason = 'moved'",
                &[&(since + 1).cast_signed()],
            )
            .await
            .during("begin a new life")?;
            tx.execute("UPDATE onewrite.source SET place = onewrite.place()", &[])
                .await
                .during("begin a new life")?;
        }
        None => {
            tx.execute("SELECT onewrite.begin_life('forked')", &[])
                .await
                .during("begin a new life")?;
        }
    }
    register(tx.client(), here).await?;
    tx.commit().await.map_err(crate::error::after_commit)
}

pub(crate) async fn source(client: &tokio_postgres::Client) -> Result<Source> {
    let lives = client
        .query(
            "SELECT first_sequence, incarnation FROM onewrite.incarnation ORDER BY first_sequence",
            &[],
        )
        .await
        .during("read the incarnations")?;
    let mut incarnations: Vec<(Sequence, Incarnation)> = Vec::new();
    for life in &lives {
        incarnations.push((row::number(life, 0)?, row::text(life, 1)?.parse()?));
    }
    let found = client
        .query_one("SELECT name, partitions FROM onewrite.source", &[])
        .await
        .during("read the source")?;
    Ok(Source { name: row::text(&found, 0)?, partitions: row::partition(&found, 1)?, incarnations })
}

/// The bytes that an event's data may take.
pub(crate) async fn event_bytes_max(client: &tokio_postgres::Client) -> Result<usize> {
    let found = client
        .query_opt("SELECT event_bytes_max FROM onewrite.source", &[])
        .await
        .during("read the source's terms")?;
    let found = found
        .ok_or_else(|| Error::new(Code::SchemaMissing, "the schema onewrite holds no source"))?;
    Ok(usize::try_from(found.get::<_, i32>(0)).unwrap_or(0))
}

/// The highest sequence ever drawn.
pub(crate) async fn head(client: &tokio_postgres::Client) -> Result<Sequence> {
    let found = client
        .query_one(
            "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM onewrite.sequence",
            &[],
        )
        .await
        .during("read the head of the log")?;
    row::number(&found, 0)
}

/// Settings of the server that weaken a promise.
pub(crate) async fn warnings(client: &tokio_postgres::Client) -> Result<Vec<Text>> {
    let rows = client
        .query(
            "SELECT name, reset_val FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit',
                 'default_transaction_read_only')",
            &[],
        )
        .await
        .during("read the server's settings")?;
    let mut warnings = Vec::new();
    for found in &rows {
        let (name, setting): (String, String) = (found.get(0), found.get(1));
        let said = match (name.as_str(), setting.as_str()) {
            ("fsync", "off") => {
                "PostgreSQL runs with fsync=off: a power cut can lose or damage what was committed and delivered; set fsync=on"
            }
            ("full_page_writes", "off") => {
                "PostgreSQL runs with full_page_writes=off: a power cut can damage the database; set it to on unless the file system never tears a page"
            }
            ("synchronous_commit", "off") => {
                "PostgreSQL runs with synchronous_commit=off: transactions that emit switch it on for themselves, others may be lost in a crash; set it to on"
            }
            ("default_transaction_read_only", "on") => {
                "PostgreSQL runs with default_transaction_read_only=on for this user and database: nothing can be emitted or delivered; set it to off"
            }
            _ => continue,
        };
        warnings.push(Text::from_static(said));
    }
    let roles = "SELECT count(*) FROM pg_roles
        WHERE rolname IN ('onewrite_emit', 'onewrite_receive', 'onewrite_relay', 'onewrite_operator')";
    let roles = client.query_one(roles, &[]).await.during("look for the roles")?;
    if roles.get::<_, i64>(0) < 4 {
        warnings.push(Text::from_static(
            "the server lacks some of the roles onewrite_emit, onewrite_receive, onewrite_relay and onewrite_operator: whoever may create roles makes them before a schema is created; in this one, grant by hand",
        ));
    }
    Ok(warnings)
}
