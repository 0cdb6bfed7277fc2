//! `onewrite saga start|signal`, and what a person decides about a saga.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use onewrite::{
    Code, Error, Result, Text,
    saga::{OWN, SagaId, Signal, Verb},
};
use serde_json::json;

use super::{files, json_of};
use crate::{
    cli::{Stores, Why},
    report,
};

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// A file with its definition, YAML or JSON; - is standard input.
    definition: PathBuf,
    /// What it is about: of one name and key there is one saga, however often it is started.
    #[arg(long)]
    key: String,
    /// What it is given, as JSON; @FILE holds it, and - is standard input.
    #[arg(long, default_value = "null")]
    input: String,
    #[command(flatten)]
    stores: Stores,
}

pub(crate) async fn start(args: StartArgs) -> Result<()> {
    let checked = Arc::new(files::definition(&args.definition)?);
    let input = json_of(&args.input, "the saga's input")?;
    let (_, sagas) = super::open(&args.stores).await?;
    let started = sagas.start_definition(checked, args.key, input).await?;
    if args.stores.json {
        report::json(&json!({"id": started.id.to_string(), "new": started.is_new}));
    } else if started.is_new {
        report::say!("started {}", started.id);
    } else {
        report::say!("started before: {}", started.id);
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct SteerArgs {
    /// The saga's id.
    id: String,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    stores: Stores,
}

impl SteerArgs {
    /// Which saga, by whom and why.
    fn read(&self) -> Result<(SagaId, Text, Text)> {
        let (actor, reason) = self.why.read()?;
        Ok((self.id.parse()?, actor, reason))
    }
}

/// Has it done, and says so.
pub(crate) async fn steer(args: SteerArgs, verb: Verb, said: &str) -> Result<()> {
    let (id, actor, reason) = args.read()?;
    let (_, sagas) = super::open(&args.stores).await?;
    sagas.steer(id, verb, actor, reason).await?;
    crate::cli::done(&format!("the saga {id} {said}"), args.stores.json);
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// The step's name.
    #[arg(long)]
    step: String,
    #[command(flatten)]
    steer: SteerArgs,
}

pub(crate) async fn retry(args: RetryArgs) -> Result<()> {
    let RetryArgs { step, steer: args } = args;
    let (id, actor, reason) = args.read()?;
    let (_, sagas) = super::open(&args.stores).await?;
    sagas.steer(id, Verb::Retry { step: step.clone().into() }, actor, reason).await?;
    crate::cli::done(&format!("the saga {id} is to try `{step}` again now"), args.stores.json);
    // It is done: whether that is known as well matters less.
    let Ok(saga) = sagas.show(id).await else { return Ok(()) };
    let open = sagas.open_steps(&saga).await.unwrap_or_default();
    let its = open.into_iter().find(|(open, _)| *open.step == *step);
    if let Some((_, Some(hold))) = its {
        let why = format!("{hold}; no attempt begins until it is released");
        report::tell!("warning: {}", report::plain(&why));
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct SkipArgs {
    /// The step's name.
    #[arg(long)]
    step: String,
    /// What it is to have answered, as JSON.
    #[arg(long, default_value = "null")]
    output: String,
    #[command(flatten)]
    steer: SteerArgs,
}

pub(crate) async fn skip(args: SkipArgs) -> Result<()> {
    let output = json_of(&args.output, "the step's output")?;
    let said = format!("goes on without `{}`", args.step);
    steer(args.steer, Verb::Skip { step: args.step.into(), output, direction: None }, &said).await
}

#[derive(Debug, Args)]
pub(crate) struct SignalArgs {
    /// What it is called.
    name: String,
    /// What it is about.
    correlation: String,
    /// The same for every repetition: what makes sending it twice harmless.
    #[arg(long)]
    id: String,
    /// What it brings, as JSON.
    #[arg(long, default_value = "null")]
    payload: String,
    #[command(flatten)]
    stores: Stores,
}

pub(crate) async fn signal(args: SignalArgs) -> Result<()> {
    if args.name.starts_with(OWN) {
        let what = format!("the name of a signal that begins with `{OWN}` is onewrite's own");
        return Err(Error::new(Code::InvalidInput, what));
    }
    let payload = json_of(&args.payload, "the signal's payload")?;
    let signal = Signal::new(args.id, args.name, args.correlation).payload(&payload)?;
    let (_, sagas) = super::open(&args.stores).await?;
    let is_new = sagas.signal(signal).await?;
    if args.stores.json {
        report::json(&json!({"new": is_new}));
    } else {
        report::say!("{}", if is_new { "sent" } else { "sent before" });
    }
    Ok(())
}
