//! Settings of the server that weaken a promise.

use std::collections::HashMap;

use onewrite_core::{Result, Text};
use redis::cmd;

use crate::connect::Server;

/// What is asked about.
const SETTINGS: [&str; 4] =
    ["appendonly", "appendfsync", "maxmemory-policy", "min-replicas-to-write"];

/// What weakens a promise, each as one sentence with its cure.
///
/// # Errors
/// [`SinkUnreachable`](onewrite_core::Code::SinkUnreachable).
pub(crate) async fn look(server: &Server) -> Result<Vec<Text>> {
    let what = "cannot be looked at";
    let asked = cmd("CONFIG").arg("GET").arg(&SETTINGS).to_owned();
    let Some(settings) = server.allowed::<HashMap<String, String>>(what, &asked).await? else {
        return Ok(vec![
            format!(
                "The Redis server {} does not say how it keeps its data, so what weakens it is not seen; allow the user `+config|get`, or look yourself for `appendonly yes`, `appendfsync always` and no `maxmemory-policy allkeys-…`.",
                server.address()
            )
            .into(),
        ]);
    };
    Ok(judge(&settings, server.address()).into_iter().map(Into::into).collect())
}

fn judge(settings: &HashMap<String, String>, server: &str) -> Vec<String> {
    let setting = |name: &str| settings.get(name).map_or("", String::as_str);
    let mut out = Vec::new();
    if setting("appendonly") == "no" {
        out.push(format!(
            "The Redis server {server} keeps no append-only file, so its restart loses what it stored since its last snapshot; run `CONFIG SET appendonly yes`, and set it in its configuration file."
        ));
    } else if setting("appendfsync") != "always" {
        out.push(format!(
            "The Redis server {server} answers before it syncs to disk (`appendfsync {}`), so a power cut can lose what it answered for; run `CONFIG SET appendfsync always`, or keep the outbox longer than such a loss takes to be noticed.",
            setting("appendfsync")
        ));
    }
    // The others evict keys that expire, which ours do not, and refuse what comes when none are left.
    if setting("maxmemory-policy").starts_with("allkeys-") {
        out.push(format!(
            "The Redis server {server} removes any key when its memory is full (`maxmemory-policy {}`), a whole lane for instance; run `CONFIG SET maxmemory-policy noeviction`.",
            setting("maxmemory-policy")
        ));
    }
    if setting("min-replicas-to-write") == "0" {
        out.push(format!(
            "The Redis server {server} answers without any replica, so its failover, or the loss of its disk, can lose what it answered for; give it a replica and run `CONFIG SET min-replicas-to-write 1`, which narrows that to what was on its way, and keep the outbox longer than such a loss takes to be noticed."
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(changed: &[(&str, &str)]) -> HashMap<String, String> {
        let good = [
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("maxmemory-policy", "noeviction"),
            ("min-replicas-to-write", "1"),
        ];
        good.iter().chain(changed).map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn each_weakness_is_one_sentence_with_its_cure() {
        assert!(judge(&settings(&[]), "one:6379").is_empty());
        assert!(judge(&settings(&[("maxmemory-policy", "volatile-lru")]), "one:6379").is_empty());
        for (name, value, cure) in [
            ("appendonly", "no", "CONFIG SET appendonly yes"),
            ("appendfsync", "everysec", "CONFIG SET appendfsync always"),
            ("maxmemory-policy", "allkeys-lru", "CONFIG SET maxmemory-policy noeviction"),
            ("min-replicas-to-write", "0", "CONFIG SET min-replicas-to-write 1"),
        ] {
            let said = judge(&settings(&[(name, value)]), "one:6379");
            assert!(matches!(&said[..], [one] if one.contains(cure)), "{said:?}");
        }
    }
}
