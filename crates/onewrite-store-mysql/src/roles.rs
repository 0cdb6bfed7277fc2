//! The roles that programs are given, made with the schema if its maker may.

use mysql_async::{Conn, Error as Cause, prelude::Queryable};
use onewrite_core::Result;

use crate::error::While;

/// Its statements are those of the book's page, where whoever may grants what the maker of a schema may not.
const STATEMENTS: &str = include_str!("../migrations/0001_roles.sql");

/// Who has no right to this.
pub(crate) const DENIED: [u16; 8] = [1044, 1045, 1142, 1143, 1227, 1370, 1410, 1698];

/// What mends a right that is missing.
pub(crate) const CURE: &str = "`GRANT onewrite_relay TO` this user, or onewrite_emit, onewrite_receive, onewrite_operator, whichever does \
    this work, and make it the user's default role";

/// Makes them, and grants them what they need here. Who may not goes without.
pub(crate) async fn make(conn: &mut Conn) -> Result<()> {
    for statement in STATEMENTS.split("\n--.\n") {
        match conn.query_drop(statement).await {
            Err(Cause::Server(said)) if DENIED.contains(&said.code) => {
                tracing::warn!(
                    "the roles onewrite_emit, onewrite_receive, onewrite_relay and onewrite_operator have no rights here, for this user may not make them or grant to them: {}",
                    said.message
                );
                return Ok(());
            }
            done => done.during("make the roles")?,
        }
    }
    Ok(())
}
