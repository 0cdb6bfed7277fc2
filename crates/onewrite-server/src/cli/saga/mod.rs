//! `onewrite saga …`: definitions in files, and the sagas of a store.

mod bulk;
mod faults;
mod files;
mod show;
mod steer;
mod stubs;

use std::{process::ExitCode, sync::Arc};

use clap::Subcommand;
use onewrite::{
    Code, Error, Result,
    saga::{Journal, Json, Sagas, Verb},
    store::Copied,
};

pub(crate) use self::files::definition;
use super::{NAME_A_STORE, Stores};
use crate::{backends, saga::file::text_of};

#[derive(Debug, Subcommand)]
pub(crate) enum SagaVerb {
    /// Say what is wrong with definitions in files, with line and column.
    Check(files::CheckArgs),
    /// Draw a definition.
    Graph(files::GraphArgs),
    /// Print the JSON Schema of definitions, for editors.
    Schema,
    /// Run a definition once for each step and each thing that can go wrong there.
    Test(faults::TestArgs),
    /// Start a saga; whoever runs the sagas of the store carries it out.
    Start(steer::StartArgs),
    /// List sagas, the newest first.
    List(show::ListArgs),
    /// Show a saga with everything that happened to it.
    Show(show::ShowArgs),
    /// Compensate a saga that has not passed its pivot.
    Cancel(steer::SteerArgs),
    /// Begin nothing more of a saga, and let no time be over, until it is resumed.
    Pause(steer::SteerArgs),
    /// Go on with a saga that is paused, and let its held steps try again.
    Resume(steer::SteerArgs),
    /// Try a step at once, with a new budget: one that is held, or that waits to be tried again.
    Retry(steer::RetryArgs),
    /// Go on as if a step, whose turn it is, were done; while compensating, as if it were made good.
    Skip(steer::SkipArgs),
    /// Compensate a saga past its pivot as well.
    ForceCompensate(steer::SteerArgs),
    /// End a saga as completed, whatever was not done.
    ForceComplete(steer::SteerArgs),
    /// Decide the same about many sagas.
    Bulk(bulk::BulkArgs),
    /// Send a signal to the saga that waits for it, now or later.
    Signal(steer::SignalArgs),
}

pub(crate) async fn run(verb: SagaVerb) -> Result<ExitCode> {
    match verb {
        SagaVerb::Check(args) => return files::check(&args),
        SagaVerb::Graph(args) => files::graph(&args)?,
        SagaVerb::Schema => files::schema(),
        SagaVerb::Test(args) => return faults::test(args).await,
        SagaVerb::Start(args) => steer::start(args).await?,
        SagaVerb::List(args) => show::list(args).await?,
        SagaVerb::Show(args) => show::show(args).await?,
        SagaVerb::Cancel(args) => steer::steer(args, Verb::Cancel, "is being compensated").await?,
        SagaVerb::Pause(args) => steer::steer(args, Verb::Pause, "is paused").await?,
        SagaVerb::Resume(args) => steer::steer(args, Verb::Resume, "goes on").await?,
        SagaVerb::Retry(args) => steer::retry(args).await?,
        SagaVerb::Skip(args) => steer::skip(args).await?,
        SagaVerb::ForceCompensate(args) => {
            steer::steer(args, Verb::ForceCompensate, "is being compensated").await?;
        }
        SagaVerb::ForceComplete(args) => {
            steer::steer(args, Verb::ForceComplete, "is completed").await?;
        }
        SagaVerb::Bulk(args) => bulk::run(args).await?,
        SagaVerb::Signal(args) => steer::signal(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A value that is given as JSON, as `@FILE` that holds it, or as `-` for standard input.
fn json_of(given: &str, what: &str) -> Result<Json> {
    let text = match given.strip_prefix('@') {
        Some(path) => text_of(path.as_ref(), what)?,
        None if given == "-" => text_of("-".as_ref(), what)?,
        None => given.to_owned(),
    };
    let value = Json::parse(text, what)?;
    value.check(what)?;
    Ok(value)
}

/// The one store named, and what asks whoever runs its sagas.
pub(crate) async fn open(stores: &Stores) -> Result<(Arc<dyn Journal>, Sagas)> {
    let urls = stores.urls()?;
    let [url] = urls.as_slice() else {
        let what = "this verb works on one store: name it with --store URL";
        return Err(Error::new(Code::InvalidConfig, what).with_cure(NAME_A_STORE));
    };
    let store = backends::open_journal(url, false, Copied::Refuse).await?;
    Ok((Arc::clone(&store), Sagas::apart(store)))
}
