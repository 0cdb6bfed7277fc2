//! The story of one correlation id, and the graph of all events: which type causes which.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Partition, Sequence, Text, Timestamp};

/// Where an event is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the log, with its data.
    Log,
    /// In the history: delivered and trimmed, its data is gone.
    History,
    /// Among the parked records.
    Parked,
}

/// An event as its story needs it: no data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The store's source.
    pub source: Text,
    /// Its partition.
    pub partition: Partition,
    /// Its sequence.
    pub sequence: Sequence,
    /// Its id.
    pub id: Text,
    /// Its type.
    pub kind: Text,
    /// Its ordering key.
    pub key: Text,
    /// What it belongs to.
    pub correlation_id: Option<Text>,
    /// The id of the event that caused it.
    pub causation_id: Option<Text>,
    /// When it was committed.
    pub time: Timestamp,
    /// Where it is.
    pub whereabouts: Whereabouts,
}

/// A node of the story: an event and what it caused, in order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// The event.
    pub trace: Trace,
    /// What it caused.
    pub effects: Vec<Self>,
}

/// Arranges traces of one correlation id as trees. Events whose cause is not among them are roots.
#[must_use]
pub fn story(mut traces: Vec<Trace>) -> Vec<Story> {
    traces.sort_by(|a, b| (a.time, &a.id).cmp(&(b.time, &b.id)));
    traces.dedup_by(|a, b| a.id == b.id && a.source == b.source);
    let ids: BTreeSet<Text> = traces.iter().map(|trace| trace.id.clone()).collect();
    let mut effects: BTreeMap<Text, Vec<Trace>> = BTreeMap::new();
    let mut roots = Vec::new();
    for trace in traces {
        match trace.causation_id.clone().filter(|cause| ids.contains(cause) && *cause != trace.id) {
            Some(cause) => effects.entry(cause).or_default().push(trace),
            None => roots.push(trace),
        }
    }
    let told: Vec<Story> = roots.into_iter().map(|root| tell(root, &mut effects)).collect();
    // Causes that form a circle (a broken producer) hang below no root; they are told all the same.
    let rest: Vec<Trace> = std::mem::take(&mut effects).into_values().flatten().collect();
    told.into_iter()
        .chain(rest.into_iter().map(|trace| Story { trace, effects: Vec::new() }))
        .collect()
}

fn tell(trace: Trace, effects: &mut BTreeMap<Text, Vec<Trace>>) -> Story {
    let next = effects.remove(&trace.id).unwrap_or_default();
    Story { effects: next.into_iter().map(|effect| tell(effect, effects)).collect(), trace }
}

/// Which event types cause which, over everything seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Graph {
    /// `(cause, effect)` with the source that emits the effect and how often it was seen.
    pub edges: BTreeMap<(Text, Text), (Text, u64)>,
}

impl Graph {
    /// The graph of `traces`; causes that are not among them have no edge.
    #[must_use]
    pub fn of(traces: &[Trace]) -> Self {
        let kinds: BTreeMap<&Text, &Text> =
            traces.iter().map(|trace| (&trace.id, &trace.kind)).collect();
        let mut graph = Self::default();
        for trace in traces {
            let Some(cause) = trace.causation_id.as_ref().and_then(|id| kinds.get(id)) else {
                continue;
            };
            let edge = graph.edges.entry(((*cause).clone(), trace.kind.clone()));
            edge.or_insert_with(|| (trace.source.clone(), 0)).1 += 1;
        }
        graph
    }

    /// Every elementary circle's types, each once: events that may cause one another for ever.
    #[must_use]
    pub fn cycles(&self) -> Vec<Vec<Text>> {
        let mut next: BTreeMap<&Text, Vec<&Text>> = BTreeMap::new();
        for (cause, effect) in self.edges.keys() {
            next.entry(cause).or_default().push(effect);
        }
        let mut found = Vec::new();
        for start in next.keys() {
            walk(start, &next, &mut vec![*start], &mut found);
        }
        found
    }
}

/// Depth first from the alphabetically first type of a circle, so that each is found once.
fn walk<'a>(
    start: &'a Text,
    next: &BTreeMap<&'a Text, Vec<&'a Text>>,
    path: &mut Vec<&'a Text>,
    found: &mut Vec<Vec<Text>>,
) {
    let Some(here) = path.last().copied() else { return };
    for effect in next.get(here).into_iter().flatten() {
        if *effect == start {
            found.push(path.iter().map(|kind| (*kind).clone()).collect());
        } else if *effect > start && !path.contains(effect) {
            path.push(effect);
            walk(start, next, path, found);
            path.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(
        id: &'static str,
        kind: &'static str,
        cause: Option<&'static str>,
        time: i64,
    ) -> Trace {
        Trace {
            source: "shop".into(),
            partition: 0,
            sequence: 1,
            id: id.into(),
            kind: kind.into(),
            key: "k".into(),
            correlation_id: Some("c".into()),
            causation_id: cause.map(Into::into),
            time: Timestamp(time),
            whereabouts: Whereabouts::Log,
        }
    }

    #[test]
    fn tells_a_story_as_a_tree_in_time() {
        let told = story(vec![
            trace("3", "Shipped", Some("2"), 3),
            trace("1", "Created", None, 1),
            trace("2", "Paid", Some("1"), 2),
            trace("4", "Thanked", Some("2"), 4),
        ]);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].trace.kind, "Created");
        let kinds: Vec<_> =
            told[0].effects[0].effects.iter().map(|story| &*story.trace.kind).collect();
        assert_eq!(kinds, ["Shipped", "Thanked"]);
    }

    #[test]
    fn an_unknown_or_circular_cause_hides_nothing() {
        assert_eq!(story(vec![trace("2", "Paid", Some("gone"), 2)]).len(), 1);
        assert_eq!(
            story(vec![trace("1", "A", Some("2"), 1), trace("2", "B", Some("1"), 2)]).len(),
            2
        );
    }

    #[test]
    fn names_each_cycle_once() {
        let graph = Graph::of(&[
            trace("1", "A", None, 1),
            trace("2", "B", Some("1"), 2),
            trace("3", "A", Some("2"), 3),
            trace("4", "C", Some("3"), 4),
        ]);
        assert_eq!(graph.cycles(), [[Text::from("A"), Text::from("B")]]);
        assert_eq!(graph.edges.len(), 3);
    }
}
