//! Servers that cannot be reached, and settings that weaken a promise: each is named with its cure.

use onewrite_core::{Code, store::Store as _};
use onewrite_store_mysql::{MysqlStore, Options};
use onewrite_testkit::server::{self, Mariadb};

use crate::rig::{database, open};

async fn refusal(url: &str) -> (Code, String) {
    let refused = MysqlStore::open(Options::from_url(url).unwrap()).await.err().unwrap();
    (refused.code(), refused.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_program_from_connecting_is_named_without_secrets() {
    let address = server::shared_mariadb().await.unwrap();
    let port = address.port();
    let cases = [
        (format!("mysql://onewrite:hunter2@127.0.0.1:{port}/shop"), "user or password are wrong"),
        (address.url("no_such_database"), "there is no such database"),
        ("mysql://onewrite:hunter2@127.0.0.1:1/shop".to_owned(), "cannot be reached"),
        (format!("{}?sslmode=verify-full", address.url("shop")), "TLS"),
    ];
    for (url, cure) in cases {
        let (code, said) = refusal(&url).await;
        assert_eq!(code, Code::StoreUnreachable, "{said}");
        assert!(said.contains(cure), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_weaken_a_promise_are_named() {
    let sound = open(&database().await).await;
    assert!(sound.warnings().await.unwrap().is_empty());
    let weak = [
        "--innodb-flush-log-at-trx-commit=2",
        "--log-bin",
        "--sync-binlog=0",
        "--innodb-doublewrite=OFF",
    ];
    let server = Mariadb::start_with(&weak).await.unwrap();
    server.address().create_database("weak").await.unwrap();
    let said = open(&server.address().url("weak")).await.warnings().await.unwrap();
    for setting in ["innodb_flush_log_at_trx_commit", "innodb_doublewrite", "sync_binlog"] {
        assert_eq!(said.iter().filter(|line| line.contains(setting)).count(), 1, "{said:?}");
    }
}
