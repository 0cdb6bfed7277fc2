//! The shop: four services, each with a database of its own, that react to each other's events.
//!
//! | event | emitted by | reacted to by |
//! |---|---|---|
//! | `OrderCreated` | order | payment charges |
//! | `PaymentCompleted` | payment | stock reserves |
//! | `StockReserved` | stock | shipping schedules |
//! | `ShippingScheduled` | shipping | order completes |
//! | `PaymentFailed` | payment | order cancels |
//! | `StockFailed` | stock | payment refunds |
//! | `ShippingFailed` | shipping | stock releases |
//! | `StockReleased` | stock | payment refunds |
//! | `PaymentRefunded` | payment | order cancels |
//! | `OrderCompleted`, `OrderCancelled` | order | nobody: the story ends |
//!
//! It is written on the public API alone, so it is also what a user's own services look like. Read
//! [`payment`] first: a reaction is rows plus events, in one transaction. It is written once, on
//! [`rows`]; [`database`] puts it into the transactions of each kind of database, and [`broker`] says
//! how events travel. [`service`] wires a reaction to its inbox, its outbox and the network; [`naive`]
//! is the same shop with dual writes, to compare; [`audit`] judges what the databases say in the end.
//!
//! [`saga`] is the same shop again, with the flow stated in one place: the orders are sagas, and the
//! services take part in them.

pub mod audit;
mod books;
pub mod broker;
pub mod database;
pub mod model;
pub mod naive;
pub mod order;
pub mod payment;
pub mod reaction;
pub mod rows;
pub mod saga;
pub mod service;
pub mod shipping;
pub mod stock;

pub use books::Books;
pub use model::{Order, Role};
pub use rows::ReactionError;
