//! What is wrong is said with its cure: addresses, passwords, certificates, rights, read-only databases.

use std::{os::unix::fs::MetadataExt as _, path::Path, process::Command};

use onewrite_core::{
    Code, Error,
    store::{From, Item, Op, Outcome, Store as _},
};
use onewrite_store_postgres::{Options, PostgresStore};
use onewrite_testkit::server::{self, Postgres};

use crate::{
    conformance::connect,
    rig::{apply, emit_all, event, execute, outcome, place},
};

async fn refused(url: &str) -> Error {
    let error =
        PostgresStore::open(Options::from_url(url).unwrap()).await.err().expect("it is opened");
    let said = error.to_string();
    assert!(!said.contains("hunter2"), "a password is shown: {said}");
    error
}

/// Fails unless opening is refused as unreachable, with `cure` in the message.
async fn assert_unreachable(url: &str, cure: &str) {
    let error = refused(url).await;
    assert_eq!(error.code(), Code::StoreUnreachable, "{error}");
    assert!(error.to_string().contains(cure), "{error}");
    let place = url.rsplit_once('@').unwrap().1.split('?').next().unwrap();
    assert!(error.context().contains(&format!("at {place}: ")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_nowhere_is_told_from_one_that_refuses() {
    let server = server::shared_postgres().await.unwrap();
    let port = server.port();
    let wrong = format!("postgres://postgres:hunter2@127.0.0.1:{port}/postgres");
    assert_unreachable(&wrong, "user or password are wrong").await;
    let nobody = format!("postgres://nobody:hunter2@127.0.0.1:{port}/postgres");
    assert_unreachable(&nobody, "user or password are wrong").await;
    let silent = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    assert_unreachable(&silent, "the server asks for a password").await;
    assert_unreachable(&server.url("no_such_database"), "there is no such database").await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere =
        format!("postgres://postgres:hunter2@127.0.0.1:{}/x", closed.local_addr().unwrap().port());
    drop(closed);
    assert_unreachable(&nowhere, "the server cannot be reached").await;
    let tls = format!("{}?sslmode=verify-full", server.url("postgres"));
    assert_unreachable(&tls, "TLS failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_room_says_so() {
    let place = place(4).await;
    let admin = connect(&place.url).await;
    let user = server::unique("user");
    let database = place.url.rsplit_once('/').unwrap().1.to_owned();
    let sql = format!(
        "CREATE ROLE {user} LOGIN PASSWORD 'hunter2'; ALTER DATABASE {database} CONNECTION LIMIT 0"
    );
    execute(&admin, &sql).await;
    let url = format!("postgres://{user}:hunter2@{}", place.url.split_once('@').unwrap().1);
    assert_unreachable(&url, "no room for another connection").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_named_as_such() {
    let place = place(4).await;
    let store = place.store().await;
    let database = place.url.rsplit_once('/').unwrap().1.to_owned();
    let admin = connect(&place.url).await;
    execute(&admin, &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"))
        .await;
    drop(store);
    let store = place.store().await;
    let item = Item { fence: None, ops: vec![Op::Subscribe { sink: "s".into(), from: From::Now }] };
    match outcome(&store, item).await {
        Ok(Outcome::Failed(error)) | Err(error) => {
            assert_eq!(error.code(), Code::ReadOnly, "{error}")
        }
        other => panic!("{other:?}"),
    }
    let write = store.write(|tx| {
        Box::pin(async move { onewrite_store_postgres::emit(tx, &event("k", "e")).await })
    });
    assert_eq!(write.await.unwrap_err().code(), Code::ReadOnly);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_weaken_a_promise_are_named() {
    let place = place(4).await;
    let store = place.store().await;
    assert!(store.warnings().await.unwrap().is_empty(), "{:?}", store.warnings().await);
    let database = place.url.rsplit_once('/').unwrap().1.to_owned();
    let admin = connect(&place.url).await;
    execute(&admin, &format!("ALTER DATABASE {database} SET synchronous_commit = off")).await;
    let store = place.store().await;
    let said = store.warnings().await.unwrap();
    assert!(said.len() == 1 && said[0].contains("synchronous_commit"), "{said:?}");
    for setting in ["synchronous_commit = on", "default_transaction_read_only = on"] {
        execute(&admin, &format!("ALTER DATABASE {database} SET {setting}")).await;
    }
    let store = place.store().await;
    let said = store.warnings().await.unwrap();
    assert!(said.len() == 1 && said[0].contains("default_transaction_read_only"), "{said:?}");
    let careless =
        Postgres::start_with(&[("fsync", "off"), ("full_page_writes", "off")]).await.unwrap();
    let store =
        PostgresStore::open(Options::from_url(&careless.url("postgres")).unwrap()).await.unwrap();
    let said = store.warnings().await.unwrap();
    assert!(said.iter().any(|said| said.contains("fsync=off")), "{said:?}");
    assert!(said.iter().any(|said| said.contains("full_page_writes=off")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_loses_its_schema_says_so() {
    let place = place(4).await;
    let store = place.store().await;
    execute(&connect(&place.url).await, "DROP SCHEMA onewrite CASCADE").await;
    let write = store.write(|tx| {
        Box::pin(async move { onewrite_store_postgres::emit(tx, &event("k", "e")).await })
    });
    assert_eq!(write.await.unwrap_err().code(), Code::SchemaMissing);
    let error = store.sinks().await.unwrap_err();
    assert_eq!(error.code(), Code::SchemaMissing, "{error}");
}

fn openssl(folder: &Path, arguments: &str) {
    let arguments = arguments.split(' ').map(|word| word.replace('+', " "));
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate of it for `name`.
fn certificate(folder: &Path, name: &str) {
    let key = "-newkey rsa:2048 -nodes -sha256";
    openssl(
        folder,
        &format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"),
    );
    openssl(folder, &format!("req {key} -subj /CN=server -keyout server.key -out server.csr"));
    std::fs::write(folder.join("ext"), format!("subjectAltName={name}\n")).unwrap();
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem";
    openssl(folder, sign);
}

/// A server that speaks TLS with a certificate for `name`. Its authority's file is `ca.pem` in its folder.
async fn tls_server(name: &str) -> Postgres {
    let server = Postgres::start().await.unwrap();
    let folder = server.folder().to_path_buf();
    certificate(&folder, name);
    let owner = std::fs::metadata(folder.join("data")).unwrap();
    for file in ["server.key", "server.pem"] {
        let path = folder.join(file);
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    let sql = format!(
        "ALTER SYSTEM SET ssl_cert_file = '{0}/server.pem'; ALTER SYSTEM SET ssl_key_file = '{0}/server.key';
         ALTER SYSTEM SET ssl = on",
        folder.display()
    );
    server.psql("postgres", &sql).await.unwrap();
    server.restart().await.unwrap();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_with_servers_whose_certificate_holds() {
    let server = tls_server("IP:127.0.0.1").await;
    let folder = server.folder().to_path_buf();
    let url = |query: &str| format!("{}?{query}", server.url("postgres"));
    let authority = format!("sslrootcert={}/ca.pem", folder.display());
    let store = PostgresStore::open(
        Options::from_url(&url(&format!("sslmode=verify-full&{authority}"))).unwrap(),
    );
    let store = store.await.unwrap();
    let encrypted = store
        .work()
        .await
        .unwrap()
        .query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[])
        .await;
    assert!(encrypted.unwrap().get::<_, bool>(0));
    // The listening connection as well.
    let mut watch = store.watch();
    watch.changed(std::time::Duration::from_millis(1)).await;
    emit_all(&store, [event("k", "e")]).await;
    apply(&store, vec![Op::Subscribe { sink: "s".into(), from: From::Beginning }]).await;
    // Naming the authority is wish enough.
    PostgresStore::open(Options::from_url(&url(&authority)).unwrap()).await.unwrap();
    assert_unreachable(&url("sslmode=verify-full"), "sslrootcert=FILE").await;
    // Another authority's word is not taken, nor is a file without certificates.
    let other = tempfile::tempdir().unwrap();
    certificate(other.path(), "IP:127.0.0.1");
    let other_ca = format!("sslrootcert={}/ca.pem", other.path().display());
    assert_unreachable(&url(&other_ca), "TLS failed").await;
    let missing = Options::from_url(&url("sslrootcert=/nowhere/ca.pem")).unwrap();
    let error = PostgresStore::open(missing).await.err().unwrap();
    assert_eq!(error.code(), Code::InvalidConfig, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() {
    let server = tls_server("DNS:db.example.org").await;
    let authority = format!("sslrootcert={}/ca.pem", server.folder().display());
    let url = format!("{}?sslmode=verify-full&{authority}", server.url("postgres"));
    assert_unreachable(&url, "TLS failed").await;
}
