//! Steps that are carried out elsewhere, by a command and its reply: what travels between the two.
//!
//! Both are events, so they travel as events do: at least once, in order within their saga. What makes a
//! repetition harmless is the step's key, which every attempt carries.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Barrier, Call, Direction, Ended, Json, SagaId, Signal};
use crate::{Code, Error, Event, Result, Text};

/// The type of an event that replies, and the name of the signal that it becomes.
pub const REPLY: Text = Text::from_static("onewrite.reply");

/// What commands and replies are about.
const AGGREGATE: Text = Text::from_static("Saga");

/// What a step asks somebody elsewhere to do: the data of the event that carries it, as JSON.
///
/// `{"saga":"…","step":"reserve","direction":"action","key":"…","attempt":1,"epoch":3,"input":{…}}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The saga's id.
    pub saga: Text,
    /// The step's name.
    pub step: Text,
    /// Whether it is the action or the compensation.
    pub direction: Direction,
    /// The same for every attempt: what makes a repetition harmless.
    pub key: Text,
    /// The attempt's number, from 1. The reply names it.
    pub attempt: u32,
    /// The epoch of the lease under which it is sent.
    pub epoch: u64,
    /// What the step is given.
    pub input: Json,
    /// What the action answered, for its compensation, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
}

/// The answer to a command: the data of the event that carries it, as JSON.
///
/// `{"key":"…","attempt":1,"outcome":{"done":{…}}}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The command's key.
    pub key: Text,
    /// The command's attempt.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Answer,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done, and this is what it answers.
    Done(Json),
    /// The business says no, for this reason: it is not sent again.
    Aborted(Text),
    /// It failed, for this reason: it is sent again, with the same key.
    Failed(Text),
}

impl Command {
    /// The command that an attempt is.
    #[must_use]
    pub fn of(call: &Call) -> Self {
        Self {
            saga: call.saga.to_string().into(),
            step: call.step.clone(),
            direction: call.direction,
            key: call.key.as_str().to_owned().into(),
            attempt: call.attempt,
            epoch: call.epoch,
            input: call.input.clone(),
            output: call.output.clone(),
        }
    }

    /// The event that carries it, of this type. Those of one saga stay in order.
    ///
    /// # Errors
    /// [`Code::InvalidEvent`], which a command is not.
    pub fn event(&self, kind: impl Into<Text>) -> Result<Event> {
        let event = Event::new(kind, AGGREGATE, self.saga.clone());
        event.correlation_id(self.saga.clone()).json(self)
    }

    /// Reads the event that carries one.
    ///
    /// # Errors
    /// [`Code::InvalidEvent`] when it carries something else.
    pub fn read(event: &Event) -> Result<Self> {
        event.data_as()
    }

    /// What the step is given.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] when it has another shape.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T> {
        self.input.read("the step's input")
    }

    /// What to pass first, in the transaction that carries it out and emits the reply.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] when its saga or step is none.
    pub fn barrier(&self) -> Result<Barrier> {
        let saga: SagaId = self.saga.parse()?;
        match self.direction {
            Direction::Action => Barrier::action(saga, &self.step),
            Direction::Compensation => Barrier::compensation(saga, &self.step),
        }
    }

    /// The reply that it is done. To a repetition, answer as before.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] when `output` has no JSON form.
    pub fn done<T: Serialize + ?Sized>(&self, output: &T) -> Result<Event> {
        self.reply(Answer::Done(Json::of(output, "the step's output")?))
    }

    /// The reply that the business says no, for good. A compensation cannot say that: it is sent again.
    ///
    /// # Errors
    /// [`Code::InvalidEvent`], which a reply is not.
    pub fn aborted(&self, reason: impl Into<Text>) -> Result<Event> {
        self.reply(Answer::Aborted(reason.into()))
    }

    /// The reply that it failed, and is to be sent again.
    ///
    /// # Errors
    /// [`Code::InvalidEvent`], which a reply is not.
    pub fn failed(&self, reason: impl Into<Text>) -> Result<Event> {
        self.reply(Answer::Failed(reason.into()))
    }

    fn reply(&self, outcome: Answer) -> Result<Event> {
        let reply = Reply { key: self.key.clone(), attempt: self.attempt, outcome };
        Event::new(REPLY, AGGREGATE, self.saga.clone()).json(&reply)
    }
}

impl Reply {
    /// The signal that an event is, if it replies to a command: send it in the transaction that notes the
    /// event as received.
    ///
    /// # Errors
    /// [`Code::InvalidEvent`] for a reply that is none.
    pub fn signal(event: &Event) -> Result<Option<Signal>> {
        if event.kind != REPLY {
            return Ok(None);
        }
        let no_id = || Error::new(Code::InvalidEvent, "a reply has no id");
        let id = event.id.clone().ok_or_else(no_id)?;
        let reply: Self = event.data_as()?;
        let signal = Signal::new(id, REPLY, reply.key.clone()).payload(&reply)?;
        Ok(Some(signal))
    }

    /// What the attempt of this number comes to by this reply, if it says anything of it. That it is done
    /// counts whichever attempt it was; any other answer counts for its own attempt.
    #[must_use]
    pub fn ended(self, attempt: u32) -> Option<Ended> {
        match self.outcome {
            Answer::Done(output) => Some(Ended::Done(output)),
            _ if self.attempt != attempt => None,
            Answer::Aborted(reason) => Some(Ended::Aborted(reason)),
            Answer::Failed(reason) => Some(Ended::Unknown(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command {
            saga: SagaId(7).to_string().into(),
            step: "reserve".into(),
            direction: Direction::Action,
            key: "k".into(),
            attempt: 2,
            epoch: 3,
            input: Json::trusted(r#"{"cents":1.10}"#),
            output: None,
        }
    }

    fn reply(event: Event) -> Reply {
        let signal = Reply::signal(&Event { id: Some("e-1".into()), ..event }).unwrap().unwrap();
        assert_eq!((&*signal.id, &*signal.name, &*signal.correlation), ("e-1", &*REPLY, "k"));
        signal.payload.read("a reply").unwrap()
    }

    #[test]
    fn a_command_travels_as_an_event_and_its_reply_as_a_signal() {
        let event = command().event("ReserveStock").unwrap();
        assert_eq!(event.order_key(), &command().saga);
        assert_eq!(Command::read(&event).unwrap(), command());
        assert_eq!(Reply::signal(&event).unwrap(), None);
        let done = reply(command().done(&5).unwrap());
        assert_eq!(done.ended(9), Some(Ended::Done(Json::trusted("5"))), "of any attempt");
        let no = reply(command().aborted("sold out").unwrap());
        assert_eq!(no.clone().ended(2), Some(Ended::Aborted("sold out".into())));
        assert_eq!(no.ended(3), None, "an earlier attempt's no says nothing of this one");
        let failed = reply(command().failed("busy").unwrap());
        assert_eq!(failed.ended(2), Some(Ended::Unknown("busy".into())));
    }

    #[test]
    fn a_reply_that_is_none_is_refused() {
        let event = Event::new(REPLY, "Saga", "7").json(&5).unwrap();
        let event = Event { id: Some("e-1".into()), ..event };
        assert_eq!(Reply::signal(&event).unwrap_err().code(), Code::InvalidEvent);
        assert!(command().barrier().is_ok());
        assert!(Command { saga: "x".into(), ..command() }.barrier().is_err());
    }
}
