//! How many attempts may be in flight at one participant: the others wait their turn, in order.

use std::collections::{HashMap, VecDeque};

/// The gates before all participants of a process.
#[derive(Debug)]
pub(super) struct Gates<T> {
    limit: usize,
    by_name: HashMap<String, usize>,
    all: Vec<Gate<T>>,
}

#[derive(Debug)]
struct Gate<T> {
    name: String,
    inside: usize,
    waiting: VecDeque<T>,
}

impl<T> Gates<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), by_name: HashMap::new(), all: Vec::new() }
    }

    /// The gate before this participant.
    pub(super) fn at(&mut self, name: &str) -> usize {
        if let Some(gate) = self.by_name.get(name) {
            return *gate;
        }
        let gate = self.all.len();
        self.all.push(Gate { name: name.to_owned(), inside: 0, waiting: VecDeque::new() });
        self.by_name.insert(name.to_owned(), gate);
        gate
    }

    pub(super) fn name(&self, gate: usize) -> &str {
        self.all.get(gate).map_or("", |gate| &gate.name)
    }

    /// Lets one in, or keeps it until its turn comes.
    pub(super) fn enter(&mut self, gate: usize, one: T) -> Option<T> {
        let gate = self.all.get_mut(gate)?;
        if gate.inside < self.limit {
            gate.inside += 1;
            return Some(one);
        }
        gate.waiting.push_back(one);
        None
    }

    /// One has left: whose turn it is now, if anybody waits. Whoever is let in and does not enter leaves
    /// as well.
    pub(super) fn leave(&mut self, gate: usize) -> Option<T> {
        let gate = self.all.get_mut(gate)?;
        match gate.waiting.pop_front() {
            Some(next) => Some(next),
            None => {
                gate.inside = gate.inside.saturating_sub(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_a_time_and_the_others_in_order() {
        let mut gates = Gates::new(2);
        let (bank, stock) = (gates.at("bank"), gates.at("stock"));
        assert_eq!((gates.at("bank"), gates.name(bank)), (bank, "bank"));
        assert_eq!([1, 2, 3, 4].map(|n| gates.enter(bank, n)), [Some(1), Some(2), None, None]);
        assert_eq!(gates.enter(stock, 5), Some(5), "each for itself");
        assert_eq!([(); 4].map(|()| gates.leave(bank)), [Some(3), Some(4), None, None]);
        assert_eq!(gates.enter(bank, 6), Some(6));
    }
}
