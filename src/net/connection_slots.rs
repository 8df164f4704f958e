//! A bounded number of connection slots. When all are in use, a new connection evicts the one that was idle longest. Used by the HTTP/1.1
//! ports, and for gRPC connections beyond the limit.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// The slots of a port. Acquiring one evicts another connection if none is free; see [`Table::step`].
pub(crate) struct ConnectionSlots {
    capacity: usize,
    grace: Duration,
    /// Locked for one pass over all slots at most, of which there are about a thousand.
    table: Mutex<Table>,
    /// Notified when a slot is free, or a connection can be evicted. Only the accepting task waits for it.
    changed: Notify,
}

/// The slot of a connection, which is free again when this is dropped.
pub(crate) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    number: u64,
    evicted: CancellationToken,
}

/// Marks a request as in progress until it is dropped.
pub(crate) struct ActiveRequest<'a>(&'a ConnectionSlot);

impl ConnectionSlots {
    pub(crate) fn new(capacity: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            grace,
            table: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// A slot for a new connection. Up to as many evicted connections may not have ended yet: on a busy runtime that takes a while, and new
    /// connections do not wait for it.
    pub(crate) async fn acquire(self: &Arc<Self>) -> ConnectionSlot {
        loop {
            let step = self.table.lock().step(self.capacity, self.grace, Instant::now());
            match step {
                Step::Acquired(number, evicted) => {
                    return ConnectionSlot {
                        slots: Arc::clone(self),
                        number,
                        evicted,
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
    /// Starts the grace period, when the connection is first polled: its request may have arrived before that.
    pub(crate) fn start(&self) {
        self.change(|state, now| {
            state.started = Some(now);
            state.idle_since = Some(now);
        });
    }

    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    pub(crate) fn start_request(&self) -> ActiveRequest<'_> {
        self.change(|state, _now| state.idle_since = None);
        ActiveRequest(self)
    }

    fn change(&self, change: impl FnOnce(&mut SlotState, Instant)) {
        if let Some(state) = self.slots.table.lock().slots.get_mut(&self.number) {
            change(state, Instant::now());
        }
        self.slots.changed.notify_one();
    }
}

impl Drop for ActiveRequest<'_> {
    fn drop(&mut self) {
        self.0.change(|state, now| {
            state.idle_since = Some(now);
            state.answered += 1;
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
    slots: BTreeMap<u64, SlotState>,
}

struct SlotState {
    /// When it was first polled.
    started: Option<Instant>,
    /// `None` during a request. Sending the response counts as idle, since the peer may not read it.
    idle_since: Option<Instant>,
    answered: u64,
    evicted: CancellationToken,
}

/// The next step of acquiring a slot.
enum Step {
    /// The number of the slot, and the token that is cancelled when it is evicted.
    Acquired(u64, CancellationToken),
    /// Try again after a change, or at this time.
    Wait(Option<Instant>),
}

impl Table {
    /// Acquires a slot, and evicts a connection if none is free: of those older than `grace`, the one that was idle longest. If none is
    /// idle, the oldest that is past its first request, so that peers that send requests back to back keep nobody out.
    fn step(&mut self, capacity: usize, grace: Duration, now: Instant) -> Step {
        if self.slots.len() >= 2 * capacity {
            return Step::Wait(None);
        }
        let remaining = self.slots.values().filter(|state| !state.evicted.is_cancelled());
        if remaining.clone().count() >= capacity {
            let started = remaining.filter_map(|state| Some((state.started? + grace, state)));
            let evictable = started.clone().filter(|(grace_end, _)| *grace_end <= now);
            let idle = evictable
                .clone()
                .filter_map(|(_, state)| Some((state.idle_since?, state)));
            let busy = evictable.filter(|(_, state)| state.answered > 0);
            let (idle, busy) = (
                idle.min_by_key(|(since, _)| *since),
                busy.min_by_key(|(grace_end, _)| *grace_end),
            );
            let Some((_, state)) = idle.or(busy) else {
                let ends = started.map(|(grace_end, _)| grace_end);
                return Step::Wait(ends.filter(|end| *end > now).min());
            };
            state.evicted.cancel();
        }
        let (number, evicted) = (self.next, CancellationToken::new());
        self.next += 1;
        let state = SlotState {
            started: None,
            idle_since: None,
            answered: 0,
            evicted: evicted.clone(),
        };
        self.slots.insert(number, state);
        Step::Acquired(number, evicted)
    }
}
