//! What the flight map is built of. Model checking (`tests/model.rs`) builds it of instrumented twins.

pub(super) use std::sync::{
    Arc, Weak,
    atomic::{AtomicUsize, Ordering},
};

pub(super) use parking_lot::Mutex;
pub(super) use tokio::sync::broadcast;
