//! What stands between the runner and a saga's functions, and lets one thing go wrong.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use onewrite_core::{
    BoxFuture, Code, Error, Result,
    saga::{Call, Direction, Ended, Journaling, Participant, Transacted, Transactional},
};
use tokio::sync::Notify;

use super::fault::Fault;

/// What is to go wrong in one run.
#[derive(Default)]
pub(super) struct Blow {
    pub(super) fault: Option<Fault>,
    /// At this step.
    pub(super) step: String,
    /// This step says no, so that there is something to compensate.
    pub(super) fails: Option<String>,
    struck: AtomicBool,
    /// The process is to end.
    pub(super) ends: Notify,
    /// What arrives when all is over.
    late: Mutex<Option<(Arc<dyn Participant>, Call)>>,
}

/// What becomes of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Through,
    No,
    /// With an effect.
    NoBehindIt,
    AnswerLost,
    Hangs,
    EndBefore,
    EndAfter,
    Kept,
}

impl Blow {
    pub(super) fn new(fault: Fault, step: &str, fails: Option<String>) -> Self {
        Self { fault: Some(fault), step: step.to_owned(), fails, ..Self::default() }
    }

    fn way(&self, call: &Call) -> Way {
        let is_it = *call.step == *self.step;
        if call.direction == Direction::Compensation {
            let twice = is_it && self.fault == Some(Fault::CompensatedTwice);
            return if twice && self.is_first() { Way::AnswerLost } else { Way::Through };
        }
        if self.fails.as_deref() == Some(&*call.step) {
            return if is_it { Way::NoBehindIt } else { Way::No };
        }
        let Some(fault) = self.fault.filter(|_| is_it) else { return Way::Through };
        let way = match fault {
            // Its compensation is struck.
            Fault::None | Fault::CompensatedTwice => return Way::Through,
            Fault::Fails => return Way::No,
            Fault::Late if self.is_first() => Way::Kept,
            Fault::Late => Way::No,
            Fault::Repeated => Way::AnswerLost,
            Fault::Hangs => Way::Hangs,
            Fault::CrashBefore => Way::EndBefore,
            Fault::CrashAfter => Way::EndAfter,
        };
        if way == Way::Kept || self.is_first() { way } else { Way::Through }
    }

    fn is_first(&self) -> bool {
        !self.struck.swap(true, Ordering::SeqCst)
    }

    async fn end<T>(&self) -> T {
        self.ends.notify_one();
        pending().await
    }

    /// What was on its way arrives.
    pub(super) async fn arrive(&self, within: std::time::Duration) {
        let late = self.late.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((participant, mut call)) = late {
            call.deadline = std::time::Instant::now() + within;
            // Nobody hears the answer.
            let _ = participant.act(call).await;
        }
    }
}

/// One of the saga's functions, with the blow before it.
pub(super) struct Interposed<P: ?Sized> {
    pub(super) inner: Arc<P>,
    pub(super) blow: Arc<Blow>,
}

fn lost() -> Ended {
    Ended::Unknown("its answer is lost".into())
}

fn no() -> Ended {
    Ended::Aborted("the test says no".into())
}

impl Participant for Interposed<dyn Participant> {
    fn act(&self, call: Call) -> BoxFuture<'static, Ended> {
        let (inner, blow, way) =
            (Arc::clone(&self.inner), Arc::clone(&self.blow), self.blow.way(&call));
        Box::pin(async move {
            match way {
                Way::Through => inner.act(call).await,
                Way::No => no(),
                Way::NoBehindIt => {
                    inner.act(call).await;
                    no()
                }
                Way::AnswerLost => {
                    inner.act(call).await;
                    lost()
                }
                Way::Hangs => pending().await,
                Way::EndBefore => blow.end().await,
                Way::EndAfter => {
                    inner.act(call).await;
                    blow.end().await
                }
                Way::Kept => {
                    let late = Some((inner, call));
                    *blow.late.lock().unwrap_or_else(PoisonError::into_inner) = late;
                    no()
                }
            }
        })
    }
}

/// Its answer is that of the transaction, so losing it means that nobody knows what was committed.
impl Transactional for Interposed<dyn Transactional> {
    fn act(&self, call: Call, journal: Journaling) -> BoxFuture<'static, Result<Transacted>> {
        let (inner, blow, way) =
            (Arc::clone(&self.inner), Arc::clone(&self.blow), self.blow.way(&call));
        Box::pin(async move {
            match way {
                Way::Through => inner.act(call, journal).await,
                // In a transaction there is nothing behind a no, and nothing that could come later.
                Way::No | Way::NoBehindIt | Way::Kept => Ok(Transacted::Ended(no())),
                Way::AnswerLost => {
                    inner.act(call, journal).await?;
                    Err(Error::new(Code::CommitUnknown, "its answer is lost"))
                }
                Way::Hangs => Ok(Transacted::Ended(lost())),
                Way::EndBefore => blow.end().await,
                Way::EndAfter => {
                    inner.act(call, journal).await?;
                    blow.end().await
                }
            }
        })
    }
}
