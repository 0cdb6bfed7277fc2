//! Sagas that are steps of others.
//!
//! A step that is a saga starts it, once: the child is about the step's key, and of one name, key and run there
//! is one. From then on the step looks how the child stands, and nothing of it is kept in memory between two
//! looks. It looks when the child tells of its end, which is of the commit that ends it, and now and then
//! without that; what counts is what it finds, so nothing depends on the message.

use std::{
    marker::PhantomData,
    sync::{Arc, OnceLock},
    time::Duration,
};

use onewrite_core::{
    Code, Result, Text, Timestamp,
    saga::{
        Call, Checked, Ended, Json, Parent, Request, STANDS, SagaId, Verb,
        journal::{FindSagas, Journal, NewSaga, SavedSaga, Standing, State, Waits},
    },
    store::Op,
};

use super::{SagaType, apart, start::First};

/// How often a step looks at its child without being told: as often as a message may be gone unheard.
const LOOK_EVERY: Duration = STANDS;

/// Starts sagas as steps of others, and finds how they ended. Cheap to clone.
#[derive(Clone)]
pub struct Children {
    store: Arc<dyn Journal>,
}

impl Children {
    /// The children in a store: the one that their parents are run from. Any runner of it that serves them runs
    /// them.
    pub fn new(store: Arc<dyn Journal>) -> Self {
        Self { store }
    }
}

type Find = dyn Fn() -> Result<Arc<Checked>> + Send + Sync;

/// The type of saga that a step is: it takes `V` and answers `T`.
pub struct Child<V, T> {
    pub(super) find: Arc<Find>,
    of: PhantomData<fn(V) -> T>,
}

impl<V, T> Child<V, T> {
    /// A type of saga that is stated when the first one is started: for sagas whose steps are, in the end,
    /// sagas of their own type, and whose statement would not come to an end otherwise. Where `state` fails, the
    /// step's outcome is unknown, and it is tried again.
    pub fn later<S>(state: impl Fn() -> Result<SagaType<S, V, T>> + Send + Sync + 'static) -> Self
    where
        S: Send + Sync + 'static,
    {
        let known: OnceLock<Arc<Checked>> = OnceLock::new();
        let find = move || {
            if let Some(known) = known.get() {
                return Ok(Arc::clone(known));
            }
            let stated = Arc::clone(state()?.checked());
            Ok(Arc::clone(known.get_or_init(|| stated)))
        };
        Self { find: Arc::new(find), of: PhantomData }
    }
}

impl<S, V, T> From<&SagaType<S, V, T>> for Child<V, T>
where
    S: Send + Sync + 'static,
{
    fn from(saga: &SagaType<S, V, T>) -> Self {
        let checked = Arc::clone(saga.checked());
        Self { find: Arc::new(move || Ok(Arc::clone(&checked))), of: PhantomData }
    }
}

/// A step that is a saga.
#[derive(Clone)]
pub(super) struct ChildStep {
    pub(super) children: Children,
    pub(super) child: Arc<Find>,
    /// How long the child may take.
    pub(super) within: Duration,
}

/// What there is to make good of a step that is a saga.
pub(super) enum Settled {
    /// The child is compensated, or never begins.
    Nothing,
    /// The child is completed, with this output.
    Output(Json),
    /// The child has not ended.
    Goes(Ended),
}

impl ChildStep {
    /// The step's action: starts the child, unless it is started, and says how it stands.
    pub(super) async fn act(&self, call: &Call) -> Ended {
        let acted = self.start_or_look(call).await;
        acted.unwrap_or_else(|error| match error.code() {
            // What it is a step of does not end because nobody can read it now, or others are in the way.
            Code::Corrupt | Code::StoreBusy => Ended::NotMade(error.to_string().into()),
            _ => Ended::Unknown(error.to_string().into()),
        })
    }

    async fn start_or_look(&self, call: &Call) -> Result<Ended> {
        let (checked, parent) = ((self.child)()?, parent(call));
        let now = self.children.store.now().await?;
        if let Some(child) = self.find(&checked, &parent).await? {
            return Ok(self.judge(&child, now));
        }
        if let Err(error) = call.input.check("the input of a child saga") {
            return Ok(Ended::Aborted(error.to_string().into()));
        }
        let first = first(&checked, &parent, call, now);
        let new = first.row(new_id(), false);
        let id = new.id;
        if self.write(checked, new).await? {
            return Ok(Ended::UnderWay { look_in: self.look_in(now, now), reason: goes(id) });
        }
        // Somebody else was faster.
        Ok(Ended::UnderWay { look_in: Duration::ZERO, reason: "its child was just started".into() })
    }

    fn judge(&self, child: &SavedSaga, now: Timestamp) -> Ended {
        let id = child.id;
        let left = self.look_in(child.started_at, now);
        match child.standing.state {
            State::Completed => Ended::Done(output(child)),
            State::Compensated => Ended::Aborted(format!("its child {id} is compensated").into()),
            State::Running | State::Compensating | State::NeedsOperator if left.is_zero() => {
                Ended::Aborted(format!("its child {id} did not end in time").into())
            }
            State::Running | State::Compensating | State::NeedsOperator => {
                Ended::UnderWay { look_in: left, reason: goes(id) }
            }
        }
    }

    /// When a child that was started then is looked at again; zero when its time is over.
    fn look_in(&self, started_at: Timestamp, now: Timestamp) -> Duration {
        started_at.plus(self.within).since(now).min(LOOK_EVERY)
    }

    /// The beginning of the step's compensation: sees to it that the child does not go on, or finds that it has
    /// completed. One that was never started is kept from starting, for its start may still be on its way.
    pub(super) async fn settle(&self, call: &Call) -> Result<Settled> {
        let (checked, parent) = ((self.child)()?, parent(call));
        let look_in = LOOK_EVERY;
        let Some(child) = self.find(&checked, &parent).await? else {
            let now = self.children.store.now().await?;
            let mut never = first(&checked, &parent, call, now).row(new_id(), false);
            (never.standing, never.awaits) = (Standing::ended(State::Compensated), Vec::new());
            // It may be too large to be stored.
            never.input = Json::NULL;
            if self.write(checked, never).await? {
                return Ok(Settled::Nothing);
            }
            let (look_in, reason) = (Duration::ZERO, "its child was just started".into());
            return Ok(Settled::Goes(Ended::UnderWay { look_in, reason }));
        };
        match child.standing.state {
            State::Completed => return Ok(Settled::Output(output(&child))),
            State::Compensated => return Ok(Settled::Nothing),
            // Whoever paused it on its way back is overruled as well.
            State::Compensating if child.standing.waits == Waits::Operator => {
                self.cancel(child.id, &parent).await?;
            }
            State::Compensating => {}
            State::Running | State::NeedsOperator => self.cancel(child.id, &parent).await?,
        }
        Ok(Settled::Goes(Ended::UnderWay { look_in, reason: goes(child.id) }))
    }

    /// Asks whoever runs the child to compensate it. Past its pivot it goes on all the same.
    async fn cancel(&self, child: SagaId, parent: &Parent) -> Result<()> {
        let request = Request {
            id: format!("{child}/cancel").into(),
            verb: Verb::Cancel,
            actor: parent.to_string().into(),
            reason: Text::from_static("its parent is compensated"),
        };
        let ops = vec![Op::Signal(Box::new(request.signal(child)?))];
        self.commit(ops).await.map(drop)
    }

    async fn find(&self, checked: &Checked, parent: &Parent) -> Result<Option<SavedSaga>> {
        let name = checked.definition().name.clone().into();
        let key = parent.child_key().as_str().to_owned().into();
        let found = self.children.store.sagas(FindSagas::Key { name, key }).await?.pop();
        found.map(SavedSaga::readable).transpose()
    }

    /// Whether it is new.
    async fn write(&self, checked: Arc<Checked>, new: NewSaga) -> Result<bool> {
        self.commit(vec![Op::DefineSaga(checked), Op::StartSaga(Arc::new(new))]).await
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<bool> {
        apart::commit(&*self.children.store, ops).await
    }
}

fn parent(call: &Call) -> Parent {
    Parent { saga: call.saga, step: call.step.clone() }
}

fn first(checked: &Arc<Checked>, parent: &Parent, call: &Call, now: Timestamp) -> First {
    First {
        checked: Arc::clone(checked),
        key: parent.child_key().as_str().to_owned().into(),
        run: 0,
        input: call.input.clone(),
        parent: Some(parent.clone()),
        started_at: now,
    }
}

fn output(child: &SavedSaga) -> Json {
    child.standing.output.clone().unwrap_or(Json::NULL)
}

fn goes(child: SagaId) -> Text {
    format!("its child {child} has not ended").into()
}

fn new_id() -> SagaId {
    SagaId(uuid::Uuid::now_v7().as_u128())
}
