//! `onewrite doctor`: settings of databases and brokers that weaken a promise.

use std::process::ExitCode;

use clap::Args;
use onewrite::{Code, Error, Result, Text, broker::Sink, position::Incarnation, store::Copied};
use serde_json::{Value, json};

use super::{Stores, relay};
use crate::{
    backends::{self, SinkTarget, shown},
    report,
};

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    stores: Stores,
    /// A sink to look at as well; those of the configuration are looked at without being named.
    #[arg(long, env = "ONEWRITE_SINK", hide_env_values = true)]
    sink: Vec<String>,
    /// Allow targets in private and loopback address ranges.
    #[arg(long)]
    allow_private: bool,
}

/// What was looked at, and what it said.
struct Finding {
    what: &'static str,
    name: String,
    said: Result<Vec<Text>>,
}

/// Warnings are for a person to weigh, so they do not fail; what cannot be reached does.
pub(crate) async fn run(args: DoctorArgs) -> Result<ExitCode> {
    let findings = look(&args).await?;
    if args.stores.json {
        report::json(&findings.iter().map(to_json).collect());
    }
    for Finding { what, name, said } in &findings {
        match said {
            Ok(_) if args.stores.json => {}
            Ok(warnings) if warnings.is_empty() => report::say!("{what} {name}: nothing to mend"),
            Ok(warnings) => {
                warnings.iter().for_each(|warning| report::say!("{what} {name}: {warning}"));
            }
            Err(error) => {
                report::tell!("{what} {name}:");
                report::print(error);
            }
        }
    }
    let reached = findings.iter().all(|finding| finding.said.is_ok());
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at everything named, whatever the ones before said.
async fn look(args: &DoctorArgs) -> Result<Vec<Finding>> {
    let (urls, targets) = named(args)?;
    let mut findings = Vec::new();
    for url in urls {
        let said = match backends::open_store(&url, false, Copied::Refuse).await {
            Ok(store) => store.warnings().await,
            Err(error) => Err(error),
        };
        findings.push(Finding { what: "store", name: shown(&url), said });
    }
    for (name, target) in targets {
        let said = match target {
            Ok(target) => match backends::open_sink(&target).await {
                Ok(sink) => examine(&*sink).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        findings.push(Finding { what: "sink", name, said });
    }
    if findings.is_empty() {
        return Err(Error::new(
            Code::InvalidConfig,
            "there is nothing to look at: give --store or --sink, or a configuration with services",
        ));
    }
    Ok(findings)
}

/// What a sink warns of, once it has answered: one that connects when it is needed is asked for the marks
/// of a source that nobody has, which changes nothing.
async fn examine(sink: &dyn Sink) -> Result<Vec<Text>> {
    sink.marks("onewrite-doctor", Incarnation(0)).await?;
    sink.warnings().await
}

type Targets = Vec<(String, Result<SinkTarget>)>;

/// The stores, and the sinks with how they are reached.
fn named(args: &DoctorArgs) -> Result<(Vec<String>, Targets)> {
    let mut targets: Targets = args
        .sink
        .iter()
        .map(|url| {
            let allow_private = args.allow_private;
            let target =
                SinkTarget { urls: vec![url.clone()], allow_private, ..SinkTarget::default() };
            (shown(url), Ok(target))
        })
        .collect();
    let stores = args.stores.named();
    if !stores.is_empty() || !targets.is_empty() {
        return Ok((stores, targets));
    }
    let services = args.stores.configuration()?.service;
    for service in &services {
        targets.extend(service.sink.iter().map(|sink| {
            let name = format!("{} of {}", sink.name, service.name);
            (name, relay::target(sink, args.allow_private, false))
        }));
    }
    Ok((services.into_iter().map(|service| service.store).collect(), targets))
}

fn to_json(finding: &Finding) -> Value {
    let (warnings, error) = match &finding.said {
        Ok(warnings) => (warnings.iter().map(|warning| json!(&**warning)).collect(), Value::Null),
        Err(error) => {
            (Vec::new(), json!({ "code": error.code().as_str(), "message": error.to_string() }))
        }
    };
    json!({ "what": finding.what, "name": finding.name, "warnings": warnings, "error": error })
}
