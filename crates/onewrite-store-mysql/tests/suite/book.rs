//! The statements of the book's page, as they stand there, through the server's own client.

use onewrite_testkit::server;

use crate::rig::{log, open};

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_statements_do_what_it_says() {
    let address = server::shared_mariadb().await.unwrap();
    let name = server::unique("book");
    address.create_database(&name).await.unwrap();
    let store = open(&address.url(&name)).await;
    let page = include_str!("../../../../book/src/mysql.md");
    let blocks: Vec<&str> = page
        .split("```sql\n")
        .skip(1)
        .map(|rest| rest.split_once("```").expect("a block ends").0)
        // `roles.rs` runs those about roles.
        .filter(|block| !block.contains("ROLE"))
        .collect();
    assert_eq!(blocks.len(), 3, "blocks of SQL");
    let mut said = String::new();
    for block in blocks {
        said += &address.sql(&name, block).await.unwrap();
    }
    assert_eq!(said.trim(), "1", "the event is new");
    assert_eq!(log(&store).await.len(), 3);
    let placed = address.sql(&name, "SELECT aggregateid FROM onewrite_log").await.unwrap();
    assert_eq!(placed, "o-1\no-2\no-1\n");
}
