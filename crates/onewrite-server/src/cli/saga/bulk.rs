//! `onewrite saga bulk VERB`: one decision about many sagas.

use clap::{Args, ValueEnum};
use onewrite::{Code, Error, Result, Text, saga::Verb};
use serde_json::json;

use super::{json_of, show::Filter};
use crate::{
    cli::{Stores, Why},
    report,
    saga::{
        bulk::{self, Bulk, LIMIT_MAX},
        naming,
    },
};

#[derive(Debug, Args)]
pub(crate) struct BulkArgs {
    /// What is to be done with each.
    verb: Name,
    #[command(flatten)]
    filter: Filter,
    /// The step that retry and skip are about.
    #[arg(long)]
    step: Option<String>,
    /// What a step that is skipped is to have answered, as JSON.
    #[arg(long)]
    output: Option<String>,
    #[command(flatten)]
    why: Why,
    /// At most with so many, the newest first.
    #[arg(long, default_value_t = LIMIT_MAX)]
    limit: usize,
    #[command(flatten)]
    stores: Stores,
}

/// What can be done with many.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    Cancel,
    Pause,
    Resume,
    Retry,
    Skip,
    ForceCompensate,
    ForceComplete,
}

impl BulkArgs {
    fn verb(&self) -> Result<Verb> {
        let invalid = |what: &str| Err(Error::new(Code::InvalidInput, what.to_owned()));
        if self.output.is_some() && !matches!(self.verb, Name::Skip) {
            return invalid("--output belongs to skip");
        }
        let step = self.step.clone().map(Text::from);
        Ok(match (self.verb, step) {
            (Name::Retry, Some(step)) => Verb::Retry { step },
            (Name::Skip, Some(step)) => {
                let output = self.output.as_deref().unwrap_or("null");
                let output = json_of(output, "the step's output")?;
                Verb::Skip { step, output, direction: None }
            }
            (Name::Retry | Name::Skip, None) => return invalid("retry and skip need --step"),
            (_, Some(_)) => return invalid("--step belongs to retry and skip"),
            (Name::Cancel, None) => Verb::Cancel,
            (Name::Pause, None) => Verb::Pause,
            (Name::Resume, None) => Verb::Resume,
            (Name::ForceCompensate, None) => Verb::ForceCompensate,
            (Name::ForceComplete, None) => Verb::ForceComplete,
        })
    }
}

pub(crate) async fn run(args: BulkArgs) -> Result<()> {
    let verb = args.verb()?;
    let (actor, reason) = args.why.read()?;
    if !args.filter.is_some() {
        let what = "say which: --state, --name, --key, --attribute or --older-than";
        return Err(Error::new(Code::InvalidInput, what));
    }
    if !(1..=LIMIT_MAX).contains(&args.limit) {
        return Err(Error::new(Code::InvalidInput, format!("--limit is 1 to {LIMIT_MAX}")));
    }
    let (store, sagas) = super::open(&args.stores).await?;
    let which = args.filter.read(&*store, args.limit).await?;
    let attributes = which.attributes.clone();
    let bulk = bulk::steer(&store, &sagas, which, &verb, (&actor, &reason)).await?;
    if bulk.asked() == 0
        && let Some(doubt) = naming::doubt_attributes(&*store, &attributes).await
    {
        report::tell!("warning: {}", report::plain(&doubt));
    }
    if args.stores.json {
        report::json(&json!(bulk));
        return bulk.stopped.map_or(Ok(()), Err);
    }
    for refused in &bulk.why {
        report::tell!("{}: {}", refused.saga, report::plain(&refused.why));
    }
    let Bulk { done, refused, unknown, next, stopped, .. } = bulk;
    report::say!("done with {done}, refused by {refused}, not known of {unknown}");
    if let Some(next) = next {
        report::tell!("there may be more: --behind {next}");
    }
    stopped.map_or(Ok(()), Err)
}
