//! Who may go in to a participant: so many attempts at a time, the others in order; nobody for a while
//! after it failed too often in a row, and then one alone (a circuit breaker: Nygard, "Release It!", 2007).

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use onewrite_core::retry::Backoff;
use tokio::time::Instant;

use super::hold::Hold;

/// How long nobody goes in: by how often in a row that was so.
const SHUT: Backoff = Backoff { initial: Duration::from_secs(1), cap: Duration::from_secs(30) };

/// Gates that are known at least before those that nobody stands at are forgotten: there may be a name for each saga.
const KNOWN_MIN: usize = 1_024;

/// The gates before all participants of a process.
#[derive(Debug)]
pub(super) struct Gates<T> {
    /// Attempts inside at most.
    limit: usize,
    /// Failures in a row that shut a gate; 0 for never.
    failures_max: u32,
    by_name: HashMap<String, usize>,
    all: Vec<Gate<T>>,
    /// Places of gates that are forgotten.
    free: Vec<usize>,
    /// With so many names those that nobody stands at are forgotten.
    forget_at: usize,
    /// Gates that may let somebody in.
    ready: Vec<usize>,
    /// Gates that are shut.
    shut: usize,
    /// Whom a person holds.
    holds: Vec<Hold>,
}

#[derive(Debug)]
struct Gate<T> {
    name: String,
    /// A person holds it.
    is_held: bool,
    inside: usize,
    waiting: VecDeque<T>,
    is_ready: bool,
    /// Failures in a row.
    failures: u32,
    shut: Option<Shut>,
}

#[derive(Debug)]
struct Shut {
    /// From then on one may try.
    until: Instant,
    /// How often in a row.
    times: u32,
    /// One is inside who tries. Others may hang there since before.
    is_tried: bool,
}

impl<T> Gate<T> {
    fn is_shut(&self) -> bool {
        self.is_held || self.shut.is_some()
    }

    fn is_idle(&self) -> bool {
        self.inside == 0 && self.waiting.is_empty() && self.shut.is_none() && !self.is_ready
    }

    /// The one who came first; while the gate is shut, the one who tried least.
    fn next(&mut self, tries: impl Fn(&T) -> u32) -> Option<T> {
        let waiting = self.waiting.iter().map(tries).enumerate();
        let place = match self.shut {
            None => 0,
            Some(_) => waiting.min_by_key(|(_, tries)| *tries)?.0,
        };
        self.waiting.remove(place)
    }

    fn is_free(&self, limit: usize, now: Instant) -> bool {
        match &self.shut {
            _ if self.is_held => false,
            None => self.inside < limit,
            Some(shut) => !shut.is_tried && shut.until <= now,
        }
    }
}

impl<T> Gates<T> {
    pub(super) fn new(limit: usize, failures_max: u32) -> Self {
        Self {
            limit: limit.max(1),
            failures_max,
            by_name: HashMap::new(),
            all: Vec::new(),
            free: Vec::new(),
            forget_at: KNOWN_MIN,
            ready: Vec::new(),
            shut: 0,
            holds: Vec::new(),
        }
    }

    /// Whom a person holds from now on: nobody goes in there.
    pub(super) fn hold(&mut self, holds: Vec<Hold>) {
        if self.holds == holds {
            return;
        }
        self.holds = holds;
        for gate in 0..self.all.len() {
            let held = self.holds.iter().find(|hold| hold.covers(&self.all[gate].name));
            let (was_held, found) = (self.all[gate].is_held, &mut self.all[gate]);
            found.is_held = held.is_some();
            if was_held && !found.is_held {
                self.look_at(gate);
            }
        }
    }

    /// The gate before this participant.
    pub(super) fn at(&mut self, name: &str) -> usize {
        if let Some(gate) = self.by_name.get(name) {
            return *gate;
        }
        if self.by_name.len() >= self.forget_at {
            self.forget();
        }
        let new = Gate {
            name: name.to_owned(),
            is_held: self.holds.iter().any(|hold| hold.covers(name)),
            inside: 0,
            waiting: VecDeque::new(),
            is_ready: false,
            failures: 0,
            shut: None,
        };
        let gate = self.free.pop().unwrap_or(self.all.len());
        match self.all.get_mut(gate) {
            Some(place) => *place = new,
            None => self.all.push(new),
        }
        self.by_name.insert(name.to_owned(), gate);
        gate
    }

    /// Forgets the gates that nobody stands at or is inside of, and that are not shut.
    fn forget(&mut self) {
        for (place, gate) in self.all.iter().enumerate() {
            if gate.is_idle() && self.by_name.remove(&gate.name).is_some() {
                self.free.push(place);
            }
        }
        self.forget_at = KNOWN_MIN.max(2 * self.by_name.len());
    }

    pub(super) fn name(&self, gate: usize) -> &str {
        self.all.get(gate).map_or("", |gate| &gate.name)
    }

    /// One wants to go in.
    pub(super) fn arrive(&mut self, gate: usize, one: T) {
        if let Some(found) = self.all.get_mut(gate) {
            found.waiting.push_back(one);
            self.look_at(gate);
        }
    }

    /// Whose turn it is now, at any gate. Whoever is let in leaves some time. The one that tries alone is
    /// the one that failed least by itself: it may be what is asked that fails, and not who is asked.
    pub(super) fn admit(&mut self, now: Instant, tries: impl Fn(&T) -> u32) -> Option<T> {
        while let Some(gate) = self.ready.last().and_then(|gate| self.all.get_mut(*gate)) {
            if gate.is_free(self.limit, now)
                && let Some(one) = gate.next(&tries)
            {
                gate.inside += 1;
                gate.shut.iter_mut().for_each(|shut| shut.is_tried = true);
                return Some(one);
            }
            gate.is_ready = false;
            self.ready.pop();
        }
        None
    }

    /// One has left.
    pub(super) fn leave(&mut self, gate: usize) {
        if let Some(found) = self.all.get_mut(gate) {
            found.inside = found.inside.saturating_sub(1);
            // Or it was one from before: then two try, which is no harm.
            found.shut.iter_mut().for_each(|shut| shut.is_tried = false);
            self.look_at(gate);
        }
    }

    /// Whether nobody goes in now, but for one that tries alone.
    pub(super) fn is_shut(&self, gate: usize) -> bool {
        self.all.get(gate).is_some_and(Gate::is_shut)
    }

    /// The participant answered, be it with a no. Returns whether that opened its gate.
    pub(super) fn answered(&mut self, gate: usize) -> bool {
        let Some(found) = self.all.get_mut(gate) else { return false };
        found.failures = 0;
        let was_shut = found.shut.take().is_some();
        if was_shut {
            self.shut -= 1;
            self.look_at(gate);
        }
        was_shut
    }

    /// An attempt failed. Returns for how long nobody goes in, if that shut the gate.
    pub(super) fn failed(&mut self, gate: usize, now: Instant, jitter: f64) -> Option<Duration> {
        let found = self.all.get_mut(gate)?;
        found.failures = found.failures.saturating_add(1);
        let times = match &found.shut {
            // It went in before the gate was shut.
            Some(shut) if now < shut.until => return None,
            Some(shut) => shut.times.saturating_add(1),
            None if self.failures_max == 0 || found.failures < self.failures_max => return None,
            None => {
                self.shut += 1;
                1
            }
        };
        // At least half of it: the others who found the participant down come at other times.
        let time = SHUT.pause(times, 0.5 + jitter / 2.0);
        found.shut = Some(Shut { until: now + time, times, is_tried: false });
        Some(time)
    }

    /// Keeps those of the waiting at gates that are shut whom `keep` is true of.
    pub(super) fn retain_at_shut(&mut self, keep: impl Fn(&T) -> bool) {
        for gate in self.all.iter_mut().filter(|gate| gate.is_shut()) {
            gate.waiting.retain(&keep);
        }
    }

    /// Looks at gates whose time has come.
    pub(super) fn reopen(&mut self, now: Instant) {
        if self.shut == 0 {
            return;
        }
        for gate in 0..self.all.len() {
            let shut = self.all[gate].shut.as_ref();
            if shut.is_some_and(|shut| shut.until <= now) {
                self.look_at(gate);
            }
        }
    }

    /// When somebody who waits at a gate that is shut may go in.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        if self.shut == 0 {
            return None;
        }
        let is_tried = |gate: &Gate<T>| gate.shut.as_ref().is_some_and(|shut| shut.is_tried);
        let waited_for =
            |gate: &&Gate<T>| !gate.is_held && !is_tried(gate) && !gate.waiting.is_empty();
        let until = |gate: &Gate<T>| gate.shut.as_ref().map(|shut| shut.until);
        self.all.iter().filter(waited_for).filter_map(until).min()
    }

    fn look_at(&mut self, gate: usize) {
        let found = &mut self.all[gate];
        if !found.is_ready && !found.waiting.is_empty() {
            found.is_ready = true;
            self.ready.push(gate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: [u32; 0] = [];

    fn all(gates: &mut Gates<u32>, now: Instant) -> Vec<u32> {
        gates.reopen(now);
        std::iter::from_fn(|| gates.admit(now, |n| u32::from(*n < 11))).collect()
    }

    #[test]
    fn so_many_at_a_time_and_the_others_in_order() {
        let (mut gates, now) = (Gates::new(2, 0), Instant::now());
        let (bank, stock) = (gates.at("bank"), gates.at("stock"));
        assert_eq!((gates.at("bank"), gates.name(bank)), (bank, "bank"));
        (1..=4).for_each(|n| gates.arrive(bank, n));
        assert_eq!(all(&mut gates, now), [1, 2]);
        gates.arrive(stock, 5);
        assert_eq!(all(&mut gates, now), [5], "each for itself");
        gates.leave(bank);
        assert_eq!(all(&mut gates, now), [3]);
        gates.leave(bank);
        assert_eq!(all(&mut gates, now), [4]);
        (0..2).for_each(|_| gates.leave(bank));
        assert_eq!(all(&mut gates, now), NOBODY);
        (6..9).for_each(|n| gates.arrive(bank, n));
        assert_eq!(all(&mut gates, now), [6, 7]);
        (0..100).for_each(|_| assert_eq!(gates.failed(bank, now, 1.0), None, "never"));
    }

    #[test]
    fn who_fails_too_often_in_a_row_is_left_alone_and_then_tried_by_one() {
        let (mut gates, now) = (Gates::new(10, 3), Instant::now());
        let bank = gates.at("bank");
        let after = |millis| now + Duration::from_millis(millis);
        let ends = |gates: &mut Gates<u32>, at, fails: bool| {
            gates.leave(bank);
            match fails {
                true => gates.failed(bank, at, 1.0).map(|time| time.as_millis()),
                false => gates.answered(bank).then_some(0),
            }
        };
        (1..=9).for_each(|n| gates.arrive(bank, n));
        assert_eq!(all(&mut gates, now).len(), 9);
        assert_eq!([true, true, false].map(|fails| ends(&mut gates, now, fails)), [None; 3]);
        assert_eq!([true; 3].map(|_| ends(&mut gates, now, true)), [None, None, Some(1_000)]);
        assert_eq!(ends(&mut gates, now, true), None, "it went in before");
        (10..14).for_each(|n| gates.arrive(bank, n));
        assert_eq!([true; 2].map(|_| ends(&mut gates, after(1), true)), [None; 2]);
        assert_eq!((all(&mut gates, after(999)), gates.wake_at()), (vec![], Some(after(1_000))));
        assert!(gates.is_shut(bank));
        assert_eq!(all(&mut gates, after(1_000)), [11], "one alone, and it tried least");
        assert_eq!(ends(&mut gates, after(1_000), true), Some(2_000), "longer");
        assert_eq!(all(&mut gates, after(2_999)), NOBODY);
        assert_eq!(all(&mut gates, after(3_000)), [12]);
        assert_eq!(ends(&mut gates, after(3_000), false), Some(0), "it answers");
        assert_eq!((all(&mut gates, after(3_000)), gates.wake_at()), (vec![10, 13], None));
    }

    #[test]
    fn gates_that_nobody_stands_at_are_forgotten() {
        let (mut gates, now) = (Gates::new(2, 1), Instant::now());
        let [bank, stock, mail] = ["bank", "stock", "mail"].map(|name| gates.at(name));
        (1..=3).for_each(|n| gates.arrive(bank, n));
        assert_eq!(all(&mut gates, now), [1, 2]);
        assert!(gates.failed(mail, now, 1.0).is_some());
        for n in 0..100 * KNOWN_MIN {
            let one = gates.at(&format!("https://shop.example/{n}"));
            gates.arrive(one, 4);
            assert_eq!(all(&mut gates, now), [4]);
            gates.leave(one);
        }
        assert!(gates.all.len() <= 2 * KNOWN_MIN, "{}", gates.all.len());
        assert_eq!((gates.at("bank"), gates.at("mail")), (bank, mail), "they are needed");
        assert!(gates.is_shut(mail) && !gates.is_shut(gates.by_name["bank"]));
        gates.leave(bank);
        assert_eq!(all(&mut gates, now), [3]);
        assert_ne!(gates.name(stock), "stock", "it is another's");
    }

    #[test]
    fn who_hangs_inside_keeps_nobody_from_trying() {
        let (mut gates, now) = (Gates::new(10, 1), Instant::now());
        let later = now + Duration::from_secs(1);
        let bank = gates.at("bank");
        (1..=2).for_each(|n| gates.arrive(bank, n));
        assert_eq!(all(&mut gates, now), [1, 2]);
        assert!(gates.failed(bank, now, 1.0).is_some());
        gates.leave(bank);
        (3..=4).for_each(|n| gates.arrive(bank, n));
        assert_eq!((all(&mut gates, now), gates.wake_at()), (vec![], Some(later)));
        assert_eq!(all(&mut gates, later), [3], "the second one is inside still");
        assert_eq!((all(&mut gates, later), gates.wake_at()), (vec![], None), "one alone");
        assert!(gates.answered(bank));
        gates.leave(bank);
        assert_eq!(all(&mut gates, later), [4]);
    }

    #[test]
    fn nobody_goes_in_to_whom_a_person_holds() {
        let (mut gates, now) = (Gates::new(10, 3), Instant::now());
        let bank = gates.at("bank.charge");
        let hold = |participant: &'static str| Hold {
            id: "1".into(),
            participant: participant.into(),
            actor: "ann".into(),
            reason: "so".into(),
        };
        gates.arrive(bank, 1);
        gates.hold(vec![hold("bank")]);
        let refund = gates.at("bank.refund");
        gates.arrive(refund, 2);
        assert_eq!((all(&mut gates, now), gates.is_shut(bank)), (vec![], true));
        gates.hold(vec![hold("bank.charge")]);
        assert_eq!(all(&mut gates, now), [2]);
        gates.hold(Vec::new());
        assert_eq!(all(&mut gates, now), [1]);
        // One that is shut as well wakes nobody, and opens when it is released.
        let later = now + Duration::from_secs(60);
        (0..3).for_each(|_| _ = gates.failed(bank, now, 1.0));
        gates.leave(bank);
        gates.arrive(bank, 3);
        gates.hold(vec![hold("bank")]);
        assert_eq!((all(&mut gates, later), gates.wake_at()), (vec![], None));
        gates.hold(Vec::new());
        assert_eq!(all(&mut gates, later), [3]);
    }

    #[test]
    fn who_wants_nothing_any_more_leaves_a_gate_that_is_shut() {
        let (mut gates, now) = (Gates::new(10, 1), Instant::now());
        let bank = gates.at("bank");
        gates.arrive(bank, 1);
        assert_eq!(all(&mut gates, now), [1]);
        gates.leave(bank);
        assert!(gates.failed(bank, now, 1.0).is_some());
        (2..=1_000).for_each(|n| gates.arrive(bank, n));
        gates.retain_at_shut(|n| *n == 500);
        assert_eq!(all(&mut gates, now + Duration::from_secs(1)), [500]);
        gates.leave(bank);
        assert!(gates.answered(bank));
        assert_eq!(all(&mut gates, now + Duration::from_secs(1)), NOBODY);
    }
}
