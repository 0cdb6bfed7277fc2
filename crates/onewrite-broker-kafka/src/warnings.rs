//! Settings of the servers that weaken a promise.

use std::collections::HashMap;

use onewrite_core::{Result, Text};
use rdkafka::{
    admin::{ConfigResource, ResourceSpecifier},
    consumer::{BaseConsumer, Consumer as _},
};

use crate::{
    connect::{Server, aside, drop_aside},
    gaps::gap_topic,
    stream::Layout,
};

/// A shorter time than this is no time to repair a receiver in.
const KEPT_MIN_MS: i64 = 24 * 60 * 60 * 1000;

/// What a topic is set to, as far as the servers say.
type Settings = HashMap<String, String>;

/// What weakens a promise, each as one sentence with its cure.
///
/// # Errors
/// [`SinkUnreachable`](onewrite_core::Code::SinkUnreachable).
pub(crate) async fn look(server: &Server, layout: &Layout) -> Result<Vec<Text>> {
    let stream = &layout.stream;
    let replicas = replicas(server, stream).await?;
    let mut out = match settings(server, stream).await {
        Some(settings) => judge(&settings, stream, replicas),
        None => {
            let mut out = judge(&Settings::new(), stream, replicas);
            out.push(format!(
                "The Kafka server {} does not say how topic `{stream}` is set, so what weakens it is not seen; allow the user `DescribeConfigs` on it, or look yourself for `min.insync.replicas` 2, `unclean.leader.election.enable` false and a `retention.ms` of days.",
                server.address()
            ));
            out
        }
    };
    if !layout.has_gaps {
        let gaps = gap_topic(stream);
        out.push(format!(
            "There is no topic `{gaps}`, so receivers cannot ask for what was lost; run `kafka-topics.sh --create --topic {gaps} --partitions 1 --config retention.ms=60000`, and start the relay anew."
        ));
    }
    Ok(out.into_iter().map(Into::into).collect())
}

/// The fewest replicas that a partition of the topic has.
async fn replicas(server: &Server, stream: &Text) -> Result<Option<usize>> {
    let (config, timeout, topic) = (server.config(), server.timeout(), stream.clone());
    let asked = aside(move || {
        let client: BaseConsumer = config.create()?;
        client.fetch_metadata(Some(&topic), timeout)
    });
    let found = asked.await?.map_err(|error| server.failed("cannot be looked at", error))?;
    let partitions = found.topics().iter().flat_map(|topic| topic.partitions());
    Ok(partitions.map(|partition| partition.replicas().len()).min())
}

/// `None` where the servers do not say, or not in time.
async fn settings(server: &Server, stream: &Text) -> Option<Settings> {
    let admin = server.admin().ok()?;
    let asked = [ResourceSpecifier::Topic(stream)];
    let answered = admin.describe_configs(&asked, &server.admin_options()).await;
    drop_aside(admin);
    let ConfigResource { entries, .. } = answered.ok()?.into_iter().next()?.ok()?;
    Some(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

fn judge(settings: &Settings, topic: &str, replicas: Option<usize>) -> Vec<String> {
    let setting = |name: &str| settings.get(name).map(String::as_str);
    let number = |name: &str| setting(name).and_then(|value| value.parse::<i64>().ok());
    let mut out = Vec::new();
    if replicas.is_some_and(|replicas| replicas < 2) {
        out.push(format!(
            "Topic `{topic}` has one replica, so what its server answered for is lost with that server's disk; give it three with `kafka-reassign-partitions.sh`, and keep the outbox longer than such a loss takes to be noticed."
        ));
    } else if number("min.insync.replicas") == Some(1) {
        out.push(format!(
            "Topic `{topic}` is answered for by one replica alone when the others lag (`min.insync.replicas` 1), so a failover can lose that; run `kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config min.insync.replicas=2`."
        ));
    }
    if setting("unclean.leader.election.enable") == Some("true") {
        out.push(format!(
            "Topic `{topic}` lets a replica that lags take over and forget what was answered for (`unclean.leader.election.enable` true); run `kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config unclean.leader.election.enable=false`."
        ));
    }
    if setting("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        out.push(format!(
            "Topic `{topic}` is compacted: of several events of a key the earlier ones are removed, whoever has not read them; set its `cleanup.policy` to `delete`."
        ));
    }
    if number("retention.ms").is_some_and(|kept| (0..KEPT_MIN_MS).contains(&kept))
        || number("retention.bytes").is_some_and(|kept| kept >= 0)
    {
        out.push(format!(
            "Topic `{topic}` removes events that no receiver may have read yet (`retention.ms` under a day, or a limit of `retention.bytes`); raise its `retention.ms` to the longest time a receiver may be down, set its `retention.bytes` to -1, and keep the outbox as long."
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(changed: &[(&str, &str)]) -> Settings {
        let good = [
            ("min.insync.replicas", "2"),
            ("unclean.leader.election.enable", "false"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "-1"),
        ];
        good.iter().chain(changed).map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn each_weakness_is_one_sentence_with_its_cure() {
        assert!(judge(&settings(&[]), "T", Some(3)).is_empty());
        assert!(judge(&settings(&[("retention.ms", "-1")]), "T", Some(3)).is_empty());
        for (name, value, cure) in [
            ("min.insync.replicas", "1", "min.insync.replicas=2"),
            ("unclean.leader.election.enable", "true", "unclean.leader.election.enable=false"),
            ("cleanup.policy", "compact,delete", "`delete`"),
            ("retention.ms", "60000", "raise its `retention.ms`"),
            ("retention.bytes", "1000000", "`retention.bytes` to -1"),
        ] {
            let said = judge(&settings(&[(name, value)]), "T", Some(3));
            assert!(matches!(&said[..], [one] if one.contains(cure)), "{said:?}");
        }
        let said = judge(&settings(&[]), "T", Some(1));
        assert!(matches!(&said[..], [one] if one.contains("one replica")), "{said:?}");
    }
}
