//! `onewrite saga list|show`.

use clap::Args;
use onewrite::{
    Code, Error, Result, Timestamp,
    saga::{
        ATTRIBUTES_MAX, Attribute, Direction, Entry, Hold, Journal, OpenStep, SagaId, State,
        journal::{Awaited, ListSagas, SavedSaga, Waits},
    },
};

use crate::{
    cli::Stores,
    report,
    saga::{
        naming,
        view::{Head, Page, View},
    },
};

/// Sagas in one list at most.
const LIMIT_MAX: usize = 1_000;

/// Which sagas.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only those of this name.
    #[arg(long)]
    name: Option<String>,
    /// Only those about this.
    #[arg(long)]
    key: Option<String>,
    /// Only those in this state: running, compensating, needs_operator, completed or compensated. May be given
    /// several times.
    #[arg(long, value_delimiter = ',')]
    state: Vec<String>,
    /// Only those that were started so long ago at least: 5m, 2h, 3d.
    #[arg(long, value_parser = humantime::parse_duration)]
    older_than: Option<std::time::Duration>,
    /// Only those with this attribute, as its definition names it: customer=17. May be given several times.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = Attribute::asked)]
    attributes: Vec<Attribute>,
    /// Read on behind this one: the last of the list before.
    #[arg(long)]
    behind: Option<String>,
}

impl Filter {
    /// Whether it leaves anything out.
    pub(crate) fn is_some(&self) -> bool {
        let Self { name, key, state, older_than, attributes, behind: _ } = self;
        let is_named = name.is_some() || key.is_some() || !attributes.is_empty();
        is_named || !state.is_empty() || older_than.is_some()
    }

    /// The same, by the store's clock, and at most so many.
    pub(crate) async fn read(self, store: &dyn Journal, limit: usize) -> Result<ListSagas> {
        let states = self.state.iter().map(|state| read_state(state)).collect::<Result<_>>()?;
        let behind = self.behind.as_deref().map(str::parse::<SagaId>).transpose()?;
        let started_before = match self.older_than {
            Some(age) => Some(ago(store.now().await?, age)),
            None => None,
        };
        let (name, key) = (self.name.map(Into::into), self.key.map(Into::into));
        let attributes = self.attributes;
        if attributes.len() > ATTRIBUTES_MAX {
            let what = format!("at most {ATTRIBUTES_MAX} attributes can be asked for");
            return Err(Error::new(Code::InvalidInput, what));
        }
        let started_from = None;
        Ok(ListSagas { name, key, states, started_from, started_before, attributes, behind, limit })
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    stores: Stores,
}

pub(crate) async fn list(args: ListArgs) -> Result<()> {
    if !(1..=LIMIT_MAX).contains(&args.limit) {
        let what = format!("--limit is 1 to {LIMIT_MAX}");
        return Err(Error::new(Code::InvalidInput, what));
    }
    let (store, _) = super::open(&args.stores).await?;
    let which = args.filter.read(&*store, args.limit).await?;
    let found = store.list(&which).await?;
    if found.is_empty()
        && let Some(doubt) = naming::doubt_attributes(&*store, &which.attributes).await
    {
        report::tell!("warning: {}", report::plain(&doubt));
    }
    let page = Page::of(&found, args.limit);
    if args.stores.json {
        let page = serde_json::to_value(&page);
        report::json(&page.map_err(|error| {
            Error::new(Code::Corrupt, "show a list of sagas").with_source(error)
        })?);
        return Ok(());
    }
    let head = ["saga", "name", "key", "run", "state", "waits for", "due", "started", "ended"];
    report::say!("{}", report::table(head, page.sagas.iter().map(row)));
    if let Some(next) = page.next {
        report::tell!("there may be more: --behind {next}");
    }
    Ok(())
}

fn ago(now: Timestamp, age: std::time::Duration) -> Timestamp {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp(now.0.saturating_sub(age))
}

fn read_state(text: &str) -> Result<State> {
    State::parse(text).map_err(|_| {
        let what = format!("`{}` is no state of a saga: running, compensating, needs_operator, completed or compensated", text.escape_debug());
        Error::new(Code::InvalidInput, what)
    })
}

fn row(saga: &Head) -> [String; 9] {
    let or_none = |time: &Option<String>| time.as_ref().map(report::second).unwrap_or_default();
    [
        saga.id.clone(),
        report::short(&saga.name),
        report::short(&saga.key),
        saga.run.to_string(),
        saga.state.unwrap_or("unreadable").to_owned(),
        saga.waits.unwrap_or_default().to_owned(),
        or_none(&saga.due_at),
        report::second(&saga.started_at),
        or_none(&saga.ended_at),
    ]
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The saga's id.
    id: String,
    /// Show the input, outputs and what signals brought as well.
    #[arg(long)]
    payloads: bool,
    #[command(flatten)]
    stores: Stores,
}

pub(crate) async fn show(args: ShowArgs) -> Result<()> {
    let id: SagaId = args.id.parse()?;
    let (_, sagas) = super::open(&args.stores).await?;
    let saga = sagas.show(id).await?;
    let at = sagas.open_steps(&saga).await?;
    if args.stores.json {
        // As a text: of how many levels a payload has, no value need know.
        let view = serde_json::to_string(&View::of(&saga).at(&at)).map_err(|error| {
            Error::new(Code::Corrupt, format!("show the saga {id}")).with_source(error)
        })?;
        report::say!("{}", view.replace(['\n', '\r'], " "));
        return Ok(());
    }
    head(&saga, args.payloads);
    for (step, hold) in &at {
        report::say!("{:<11} {}", "is at", report::plain(&standing(step, hold.as_ref())));
    }
    report::say!("");
    let mut rows = Vec::new();
    for transition in &saga.journal {
        for entry in transition.entries()? {
            let (step, what) = told(&entry, args.payloads);
            let epoch = transition.epoch.to_string();
            rows.push([
                transition.version.to_string(),
                transition.time.to_string(),
                epoch,
                step,
                what,
            ]);
        }
    }
    report::say!("{}", report::table(["no.", "time", "epoch", "step", "what"], rows));
    Ok(())
}

fn head(saga: &SavedSaga, payloads: bool) {
    let standing = &saga.standing;
    let mut lines = vec![
        ("saga", saga.id.to_string()),
        ("name", saga.name.to_string()),
        ("key", format!("{} (run {})", saga.key, saga.run)),
        ("definition", saga.definition.to_string()),
        ("state", standing.state.as_str().to_owned()),
        ("started", saga.started_at.to_string()),
    ];
    if let Some(ended) = saga.ended_at {
        lines.push(("ended", ended.to_string()));
    } else {
        let due = standing.due.map(|due| format!(", due {due}")).unwrap_or_default();
        let paused = match (standing.waits, standing.state) {
            (Waits::Operator, State::Running | State::Compensating) => ": it is paused",
            _ => "",
        };
        lines.push(("waits for", format!("{}{due}{paused}", standing.waits.as_str())));
    }
    lines.extend(saga.parent.as_ref().map(|parent| ("step of", parent.to_string())));
    if payloads {
        lines.push(("input", saga.input.as_str().to_owned()));
        lines.extend(standing.output.as_ref().map(|output| ("output", output.as_str().to_owned())));
    }
    for (what, value) in lines {
        report::say!("{what:<11} {}", report::plain(&value));
    }
}

/// How it stands with a step that a saga is at.
fn standing(open: &OpenStep, hold: Option<&Hold>) -> String {
    let OpenStep { step, participant, attempts, at, signal, .. } = open;
    let what = match (open.direction, participant) {
        (Direction::Action, Some(participant)) => format!("{step}, by {participant}"),
        (Direction::Compensation, Some(participant)) => {
            format!("the compensation of {step}, by {participant}")
        }
        (_, None) => step.to_string(),
    };
    let until = match (at, participant) {
        (Some(at), Some(_)) => format!(", again at {at}"),
        (Some(at), None) => format!(", until {at}"),
        (None, _) => String::new(),
    };
    let for_what = match (signal, attempts, open.needs_operator) {
        (_, _, true) => ": a person has to decide".to_owned(),
        (Some(Awaited { name, correlation, .. }), _, _) => {
            format!(": waits for the signal {name} about {correlation}")
        }
        (None, 0, _) => String::new(),
        (None, 1, _) => ": one attempt has failed".to_owned(),
        (None, attempts, _) => format!(": {attempts} attempts have failed"),
    };
    let held = hold.map(|hold| format!("; {hold}"));
    format!("{what}{for_what}{until}{}", held.unwrap_or_default())
}

/// Which step an entry is about, and what it says.
fn told(entry: &Entry, payloads: bool) -> (String, String) {
    let brought = |output: &onewrite::saga::Json| match payloads {
        true => format!(": {}", output.as_str()),
        false => String::new(),
    };
    let (step, what) = match entry {
        Entry::Done { step, attempt, output } => {
            (step.as_ref(), format!("done in attempt {attempt}{}", brought(output)))
        }
        Entry::Signalled { step, signal, output } => {
            (step.as_ref(), format!("the signal {signal} came{}", brought(output)))
        }
        Entry::Retrying { step, attempt: 0, at, reason } => {
            (step.as_ref(), format!("waits, and is looked at again at {at}: {reason}"))
        }
        Entry::Retrying { step, attempt, at, reason } => {
            (step.as_ref(), format!("attempt {attempt} failed, tried again at {at}: {reason}"))
        }
        Entry::Failed { step, attempt, reason } => {
            (step.as_ref(), format!("failed in attempt {attempt}: {reason}"))
        }
        Entry::Held { step, attempt, reason } => {
            (step.as_ref(), format!("held for a person after attempt {attempt}: {reason}"))
        }
        Entry::Compensated { step, attempt } => {
            (step.as_ref(), format!("compensated in attempt {attempt}"))
        }
        Entry::Told { step, actor, reason } => {
            (step.as_ref(), format!("told by {actor}: {reason}"))
        }
        Entry::Retried { step, actor, reason } => {
            (step.as_ref(), format!("tried again with a new budget, for {actor}: {reason}"))
        }
        Entry::Skipped { step, output, actor, reason } => {
            (step.as_ref(), format!("skipped by {actor}: {reason}{}", brought(output)))
        }
        Entry::Paused { actor, reason } => ("", format!("paused by {actor}: {reason}")),
        Entry::ForceCompensated { actor, reason } => {
            ("", format!("compensated in any case, by {actor}: {reason}"))
        }
        Entry::ForceCompleted { actor, reason } => {
            ("", format!("completed as it is, by {actor}: {reason}"))
        }
        Entry::Expired => ("", "out of time: what was attempted is compensated".to_owned()),
        Entry::Overdue => ("", "out of time behind its pivot: it goes on".to_owned()),
        Entry::Cancelled { actor, reason } => ("", format!("cancelled by {actor}: {reason}")),
        Entry::Resumed { actor, reason } => ("", format!("resumed by {actor}: {reason}")),
        Entry::Woken => ("", "its time has come".to_owned()),
        Entry::TakenOver => ("", "taken over by another process".to_owned()),
        Entry::HandedBack => ("", "handed back".to_owned()),
    };
    (step.to_owned(), what)
}
