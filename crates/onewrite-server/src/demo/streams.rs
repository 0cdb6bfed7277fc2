//! The streams of a run at a broker: one for each service that receives.

use onewrite::{Code, Result, stream};
use onewrite_shop::Role;

use super::{
    removal::{self, Rest},
    stage::{Run, named},
};
use crate::backends::scheme;

pub(crate) struct Streams {
    urls: Vec<(Role, String)>,
    /// Those that were begun with: there may be such a stream.
    made: Vec<(Role, String)>,
}

impl Streams {
    /// The streams of `run` at the server of `url`.
    pub(crate) fn at(url: &str, run: &Run) -> Self {
        let stream = |role: Role| {
            let url = named(url, &run.name(role));
            let joint = if url.contains('?') { '&' } else { '?' };
            (role, format!("{url}{joint}{}", options(scheme(&url), role)))
        };
        Self { urls: Role::ALL.map(stream).to_vec(), made: Vec::new() }
    }

    /// Creates them.
    pub(crate) async fn create(&mut self) -> Result<()> {
        for (role, url) in &self.urls {
            let made = stream::sink(url).await;
            // Where nobody answers there is nothing to remove.
            if made.as_ref().err().is_none_or(|error| error.code() != Code::SinkUnreachable) {
                self.made.push((*role, url.clone()));
            }
            made?;
        }
        Ok(())
    }

    pub(crate) fn url(&self, role: Role) -> &str {
        self.urls.iter().find(|(known, _)| *known == role).map_or("", |(_, url)| url)
    }

    /// Deletes those that were made.
    pub(crate) async fn delete(&self) -> Rest {
        let delete = async |(role, url): &(Role, String)| stream::remove(url, &[role.name()]).await;
        removal::each(&self.made, delete, command).await
    }

    /// Those that were made, when they are to stay.
    pub(crate) fn kept(&self) -> Rest {
        Rest { commands: self.made.iter().map(command).collect(), why: None }
    }
}

/// What a killed receiver had in its hands is delivered again after 2 seconds, where the broker cannot tell
/// that it is dead; where nothing is kept for a receiver that was never there, its queues are made.
fn options(scheme: &str, role: Role) -> String {
    match scheme {
        "amqp" | "amqps" => format!("heartbeat=2s&consumers={}", role.name()),
        // It delivers again without waiting.
        "kafka" | "kafka+ssl" => "gap_patience=2s".to_owned(),
        _ => "ack_wait=2s".to_owned(),
    }
}

/// What deletes one by hand.
fn command((_, url): &(Role, String)) -> String {
    let path = url.split('?').next().unwrap_or_default();
    let stream = path.rsplit('/').next().unwrap_or_default();
    match scheme(url) {
        "redis" | "rediss" => {
            format!("redis-cli --scan --pattern '*{stream}*' | xargs redis-cli DEL")
        }
        "amqp" | "amqps" => format!(
            "rabbitmqctl list_queues name | grep ^{stream} | xargs -n 1 rabbitmqctl delete_queue"
        ),
        "kafka" | "kafka+ssl" => {
            format!("kafka-topics.sh --bootstrap-server … --delete --topic '{stream}(\\.gaps)?'")
        }
        _ => format!("nats stream rm {stream} --force"),
    }
}
