//! `onewrite participant hold|release|list`.

use clap::{Args, Subcommand};
use onewrite::{
    Result,
    saga::{Hold, Sagas},
};
use serde_json::json;

use super::{Stores, Why, done, saga};
use crate::{report, saga::naming};

/// Holds that a warning tells at most.
const TOLD_MAX: usize = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum ParticipantVerb {
    /// Ask nothing more of a participant, in any process, until it is released.
    Hold(HoldArgs),
    /// Let a participant that is held be asked again.
    Release(HoldArgs),
    /// List the participants that are held.
    List {
        #[command(flatten)]
        stores: Stores,
    },
}

#[derive(Debug, Args)]
pub(crate) struct HoldArgs {
    /// Who: bank (with bank.charge and whatever stands behind the dot), bank.charge alone, or the beginning of a URL.
    participant: String,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    stores: Stores,
}

pub(crate) async fn run(verb: ParticipantVerb) -> Result<()> {
    match verb {
        ParticipantVerb::Hold(HoldArgs { participant, why, stores }) => {
            let (actor, reason) = why.read()?;
            let (store, sagas) = saga::open(&stores).await?;
            let is_new = sagas.hold(participant.clone(), actor, reason).await?;
            let word = if is_new { "is held" } else { "was held before" };
            // It is no error: a hold is heeded by whoever has that name, now or later.
            told(&participant, word, naming::doubt(&*store, &participant).await, stores.json);
        }
        ParticipantVerb::Release(HoldArgs { participant, why, stores }) => {
            let (actor, reason) = why.read()?;
            let (store, sagas) = saga::open(&stores).await?;
            let was_held = sagas.release(&participant, actor, reason).await?;
            let doubt = match still_held(&sagas, &participant).await {
                None if !was_held => naming::doubt(&*store, &participant).await,
                still_held => still_held,
            };
            let word = if was_held { "is released" } else { "was not held" };
            told(&participant, word, doubt, stores.json);
        }
        ParticipantVerb::List { stores } => {
            let (_, sagas) = saga::open(&stores).await?;
            list(&sagas.holds().await?, stores.json);
        }
    }
    Ok(())
}

/// Who is held all the same, by another name.
async fn still_held(sagas: &Sagas, participant: &str) -> Option<String> {
    let holds = match sagas.holds().await {
        Ok(holds) => holds,
        // What was asked for is done.
        Err(error) => return Some(format!("who else is held is not known: {error}")),
    };
    let others = holds.iter().filter(|hold| hold.concerns(participant));
    let told = others.take(TOLD_MAX).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    (!told.is_empty()).then_some(told)
}

/// Says what was done, and what is doubtful about it.
fn told(participant: &str, word: &str, doubt: Option<String>, as_json: bool) {
    let said = format!("{participant} {word}");
    match doubt {
        Some(doubt) if as_json => report::json(&json!({"done": said, "warning": doubt})),
        Some(doubt) => {
            done(&said, false);
            report::tell!("warning: {}", report::plain(&doubt));
        }
        None => done(&said, as_json),
    }
}

fn list(holds: &[Hold], as_json: bool) {
    let shown = |hold: &Hold| json!({"participant": hold.participant, "actor": hold.actor, "reason": hold.reason});
    if as_json {
        report::json(&holds.iter().map(shown).collect());
        return;
    }
    let row = |hold: &Hold| {
        [hold.participant.to_string(), hold.actor.to_string(), hold.reason.to_string()]
    };
    report::say!("{}", report::table(["held participant", "by", "why"], holds.iter().map(row)));
}
