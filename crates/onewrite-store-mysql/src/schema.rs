//! The schema and its versions, and the identity of the database.

use mysql_async::{Conn, Row, prelude::Queryable};
use onewrite_core::{
    Code, Error, Incarnation, Result, Sequence, Text, position::Source, sabotage::Defect,
    store::Copied,
};

use crate::{
    Options,
    error::{While, after_commit},
    roles,
    row::{self, binds, execute, now, query, query_one},
};

/// The schema this program writes.
pub const SCHEMA_VERSION: u32 = 7;

/// Programs of at least this version can work with the schema written here.
const MIN_COMPATIBLE: u32 = 1;

/// Migrations in order, each in its parts; the first brings an empty database to version 1.
const MIGRATIONS: &[&[&str]] = &[
    &[
        include_str!("../migrations/0001_spine.sql"),
        include_str!("../migrations/0001_claim.sql"),
        include_str!("../migrations/0001_receive.sql"),
    ],
    &[include_str!("../migrations/0002_saga.sql")],
    &[include_str!("../migrations/0003_signal.sql")],
    &[include_str!("../migrations/0004_child.sql")],
    &[include_str!("../migrations/0005_free.sql")],
    &[include_str!("../migrations/0006_retention.sql")],
    &[include_str!("../migrations/0007_attribute.sql")],
];

pub(crate) const SOURCE: &str = "SELECT name, partitions FROM onewrite_source";
pub(crate) const LIVES: &str =
    "SELECT first_sequence, incarnation FROM onewrite_incarnation ORDER BY first_sequence";

/// Which server this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) is_mariadb: bool,
    version: (u16, u16),
}

impl Server {
    /// Asks it; a server that lacks what this store needs is refused.
    pub(crate) async fn ask(conn: &mut Conn) -> Result<Self> {
        let said: Option<String> =
            conn.query_first("SELECT VERSION()").await.during("ask for the server's version")?;
        let said = said.unwrap_or_default();
        let is_mariadb = said.contains("MariaDB");
        let mut numbers = said.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let needed = if is_mariadb { (10, 6) } else { (8, 0) };
        if version < needed {
            let context =
                format!("the server is `{said}`: MariaDB 10.6 or MySQL 8.0 is needed, or later");
            return Err(Error::new(Code::SchemaUnsupported, context));
        }
        Ok(Self { is_mariadb, version })
    }

    /// Text that is equal only when its bytes are.
    fn collation(self) -> &'static str {
        if self.is_mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" }
    }

    /// Names it, for as long as it lives: a copy on another server has another name.
    fn identity(self) -> &'static str {
        match (self.is_mariadb, self.version) {
            (true, version) if version < (10, 10) => {
                "CONCAT(@@hostname, ':', @@port, ' ', @@datadir)"
            }
            (true, _) => "@@server_uid",
            (false, _) => "@@server_uuid",
        }
    }
}

/// Brings the schema up to date, checks the database's identity, and says what source it holds.
pub(crate) async fn open(conn: &mut Conn, server: Server, options: &Options) -> Result<Source> {
    let version = version(conn).await?;
    if version.is_none() && !options.create {
        let context = format!("the database {} holds no onewrite schema", options.database());
        return Err(Error::new(Code::SchemaMissing, context));
    }
    if version.is_none_or(|version| version < SCHEMA_VERSION) {
        migrate(conn, server, options).await?;
    }
    if version.is_some() {
        check_identity(conn, server, options).await?;
    }
    source(conn).await
}

/// The schema's version; `None` without a schema.
async fn version(conn: &mut Conn) -> Result<Option<u32>> {
    let exists = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'onewrite_source'";
    if query_one(conn, exists, binds![]).await?.is_none() {
        return Ok(None);
    }
    let found =
        query_one(conn, "SELECT schema_version, min_compatible FROM onewrite_source", binds![])
            .await?;
    // The tables are made one by one, and this row at the end.
    let Some(mut found) = found else { return Ok(None) };
    let (version, needed): (u32, u32) = (row::get(&mut found, 0)?, row::get(&mut found, 1)?);
    if needed > SCHEMA_VERSION {
        let context = format!(
            "the database has schema version {version} and needs a program for version {needed}; this one knows version {SCHEMA_VERSION}"
        );
        return Err(Error::new(Code::SchemaUnsupported, context));
    }
    Ok(Some(version))
}

/// Each statement commits by itself on these servers, so one that was broken off is begun anew: what it left
/// is not a schema yet and is removed. One process at a time.
async fn migrate(conn: &mut Conn, server: Server, options: &Options) -> Result<()> {
    let lock = format!("onewrite {}", options.database());
    let locked: Option<Option<i64>> = conn
        .exec_first("SELECT GET_LOCK(LEFT(?, 64), 60)", (&lock,))
        .await
        .during("lock the migration")?;
    if locked.flatten() != Some(1) {
        return Err(Error::new(Code::StoreBusy, "another process migrates the schema for long"));
    }
    let migrated = migrate_locked(conn, server, options).await;
    let unlocked = conn.exec_drop("SELECT RELEASE_LOCK(LEFT(?, 64))", (&lock,)).await;
    migrated?;
    unlocked.during("unlock the migration")
}

async fn migrate_locked(conn: &mut Conn, server: Server, options: &Options) -> Result<()> {
    // Somebody else may have done it while this one waited.
    let from = version(conn).await?.unwrap_or(0);
    if from == 0 {
        remove_what_is_left(conn).await?;
    }
    for migration in MIGRATIONS.iter().skip(from as usize) {
        for statement in migration.iter().flat_map(|part| part.split("\n--.\n")) {
            let statement = statement.replace("{bin}", server.collation());
            conn.query_drop(statement).await.during("migrate the schema")?;
        }
    }
    roles::make(conn).await?;
    if from == 0 {
        create_source(conn, server, options).await?;
    }
    let binds = binds![SCHEMA_VERSION, MIN_COMPATIBLE, SCHEMA_VERSION];
    let note = "UPDATE onewrite_source SET schema_version = ?, min_compatible = GREATEST(min_compatible, ?) WHERE schema_version < ?";
    execute(conn, note, binds).await.map(|_| ())
}

async fn remove_what_is_left(conn: &mut Conn) -> Result<()> {
    // The first life is begun in one transaction with the row about the source.
    let lives = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = 'onewrite_incarnation'";
    let begun = "SELECT 1 FROM onewrite_incarnation LIMIT 1";
    if query_one(conn, lives, binds![]).await?.is_some()
        && query_one(conn, begun, binds![]).await?.is_some()
    {
        let context = "onewrite_source is empty, and the store was in use: nothing is made anew over its events";
        return Err(Error::new(Code::Corrupt, context));
    }
    let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE 'onewrite\\_%'";
    for mut found in query(conn, tables, binds![]).await? {
        let name = row::text(&mut found, 0)?;
        conn.query_drop(format!("DROP TABLE `{name}`")).await.during("begin the migration anew")?;
    }
    let routines = "SELECT routine_name FROM information_schema.routines WHERE routine_schema = DATABASE() AND routine_name LIKE 'onewrite\\_%'";
    for mut found in query(conn, routines, binds![]).await? {
        let name = row::text(&mut found, 0)?;
        let drop = format!("DROP PROCEDURE `{name}`");
        conn.query_drop(drop).await.during("begin the migration anew")?;
    }
    Ok(())
}

async fn create_source(conn: &mut Conn, server: Server, options: &Options) -> Result<()> {
    let mut tx = conn
        .start_transaction(mysql_async::TxOpts::default())
        .await
        .during("register the source")?;
    let begun = concat!("INSERT INTO onewrite_incarnation VALUES (1, ?, ", now!(), ", 'created')");
    execute(&mut tx, begun, binds![new_incarnation().to_string()]).await?;
    let identity = server.identity();
    let register = format!(
        "INSERT INTO onewrite_source (name, partitions, event_bytes_max, registered, schema_version, min_compatible)
         VALUES (?, ?, ?, CONCAT({identity}, ' ', DATABASE()), ?, ?)"
    );
    let bytes_max = i32::try_from(options.event_bytes_max).unwrap_or(i32::MAX);
    let binds = binds![
        &*options.source_name(),
        options.partitions.max(1),
        bytes_max,
        SCHEMA_VERSION,
        MIN_COMPATIBLE
    ];
    execute(&mut tx, &register, binds).await?;
    tx.commit().await.map_err(after_commit)
}

fn new_incarnation() -> Incarnation {
    Incarnation(uuid::Uuid::new_v4().as_u64_pair().1)
}

/// Another server or another name: a copy, a restored dump, a failover, or a planned move.
async fn check_identity(conn: &mut Conn, server: Server, options: &Options) -> Result<()> {
    let identity = server.identity();
    let sql =
        format!("SELECT CONCAT({identity}, ' ', DATABASE()), registered FROM onewrite_source");
    let Some(mut found) = query_one(conn, &sql, binds![]).await? else { return Ok(()) };
    let (here, registered) = (row::text(&mut found, 0)?, row::text(&mut found, 1)?);
    let moved = here != registered && !options.sabotage.has(Defect::NoIncarnation);
    match options.copied {
        Copied::Refuse if moved => Err(Error::new(
            Code::StoreCopied,
            format!(
                "the database {} is not the one its source was registered with: it was moved, copied or restored, or its server failed over",
                options.database()
            ),
        )),
        Copied::Refuse => Ok(()),
        Copied::Adopt => register(conn, &here).await,
        Copied::Fork(since) => fork(conn, &here, since).await,
    }
}

async fn register(on: &mut impl Queryable, here: &str) -> Result<()> {
    execute(on, "UPDATE onewrite_source SET registered = ?", binds![here]).await.map(|_| ())
}

async fn fork(conn: &mut Conn, here: &str, since: Option<Sequence>) -> Result<()> {
    let mut tx =
        conn.start_transaction(mysql_async::TxOpts::default()).await.during("begin a fork")?;
    let living = concat!("SELECT 1 FROM onewrite_member WHERE seen_until >= ", now!(), " LIMIT 1");
    if query_one(&mut tx, living, binds![]).await?.is_some() {
        return Err(Error::new(
            Code::UnsafeSetting,
            "a relay or receiver still works on this database: stop all of them, then fork",
        ));
    }
    let counter = "SELECT sequence FROM onewrite_counter FOR UPDATE";
    let last = query_one(&mut tx, counter, binds![]).await?;
    let last = last.map_or(Ok(0), |mut found| row::number(&mut found, 0))?;
    if since.is_some_and(|since| since > last) {
        let context =
            format!("the log ends at sequence {last}, so nothing can be forked behind {since:?}");
        return Err(Error::new(Code::InvalidInput, context));
    }
    let first = since.unwrap_or(last) + 1;
    let begin = concat!(
        "INSERT INTO onewrite_incarnation VALUES (?, ?, ",
        now!(),
        ", 'forked') ON DUPLICATE KEY UPDATE incarnation = VALUES(incarnation), reason = VALUES(reason)"
    );
    execute(&mut tx, begin, binds![first.cast_signed(), new_incarnation().to_string()]).await?;
    register(&mut tx, here).await?;
    tx.commit().await.map_err(after_commit)
}

pub(crate) async fn source(conn: &mut Conn) -> Result<Source> {
    let named = query(conn, SOURCE, binds![]).await?;
    source_of(named, query(conn, LIVES, binds![]).await?)
}

/// What [`SOURCE`] and [`LIVES`] say.
pub(crate) fn source_of(named: Vec<Row>, lives: Vec<Row>) -> Result<Source> {
    let Some(mut named) = named.into_iter().next() else {
        return Err(Error::new(Code::SchemaMissing, "the schema holds no source"));
    };
    let life =
        |mut found: Row| Ok((row::number(&mut found, 0)?, row::text(&mut found, 1)?.parse()?));
    Ok(Source {
        name: row::text(&mut named, 0)?,
        partitions: row::get(&mut named, 1)?,
        incarnations: lives.into_iter().map(life).collect::<Result<_>>()?,
    })
}

/// The bytes that an event's data may take.
pub(crate) async fn event_bytes_max(conn: &mut Conn) -> Result<usize> {
    let found = query_one(conn, "SELECT event_bytes_max FROM onewrite_source", binds![]).await?;
    found.map_or(Ok(0), |mut found| row::get(&mut found, 0))
}

/// The highest sequence ever drawn.
pub(crate) async fn head(on: &mut impl Queryable) -> Result<Sequence> {
    let found = query_one(on, "SELECT sequence FROM onewrite_counter", binds![]).await?;
    found.map_or(Ok(0), |mut found| row::number(&mut found, 0))
}

/// Settings of the server that weaken a promise.
pub(crate) async fn warnings(conn: &mut Conn) -> Result<Vec<Text>> {
    let sql = "SELECT CONCAT(@@innodb_flush_log_at_trx_commit), CONCAT(@@innodb_doublewrite), CONCAT(@@log_bin), CONCAT(@@sync_binlog)";
    let Some(mut found) = query_one(conn, sql, binds![]).await? else { return Ok(Vec::new()) };
    let mut said = |index| row::text(&mut found, index);
    let (flush, doublewrite, binlog, sync) = (said(0)?, said(1)?, said(2)?, said(3)?);
    let is_on = |said: &str| !matches!(said, "0" | "OFF");
    let found = [
        (
            &*flush != "1",
            "the server runs with innodb_flush_log_at_trx_commit other than 1: a power cut or a crash can lose what was committed and delivered; set it to 1",
        ),
        (
            !is_on(&doublewrite),
            "the server runs with innodb_doublewrite=OFF: a power cut can damage the database; set it to ON unless the file system never tears a page",
        ),
        (
            is_on(&binlog) && &*sync != "1",
            "the server writes a binary log and runs with sync_binlog other than 1: after a power cut it rolls back what the log lacks, though it was committed and delivered; set it to 1",
        ),
    ];
    Ok(found.into_iter().filter(|(is, _)| *is).map(|(_, said)| Text::from_static(said)).collect())
}
