//! The places that connections have, and which of them gives up its own for one more: of the HTTP/1.1 ports, and of gRPC those over the limit.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// So many places. A connection that needs one when all are taken sheds another; see [`Table::step`].
pub(crate) struct Places {
    most: usize,
    grace: Duration,
    /// Held for a look through all places at most, which are a thousand.
    table: Mutex<Table>,
    /// Told when a place is free, or a connection may be shed. One task waits for it: that which accepts.
    changed: Notify,
}

/// The place of a connection, which is free again when this is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    shed: CancellationToken,
}

/// A request that is being answered, until this is dropped.
pub(crate) struct Busy<'a>(&'a Place);

impl Places {
    pub(crate) fn new(most: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            most,
            grace,
            table: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// A place for a new connection. For a moment there may be as many connections again that have been shed and have not ended yet:
    /// a busy runtime takes its time for that, and whoever comes need not wait for it.
    pub(crate) async fn take(self: &Arc<Self>) -> Place {
        loop {
            let step = self.table.lock().step(self.most, self.grace, Instant::now());
            match step {
                Step::Take(number, shed) => {
                    return Place {
                        places: Arc::clone(self),
                        number,
                        shed,
                    };
                }
                Step::Wait(None) => self.changed.notified().await,
                Step::Wait(Some(until)) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }
}

impl Place {
    /// The connection is attended to from now on, and no sooner is it shed: its request may have come already.
    pub(crate) fn begin(&self) {
        self.change(|held, now| {
            held.begun = Some(now);
            held.idle_since = Some(now);
        });
    }

    /// Waits until another connection needs the place.
    pub(crate) async fn shed(&self) {
        self.shed.cancelled().await;
    }

    /// Begins to answer a request.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.change(|held, _now| held.idle_since = None);
        Busy(self)
    }

    fn change(&self, change: impl FnOnce(&mut Held, Instant)) {
        if let Some(held) = self.places.table.lock().held.get_mut(&self.number) {
            change(held, Instant::now());
        }
        self.places.changed.notify_one();
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.change(|held, now| {
            held.idle_since = Some(now);
            held.answered += 1;
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table.lock().held.remove(&self.number);
        self.places.changed.notify_one();
    }
}

#[derive(Default)]
struct Table {
    next: u64,
    held: BTreeMap<u64, Held>,
}

struct Held {
    /// Since when it is attended to. None before its first turn.
    begun: Option<Instant>,
    /// None while a request is answered. Sending the answer is idle, too: a peer may not read it.
    idle_since: Option<Instant>,
    /// Requests that were answered.
    answered: u64,
    shed: CancellationToken,
}

/// What one more connection has to do.
enum Step {
    /// This is its place.
    Take(u64, CancellationToken),
    /// Look again when something has changed, or then.
    Wait(Option<Instant>),
}

impl Table {
    /// A place for one more connection, for which another is shed if all are taken: of those that had at least `grace` for their
    /// request, the one that was idle longest. If none is idle, the oldest that is not at its first request: a peer that sends one
    /// request after the other keeps nobody out.
    fn step(&mut self, most: usize, grace: Duration, now: Instant) -> Step {
        if self.held.len() >= 2 * most {
            return Step::Wait(None);
        }
        let staying = self.held.values().filter(|held| !held.shed.is_cancelled());
        if staying.clone().count() >= most {
            let begun = staying.filter_map(|held| Some((held.begun? + grace, held)));
            let ripe = begun.clone().filter(|(ripe, _)| *ripe <= now);
            let idle = ripe
                .clone()
                .filter_map(|(_, held)| Some((held.idle_since?, held)));
            let busy = ripe.filter(|(_, held)| held.answered > 0);
            let (idle, busy) = (
                idle.min_by_key(|(since, _)| *since),
                busy.min_by_key(|(ripe, _)| *ripe),
            );
            match idle.or(busy) {
                Some((_, held)) => held.shed.cancel(),
                None => return Step::Wait(begun.map(|(ripe, _)| ripe).filter(|ripe| *ripe > now).min()),
            }
        }
        let (number, shed) = (self.next, CancellationToken::new());
        self.next += 1;
        let held = Held {
            begun: None,
            idle_since: None,
            answered: 0,
            shed: shed.clone(),
        };
        self.held.insert(number, held);
        Step::Take(number, shed)
    }
}
