//! Compares what a source committed with what took effect at a receiver.
//!
//! It judges committed effects only: what was sent twice and took effect once is no duplicate. Order
//! is promised within a key, so it is judged within a key.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

/// How many examples of each fault a verdict keeps.
pub const EXAMPLES_MAX: usize = 5;

/// What the source committed: for each key its event ids in commit order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    keys: BTreeMap<String, Vec<String>>,
}

impl Committed {
    /// Adds the next committed event of `key`. Ids are unique over all keys.
    pub fn push(&mut self, key: impl Into<String>, id: impl Into<String>) {
        self.keys.entry(key.into()).or_default().push(id.into());
    }

    /// How many events were committed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }

    /// Whether nothing was committed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// One kind of fault: how often, and the first few as `key/id`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// How often.
    pub count: u64,
    /// The first of them, at most [`EXAMPLES_MAX`].
    pub examples: Vec<String>,
}

impl Count {
    fn add(&mut self, key: &str, id: &str) {
        self.count += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{key}/{id}"));
        }
    }
}

/// What is wrong with a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Committed and without effect.
    pub lost: Count,
    /// In effect more than once; each further effect counts.
    pub duplicated: Count,
    /// First took effect after a later event of its key.
    pub out_of_order: Count,
    /// In effect and never committed under this key.
    pub phantom: Count,
}

impl Verdict {
    /// Whether every committed event took effect once and in order, and nothing else did.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        [&self.lost, &self.duplicated, &self.out_of_order, &self.phantom]
            .iter()
            .all(|fault| fault.count == 0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("out of order", &self.out_of_order),
            ("phantom", &self.phantom),
        ];
        for (index, (name, fault)) in faults.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {}", fault.count)?;
            if !fault.examples.is_empty() {
                write!(f, " ({})", fault.examples.join(" "))?;
            }
        }
        Ok(())
    }
}

/// Compares `committed` with `effects`, the committed effects as `(key, id)` in the order in which
/// they were committed. Takes time linear in both.
pub fn check<'a>(
    committed: &Committed,
    effects: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Verdict {
    struct Seen<'c> {
        key: &'c str,
        place: usize,
        effects: u32,
    }
    let mut verdict = Verdict::default();
    let mut seen: HashMap<&str, Seen<'_>> = HashMap::with_capacity(committed.len());
    for (key, ids) in &committed.keys {
        for (place, id) in ids.iter().enumerate() {
            seen.insert(id, Seen { key, place, effects: 0 });
        }
    }
    let mut furthest: HashMap<&str, usize> = HashMap::with_capacity(committed.keys.len());
    for (key, id) in effects {
        let Some(event) = seen.get_mut(id).filter(|event| event.key == key) else {
            verdict.phantom.add(key, id);
            continue;
        };
        event.effects += 1;
        if event.effects > 1 {
            verdict.duplicated.add(key, id);
            continue;
        }
        let furthest = furthest.entry(event.key).or_insert(event.place);
        if event.place < *furthest {
            verdict.out_of_order.add(key, id);
        }
        *furthest = event.place.max(*furthest);
    }
    for (key, ids) in &committed.keys {
        for id in ids.iter().filter(|id| seen.get(id.as_str()).is_some_and(|it| it.effects == 0)) {
            verdict.lost.add(key, id);
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> Committed {
        let mut committed = Committed::default();
        for (key, id) in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("a", "a3")] {
            committed.push(key, id);
        }
        committed
    }

    fn counts(effects: &[(&str, &str)]) -> [u64; 4] {
        let verdict = check(&committed(), effects.iter().copied());
        assert_eq!(verdict.is_clean(), verdict == Verdict::default());
        [verdict.lost, verdict.duplicated, verdict.out_of_order, verdict.phantom]
            .map(|fault| fault.count)
    }

    #[test]
    fn any_order_between_keys_is_clean() {
        assert_eq!(counts(&[("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3")]), [0; 4]);
        assert_eq!(counts(&[("b", "b1"), ("a", "a1"), ("a", "a2"), ("a", "a3")]), [0; 4]);
    }

    #[test]
    fn finds_a_lost_event() {
        assert_eq!(counts(&[("a", "a1"), ("a", "a3"), ("b", "b1")]), [1, 0, 0, 0]);
    }

    #[test]
    fn finds_a_duplicate_and_does_not_call_it_out_of_order() {
        let effects = [("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3"), ("a", "a1")];
        assert_eq!(counts(&effects), [0, 1, 0, 0]);
    }

    #[test]
    fn finds_events_out_of_order() {
        let effects = [("a", "a3"), ("b", "b1"), ("a", "a1"), ("a", "a2")];
        assert_eq!(counts(&effects), [0, 0, 2, 0]);
    }

    #[test]
    fn finds_what_was_never_committed_or_under_another_key() {
        let mut effects = vec![("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3"), ("a", "x")];
        assert_eq!(counts(&effects), [0, 0, 0, 1]);
        effects.push(("b", "a1"));
        assert_eq!(counts(&effects), [0, 0, 0, 2]);
    }

    #[test]
    fn keeps_a_few_examples_and_all_counts() {
        let mut many = Committed::default();
        (0..1000).for_each(|n| many.push("k", format!("e{n}")));
        let verdict = check(&many, []);
        assert_eq!((verdict.lost.count, verdict.lost.examples.len()), (1000, EXAMPLES_MAX));
        assert!(verdict.to_string().starts_with("lost 1000 (k/e0 k/e1 "), "{verdict}");
    }
}
