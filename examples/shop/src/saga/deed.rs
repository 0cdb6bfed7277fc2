//! What a participant does in its own database: one transaction, which passes the barrier first.

use std::fmt;

use onewrite::{
    Error, Result,
    saga::{Barrier, Passage, SagaId, StepKey},
};

use crate::{
    Order, ReactionError, Role,
    model::UNREACHABLE,
    order, payment,
    reaction::note,
    rows::{Rows, Value},
    shipping, stock,
};

/// A step's action, or its compensation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Writes the pending order.
    Create,
    /// Cancels it.
    Cancel,
    /// Charges the customer.
    Charge,
    /// Pays it back.
    Refund,
    /// Sets the articles aside.
    Reserve,
    /// Puts them back.
    Release,
    /// Confirms the order, unless the carrier does not go there.
    Confirm,
    /// Schedules the shipment.
    Schedule,
}

impl Deed {
    /// The step it belongs to.
    #[must_use]
    pub const fn step(self) -> &'static str {
        match self {
            Self::Create | Self::Cancel => "create_order",
            Self::Charge | Self::Refund => "charge_payment",
            Self::Reserve | Self::Release => "reserve_stock",
            Self::Confirm => "confirm_order",
            Self::Schedule => "schedule_shipping",
        }
    }

    /// The service whose database it changes.
    #[must_use]
    pub const fn role(self) -> Role {
        match self {
            Self::Create | Self::Cancel | Self::Confirm => Role::Order,
            Self::Charge | Self::Refund => Role::Payment,
            Self::Reserve | Self::Release => Role::Stock,
            Self::Schedule => Role::Shipping,
        }
    }

    const fn compensates(self) -> bool {
        matches!(self, Self::Cancel | Self::Refund | Self::Release)
    }

    async fn carry_out<R: Rows>(self, rows: &mut R, order: &Order) -> Result<(), ReactionError> {
        // Orders of one customer, or of one article, lock the same rows.
        match self.role() {
            Role::Payment => rows.wait_in_line("accounts").await?,
            Role::Stock => rows.wait_in_line("articles").await?,
            Role::Order | Role::Shipping => {}
        }
        match self {
            Self::Create => order::place(rows, order).await.map(drop),
            Self::Cancel => order::end(rows, order, "cancelled", "compensated").await,
            Self::Charge => unless(payment::take(rows, order).await?, Refusal::NO_MONEY),
            Self::Refund => payment::give_back(rows, order).await,
            Self::Reserve => unless(stock::set_aside(rows, order).await?, Refusal::NO_STOCK),
            Self::Release => stock::put_back(rows, order).await,
            // What the order says does not change, so this no is final.
            Self::Confirm if order.country == UNREACHABLE => Err(Refusal::NO_WAY.into()),
            Self::Confirm => order::end(rows, order, "confirmed", "decided").await,
            Self::Schedule => shipping::schedule(rows, order).await,
        }
    }
}

fn unless(done: bool, refusal: Refusal) -> Result<(), ReactionError> {
    if done { Ok(()) } else { Err(refusal.into()) }
}

/// A no that is no failure: its transaction is rolled back, so it had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal(&'static str);

impl Refusal {
    const NO_MONEY: Self = Self("there is not enough money on the account");
    const NO_STOCK: Self = Self("there are not enough of the article");
    const NO_WAY: Self = Self("the carrier does not go there");
    const LATE: Self = Self("it is compensated already");

    /// The refusals for which an order is compensated.
    pub(crate) const REASONS: [Self; 3] = [Self::NO_MONEY, Self::NO_STOCK, Self::NO_WAY];

    /// The refusal that a transaction failed with, if it was one.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        std::error::Error::source(error)?.downcast_ref().copied()
    }

    /// Why, for the saga's journal.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Refusal {}

/// A deed for one order, in one saga.
#[derive(Debug, Clone)]
pub struct Act {
    deed: Deed,
    key: StepKey,
    order: Order,
    /// None where participants keep no barrier, which is wrong.
    barrier: Option<Barrier>,
}

impl Act {
    /// The deed of a saga for an order.
    ///
    /// # Errors
    /// What the barrier says of the names.
    pub fn new(deed: Deed, saga: SagaId, order: Order, keeps_barrier: bool) -> Result<Self> {
        let step = deed.step();
        let (key, barrier) = match deed.compensates() {
            true => (StepKey::compensation(saga, step), Barrier::compensation(saga, step)?),
            false => (StepKey::action(saga, step), Barrier::action(saga, step)?),
        };
        Ok(Self { deed, key, order, barrier: keeps_barrier.then_some(barrier) })
    }

    /// What is passed first.
    #[must_use]
    pub fn barrier(&self) -> Option<&Barrier> {
        self.barrier.as_ref()
    }

    /// What follows behind the barrier, in the same transaction.
    pub(crate) async fn follow<R: Rows>(
        &self,
        rows: &mut R,
        passage: Passage,
    ) -> Result<(), ReactionError> {
        match passage {
            Passage::Act => {
                self.deed.carry_out(rows, &self.order).await?;
                self.note(rows).await
            }
            // What it answered then follows from the order.
            Passage::Repeated => Ok(()),
            // There is nothing to make good, and from now on there never will be.
            Passage::Empty => Ok(()),
            Passage::Late => Err(Refusal::LATE.into()),
        }
    }

    /// Notes the effect for the audit: its key must be there once, and an action before its compensation.
    async fn note<R: Rows>(&self, rows: &mut R) -> Result<(), ReactionError> {
        let (key, place) = (self.key.to_string(), if self.deed.compensates() { 2 } else { 1 });
        let values: [Value<'_>; 4] =
            [self.deed.step().into(), (&key).into(), (&self.order.id).into(), place.into()];
        note(rows, values).await
    }
}
