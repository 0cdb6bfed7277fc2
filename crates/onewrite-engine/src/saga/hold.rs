//! Participants that a person holds: nothing is asked of them, by any process, until they are released.
//!
//! A hold is a signal about all participants that no saga waits for: it stands in the store until somebody takes it.

use std::{fmt, time::Duration};

use onewrite_core::{
    Code, Error, Result, Text,
    saga::{SagaId, Signal, check_text, journal::Journal},
    store::Op,
};
use serde::{Deserialize, Serialize};

use super::{apart, handle::Sagas};

/// The names of the signals that holds are, and that tell of a release.
const HOLD: Text = Text::from_static("onewrite.hold");
const RELEASE: Text = Text::from_static("onewrite.release");

/// What they are about.
const ALL: Text = Text::from_static("participants");

/// Holds that are heeded at most.
const HOLDS_MAX: usize = 1_000;

/// How long a hold stands that nobody takes, and how long it is known who released one.
const STANDS: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
const KNOWN: Duration = Duration::from_secs(365 * 24 * 3_600);

/// A participant that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Identifies it.
    pub id: Text,
    /// Who is held: a participant, all whose names go on behind a dot (`bank` holds `bank.charge`), or whose URL goes
    /// on behind a slash (`https://bank.example`).
    pub participant: Text,
    /// Who wants it.
    pub actor: Text,
    /// Why.
    pub reason: Text,
}

/// `bank is held by ann: it is down`
impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { participant, actor, reason, .. } = self;
        write!(f, "{participant} is held by {actor}: {reason}")
    }
}

impl Hold {
    /// Whether it holds the participant of this name.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        Self::would_cover(&self.participant, name)
    }

    /// Whether it holds this participant, or somebody behind its name.
    #[must_use]
    pub fn concerns(&self, participant: &str) -> bool {
        self.covers(participant) || Self::would_cover(participant, &self.participant)
    }

    /// Whether to hold the first is to hold the participant of this name.
    #[must_use]
    pub fn would_cover(participant: &str, name: &str) -> bool {
        // A dialect stands before the URL.
        let plain =
            name.split_once('+').filter(|_| name.contains("://")).map_or(name, |(_, url)| url);
        let is_url = participant.contains("://");
        let behind: &[char] = if is_url { &['/', '?', '#', ':'] } else { &['.'] };
        let goes_on = |name: &str| {
            let rest = name.strip_prefix(participant.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(behind))
        };
        goes_on(name) || goes_on(plain)
    }
}

/// All that are held, as the store tells.
pub(super) async fn holds(store: &dyn Journal) -> Result<Vec<Hold>> {
    let found = store.signals(&HOLD, vec![ALL]).await?;
    // One that cannot be read is of a newer program, which heeds it.
    Ok(found
        .iter()
        .filter_map(|(_, payload)| payload.read("a hold").ok())
        .take(HOLDS_MAX)
        .collect())
}

impl Sagas {
    /// Has nothing more asked of a participant, by any process, until it is released: a bank that is down, say.
    /// What is in flight ends, and what waits uses up no attempts; times of sagas and steps go on. Returns once it
    /// is durable; every process heeds it within five of its looks (a second). Whether it is new.
    ///
    /// # Errors
    /// [`Code::InvalidInput`] for a name, actor or reason that cannot be, or too many holds;
    /// [`Code::CommitUnknown`] when nobody knows whether it is held: say it again.
    pub async fn hold(
        &self,
        participant: impl Into<Text>,
        actor: impl Into<Text>,
        reason: impl Into<Text>,
    ) -> Result<bool> {
        let (participant, actor, reason) = (participant.into(), actor.into(), reason.into());
        for (what, text) in [("participant", &participant), ("actor", &actor), ("reason", &reason)]
        {
            check_text(text)
                .map_err(|why| Error::new(Code::InvalidInput, format!("the {what} {why}")))?;
        }
        let known = self.holds().await?;
        if known.iter().any(|hold| hold.participant == participant) {
            return Ok(false);
        }
        if known.len() >= HOLDS_MAX {
            let what = format!("{HOLDS_MAX} participants are held already");
            return Err(Error::new(Code::InvalidInput, what));
        }
        let id: Text = format!("{HOLD}/{}", uuid::Uuid::now_v7()).into();
        let hold = Hold { id: id.clone(), participant, actor, reason };
        let signal = Signal::new(id, HOLD, ALL).keep(STANDS).payload(&hold)?;
        apart::commit(self.store(), vec![Op::Signal(Box::new(signal))]).await?;
        self.look_who_is_held();
        Ok(true)
    }

    /// Lets a participant that is held be asked again. Who did so and why is known for a year. Whether it was held.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub async fn release(
        &self,
        participant: &str,
        actor: impl Into<Text>,
        reason: impl Into<Text>,
    ) -> Result<bool> {
        let (actor, reason) = (actor.into(), reason.into());
        let mut was_held = false;
        // Two people may have held it at the same time.
        for hold in self.holds().await?.into_iter().filter(|hold| *hold.participant == *participant)
        {
            let id: Text = format!("{RELEASE}/{}", hold.id).into();
            let told = Hold { actor: actor.clone(), reason: reason.clone(), ..hold.clone() };
            let told = Signal::new(id, RELEASE, ALL).keep(KNOWN).payload(&told)?;
            let taken = Op::DropSignal { saga: SagaId::default(), signal: hold.id };
            was_held |=
                apart::commit(self.store(), vec![taken, Op::Signal(Box::new(told))]).await?;
        }
        self.look_who_is_held();
        Ok(was_held)
    }

    /// The participants that are held.
    ///
    /// # Errors
    /// What the store says.
    pub async fn holds(&self) -> Result<Vec<Hold>> {
        holds(self.store()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_held_concerns_the_whole() {
        let part = Hold {
            id: "1".into(),
            participant: "bank.charge".into(),
            actor: "a".into(),
            reason: "s".into(),
        };
        assert!(part.concerns("bank") && part.concerns("bank.charge"));
        assert!(!part.concerns("bank.refund") && !part.concerns("ban"));
    }

    #[test]
    fn a_service_is_held_with_all_that_stands_behind_its_name() {
        let of = |participant: &'static str| Hold {
            id: "1".into(),
            participant: participant.into(),
            actor: "ann".into(),
            reason: "so".into(),
        };
        for (participant, held, free) in [
            ("bank", &["bank", "bank.charge"][..], &["banker", "my.bank", "ban"][..]),
            ("bank.charge", &["bank.charge"], &["bank", "bank.charger"]),
            (
                "https://bank.example",
                &[
                    "https://bank.example/charge",
                    "dtm+https://bank.example/in?x=1",
                    "https://bank.example:8/",
                ],
                &["https://bank.example.org/", "http://bank.example/"],
            ),
            (
                "https://bank.example/",
                &["https://bank.example/charge"],
                &["https://other.example/"],
            ),
        ] {
            let hold = of(participant);
            assert!(held.iter().all(|name| hold.covers(name)), "{participant}: {held:?}");
            assert!(!free.iter().any(|name| hold.covers(name)), "{participant}: {free:?}");
        }
    }
}
