//! The twin of `src/sync.rs`: what the flight map is built of, with a scheduling point at each step that other threads
//! could see.
//!
//! `Arc` and `Weak` are the real ones: what the map does with them stands beside a lock's step, so their counts change in every
//! order all the same. tokio's `Notify` is the real one too, each of its operations one step: tokio model-checks it itself.

use std::{
    cell::Cell,
    hash::{BuildHasher, Hasher},
    ops::{Deref, DerefMut},
    sync::PoisonError,
    time::Duration,
};

pub use std::sync::atomic::Ordering;

pub use shuttle::sync::{Arc, Weak};

/// How far operations are taken apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// Not at all. For when no other thread is under way.
    Quiet,
    /// What is done under a lock is one step. Nobody else gets in there, and of what is done without the lock (to send, to
    /// give a sender up) nothing can tell whether it came in the middle or just before. So few steps can be tried in all orders.
    Coarse,
    /// Others may go on while a lock is held, and between its release and whatever is next.
    Fine,
}

std::thread_local! {
    static GRAIN: Cell<Grain> = const { Cell::new(Grain::Quiet) };
}

/// Runs `work` with operations taken apart to `grain`.
pub fn with_grain<T>(grain: Grain, work: impl FnOnce() -> T) -> T {
    let before = GRAIN.replace(grain);
    let result = work();
    GRAIN.set(before);
    result
}

shuttle::thread_local! {
    static HELD: Cell<usize> = Cell::new(0);
}

/// Lets any other thread go on from here.
pub fn step() {
    if GRAIN.get() != Grain::Quiet && !std::thread::panicking() {
        // Not `yield_now`: a scheduler may take that as a wish to be last. To shuttle, which knows no time, a sleep is a switch.
        shuttle::thread::sleep(Duration::ZERO);
    }
}

fn fine_step() {
    if GRAIN.get() == Grain::Fine {
        step();
    }
}

/// To be called where code of others may run: wakers, above all.
fn no_lock_is_held() {
    if !std::thread::panicking() {
        assert_eq!(HELD.with(Cell::get), 0, "foreign code under a shard's lock");
    }
}

/// Hashes a one-byte key to itself: which keys share a shard is known, and alike in every execution.
#[derive(Clone, Copy)]
pub struct RandomState;

pub struct Itself(u64);

impl RandomState {
    pub fn new() -> Self {
        Self
    }
}

impl BuildHasher for RandomState {
    type Hasher = Itself;

    fn build_hasher(&self) -> Itself {
        Itself(0)
    }
}

impl Hasher for Itself {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |_, byte| u64::from(*byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Like parking_lot's: does not poison.
#[derive(Default)]
pub struct Mutex<T> {
    turn: shuttle::sync::Mutex<()>,
    data: parking_lot::Mutex<T>,
}

/// Its fields are dropped in this order.
pub struct Guard<'a, T> {
    data: parking_lot::MutexGuard<'a, T>,
    _turn: Option<shuttle::sync::MutexGuard<'a, ()>>,
    _unlocked: Unlocked,
}

/// The moment after a lock was given back.
struct Unlocked;

impl<T> Mutex<T> {
    pub fn lock(&self) -> Guard<'_, T> {
        let turn = match GRAIN.get() {
            Grain::Fine => Some(self.turn.lock().unwrap_or_else(PoisonError::into_inner)),
            Grain::Coarse | Grain::Quiet => {
                step();
                None
            }
        };
        HELD.with(|held| held.set(held.get() + 1));
        Guard {
            data: self.data.try_lock().expect("it is this thread's turn"),
            _turn: turn,
            _unlocked: Unlocked,
        }
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        HELD.with(|held| held.set(held.get() - 1));
        fine_step();
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

/// The standard library's. An operation is a step of its own where all are taken apart, and else part of what comes before it: counts
/// decide nothing by themselves, but for who is let in, which is tried in the finer grain.
pub struct AtomicUsize(std::sync::atomic::AtomicUsize);

impl AtomicUsize {
    pub fn new(value: usize) -> Self {
        Self(std::sync::atomic::AtomicUsize::new(value))
    }

    fn step(&self) -> &std::sync::atomic::AtomicUsize {
        fine_step();
        &self.0
    }

    pub fn load(&self, ordering: Ordering) -> usize {
        self.step().load(ordering)
    }

    pub fn fetch_add(&self, value: usize, ordering: Ordering) -> usize {
        self.step().fetch_add(value, ordering)
    }

    pub fn fetch_sub(&self, value: usize, ordering: Ordering) -> usize {
        self.step().fetch_sub(value, ordering)
    }

    pub fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        change: impl FnMut(usize) -> Option<usize>,
    ) -> Result<usize, usize> {
        self.step().fetch_update(set, fetch, change)
    }
}

/// tokio's, each of its operations one step.
pub struct Notify(tokio::sync::Notify);

impl Notify {
    pub fn new() -> Self {
        Self(tokio::sync::Notify::new())
    }

    pub fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        step();
        self.0.notified()
    }

    pub fn notify_waiters(&self) {
        no_lock_is_held();
        step();
        self.0.notify_waiters();
    }

    pub fn notify_one(&self) {
        no_lock_is_held();
        step();
        self.0.notify_one();
    }
}

/// The standard library's, each of its operations one step.
pub struct OnceLock<T>(std::sync::OnceLock<T>);

impl<T> OnceLock<T> {
    pub fn new() -> Self {
        Self(std::sync::OnceLock::new())
    }

    pub fn get(&self) -> Option<&T> {
        fine_step();
        let got = self.0.get();
        fine_step();
        got
    }

    pub fn set(&self, value: T) -> Result<(), T> {
        // What is set stays: who comes too late changes nothing, whenever that is.
        if self.0.get().is_none() {
            step();
        }
        self.0.set(value)
    }
}
