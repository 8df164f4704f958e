//! Limits connections: a new connection beyond the limit ends the one that was idle longest. Used for the HTTP/1.1 ports, and for gRPC
//! connections beyond `--max-connections`.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// A fixed number of slots for connections. When all are taken, a new connection sheds another one: see [`Table::step`].
pub(crate) struct ConnectionSlots {
    limit: usize,
    grace: Duration,
    /// Held for at most a scan of all slots, of which there are about a thousand.
    table: Mutex<Table>,
    /// Notified when a slot is free or a connection can be shed. Only the accepting task waits for it.
    changed: Notify,
}

/// The slot of a connection. Dropping it frees the slot.
pub(crate) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    number: u64,
    shed: CancellationToken,
}

/// Marks the connection as busy with a request until it is dropped.
pub(crate) struct Busy<'a>(&'a ConnectionSlot);

impl ConnectionSlots {
    pub(crate) fn new(limit: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            grace,
            table: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Takes a slot for a new connection. For a short time there may be up to twice as many connections: those that were shed take a moment
    /// to end on a busy runtime, and new ones do not wait for that.
    pub(crate) async fn take(self: &Arc<Self>) -> ConnectionSlot {
        loop {
            let step = self.table.lock().step(self.limit, self.grace, Instant::now());
            match step {
                Step::Take(number, shed) => {
                    return ConnectionSlot {
                        slots: Arc::clone(self),
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

impl ConnectionSlot {
    /// Marks the start of service. A connection is not shed before, since its request may have arrived already.
    pub(crate) fn begin(&self) {
        self.change(|slot, now| {
            slot.begun = Some(now);
            slot.idle_since = Some(now);
        });
    }

    /// Waits until another connection needs the slot.
    pub(crate) async fn shed(&self) {
        self.shed.cancelled().await;
    }

    /// Marks the start of a request.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.change(|slot, _now| slot.idle_since = None);
        Busy(self)
    }

    fn change(&self, change: impl FnOnce(&mut Slot, Instant)) {
        if let Some(slot) = self.slots.table.lock().slots.get_mut(&self.number) {
            change(slot, Instant::now());
        }
        self.slots.changed.notify_one();
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.change(|slot, now| {
            slot.idle_since = Some(now);
            slot.answered += 1;
        });
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.table.lock().slots.remove(&self.number);
        self.slots.changed.notify_one();
    }
}

#[derive(Default)]
struct Table {
    next: u64,
    slots: BTreeMap<u64, Slot>,
}

struct Slot {
    /// When its service started; `None` before that.
    begun: Option<Instant>,
    /// `None` while a request is handled. A connection that sends a response counts as idle, since its peer may not read it.
    idle_since: Option<Instant>,
    /// The number of requests answered.
    answered: u64,
    shed: CancellationToken,
}

/// What a new connection has to do.
enum Step {
    /// Use this slot.
    Take(u64, CancellationToken),
    /// Try again after the next change, or at this time.
    Wait(Option<Instant>),
}

impl Table {
    /// Takes a slot for a new connection. If all are taken, sheds another connection: of those that had at least `grace` for their request,
    /// the one that was idle longest. If none is idle, the oldest that is not at its first request, so that a peer that sends requests
    /// without a pause does not keep others out.
    fn step(&mut self, limit: usize, grace: Duration, now: Instant) -> Step {
        if self.slots.len() >= 2 * limit {
            return Step::Wait(None);
        }
        let staying = self.slots.values().filter(|slot| !slot.shed.is_cancelled());
        if staying.clone().count() >= limit {
            // With the end of its grace.
            let started = staying.filter_map(|slot| Some((slot.begun? + grace, slot)));
            let sheddable = started.clone().filter(|(grace_end, _)| *grace_end <= now);
            let idle = sheddable
                .clone()
                .filter_map(|(_, slot)| Some((slot.idle_since?, slot)));
            let busy = sheddable.filter(|(_, slot)| slot.answered > 0);
            let (idle, busy) = (
                idle.min_by_key(|(since, _)| *since),
                busy.min_by_key(|(grace_end, _)| *grace_end),
            );
            match idle.or(busy) {
                Some((_, slot)) => slot.shed.cancel(),
                None => {
                    let grace_ends = started.map(|(grace_end, _)| grace_end);
                    return Step::Wait(grace_ends.filter(|grace_end| *grace_end > now).min());
                }
            }
        }
        let (number, shed) = (self.next, CancellationToken::new());
        self.next += 1;
        let slot = Slot {
            begun: None,
            idle_since: None,
            answered: 0,
            shed: shed.clone(),
        };
        self.slots.insert(number, slot);
        Step::Take(number, shed)
    }
}
