//! `onewrite why ID|KEY`: where it is, who owns it, what it waits for, when it is tried next.

use std::sync::Arc;

use clap::Args;
use onewrite::{
    Code, Error, Result, Store, Timestamp,
    flow::{Trace, Whereabouts},
    store::{Cursor, Find, LeaseState, SinkState},
};
use serde_json::{Value, json};

use super::{Stores, UNKNOWN_EVENT};
use crate::report;

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The id of an event, or a key.
    what: String,
    #[command(flatten)]
    stores: Stores,
}

pub(crate) async fn run(args: WhyArgs) -> Result<()> {
    let mut answers = Vec::new();
    let stores = args.stores.open().await?;
    for store in &stores {
        let mut traces = store.find(Find::Id(args.what.clone().into())).await?;
        if traces.is_empty() {
            traces = store.find(Find::Key(args.what.clone().into())).await?;
        }
        for trace in traces {
            answers.extend(answer(&**store, &trace).await?);
        }
    }
    if answers.is_empty() {
        return Err(unknown(&args.what, &stores).await?);
    }
    if args.stores.json {
        report::json(&answers.iter().map(Answer::to_json).collect());
    } else {
        answers.iter().for_each(|answer| report::say!("{}", report::plain(&answer.sentence)));
    }
    Ok(())
}

/// That nothing is known, or where a story is told.
async fn unknown(what: &str, stores: &[Arc<dyn Store>]) -> Result<Error> {
    let shown = what.escape_debug();
    for store in stores {
        if !store.find(Find::Correlation(what.to_owned().into())).await?.is_empty() {
            let said = format!(
                "`{shown}` is a correlation id: its story is told by `onewrite flow {shown}`"
            );
            let cure =
                "Ask `onewrite flow` for the story, or `onewrite why` for one of its events.";
            return Ok(Error::new(Code::NotFound, said).with_cure(cure));
        }
    }
    let said = format!("neither an event nor a key `{shown}` is known in these stores");
    Ok(Error::new(Code::NotFound, said).with_cure(UNKNOWN_EVENT))
}

struct Answer {
    event: String,
    kind: String,
    store: String,
    place: String,
    sentence: String,
    owner: Option<String>,
    retry_at: Option<String>,
}

impl Answer {
    fn to_json(&self) -> Value {
        json!({
            "event": self.event, "type": self.kind, "store": self.store, "place": self.place, "owner": self.owner,
            "retry_at": self.retry_at, "sentence": self.sentence,
        })
    }
}

/// One answer for each sink of an event in the log; one for an event elsewhere.
async fn answer(store: &dyn Store, trace: &Trace) -> Result<Vec<Answer>> {
    let name = store.source().name;
    let head = format!(
        "{} {} ({} {}/{})",
        trace.kind, trace.id, trace.source, trace.partition, trace.sequence
    );
    let plain = |place: &str, sentence: String| Answer {
        event: trace.id.to_string(),
        kind: trace.kind.to_string(),
        store: name.to_string(),
        place: place.to_owned(),
        sentence,
        owner: None,
        retry_at: None,
    };
    match trace.whereabouts {
        Whereabouts::History => Ok(vec![plain(
            "history",
            format!("{head} was delivered everywhere and left the log; its story is kept"),
        )]),
        Whereabouts::Parked => {
            let keys = store.parked_keys(None).await?;
            let parked =
                keys.iter().filter(|key| key.key == trace.key && key.source == trace.source);
            Ok(parked
                .map(|key| {
                    let waits = match key.request.as_str() {
                        "wait" => {
                            "an operator: `onewrite dead-letter retry` or `discard`".to_owned()
                        }
                        request => format!("its owner to {request} it"),
                    };
                    plain(
                        &format!("parked at {}", key.scope),
                        format!(
                            "{head} is parked at {} since {} because {}; it waits for {waits}",
                            key.scope, key.since, key.reason
                        ),
                    )
                })
                .collect())
        }
        Whereabouts::Log => {
            let (leases, now) = (store.leases().await?, store.now().await?);
            let mut answers = Vec::new();
            for sink in store.sinks().await? {
                let cursors = store.cursors(&sink.name).await?;
                let Some(cursor) =
                    cursors.iter().find(|cursor| cursor.partition == trace.partition)
                else {
                    continue;
                };
                let scope = format!("relay/{}", sink.name);
                let lease = leases
                    .iter()
                    .find(|lease| *lease.scope == *scope && lease.partition == trace.partition);
                let (sentence, owner) = towards(now, &head, trace, &sink, cursor, lease);
                let retry_at = cursor
                    .retry_at
                    .filter(|_| cursor.sequence < trace.sequence)
                    .map(|time| time.to_string());
                answers.push(Answer {
                    owner,
                    retry_at,
                    ..plain(&format!("log, towards {}", sink.name), sentence)
                });
            }
            if answers.is_empty() {
                answers.push(plain(
                    "log",
                    format!(
                        "{head} is in the log; no sink is registered yet: start `onewrite relay`"
                    ),
                ));
            }
            Ok(answers)
        }
    }
}

fn towards(
    now: Timestamp,
    head: &str,
    trace: &Trace,
    sink: &SinkState,
    cursor: &Cursor,
    lease: Option<&LeaseState>,
) -> (String, Option<String>) {
    let owner = lease.and_then(|lease| lease.owner.as_ref()).map(ToString::to_string);
    let name = &sink.name;
    if cursor.sequence >= trace.sequence {
        return (
            format!("{head} is settled for sink {name}: delivered, parked or not wanted there"),
            owner,
        );
    }
    if let Some((since, why)) = &sink.suspended {
        return (
            format!(
                "{head} waits for sink {name}, which is suspended since {since}: {why}; mend it, then `onewrite sink resume {name}`"
            ),
            owner,
        );
    }
    let who = owner.as_ref().zip(lease).map(|(owner, lease)| {
        format!("relay {owner} (epoch {}, lease until {})", lease.epoch, lease.expires_at)
    });
    let nobody = "no relay holds its partition; start `onewrite relay`";
    let sentence = match (cursor.retry_at, &cursor.reason) {
        (Some(at), reason) => {
            let failed = match cursor.attempts {
                0 => "the last batch failed".to_owned(),
                count => format!("attempt {count} of the record in front failed"),
            };
            let next = match who {
                None => nobody.to_owned(),
                Some(who) if at > now => format!("it is tried next at {at} by {who}"),
                Some(who) => format!("it is being tried now by {who}"),
            };
            let reason = reason.as_deref().unwrap_or("no reason given");
            format!("{head} waits for sink {name}: {failed} ({reason}); {next}")
        }
        _ => match who {
            None => format!("{head} waits for sink {name}: {nobody}"),
            Some(who) => format!("{head} is next in line for sink {name}, in the hands of {who}"),
        },
    };
    (sentence, owner)
}
