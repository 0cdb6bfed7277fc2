//! Topics: whether they are there, creating and deleting them.

use std::time::Duration;

use onewrite_core::Result;
use onewrite_lanes::url::invalid;
use rdkafka::{
    admin::{NewTopic, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, Producer as _},
};
use tokio::time::Instant;

use crate::connect::{ADMIN_TIMEOUT_MAX, Server, Talk, aside, drop_aside};

/// How often a topic that is being created is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long announcements are kept: whoever waits says it again.
const GAPS_KEPT_MS: &str = "60000";

const AUTHORIZATION: RDKafkaErrorCode = RDKafkaErrorCode::TopicAuthorizationFailed;

impl Server {
    /// How many partitions a topic has; `None` when there is no such topic.
    ///
    /// # Errors
    /// As [`Self::failed`] reads the answer.
    pub(crate) async fn partitions(&self, topic: &str) -> Result<Option<u16>> {
        self.look_at(topic, false).await
    }

    /// Looks for a topic until it can be used. What is missing is created by servers that do so when they
    /// are asked about it.
    ///
    /// # Errors
    /// As [`Self::partitions`].
    pub(crate) async fn wait_for(&self, topic: &str) -> Result<Option<u16>> {
        let until = Instant::now() + self.timeout().min(ADMIN_TIMEOUT_MAX);
        loop {
            let found = self.look_at(topic, true).await?;
            if found.is_some() || until <= Instant::now() {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look_at(&self, topic: &str, create: bool) -> Result<Option<u16>> {
        let mut config = self.config();
        config.set("allow.auto.create.topics", if create { "true" } else { "false" });
        let (timeout, name) = (self.timeout(), topic.to_owned());
        let asked = aside(move || {
            let talk = Talk::default();
            let client: BaseProducer<Talk> = match config.create_with_context(talk.clone()) {
                Ok(client) => client,
                Err(error) => return (Err(error), None),
            };
            let found = client.client().fetch_metadata(Some(&name), timeout);
            // Serves what was said in the background.
            client.poll(Duration::ZERO);
            let found = found.map(|found| {
                let topic = found.topics().first();
                topic.map(|topic| (topic.partitions().len(), topic.error()))
            });
            (found, talk.last())
        });
        let (found, said) = asked.await?;
        let about = format!("does not say whether there is a topic `{topic}`");
        let found = found.map_err(|error| self.failed_after(&about, error, said))?;
        match found {
            Some((partitions, None)) if partitions > 0 => {
                let too_many = |_| invalid(format!("topic `{topic}` has too many partitions"));
                u16::try_from(partitions).map(Some).map_err(too_many)
            }
            Some((_, Some(error))) if RDKafkaErrorCode::from(error) == AUTHORIZATION => {
                Err(self.failed(&about, KafkaError::MetadataFetch(error.into())))
            }
            _ => Ok(None),
        }
    }

    /// Asks the servers to create a topic, and the one for announcements. Whether that came about is seen
    /// by looking: they may not allow it, or somebody else may have been first.
    pub(crate) async fn create_topics(&self, topic: Option<(&str, u16)>, gaps: &str) {
        // As many replicas as the servers have set: newer ones take -1 for that.
        let new =
            |name, lanes: u16| NewTopic::new(name, i32::from(lanes), TopicReplication::Fixed(-1));
        let wanted = topic.map(|(name, lanes)| new(name, lanes));
        let gaps = new(gaps, 1).set("retention.ms", GAPS_KEPT_MS);
        let wanted: Vec<NewTopic<'_>> = wanted.into_iter().chain([gaps]).collect();
        let created = async {
            let admin = self.admin()?;
            let created = admin.create_topics(&wanted, &self.admin_options()).await;
            drop_aside(admin);
            created
        };
        match created.await {
            Ok(created) => {
                for (topic, error) in created.into_iter().filter_map(Result::err) {
                    tracing::debug!(%error, topic, "a topic was not created");
                }
            }
            Err(error) => tracing::debug!(%error, "no topic was created"),
        }
    }

    /// Deletes topics.
    ///
    /// # Errors
    /// As [`Self::failed`] reads the answer; that there is none is no error.
    pub(crate) async fn delete_topics(&self, topics: &[&str]) -> Result<()> {
        let what = "does not remove a topic";
        let deleted = async {
            let admin = self.admin()?;
            let deleted = admin.delete_topics(topics, &self.admin_options()).await;
            drop_aside(admin);
            deleted
        };
        for (_, code) in deleted
            .await
            .map_err(|error| self.failed(what, error))?
            .into_iter()
            .filter_map(Result::err)
        {
            if code != RDKafkaErrorCode::UnknownTopicOrPartition {
                return Err(self.failed(what, KafkaError::AdminOp(code)));
            }
        }
        Ok(())
    }
}
