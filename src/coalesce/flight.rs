//! The keyed channel map: which lookups are in progress, and who waits for them.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Enough that two cores which start flights at the same time rarely meet; a shard is 64 bytes.
const SHARDS: usize = 64;

/// A shard gives memory back when it has less than a quarter of what it has room for, but not below this.
const SHARD_KEEPS: usize = 32;

/// Why a flight brought no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlightError {
    /// The lookup panicked.
    #[error("the lookup panicked")]
    Panicked,
    /// The lookup took longer than a flight may.
    #[error("the lookup took longer than {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The flight's runtime shut down.
    #[error("the lookup was torn down")]
    Abandoned,
}

type Outcome<V> = Result<V, FlightError>;
type Sender<V> = broadcast::Sender<Outcome<V>>;
type Shard<K, V> = HashMap<K, Weak<Sender<V>>>;

/// All flights in progress.
///
/// Each shard's lock is held for a lookup or an insertion in a map and never across an `await`; no foreign code but the key's
/// `Hash` and `Eq` runs under it, and it does not poison.
pub(super) struct Flights<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: RandomState,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

/// What came of joining.
pub(super) enum Joined<K: Copy + Eq + Hash, V> {
    /// A flight was there.
    Existing(Waiter<V>),
    /// None was there: the caller has to run this one.
    New(Flight<K, V>, Waiter<V>),
}

impl<K: Copy + Eq + Hash, V: Clone> Flights<K, V> {
    /// Joins the flight for `key`, or opens one.
    pub(super) fn join(self: &Arc<Self>, key: K) -> Joined<K, V> {
        let mut shard = self.shard(&key).lock();
        if let Some(sender) = shard.get(&key).and_then(Weak::upgrade) {
            // Subscribed under the lock: a flight takes itself out of the map, under the lock, before it sends. Whoever finds it
            // in the map therefore hears from it.
            let receiver = sender.subscribe();
            drop(shard);
            return Joined::Existing(Waiter {
                receiver,
                collapsed: true,
            });
        }
        let (sender, receiver) = broadcast::channel(1);
        let sender = Arc::new(sender);
        shard.insert(key, Arc::downgrade(&sender));
        drop(shard);
        let flight = Flight {
            key,
            sender,
            flights: Arc::clone(self),
        };
        Joined::New(
            flight,
            Waiter {
                receiver,
                collapsed: false,
            },
        )
    }
}

impl<K: Hash, V> Flights<K, V> {
    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        let [byte, ..] = self.hasher.hash_one(key).to_le_bytes();
        &self.shards[usize::from(byte) % SHARDS]
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// One lookup in progress, held by the task that runs it.
///
/// Dropping it takes it out of the map, whether its lookup has ended, panicked, or was torn down with the runtime. Without that
/// a flight that ends early would leave a dead entry for ever. It removes itself and nothing else: under its key there may
/// already be another flight.
pub(super) struct Flight<K: Copy + Eq + Hash, V> {
    key: K,
    /// The only `Arc` that lasts; joining callers upgrade the map's `Weak` for the length of a subscription.
    sender: Arc<Sender<V>>,
    flights: Arc<Flights<K, V>>,
}

impl<K: Copy + Eq + Hash, V: Clone> Flight<K, V> {
    /// Ends the flight: whoever waits gets `outcome`, whoever comes later starts another.
    pub(super) fn land(self, outcome: Outcome<V>) {
        let sender = Arc::clone(&self.sender);
        drop(self);
        // Fails if nobody waits any more, which is no failure: the outcome is in the cache.
        let _ = sender.send(outcome);
    }
}

impl<K: Copy + Eq + Hash, V> Drop for Flight<K, V> {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(&self.key).lock();
        let is_mine = |weak: &Weak<_>| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(&self.sender));
        if shard.get(&self.key).is_some_and(is_mine) {
            shard.remove(&self.key);
            if shard.capacity() > SHARD_KEEPS && shard.len() < shard.capacity() / 4 {
                let room = shard.len() * 2;
                shard.shrink_to(room.max(SHARD_KEEPS));
            }
        }
    }
}

/// One caller's wait for a flight. Dropping it changes nothing for anybody else.
pub struct Waiter<V> {
    receiver: broadcast::Receiver<Outcome<V>>,
    collapsed: bool,
}

impl<V: Clone> Waiter<V> {
    /// Whether the flight was there already when this waiter came.
    #[must_use]
    pub fn collapsed(&self) -> bool {
        self.collapsed
    }

    /// Waits for the flight to end. May be dropped at any time.
    ///
    /// # Errors
    ///
    /// If the lookup brought no value at all: it panicked, exceeded the limit, or was torn down.
    pub async fn outcome(mut self) -> Result<V, FlightError> {
        // A flight sends once. It cannot be missed: the channel holds one message, and this receiver is older than it.
        self.receiver.recv().await.unwrap_or(Err(FlightError::Abandoned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(flights: &Arc<Flights<u32, u32>>, key: u32) -> (Flight<u32, u32>, Waiter<u32>) {
        match flights.join(key) {
            Joined::New(flight, waiter) => (flight, waiter),
            Joined::Existing(_) => panic!("there was a flight for {key}"),
        }
    }

    #[test]
    fn a_flight_takes_nothing_but_itself_out_of_the_map() {
        let flights = Arc::default();
        let (old, _) = open(&flights, 1);
        flights.shard(&1).lock().clear(); // as if the old one had been given up
        let (_new, _) = open(&flights, 1);
        drop(old);
        assert!(matches!(flights.join(1), Joined::Existing(_)));
    }

    #[test]
    fn a_flight_that_is_dropped_leaves_its_key_free() {
        let flights = Arc::default();
        let (flight, _waiter) = open(&flights, 1);
        drop(flight);
        assert_eq!(flights.len(), 0);
        open(&flights, 1);
    }

    #[test]
    fn whoever_finds_a_flight_hears_from_it() {
        let flights = Arc::default();
        let (flight, mut first) = open(&flights, 1);
        let Joined::Existing(mut second) = flights.join(1) else {
            panic!("the flight is in the map");
        };
        flight.land(Ok(7));
        assert_eq!(first.receiver.try_recv(), Ok(Ok(7)));
        assert_eq!(second.receiver.try_recv(), Ok(Ok(7)));
        let (_, mut late) = open(&flights, 1);
        late.receiver.try_recv().expect_err("another flight");
    }

    #[test]
    fn the_map_gives_its_memory_back() {
        let flights = Arc::default();
        let room = |flights: &Flights<u32, u32>| -> usize {
            flights.shards.iter().map(|shard| shard.lock().capacity()).sum()
        };
        let many: Vec<_> = (0..200_000).map(|key| open(&flights, key)).collect();
        assert!(room(&flights) >= 200_000);
        drop(many);
        assert_eq!(flights.len(), 0);
        assert!(room(&flights) <= SHARDS * 2 * SHARD_KEEPS, "{}", room(&flights));
    }
}
