//! What the flight map is built of. The model checker (`tests/model.rs`) builds it of instrumented twins:
//! `tests/model/sync.rs`.

pub(super) use std::{
    collections::hash_map::RandomState,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(super) use parking_lot::Mutex;
pub(super) use tokio::sync::Notify;
