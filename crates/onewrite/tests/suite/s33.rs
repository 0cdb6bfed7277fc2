//! S33: a commit is acknowledged and lost in a power cut.
//!
//! `cargo xtask soak s33` kills writers for minutes. Here the power goes as well: what was not synced
//! is gone with the process.

use std::{collections::HashSet, path::Path};

use onewrite::{
    Store, other,
    sabotage::{Defect, Sabotage},
    sqlite::rusqlite::Connection,
};
use onewrite_testkit::{
    child::{Child, End},
    powercut::{self, Shim},
};
use tokio::task::JoinSet;

use crate::{
    rig::{LEDGER, Source, pairs},
    role,
};

const INSERT: &str = "INSERT INTO onewrite_outbox (aggregatetype, aggregateid, id, type, payload) VALUES ('Thing', ?1, ?2, 'Happened', '{}')";

const CALLERS: usize = 4;

/// Acknowledged writes before each power cut.
const ACKNOWLEDGED: [usize; 3] = [7, 60, 150];

/// Writes until the power goes, and says what was acknowledged.
pub(crate) async fn child(folder: &Path, sabotage: Sabotage) {
    let source = Source::open(folder, 4, sabotage).await;
    let first = source.0.head().await.unwrap();
    role::ready();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let source = source.clone();
        callers.spawn(async move {
            for turn in 0.. {
                let id = format!("{first}-{caller}-{turn}");
                write(&source, format!("k{caller}"), id.clone()).await;
                println!("acknowledged {id}");
            }
        });
    }
    callers.join_all().await;
}

/// A row with its event, inserted as a program in another language does: `emit` would refuse the
/// broken variant's connection.
async fn write(source: &Source, key: String, id: String) {
    let work = move |tx: &Connection| {
        tx.execute(LEDGER, [&key, &id]).map_err(other)?;
        tx.execute(INSERT, [&key, &id]).map_err(other)
    };
    source.0.write(work).await.unwrap();
}

/// Returns how many writes were acknowledged, and how many of them are lost.
async fn cut_the_power(sabotage: Sabotage) -> (usize, usize) {
    let (folder, shim) = (tempfile::tempdir().unwrap(), Shim::compile().unwrap());
    let mut acknowledged = Vec::new();
    let mut lost: HashSet<String> = HashSet::new();
    for wanted in ACKNOWLEDGED {
        let mut command = role::command("s33", folder.path(), sabotage, None);
        shim.preload(&mut command, folder.path()).unwrap();
        let mut child = Child::start(command).await.unwrap();
        let mut seen = 0;
        // What it said before it died counts, whenever it is read.
        while let Some(line) = child.line().await.unwrap() {
            if let Some(id) = line.strip_prefix("acknowledged ") {
                acknowledged.push(id.to_owned());
                seen += 1;
                if seen == wanted {
                    child.kill().unwrap();
                }
            }
        }
        assert_eq!(child.wait().await.unwrap(), End::Killed);
        powercut::cut(folder.path()).unwrap();
        let source = Source::open(folder.path(), 4, sabotage).await;
        let rows = "SELECT l.id, o.id FROM ledger l JOIN onewrite_outbox o ON o.id = l.id";
        let found: HashSet<_> =
            pairs(&source.0, rows).await.into_iter().map(|(id, _)| id).collect();
        lost.extend(acknowledged.iter().filter(|id| !found.contains(*id)).cloned());
        drop(source);
        // The next child starts from what is on disk now.
        powercut::settle(folder.path()).unwrap();
    }
    (acknowledged.len(), lost.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_power_cut() {
    let (acknowledged, lost) = cut_the_power(crate::rig::sound()).await;
    assert!(acknowledged >= ACKNOWLEDGED.iter().sum());
    assert_eq!(lost, 0, "of {acknowledged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_syncs_a_power_cut_loses_acknowledged_writes() {
    let (acknowledged, lost) = cut_the_power(crate::rig::broken(Defect::NoSync)).await;
    assert!(lost > 0, "nothing noticed: {acknowledged} acknowledged");
}
