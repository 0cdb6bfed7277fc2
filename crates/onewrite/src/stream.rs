//! Brokers that keep a stream, by their URLs: the one place that knows them all.
//!
//! A program that is told its broker when it starts needs nothing else; the modules of the brokers have
//! what a URL does not say.

use std::sync::Arc;

use onewrite_core::{
    Code, Error, Result,
    broker::{Feed, Sink},
};
pub use onewrite_lanes::{Closer, Reading};

/// The schemes of their URLs. Whether this build knows a broker is decided by its features.
pub const SCHEMES: &[&str] = &[
    "nats://",
    "tls://",
    "redis://",
    "rediss://",
    "amqp://",
    "amqps://",
    "kafka://",
    "kafka+ssl://",
];

/// Whether a URL leads to a broker that keeps a stream.
#[must_use]
pub fn is_stream(url: &str) -> bool {
    SCHEMES.iter().any(|scheme| url.starts_with(scheme))
}

/// Opens what publishes to the stream at `url`, and creates the stream if it is missing.
///
/// # Errors
/// [`Code::UnknownScheme`] for what is no such broker, or none of this build; as the broker's own sink.
pub async fn sink(url: &str) -> Result<Arc<dyn Sink>> {
    match scheme(url) {
        #[cfg(feature = "nats")]
        "nats" | "tls" => {
            let options = crate::nats::NatsSinkOptions::from_url(url)?;
            Ok(Arc::new(crate::nats::NatsSink::connect(options).await?))
        }
        #[cfg(feature = "redis")]
        "redis" | "rediss" => {
            let options = crate::redis::RedisSinkOptions::from_url(url)?;
            Ok(Arc::new(crate::redis::RedisSink::connect(options).await?))
        }
        #[cfg(feature = "rabbitmq")]
        "amqp" | "amqps" => {
            let options = crate::rabbitmq::RabbitSinkOptions::from_url(url)?;
            Ok(Arc::new(crate::rabbitmq::RabbitSink::connect(options).await?))
        }
        #[cfg(feature = "kafka")]
        "kafka" | "kafka+ssl" => {
            let options = crate::kafka::KafkaSinkOptions::from_url(url)?;
            Ok(Arc::new(crate::kafka::KafkaSink::connect(options).await?))
        }
        scheme => Err(unknown(scheme)),
    }
}

/// Opens what reads the stream at `url`, with what closes it in the open. What the URL says about
/// reading counts, and otherwise `reading`.
///
/// # Errors
/// As [`sink`].
#[cfg_attr(
    not(any(feature = "nats", feature = "redis", feature = "rabbitmq", feature = "kafka")),
    expect(unused_variables, reason = "no broker to read with it")
)]
pub async fn feed(url: &str, reading: Reading) -> Result<(Box<dyn Feed>, Closer)> {
    match scheme(url) {
        #[cfg(feature = "nats")]
        "nats" | "tls" => {
            let options = crate::nats::NatsFeedOptions::from_url(url, reading)?;
            let feed = crate::nats::NatsFeed::open(options).await?;
            let closer = feed.closer();
            Ok((Box::new(feed), closer))
        }
        #[cfg(feature = "redis")]
        "redis" | "rediss" => {
            let options = crate::redis::RedisFeedOptions::from_url(url, reading)?;
            let feed = crate::redis::RedisFeed::open(options).await?;
            let closer = feed.closer();
            Ok((Box::new(feed), closer))
        }
        #[cfg(feature = "rabbitmq")]
        "amqp" | "amqps" => {
            let options = crate::rabbitmq::RabbitFeedOptions::from_url(url, reading)?;
            let feed = crate::rabbitmq::RabbitFeed::open(options).await?;
            let closer = feed.closer();
            Ok((Box::new(feed), closer))
        }
        #[cfg(feature = "kafka")]
        "kafka" | "kafka+ssl" => {
            let options = crate::kafka::KafkaFeedOptions::from_url(url, reading)?;
            let feed = crate::kafka::KafkaFeed::open(options).await?;
            let closer = feed.closer();
            Ok((Box::new(feed), closer))
        }
        scheme => Err(unknown(scheme)),
    }
}

/// Removes the stream at `url`, whatever it still holds, with what was made there for these consumers.
///
/// # Errors
/// As [`sink`].
#[cfg_attr(
    not(feature = "rabbitmq"),
    expect(unused_variables, reason = "the others know their consumers")
)]
pub async fn remove(url: &str, consumers: &[&str]) -> Result<()> {
    match scheme(url) {
        #[cfg(feature = "nats")]
        "nats" | "tls" => {
            crate::nats::remove(&crate::nats::NatsSinkOptions::from_url(url)?.stream).await
        }
        #[cfg(feature = "redis")]
        "redis" | "rediss" => {
            crate::redis::remove(&crate::redis::RedisSinkOptions::from_url(url)?.stream).await
        }
        #[cfg(feature = "rabbitmq")]
        "amqp" | "amqps" => {
            let options = crate::rabbitmq::RabbitSinkOptions::from_url(url)?;
            crate::rabbitmq::remove(&options.stream, consumers).await
        }
        #[cfg(feature = "kafka")]
        "kafka" | "kafka+ssl" => {
            crate::kafka::remove(&crate::kafka::KafkaSinkOptions::from_url(url)?.stream).await
        }
        scheme => Err(unknown(scheme)),
    }
}

fn scheme(url: &str) -> &str {
    url.split_once("://").map_or("", |(scheme, _)| scheme)
}

fn unknown(scheme: &str) -> Error {
    let known = SCHEMES.iter().any(|known| known.strip_suffix("://") == Some(scheme));
    let context = match known {
        true => {
            let feature = match scheme {
                "tls" => "nats",
                "amqp" | "amqps" => "rabbitmq",
                "rediss" => "redis",
                "kafka+ssl" => "kafka",
                other => other,
            };
            format!(
                "this build knows no broker of the scheme `{scheme}`; build it with `--features {feature}`"
            )
        }
        false => format!("no broker that keeps a stream answers to `{scheme}:`"),
    };
    Error::new(Code::UnknownScheme, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_a_broker_says_how_to_get_one_with_it() {
        for (scheme, feature) in
            [("kafka+ssl", "kafka"), ("amqps", "rabbitmq"), ("rediss", "redis"), ("tls", "nats")]
        {
            let error = unknown(scheme);
            let cure = format!("--features {feature}`");
            assert!(error.context().contains(&cure), "{error}");
        }
        assert!(!unknown("http").context().contains("--features"));
        assert!(is_stream("kafka://a/t") && !is_stream("https://a/t") && !is_stream("kafka:a"));
    }
}
