//! A trip of flight, hotel, car and payment: when there is no car, hotel and flight are cancelled.
//!
//! Run it with `cargo run -p onewrite --example travel_booking`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use onewrite::{
    Result, Shutdown,
    saga::{
        Cx, Finished, Journal, Outcome, Plan, Retry, SagaOptions, SagaRunner, SagaType, StepError,
        StepResult,
    },
    sqlite::{Options, SqliteStore},
};
use serde::{Deserialize, Serialize};

/// What a customer wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Trip {
    pub(crate) to: String,
    pub(crate) cars: u32,
}

/// The agencies, as a customer sees them: what became of each step's key, so that a repetition books nothing
/// twice, and what was cancelled is not booked afterwards. They would be services elsewhere, which are handed the
/// key.
#[derive(Default)]
pub(crate) struct Agencies {
    books: Mutex<BTreeMap<String, Entry>>,
    diary: Mutex<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    Booked,
    /// Also for what was never booked: it is not to be any more.
    Cancelled,
}

impl Agencies {
    fn book(&self, key: &str, what: &str) -> StepResult<String> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        match books.insert(key.to_owned(), Entry::Booked) {
            None => self.note(format!("booked {what}")),
            Some(Entry::Booked) => {}
            Some(Entry::Cancelled) => {
                books.insert(key.to_owned(), Entry::Cancelled);
                return Err(StepError::abort("it was cancelled before it was booked"));
            }
        }
        Ok(format!("{what} for {key}"))
    }

    fn cancel(&self, key: &str, what: &str) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if books.insert(key.to_owned(), Entry::Cancelled) == Some(Entry::Booked) {
            self.note(format!("cancelled {what}"));
        }
    }

    fn note(&self, line: String) {
        self.diary.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// How much is booked and paid for.
    #[allow(dead_code, reason = "tests look at it")]
    pub(crate) fn booked(&self) -> usize {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.values().filter(|entry| **entry == Entry::Booked).count()
    }
}

pub(crate) fn book_trip(mut plan: Plan<Agencies, Trip>) -> Finished<Agencies, Trip, String> {
    let trip = plan.input();
    let flight = plan.step("flight", trip, book_flight).compensate(cancel_flight);
    let hotel = plan.step("hotel", trip, book_hotel).compensate(cancel_hotel);
    let car = plan.step("car", trip, book_car).compensate(cancel_car);
    // What cannot be undone comes last.
    let (plan, paid) = plan.pivot("payment", (flight, hotel, car), pay);
    plan.finish(paid)
}

async fn book_flight(cx: Cx<Agencies>, trip: Trip) -> StepResult<String> {
    cx.book(cx.key().as_str(), &format!("a flight to {}", trip.to))
}

async fn cancel_flight(cx: Cx<Agencies>, trip: Trip, _: Option<String>) -> Result<(), Retry> {
    cx.cancel(&action_key(&cx, "flight"), &format!("a flight to {}", trip.to));
    Ok(())
}

async fn book_hotel(cx: Cx<Agencies>, trip: Trip) -> StepResult<String> {
    cx.book(cx.key().as_str(), &format!("a hotel in {}", trip.to))
}

async fn cancel_hotel(cx: Cx<Agencies>, trip: Trip, _: Option<String>) -> Result<(), Retry> {
    cx.cancel(&action_key(&cx, "hotel"), &format!("a hotel in {}", trip.to));
    Ok(())
}

async fn book_car(cx: Cx<Agencies>, trip: Trip) -> StepResult<String> {
    if trip.cars == 0 {
        return Err(StepError::abort("no car is left"));
    }
    cx.book(cx.key().as_str(), "a car")
}

async fn cancel_car(cx: Cx<Agencies>, _: Trip, _: Option<String>) -> Result<(), Retry> {
    cx.cancel(&action_key(&cx, "car"), "a car");
    Ok(())
}

async fn pay(
    cx: Cx<Agencies>,
    (flight, hotel, car): (String, String, String),
) -> StepResult<String> {
    cx.book(cx.key().as_str(), "the payment")?;
    Ok(format!("{flight}; {hotel}; {car}"))
}

/// What the action was booked under.
fn action_key(cx: &Cx<Agencies>, step: &str) -> String {
    onewrite::saga::StepKey::action(cx.saga(), step).to_string()
}

/// Books two trips, and says what happened at the agencies.
///
/// # Errors
/// What the store says.
pub(crate) async fn run(folder: &std::path::Path) -> Result<Vec<String>> {
    let saga = SagaType::plan("book_trip", book_trip)?;
    let agencies = Arc::new(Agencies::default());
    let store: Arc<dyn Journal> =
        Arc::new(SqliteStore::open(Options::new(folder.join("trips.db")))?);
    let runner = SagaRunner::new(store, SagaOptions::default(), "travel").serve(&saga, &agencies);
    let (sagas, shutdown) = (runner.sagas(), Shutdown::default());
    let running = tokio::spawn(runner.run(shutdown.clone()));
    for (key, cars) in [("trip-1", 1), ("trip-2", 0)] {
        let trip = Trip { to: "Lisbon".into(), cars };
        let told = match sagas.run(&saga, key, &trip).await? {
            Outcome::Completed(_) => format!("{key} is booked"),
            Outcome::Compensated => format!("{key} is cancelled"),
        };
        agencies.note(told);
    }
    shutdown.begin();
    let _ = running.await;
    let diary = agencies.diary.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(diary.clone())
}

#[allow(dead_code, reason = "tests call `run`")]
#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("onewrite-travel-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for line in run(&folder).await? {
        println!("{line}");
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
