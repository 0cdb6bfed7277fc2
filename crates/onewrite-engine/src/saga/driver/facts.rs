//! What sagas are told, what follows from it, and the attempts that are permitted then.

use std::sync::Arc;

use onewrite_core::{
    Code, Error, Text, Timestamp,
    sabotage::Defect,
    saga::{
        Attempt, Call, Direction, Ended, Entry, Input, Json, Participant, SagaId, journal::Waits,
    },
};
use tokio::time::Instant;

use super::{Driver, Fact, Live, Reply, Turn};
use crate::saga::{
    attempt::{self, How, Report},
    beside::beside,
    handle::Command,
    participant::Serving,
    steer::refused,
    write,
};

/// How much sooner than usual the store is looked into when something was written there.
const LOOK_SOON: u32 = 50;

impl Driver {
    /// A signal that came in time is found before its time is over, though no look has found it yet.
    pub(super) async fn look_before_firing(&mut self) -> onewrite_core::Result<()> {
        let now = self.clock.now();
        let mut due = self.timers.iter().take_while(|(time, _)| *time <= now);
        // Before they can be matched again, a look brings nothing that counts.
        let may_look = self.is_behind || Instant::now() >= self.match_at;
        if may_look && due.any(|(_, id)| self.may_be_overlooked(*id, now)) {
            self.match_signals().await?;
            self.take_signals().await?;
        }
        Ok(())
    }

    /// Whether its time for a signal is over by now, and one that came before may have been overlooked.
    fn may_be_overlooked(&self, id: SagaId, now: Timestamp) -> bool {
        let over = |live: &Live| Some((live.saga.first_deadline()?, live.settled));
        let over = self.live.get(&id).and_then(over);
        over.is_some_and(|(over, settled)| {
            over <= now && (self.is_behind || over.max(settled) > self.looked)
        })
    }

    /// Tells sagas that their time is over, those that wait for a signal only of a time up to which all that came
    /// were looked at.
    pub(super) fn fire(&mut self) {
        let now = self.clock.now();
        let due: Vec<_> =
            self.timers.iter().take_while(|(time, _)| *time <= now).copied().collect();
        for (time, id) in due {
            self.timers.remove(&(time, id));
            let Some(live) = self.live.get_mut(&id) else { continue };
            live.timer = None;
            if self.may_be_overlooked(id, now) {
                self.postpone(id);
            } else {
                self.give(id, Input::Time);
            }
        }
    }

    /// Looks at the time of a saga later: where more signals may have come than were looked at it is left in the
    /// store, where they are to be matched first it is told behind that.
    fn postpone(&mut self, id: SagaId) {
        let live = self.live.get(&id);
        let is_left = live.is_some_and(|live| live.saga.standing().waits == Waits::Signal);
        // Or memory would fill with what nothing can be done about.
        let is_full = self.live.len() >= self.options.live_max;
        if (is_left || is_full) && (self.is_behind || self.is_unmatched) {
            self.unload_idle(id);
            self.postponed += usize::from(!self.live.contains_key(&id));
        }
        let soon = self.options.poll / LOOK_SOON;
        let wait = self.match_at.saturating_duration_since(Instant::now()).max(soon);
        if let Some(live) = self.live.get_mut(&id) {
            let time = self.clock.now().plus(wait);
            live.timer = Some(time);
            self.timers.insert((time, id));
        }
    }

    pub(super) async fn asked(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.start(Box::new(start), true),
            Command::Watch(id, watcher) => {
                // Dropped where the saga is not in memory: who waits looks into the store then.
                if let Some(live) = self.live.get_mut(&id) {
                    live.watchers.push(watcher);
                }
            }
            Command::Want { id, input, reply } => self.steer(id, input, reply).await,
            Command::Look => self.look_soon(),
            Command::Held => self.holds_at = Instant::now(),
        }
    }

    /// Looks into the store before its time: something was written there that may be for this runner.
    pub(super) fn look_soon(&mut self) {
        self.poll_at = self.poll_at.min(Instant::now() + self.options.poll / LOOK_SOON);
    }

    /// Carries out what a person wants, and tells once it is durable.
    pub(super) async fn steer(&mut self, id: SagaId, input: Input, reply: Reply) {
        if !self.live.contains_key(&id)
            && let Err(error) = self.take_in(id).await
        {
            let _ = reply.send(Err(error));
            return;
        }
        let Some(live) = self.live.get_mut(&id) else {
            let what = format!("this process runs no saga {id}, or it has ended");
            let _ = reply.send(Err(Error::new(Code::NotFound, what)));
            return;
        };
        live.facts.push_back(Fact { input, reply: Some(reply), request: None });
        self.step(id);
        self.unload_idle(id);
    }

    pub(super) fn ended(&mut self, report: Report) {
        let Report { saga, epoch, step, direction, number, gate, how } = report;
        let was_asked = !matches!(how, How::NotAsked(_));
        let ended = match how {
            How::Ended(ended) | How::NotAsked(ended) => Some(ended),
            How::Transaction(transaction) => {
                if transaction.is_committed() {
                    let done = Ended::Done(Json::NULL);
                    count(&done);
                    self.note(gate, &done);
                }
                self.transacted(saga, epoch, *transaction)
            }
        };
        let known = self.live.get(&saga).is_some_and(|live| live.epoch == epoch);
        if let Some(ended) = ended.filter(|_| known) {
            count(&ended);
            if was_asked {
                self.note(gate, &ended);
            }
            let jitter = match &ended {
                Ended::Done(_) | Ended::UnderWay { .. } => 0.0,
                Ended::Unknown(_) | Ended::Aborted(_) | Ended::NotMade(_) => self.jitter(),
            };
            if matches!(ended, Ended::UnderWay { .. }) {
                // It started a saga, or asked one for something: it may be for this runner.
                self.look_soon();
            }
            self.give(saga, Input::Ended { step, direction, number, how: ended, jitter });
        }
        self.gates.leave(gate);
    }

    /// Makes the attempts whose turn it is.
    pub(super) fn admit(&mut self) {
        if !self.knows_holds {
            return;
        }
        let now = Instant::now();
        while let Some(turn) = self.gates.admit(now, |turn| turn.attempt.number) {
            self.make(turn);
        }
    }

    /// What an attempt says of its participant.
    fn note(&mut self, gate: usize, ended: &Ended) {
        let shut = match ended {
            Ended::NotMade(_) => return,
            Ended::Unknown(_) => {
                let jitter = self.jitter();
                self.gates.failed(gate, Instant::now(), jitter)
            }
            Ended::Done(_) | Ended::Aborted(_) | Ended::UnderWay { .. } => None,
        };
        let answers = !matches!(ended, Ended::Unknown(_));
        let opened = answers && self.gates.answered(gate);
        if shut.is_none() && !opened {
            return;
        }
        // What stands behind a URL's path may be secret, or another one each time.
        let name = self.gates.name(gate);
        let participant = name.split(['?', '#']).next().unwrap_or_default().to_owned();
        match shut {
            Some(time) => tracing::warn!(
                participant,
                "every attempt fails; none is made for {} ms, and then one at a time",
                time.as_millis()
            ),
            None => tracing::info!(participant, "it answers again"),
        }
        let value = if shut.is_some() { 1.0 } else { 0.0 };
        metrics::gauge!("onewrite_saga_participant_shut", "participant" => participant).set(value);
    }

    pub(super) fn give(&mut self, id: SagaId, fact: Input) {
        if let Some(live) = self.live.get_mut(&id) {
            live.facts.push_back(Fact { input: fact, reply: None, request: None });
            if live.busy {
                live.forget_time();
            }
            self.step(id);
        }
    }

    /// Takes in the facts of a saga until one has to be written; without one, makes the attempts that
    /// are permitted.
    pub(super) fn step(&mut self, id: SagaId) {
        let now = self.clock.now();
        let Some(live) = self.live.get_mut(&id) else { return };
        let (mut decides, mut is_early) = (false, false);
        while !live.busy {
            let Some(Fact { input, reply, request }) = live.facts.pop_front() else { break };
            let verb = match &input {
                Input::Wanted { verb, .. } => Some(verb.clone()),
                _ => None,
            };
            let is_time = matches!(input, Input::Time);
            // Whose signal may have come is not told a time that was not looked at.
            let now = match live.saga.first_deadline().filter(|over| is_time && *over <= now) {
                None => now,
                Some(over) if over.max(live.settled) <= self.looked => now.min(self.looked),
                Some(_) => {
                    is_early = true;
                    continue;
                }
            };
            let takes = matches!(input, Input::Signalled { .. });
            let before = takes.then(|| Box::new(live.saga.clone()));
            let entries = match live.saga.decide(now, input) {
                Ok(entries) if entries.is_empty() => {
                    let refusal = verb.and_then(|verb| live.saga.refusal(&verb));
                    if let Some(reply) = reply {
                        let _ = reply.send(refusal.map_or(Ok(()), |why| Err(refused(id, why))));
                    }
                    if let Some(signal) = request
                        && self.taking.insert(signal.clone())
                    {
                        let fence = self.leases.fence(live.partition);
                        self.queue.push_back(write::drop_signal(id, live.partition, fence, signal));
                    }
                    continue;
                }
                Ok(entries) => entries,
                Err(error) => {
                    tracing::error!(saga = %id, %error, "a saga does not follow from its journal; it is left as it is");
                    drop(self.unload(id));
                    return;
                }
            };
            live.replies.extend(reply);
            if entries.iter().any(Entry::stops) {
                // What waits for its turn does not begin, and nothing waits for what may have begun.
                live.withdraw(None);
            }
            for entry in &entries {
                if let Entry::Skipped { step, .. } = entry {
                    live.withdraw(live.saga.checked().index_of(step));
                }
            }
            let Some(fence) = self.leases.fence(live.partition) else {
                drop(self.unload(id));
                return;
            };
            alert(id, &live.saga.checked().definition().name, &entries);
            let publish = self.options.publish;
            let next = live
                .saga
                .next_transition(live.partition, now, &entries)
                .and_then(|next| Ok((next, beside(&live.saga, &entries, publish)?)));
            match next {
                Ok((mut next, told)) => {
                    live.settles = next.awaits.is_some();
                    next.takes = next.takes.or(request);
                    self.taking.extend(next.takes.clone());
                    self.queue.push_back(write::transition(fence, next, told));
                    (live.busy, live.before) = (true, before);
                    live.forget_time();
                    decides = true;
                }
                Err(error) => {
                    tracing::error!(saga = %id, %error, "a transition cannot be written");
                    drop(self.unload(id));
                    return;
                }
            }
        }
        let hurries = decides && self.options.sabotage.has(Defect::ActBeforeJournal);
        if is_early && !live.busy {
            // Nothing of it is attempted before that: that it was woken is to be durable first.
            return self.set_timer(id);
        }
        if !live.busy || hurries {
            self.attempt(id, now);
        }
    }

    /// Makes the attempts that are permitted now.
    pub(super) fn attempt(&mut self, id: SagaId, now: Timestamp) {
        let may_begin = self.may_begin();
        let Some(live) = self.live.get_mut(&id) else { return };
        if self.leaving.contains_key(&live.partition) {
            return;
        }
        // Behind the end of its leases it begins nothing: another process may have begun already.
        if !may_begin {
            self.starved = true;
            return;
        }
        let (partition, epoch) = (live.partition, live.epoch);
        // One that was handed back is woken first, durably: what is in flight is known by that.
        let is_leased = live.saga.standing().waits == Waits::Lease;
        let attempts = if is_leased { live.saga.committed(now) } else { Vec::new() };
        let checked = Arc::clone(live.saga.checked());
        for attempt in attempts {
            let step = &checked.steps()[attempt.step];
            let name = match attempt.direction {
                Direction::Action => step.action(),
                Direction::Compensation => step.compensated_by().unwrap_or_default(),
            };
            let gate = self.gates.at(name);
            let time = attempt.deadline.since(now);
            let turn = Turn { attempt, partition, epoch, gate, time };
            if let Some(live) = self.live.get_mut(&id) {
                live.waiting.push(turn.waiting());
            }
            self.gates.arrive(gate, turn);
        }
        self.set_timer(id);
    }

    pub(super) fn set_timer(&mut self, id: SagaId) {
        let Some(live) = self.live.get_mut(&id) else { return };
        let next = live.saga.next_time();
        if live.timer != next {
            if let Some(time) = live.timer {
                self.timers.remove(&(time, id));
            }
            live.timer = next;
            if let Some(time) = next {
                self.timers.insert((time, id));
            }
        }
    }

    fn may_begin(&self) -> bool {
        self.leases.hold() || self.options.sabotage.has(Defect::ActWithoutLease)
    }

    /// Makes one attempt in a task of its own. It may have waited for its turn for long: where the lease was
    /// lost meanwhile it is not made, where it may have been it is begun anew.
    pub(super) fn make(&mut self, turn: Turn) {
        let may_begin = self.may_begin();
        let gate = turn.gate;
        let Attempt { saga: id, step, direction, .. } = turn.attempt;
        let held = self.leases.fence(turn.partition);
        let live = self.live.get_mut(&id).filter(|live| live.epoch == turn.epoch);
        let (Some(fence), Some(live)) = (held.filter(|fence| fence.epoch == turn.epoch), live)
        else {
            return self.gates.leave(gate);
        };
        let Some(place) = live.waiting.iter().position(|one| *one == turn.waiting()) else {
            return self.gates.leave(gate);
        };
        live.waiting.swap_remove(place);
        if !may_begin {
            live.saga.not_begun(step);
            self.starved = true;
            return self.gates.leave(gate);
        }
        if !live.saga.wants(step, direction) {
            let late = Ended::NotMade("it is not wanted any more".into());
            let _ = self.reports.send(report(&turn)(How::NotAsked(late)));
            return;
        }
        match self.participants.get(self.gates.name(gate)) {
            Some(Serving::Elsewhere(participant)) => self.ask(turn, participant),
            Some(Serving::InTransaction(one)) => self.transact(turn, one, fence),
            None => {
                let nobody = attempt::nobody(self.gates.name(gate));
                let _ = self.reports.send(report(&turn)(How::NotAsked(nobody)));
            }
        }
    }

    fn ask(&self, turn: Turn, participant: Arc<dyn Participant>) {
        let (reports, report) = (self.reports.clone(), report(&turn));
        let step = self.step_name(&turn.attempt);
        let call = match call(turn, step) {
            Ok(call) => call,
            Err(ended) => return drop(reports.send(report(How::NotAsked(ended)))),
        };
        tokio::spawn(async move {
            let ended = attempt::make(participant, call).await;
            // Without a driver nobody wants to know.
            let _ = reports.send(report(How::Ended(ended)));
        });
    }

    fn step_name(&self, attempt: &Attempt) -> Text {
        let live = self.live.get(&attempt.saga);
        live.map(|live| live.saga.checked().name(attempt.step)).unwrap_or_default()
    }
}

/// What the participant is given, from now on.
///
/// # Errors
/// A pointer of its input leads nowhere: the step can never be made.
pub(super) fn call(turn: Turn, step: Text) -> Result<Call, Ended> {
    let Turn { attempt, epoch, time, .. } = turn;
    let Attempt { saga, direction, number, key, input, output, .. } = attempt;
    let input = input.map_err(Ended::Aborted)?;
    let deadline = (Instant::now() + time).into_std();
    Ok(Call { saga, step, key, direction, attempt: number, epoch, deadline, input, output })
}

/// Whose attempt it was.
pub(super) fn report(turn: &Turn) -> impl FnOnce(How) -> Report + Send + use<> {
    let Turn { attempt, epoch, gate, .. } = turn;
    let (epoch, gate) = (*epoch, *gate);
    let Attempt { saga, step, direction, number, .. } = attempt;
    let (saga, step, direction, number) = (*saga, *step, *direction, *number);
    move |how| Report { saga, epoch, step, direction, number, gate, how }
}

fn count(ended: &Ended) {
    let word = match ended {
        Ended::Done(_) => "done",
        Ended::Aborted(_) => "aborted",
        Ended::Unknown(_) => "unknown",
        Ended::NotMade(_) => "not_made",
        Ended::UnderWay { .. } => "under_way",
    };
    metrics::counter!("onewrite_saga_attempts_total", "outcome" => word).increment(1);
}

/// Tells what a person should know.
fn alert(id: SagaId, name: &str, entries: &[Entry]) {
    for entry in entries {
        match entry {
            Entry::Held { step, .. } => {
                metrics::counter!("onewrite_saga_held_total").increment(1);
                let code = Code::SagaHeld;
                tracing::error!(saga = %id, name, %step, "{code}: the step can neither go on nor be compensated; a person has to look");
            }
            Entry::Overdue => {
                metrics::counter!("onewrite_saga_overdue_total").increment(1);
                tracing::error!(saga = %id, name, "the saga is not done in time; it is past its pivot and goes on");
            }
            _ => {}
        }
    }
}
