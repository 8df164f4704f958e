//! The synchronization primitives of the flight map. The model checker (`tests/model.rs`) replaces them with
//! instrumented ones: `tests/model/sync.rs`.

pub(super) use std::{
    collections::hash_map::RandomState,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(super) use parking_lot::Mutex;
pub(super) use tokio::sync::Notify;
