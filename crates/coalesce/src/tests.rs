//! The flight map alone, without a runtime.

use std::sync::Arc;

use futures_util::FutureExt as _;

use super::{
    flight::{Flight, Flights, Joined, MIN_SHARD_CAPACITY, SHARDS, Waiter},
    span::SpanMaker,
};

fn flights(max_waiters: usize) -> Arc<Flights<u32, u32>> {
    Flights::new(max_waiters, SpanMaker::default())
}

fn open(flights: &Arc<Flights<u32, u32>>, key: u32) -> (Flight<u32, u32>, Waiter<u32>) {
    match flights.join(key) {
        Ok(Joined::New(flight, waiter)) => (flight, waiter),
        Ok(Joined::Existing(_)) => panic!("there was a flight for {key}"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_flight_takes_nothing_but_itself_out_of_the_map() {
    let flights = flights(10);
    let (old, _) = open(&flights, 1);
    flights.detach(&1);
    let (new, _) = open(&flights, 1);
    assert!(!old.is_current() && new.is_current());
    drop(old);
    assert!(new.is_current());
    assert!(matches!(flights.join(1), Ok(Joined::Existing(_))));
}

#[test]
fn a_flight_that_is_dropped_leaves_its_key_free() {
    let flights = flights(10);
    let (flight, _waiter) = open(&flights, 1);
    drop(flight);
    assert_eq!(flights.len(), 0);
    let _another = open(&flights, 1);
}

#[test]
fn a_caller_that_finds_a_flight_receives_its_outcome() {
    let flights = flights(10);
    let (flight, first) = open(&flights, 1);
    let Ok(Joined::Existing(second)) = flights.join(1) else {
        panic!("the flight is in the map");
    };
    flight.land(Ok(7));
    assert_eq!(first.outcome().now_or_never(), Some(Ok(7)));
    assert_eq!(second.outcome().now_or_never(), Some(Ok(7)));
    let (_other, late) = open(&flights, 1);
    assert_eq!(late.outcome().now_or_never(), None, "that is another flight");
}

#[test]
fn the_map_shrinks() {
    let flights = flights(200_000);
    let many: Vec<_> = (0..200_000).map(|key| open(&flights, key)).collect();
    assert!(flights.capacity() >= 200_000);
    drop(many);
    assert_eq!((flights.len(), flights.waiter_count()), (0, 0));
    assert!(
        flights.capacity() <= SHARDS * 2 * MIN_SHARD_CAPACITY,
        "{}",
        flights.capacity()
    );
}
