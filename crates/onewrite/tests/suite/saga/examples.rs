//! The examples of sagas do what they say.

use std::sync::Arc;

use onewrite_testkit::saga::{Ran, every_fault};

#[path = "../../../examples/travel_booking.rs"]
mod travel_booking;
#[path = "../../../examples/wedding.rs"]
mod wedding;

#[tokio::test(flavor = "multi_thread")]
async fn a_trip_without_a_car_is_cancelled_in_reverse() {
    let folder = tempfile::tempdir().unwrap();
    let diary = travel_booking::run(folder.path()).await.unwrap();
    let wanted = [
        "booked a flight to Lisbon",
        "booked a hotel in Lisbon",
        "booked a car",
        "booked the payment",
        "trip-1 is booked",
        "booked a flight to Lisbon",
        "booked a hotel in Lisbon",
        "cancelled a hotel in Lisbon",
        "cancelled a flight to Lisbon",
        "trip-2 is cancelled",
    ];
    assert_eq!(diary, wanted);
}

/// The agencies bear whatever goes wrong with a trip.
#[tokio::test(flavor = "multi_thread")]
async fn a_trip_bears_every_fault() {
    use travel_booking::{Agencies, Trip};
    let saga = onewrite::saga::SagaType::plan("book_trip", travel_booking::book_trip).unwrap();
    let is_right = async |agencies: &Agencies, ran: &Ran<String>| {
        let wanted = if ran.is_completed() { 4 } else { 0 };
        let booked = agencies.booked();
        if booked == wanted { Ok(()) } else { Err(format!("{booked} booked, not {wanted}")) }
    };
    let trip = Trip { to: "Lisbon".into(), cars: 1 };
    every_fault(&saga, async || Arc::default(), &trip, is_right).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wedding_takes_all_vendors_and_the_couples_word() {
    let folder = tempfile::tempdir().unwrap();
    let diary = wedding::run(folder.path()).await.unwrap();
    let wanted = [
        "ann & bo said `yes`",
        "ann & bo marry on day 1",
        "cy & di do not marry on day 2",
        "ed & fi do not marry on day 3",
        "a festival: 1 booked",
        "ann & bo: 4 booked",
    ];
    assert_eq!(diary, wanted);
}
