//! The shop's orders as sagas: one place states the flow, and the services only take part.
//!
//! | step | kind | database | compensation |
//! |---|---|---|---|
//! | `create_order` | compensatable | order | cancels it |
//! | `charge_payment` | compensatable | payment | pays it back |
//! | `reserve_stock` | compensatable | stock | puts it back |
//! | `confirm_order` | pivot | order | none: its no is final |
//! | `schedule_shipping` | retriable | shipping | none: it only goes forward |
//!
//! The sagas themselves are kept in the order service's database. Each step is one transaction in its
//! service's own database, which passes the barrier first ([`deed`]). [`node`] is a process that takes
//! orders and runs their sagas; [`audit`] judges what sagas and databases say in the end.

pub mod audit;
pub mod deed;
pub mod node;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use onewrite::{
    Code, Error, Result,
    saga::{Cx, Finished, Plan, Retry, RetryPolicy, SagaType, StepError, StepOptions, StepResult},
};

use self::deed::{Act, Deed, Refusal};
use crate::{Order, Role, database::Database, service};

/// The name of the sagas.
pub const PLACE_ORDER: &str = "place_order";

/// One attempt waits for rows that a stalled process has locked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The type of saga that places an order.
pub type OrderSaga = SagaType<Services, Order, String>;

/// The saga that places an order.
///
/// # Errors
/// None, as long as the plan is a plan.
pub fn order_saga() -> Result<OrderSaga> {
    SagaType::plan(PLACE_ORDER, place_order)
}

fn place_order(mut plan: Plan<Services, Order>) -> Finished<Services, Order, String> {
    // A killed process is an attempt as well. However many there are, only the business says no.
    let patient = RetryPolicy { initial_ms: 10, cap_ms: 1_000, ..RetryPolicy::forever() };
    plan.options(StepOptions {
        retry: Some(patient.clone()),
        compensation_retry: Some(patient),
        attempt_timeout: Some(ATTEMPT_TIMEOUT),
        ..StepOptions::default()
    });
    let order = plan.input();
    plan.step(Deed::Create.step(), order, create).compensate(cancel);
    plan.step(Deed::Charge.step(), order, charge).compensate(refund);
    plan.step(Deed::Reserve.step(), order, reserve).compensate(release);
    let (mut plan, _) = plan.pivot(Deed::Confirm.step(), order, confirm);
    let shipment = plan.step(Deed::Schedule.step(), order, schedule);
    plan.finish(shipment)
}

async fn create(cx: Cx<Services>, order: Order) -> StepResult<String> {
    action(&cx, Deed::Create, order).await
}

async fn cancel(cx: Cx<Services>, order: Order, created: Option<String>) -> Result<(), Retry> {
    compensation(&cx, Deed::Cancel, order, created).await
}

async fn charge(cx: Cx<Services>, order: Order) -> StepResult<String> {
    action(&cx, Deed::Charge, order).await
}

async fn refund(cx: Cx<Services>, order: Order, charged: Option<String>) -> Result<(), Retry> {
    compensation(&cx, Deed::Refund, order, charged).await
}

async fn reserve(cx: Cx<Services>, order: Order) -> StepResult<String> {
    action(&cx, Deed::Reserve, order).await
}

async fn release(cx: Cx<Services>, order: Order, reserved: Option<String>) -> Result<(), Retry> {
    compensation(&cx, Deed::Release, order, reserved).await
}

async fn confirm(cx: Cx<Services>, order: Order) -> StepResult<String> {
    action(&cx, Deed::Confirm, order).await
}

async fn schedule(cx: Cx<Services>, order: Order) -> Result<String, Retry> {
    let number = number(Deed::Schedule, &order);
    cx.take_part(&cx, Deed::Schedule, order).await?;
    Ok(number)
}

/// An action: a refusal ends the saga, anything else is tried again.
async fn action(cx: &Cx<Services>, deed: Deed, order: Order) -> StepResult<String> {
    let number = number(deed, &order);
    match cx.take_part(cx, deed, order).await {
        Ok(()) => Ok(number),
        Err(error) => Err(match Refusal::of(&error) {
            Some(refusal) => StepError::abort(refusal.reason()),
            None => error.into(),
        }),
    }
}

/// A compensation. Behind a barrier it need not be told whether the action had an effect.
async fn compensation(
    cx: &Cx<Services>,
    deed: Deed,
    order: Order,
    done: Option<String>,
) -> Result<(), Retry> {
    if done.is_none() && !cx.keeps_barrier {
        return Ok(());
    }
    Ok(cx.take_part(cx, deed, order).await?)
}

/// What a step answers. It follows from the order, so that a repetition answers the same.
fn number(deed: Deed, order: &Order) -> String {
    format!("{}/{}", order.id, deed.role().name())
}

/// What the steps act upon: the databases of the four services.
pub struct Services {
    databases: BTreeMap<Role, Arc<dyn Database>>,
    keeps_barrier: bool,
}

impl Services {
    /// Opens the databases at the URLs of `stores`, with their tables.
    ///
    /// # Errors
    /// What the stores say.
    pub async fn open(stores: &[(Role, String)], keeps_barrier: bool) -> Result<Self> {
        let mut databases = BTreeMap::new();
        for (role, url) in stores {
            let database = service::open(*role, url, false).await?;
            database.create_barrier().await?;
            databases.insert(*role, database);
        }
        Ok(Self { databases, keeps_barrier })
    }

    /// The database of `role`.
    ///
    /// # Errors
    /// When it was not named.
    pub fn of(&self, role: Role) -> Result<&Arc<dyn Database>> {
        let missing =
            || Error::new(Code::NotFound, format!("the {} service has no database", role.name()));
        self.databases.get(&role).ok_or_else(missing)
    }

    async fn take_part(&self, cx: &Cx<Self>, deed: Deed, order: Order) -> Result<()> {
        let act = Act::new(deed, cx.saga(), order, self.keeps_barrier)?;
        self.of(deed.role())?.take_part(act).await
    }
}
