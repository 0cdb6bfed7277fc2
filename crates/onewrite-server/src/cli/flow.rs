//! `onewrite flow ID` and `onewrite flow --graph`.

use std::fmt::Write as _;

use clap::Args;
use onewrite::{
    Code, Error, Result, Timestamp,
    flow::{Graph, Story, Trace, Whereabouts, story},
    store::Find,
};
use serde_json::{Value, json};

use super::{Stores, UNKNOWN_EVENT};
use crate::report;

#[derive(Debug, Args)]
pub(crate) struct FlowArgs {
    /// The correlation id, for example an order's id.
    #[arg(required_unless_present = "graph", conflicts_with = "graph")]
    id: Option<String>,
    /// Draw which event type causes which, over everything still known, and name any cycle.
    #[arg(long)]
    graph: bool,
    #[command(flatten)]
    stores: Stores,
}

pub(crate) async fn run(args: FlowArgs) -> Result<()> {
    let find = args.id.as_ref().map_or(Find::All, |id| Find::Correlation(id.clone().into()));
    let stores = args.stores.open().await?;
    let mut traces = Vec::new();
    for store in &stores {
        traces.extend(store.find(find.clone()).await?);
    }
    if let (Some(id), true) = (&args.id, traces.is_empty()) {
        // Events without a correlation id still have a key.
        for store in &stores {
            traces.extend(store.find(Find::Key(id.clone().into())).await?);
        }
    }
    let Some(id) = args.id else { return graph(&traces, args.stores.json) };
    let told = story(traces);
    let Some(first) = told.first().map(|story| story.trace.time) else {
        return Err(Error::new(
            Code::NotFound,
            format!("no event of `{}` is known in these stores", id.escape_debug()),
        )
        .with_cure(UNKNOWN_EVENT));
    };
    if args.stores.json {
        report::json(&told.iter().map(to_json).collect());
        return Ok(());
    }
    let mut text = String::new();
    for root in &told {
        print(root, first, "", "", &mut text);
    }
    report::out(format_args!("{text}"));
    Ok(())
}

fn whereabouts(trace: &Trace) -> &'static str {
    match trace.whereabouts {
        Whereabouts::Log => "log",
        Whereabouts::History => "history",
        Whereabouts::Parked => "parked",
    }
}

fn to_json(story: &Story) -> Value {
    let trace = &story.trace;
    json!({
        "id": &*trace.id, "type": &*trace.kind, "source": &*trace.source, "key": &*trace.key, "time": trace.time.to_string(),
        "partition": trace.partition, "sequence": trace.sequence, "in": whereabouts(trace),
        "effects": story.effects.iter().map(to_json).collect::<Vec<_>>(),
    })
}

fn print(story: &Story, first: Timestamp, lead: &str, branch: &str, text: &mut String) {
    let trace = &story.trace;
    let after = trace.time.since(first).as_secs_f64() * 1_000.0;
    let parked = if trace.whereabouts == Whereabouts::Parked { "  PARKED" } else { "" };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{lead}{branch}{} ({})  +{after:.1} ms  {}{parked}",
        report::plain(&trace.kind),
        report::plain(&trace.source),
        report::plain(&trace.id)
    );
    let below = match branch {
        "" => lead.to_owned(),
        "└─ " => format!("{lead}   "),
        _ => format!("{lead}│  "),
    };
    for (index, effect) in story.effects.iter().enumerate() {
        let branch = if index + 1 == story.effects.len() { "└─ " } else { "├─ " };
        print(effect, first, &below, branch, text);
    }
}

fn graph(traces: &[Trace], json: bool) -> Result<()> {
    let graph = Graph::of(traces);
    let cycles = graph.cycles();
    if json {
        let edges: Vec<Value> = graph
            .edges
            .iter()
            .map(|((cause, effect), (source, times))| json!({ "cause": &**cause, "effect": &**effect, "source": &**source, "times": times }))
            .collect();
        let cycles: Vec<Vec<&str>> =
            cycles.iter().map(|cycle| cycle.iter().map(|kind| &**kind).collect()).collect();
        report::json(&json!({ "edges": edges, "cycles": cycles }));
        return Ok(());
    }
    let rows = graph.edges.iter().map(|((cause, effect), (source, times))| {
        [cause.to_string(), effect.to_string(), source.to_string(), times.to_string()]
    });
    report::say!("{}", report::table(["cause", "effect", "emitted by", "times"], rows));
    if cycles.is_empty() {
        report::say!("no cycle");
    }
    for cycle in cycles {
        report::say!(
            "CYCLE: {} → {}",
            report::plain(&cycle.join(" → ")),
            report::plain(cycle.first().map(|kind| &**kind).unwrap_or_default())
        );
    }
    Ok(())
}
