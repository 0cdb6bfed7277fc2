//! The participants of the simulated world, and the way to them. They remember the keys that they have seen:
//! an action takes effect once and not behind its compensation, and a no that has to be final is.

use std::{collections::BTreeMap, sync::Arc};

use onewrite_core::{
    BoxFuture, Text,
    saga::{
        Call, Compensation, Direction, Ended, Journaling, Json, Kind, Participant, Saga, SagaId,
        StepKey, Transacted, Transactional,
    },
    store::Outcome,
};
use tokio::sync::oneshot;

use super::{
    door::Door,
    shapes,
    world::{Fault, Inner, World},
};

/// What became of one step at its participant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) done: u32,
    pub(super) undone: u32,
    /// Its compensation came, and it is refused from now on.
    barred: bool,
    /// It said no, for good.
    refused: bool,
}

/// How a step behaves, until a person mends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Temper {
    Fine,
    /// It says no, and may have had an effect all the same.
    No {
        hidden: bool,
    },
    /// It says no, which must be final.
    NoForGood,
    /// It fails until this time, by the virtual clock.
    Busy(i64),
    /// It ends every process that attempts it, until this time.
    Kill(i64),
}

pub(super) type Steps<T> = BTreeMap<(SagaId, Text), T>;

/// One process's way to all participants.
pub(super) struct Desk {
    pub(super) world: Arc<World>,
    pub(super) door: Arc<Door>,
}

impl Participant for Desk {
    fn act(&self, call: Call) -> BoxFuture<'static, Ended> {
        // Here it begins; the process may be stalled before the call is on its way.
        self.world.begun(&call);
        let (world, process) = (Arc::clone(&self.world), Arc::clone(&self.door.process));
        Box::pin(async move {
            process.awake().await;
            if world.kills(&call) {
                world.end(&process);
                return std::future::pending().await;
            }
            if world.strikes(Fault::Panic) {
                // As a panic, without its message.
                std::panic::resume_unwind(Box::new("a participant"));
            }
            let answer = world.call(call).await;
            process.awake().await;
            answer
        })
    }
}

impl Transactional for Desk {
    fn act(
        &self,
        call: Call,
        journal: Journaling,
    ) -> BoxFuture<'static, onewrite_core::Result<Transacted>> {
        self.world.begun(&call);
        let door = Arc::clone(&self.door);
        Box::pin(async move {
            door.process.awake().await;
            if door.world.kills(&call) {
                door.world.end(&door.process);
                return std::future::pending().await;
            }
            let now = door.world.now();
            if let Err(ended) = door.world.locked().answer(now, &call) {
                return Ok(Transacted::Ended(ended));
            }
            let item = journal(Json::NULL)?;
            door.ask(move |inner, now| {
                let outcome = inner.apply(now, &item);
                if matches!(outcome, Outcome::Applied(_)) {
                    inner.take_effect(now.0, &call);
                }
                Transacted::Written(outcome)
            })
            .await
        })
    }
}

impl World {
    /// Sends a call on its way, and waits for the answer.
    async fn call(self: &Arc<Self>, call: Call) -> Ended {
        if self.strikes(Fault::LoseCall) {
            return std::future::pending().await;
        }
        let copies = 1 + u32::from(self.strikes(Fault::Twice));
        let (sender, answer) = oneshot::channel();
        let mut sender = Some(sender).filter(|_| !self.strikes(Fault::Hang));
        for _ in 0..copies {
            let late = if self.strikes(Fault::Late) { 20 } else { 1 };
            let (there, back) = (self.travel() * late, self.travel());
            let (world, call, sender) = (Arc::clone(self), call.clone(), sender.take());
            tokio::spawn(async move {
                tokio::time::sleep(there).await;
                let answer = world.transaction(|inner, now| inner.receive(now.0, &call));
                tokio::time::sleep(back).await;
                // Whoever asked may have given up.
                sender.map(|sender| sender.send(answer))
            });
        }
        match answer.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    fn kills(&self, call: &Call) -> bool {
        let now = self.now();
        let mut inner = self.locked();
        call.direction == Direction::Action
            && matches!(inner.temper(now, call), Temper::Kill(until) if now < until)
    }

    /// An attempt begins.
    fn begun(&self, call: &Call) {
        let now = self.now();
        let mut inner = self.locked();
        inner.note(now, |inner| {
            format!("{} begins, attempt {} of epoch {}", inner.step(call), call.attempt, call.epoch)
        });
        let faults = inner.faults_of(call);
        faults.into_iter().for_each(|fault| inner.wrong(fault));
    }
}

impl Inner {
    /// What speaks against beginning this attempt now.
    fn faults_of(&self, call: &Call) -> Vec<String> {
        let step = self.step(call);
        let mut faults = Vec::new();
        let key = match call.direction {
            Direction::Action => StepKey::action(call.saga, &call.step),
            Direction::Compensation => StepKey::compensation(call.saga, &call.step),
        };
        if key != call.key {
            faults.push(format!("{step} has another key: {}", call.key));
        }
        let Some(saved) = self.tables.sagas.get(&call.saga) else {
            faults.push(format!("{step} begins, and no saga is known"));
            return faults;
        };
        if self.tables.epoch(saved.partition) != call.epoch {
            faults.push(format!("{step} begins without a lease"));
        }
        let Some(checked) = self.tables.checked(&saved.definition) else { return faults };
        let known = Saga::recovered(saved, Arc::clone(checked), Default::default());
        let step_index = checked.index_of(&call.step).unwrap_or_default();
        if !known.is_ok_and(|saga| saga.wants(step_index, call.direction)) {
            faults.push(format!("{step} begins, and nothing durable permits it"));
        }
        faults
    }

    /// A call arrives: its effect and its answer are one.
    fn receive(&mut self, now: i64, call: &Call) -> Ended {
        let answer = self.answer(now, call);
        if answer.is_ok() {
            self.take_effect(now, call);
        }
        let answer = answer.map_or_else(|ended| ended, |()| Ended::Done(Json::NULL));
        self.note(now, |inner| format!("{} answers {answer:?}", inner.step(call)));
        answer
    }

    /// Whether it takes effect. Who commits the effect with the journal needs no memory of its own.
    fn answer(&mut self, now: i64, call: &Call) -> Result<(), Ended> {
        let at = (call.saga, call.step.clone());
        let known = self.effects.get(&at).copied().unwrap_or_default();
        let remembers = !shapes::is_stored(&call.step);
        if call.direction == Direction::Compensation {
            let busy = self.strikes(now, Fault::Busy);
            return if busy { Err(Ended::Unknown("busy".into())) } else { Ok(()) };
        }
        if remembers && (known.barred || known.refused) {
            return Err(Ended::Aborted("no, and for good".into()));
        }
        if remembers && known.done > 0 {
            return Ok(());
        }
        match self.temper(now, call) {
            Temper::Busy(until) if now < until => return Err(Ended::Unknown("busy".into())),
            Temper::Fine | Temper::Busy(_) | Temper::Kill(_) => return Ok(()),
            Temper::No { hidden: true } => self.take_effect(now, call),
            Temper::No { hidden: false } => {}
            Temper::NoForGood => self.effects.entry(at).or_default().refused = true,
        }
        Err(Ended::Aborted("no".into()))
    }

    fn take_effect(&mut self, now: i64, call: &Call) {
        let known = self.effects.entry((call.saga, call.step.clone())).or_default();
        // A repetition is recognised by those who remember.
        let once = !shapes::is_stored(&call.step);
        match call.direction {
            Direction::Action if once => known.done = 1,
            Direction::Action => known.done += 1,
            Direction::Compensation if once => known.undone = known.done,
            Direction::Compensation => known.undone += known.done.min(1),
        }
        if call.direction == Direction::Compensation {
            known.barred = true;
            self.look_at_order(call);
        } else if known.barred {
            let what = format!("{} takes effect behind its compensation", self.step(call));
            self.wrong(what);
        }
        self.note(now, |inner| format!("{} takes effect", inner.step(call)));
    }

    /// What builds on a step is made good before it.
    fn look_at_order(&mut self, call: &Call) {
        let Some(saved) = self.tables.sagas.get(&call.saga) else { return };
        let Some(checked) = self.tables.checked(&saved.definition).cloned() else { return };
        let Some(step) = checked.index_of(&call.step) else { return };
        for behind in checked.behind(step) {
            let behind = &checked.steps()[*behind];
            let at = (call.saga, Text::from(behind.name.clone()));
            let open = self.effects.get(&at).is_some_and(|known| known.done > known.undone);
            if open && behind.compensated_by().is_some() {
                let what = format!("{} is made good before {}", self.step(call), behind.name);
                self.wrong(what);
            }
        }
    }

    /// How a step behaves; drawn when it is asked for the first time.
    fn temper(&mut self, now: i64, call: &Call) -> Temper {
        let at = (call.saga, call.step.clone());
        if let Some(known) = self.tempers.get(&at) {
            return *known;
        }
        let saved = self.tables.sagas.get(&call.saga);
        let checked = saved.and_then(|saved| self.tables.checked(&saved.definition));
        let step =
            checked.and_then(|checked| checked.steps().get(checked.index_of(&call.step)?).cloned());
        let Some(step) = step else { return Temper::Fine };
        let soon = now + 1_000 * self.below(200) as i64;
        let compensated = matches!(step.compensation, Compensation::By(_));
        let can_hide = compensated && !shapes::is_stored(&call.step);
        let temper = match self.below(100) {
            0..8 if step.kind == Kind::Pivot && !compensated => Temper::NoForGood,
            0..8 => Temper::No { hidden: can_hide && self.below(2) == 0 },
            8..16 => Temper::Busy(soon),
            16..18 if step.kind == Kind::Compensatable => Temper::Kill(i64::MAX),
            16..19 => Temper::Kill(soon),
            _ => Temper::Fine,
        };
        let temper = if self.options.faults { temper } else { Temper::Fine };
        self.tempers.insert(at, temper);
        temper
    }

    /// `fork/3 b`, or `fork/3 -b`.
    fn step(&self, call: &Call) -> String {
        let saved = self.tables.sagas.get(&call.saga);
        let key = saved.map_or("?", |saved| &saved.key);
        let sign = if call.direction == Direction::Compensation { "-" } else { "" };
        format!("{key} {sign}{}", call.step)
    }

    /// A person mends what holds this saga up.
    pub(super) fn mend(&mut self, saga: SagaId) {
        let mended = self.tempers.range_mut((saga, Text::default())..);
        let own = mended.take_while(|((of, _), _)| *of == saga);
        own.for_each(|(_, temper)| *temper = Temper::Fine);
    }
}
