//! `onewrite participant hold|release|list`.

use clap::{Args, Subcommand};
use onewrite::{Result, saga::Hold};
use serde_json::json;

use super::{Stores, Why, done, saga};
use crate::report;

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
            let (_, sagas) = saga::open(&stores).await?;
            let is_new = sagas.hold(participant.clone(), actor, reason).await?;
            let word = if is_new { "is held" } else { "was held before" };
            done(&format!("{participant} {word}"), stores.json);
        }
        ParticipantVerb::Release(HoldArgs { participant, why, stores }) => {
            let (actor, reason) = why.read()?;
            let (_, sagas) = saga::open(&stores).await?;
            let was_held = sagas.release(&participant, actor, reason).await?;
            let word = if was_held { "is asked again" } else { "was not held" };
            done(&format!("{participant} {word}"), stores.json);
        }
        ParticipantVerb::List { stores } => {
            let (_, sagas) = saga::open(&stores).await?;
            list(&sagas.holds().await?, stores.json);
        }
    }
    Ok(())
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
