//! A backup written over a live database: the receiver knows more than its source.

use std::process::Command;

use crate::{
    peer::Peer,
    support::{Place, Running, emit, event, eventually, execute, number, texts},
};

/// A source that went back in time while its receiver did not, and a relay started on it.
pub(crate) struct Restored {
    pub(crate) place: Place,
    pub(crate) peer: Peer,
}

impl Restored {
    pub(crate) fn new() -> Self {
        Self::with(|place, shop| {
            // Without its witness, as when a whole folder is restored: only the receivers know then.
            let _ = std::fs::remove_file(place.path("shop.db-witness"));
            emit(shop, &[event("Made", "a", 4)]);
        })
    }

    /// Restored, and then treated by `after`.
    fn with(after: impl FnOnce(&Place, &std::path::Path)) -> Self {
        let place = Place::with_store();
        place.write("onewrite.toml", "[relay]\nlease_ms = 300\n");
        let (shop, backup) = (place.path("shop.db"), place.path("backup.db"));
        let peer = Peer::start(&place.path("peer.db"));
        let restored = Self { place, peer };
        emit(&shop, &[event("Made", "a", 1)]);
        let relay = restored.relay(|_| ());
        restored.has(&["1"]);
        execute(&shop, &format!("VACUUM INTO '{}'", backup.display()));
        emit(&shop, &[event("Made", "a", 2), event("Made", "a", 3)]);
        restored.has(&["1", "2", "3"]);
        relay.terminate().ok();
        // Into the very same file: its identity does not show it.
        execute(&shop, "PRAGMA wal_checkpoint(TRUNCATE)");
        let bytes = std::fs::read(&backup).unwrap();
        std::fs::write(&shop, bytes).unwrap();
        for side in ["shop.db-wal", "shop.db-shm"] {
            let _ = std::fs::remove_file(restored.place.path(side));
        }
        after(&restored.place, &shop);
        restored
    }

    pub(crate) fn relay(&self, adjust: impl FnOnce(&mut Command)) -> Running {
        let url = self.peer.url();
        let args = [
            "relay",
            "--store",
            "sqlite:shop.db",
            "--sink",
            &url,
            "--name",
            "peer",
            "--allow-private",
        ];
        let mut command = self.place.command(&args);
        adjust(&mut command);
        Running::of(command)
    }

    pub(crate) fn effects(&self) -> Vec<String> {
        texts(&self.place.path("peer.db"), "SELECT data FROM effects ORDER BY n")
    }

    fn has(&self, data: &[&str]) {
        eventually(&format!("{data:?} took effect"), || self.effects() == data);
    }
}

#[test]
fn a_source_that_went_back_is_stopped_before_its_events_are_swallowed() {
    let restored = Restored::new();
    let (place, shop) = (&restored.place, restored.place.path("shop.db"));
    // What the receiver would take for a repeat of its own second event.
    let relay = restored.relay(|_| ());
    let said = relay.says("OW0013");
    assert!(said.contains("peer"), "{said}");
    // Other keys are not held up by it.
    emit(&shop, &[event("Made", "b", 5)]);
    restored.has(&["1", "2", "3", "5"]);
    let waits = "SELECT count(*) FROM onewrite_outbox o JOIN onewrite_cursor c ON c.partition = o.partition WHERE c.sequence < o.sequence AND o.sequence = 2";
    assert_eq!(number(&shop, waits), 1, "it stays in the log, unsettled");
    relay.terminate().ok();
    let why = place.run(&["why", "a", "--store", "sqlite:shop.db"]).ok().out;
    assert!(why.contains("peer"), "{why}");
    let beyond = place.run(&["store", "fork", "--since", "99", "--store", "sqlite:shop.db"]);
    assert!(beyond.err.contains("OW0007"), "{}", beyond.err);
    let forked =
        place.json(&["store", "fork", "--since", "1", "--store", "sqlite:shop.db", "--json"]);
    assert_eq!(forked["incarnations"][1]["first_sequence"], 2);
    emit(&shop, &[event("Made", "a", 6)]);
    let relay = restored.relay(|_| ());
    eventually("new events flow", || restored.effects().contains(&"6".to_owned()));
    assert!(restored.effects().contains(&"4".to_owned()), "what was emitted before the fork too");
    relay.terminate().ok();
}

#[test]
fn a_backup_in_the_same_file_is_noticed_before_anything_is_emitted() {
    let restored = Restored::with(|_, _| ());
    let place = &restored.place;
    let refused = place.run(&["store", "show", "--store", "sqlite:shop.db"]);
    assert!(refused.err.contains("OW0012") && refused.err.contains("restored"), "{}", refused.err);
    let adopted = place.run(&["store", "adopt", "--store", "sqlite:shop.db"]);
    assert!(adopted.err.contains("OW0012") && adopted.err.contains("fork"), "{}", adopted.err);
    let forked = place.json(&["store", "fork", "--store", "sqlite:shop.db", "--json"]);
    assert_eq!(forked["incarnations"][1]["first_sequence"], 2);
    emit(&place.path("shop.db"), &[event("Made", "a", 7)]);
    let relay = restored.relay(|_| ());
    eventually("new events flow", || restored.effects().contains(&"7".to_owned()));
    relay.terminate().ok();
}

#[test]
fn a_store_is_not_forked_under_a_running_relay() {
    let place = Place::with_store();
    let shop = place.path("shop.db");
    emit(&shop, &[event("Made", "a", 1)]);
    let relay =
        place.start(&["relay", "--store", "sqlite:shop.db", "--sink", "null:", "--name", "n"]);
    let members = "SELECT count(*) FROM onewrite_member";
    eventually("the relay works", || number(&shop, members) == 1);
    let fork = || place.run(&["store", "fork", "--store", "sqlite:shop.db"]);
    fork().refused("OW0021", &["stop all relays"]);
    relay.terminate().ok();
    fork().ok();
}
