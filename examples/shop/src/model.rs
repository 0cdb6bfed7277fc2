//! What the services talk about.

use onewrite::{Event, Text};
use serde::{Deserialize, Serialize};

/// What every customer's account holds at first, in cents.
pub const ACCOUNT_CENTS: i64 = 100_000_000;
/// What the account of a customer whose name begins with `poor` holds at first, in cents.
pub const POOR_CENTS: i64 = 1_000;
/// How many of each article there are at first.
pub const STOCK_UNITS: i64 = 1_000_000;
/// How many there are of an article whose name begins with `rare`.
pub const RARE_UNITS: i64 = 5;
/// Where the carrier does not go.
pub const UNREACHABLE: &str = "Atlantis";

/// An order as a customer places it. The id is the customer's: placing it twice is placing it once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Its id.
    pub id: String,
    /// Who orders.
    pub customer: String,
    /// Which article.
    pub sku: String,
    /// How many.
    pub quantity: i64,
    /// The price of all of them, in cents.
    pub cents: i64,
    /// Where to.
    pub country: String,
}

impl Order {
    /// An event about this order. The customer is the key: what concerns one customer stays in order.
    pub fn event(&self, kind: &'static str) -> Result<Event, onewrite::Error> {
        let event = Event::new(kind, "Order", self.id.clone()).key(self.customer.clone());
        event.correlation_id(self.id.clone()).json(self)
    }

    /// The order that an event is about.
    pub fn of(event: &Event) -> Result<Self, onewrite::Error> {
        event.data_as()
    }
}

/// The four services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Takes orders, completes or cancels them.
    Order,
    /// Charges and refunds.
    Payment,
    /// Reserves and releases.
    Stock,
    /// Schedules shipments.
    Shipping,
}

impl Role {
    /// All of them, in the order in which a good order passes them.
    pub const ALL: [Self; 4] = [Self::Order, Self::Payment, Self::Stock, Self::Shipping];

    /// Its name: of its database, its source and its consumer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Stock => "stock",
            Self::Shipping => "shipping",
        }
    }

    /// The role called `name`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Who wants which of its events.
    #[must_use]
    pub const fn subscribers(self) -> &'static [(Self, &'static [&'static str])] {
        match self {
            Self::Order => &[(Self::Payment, &["OrderCreated"])],
            Self::Payment => &[
                (Self::Stock, &["PaymentCompleted"]),
                (Self::Order, &["PaymentFailed", "PaymentRefunded"]),
            ],
            Self::Stock => &[
                (Self::Shipping, &["StockReserved"]),
                (Self::Payment, &["StockFailed", "StockReleased"]),
            ],
            Self::Shipping => {
                &[(Self::Order, &["ShippingScheduled"]), (Self::Stock, &["ShippingFailed"])]
            }
        }
    }

    /// The types a subscriber wants of this service's events.
    #[must_use]
    pub fn kinds_for(self, subscriber: Self) -> Vec<Text> {
        let wanted = self.subscribers().iter().find(|(role, _)| *role == subscriber);
        wanted.map_or_else(Vec::new, |(_, kinds)| {
            kinds.iter().map(|kind| Text::from_static(kind)).collect()
        })
    }
}
