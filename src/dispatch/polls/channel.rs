//! A watched channel in the planner.

use std::time::Duration;

/// Intervals vary by this part, so that channels polled together do not stay together.
const JITTER: f64 = 0.1;

/// After this many lookups that did not find it, a channel gets the longest interval, however short the shortest is.
pub(super) const MAX_MISSES: u8 = 12;

/// Below the histogram: such a channel gets the longest interval.
pub(super) const NO_IMPORTANCE: f64 = 0.0;

#[derive(Debug)]
pub(super) struct Channel<K> {
    pub(super) key: K,
    pub(super) callers: Callers,
    /// The sum of its callers' weights, updated before each poll.
    pub(super) weight: f64,
    pub(super) rate: f32,
    /// Its value in the histogram.
    pub(super) importance: f64,
    /// When it was last looked up, in agenda time. `None`: never.
    pub(super) looked_up: Option<u64>,
    /// The same in real time.
    pub(super) real_time: u64,
    /// It was polled, or looked up more than once, perhaps by another replica.
    pub(super) polled: bool,
    /// The last poll got no permit: the next one is due at once.
    pub(super) waits: bool,
    /// The source's `Retry-After`.
    pub(super) not_before: u64,
    /// Its key in the agenda, or among the first polls.
    pub(super) at: u64,
    pub(super) standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Unknown,
    /// The number of lookups that did not find it; no lookup has found it.
    NotFound(u8),
    Found,
}

/// The callers. Most channels have one, with any number of watches.
#[derive(Debug)]
pub(super) enum Callers {
    /// One caller and its number of watches.
    One(u64, u32),
    Many(Vec<u64>),
}

impl<K> Channel<K> {
    /// Its importance: intervals are inverse to it.
    pub(super) fn compute_importance(&self) -> f64 {
        match self.standing {
            Standing::NotFound(MAX_MISSES..) => NO_IMPORTANCE,
            Standing::NotFound(misses) => self.importance() / f64::from(1 << misses),
            Standing::Unknown | Standing::Found => self.importance(),
        }
    }

    fn importance(&self) -> f64 {
        (self.weight.max(0.0) * f64::from(self.rate)).sqrt()
    }

    /// The least interval in seconds, whatever the budget: it doubles with each lookup that did not find the channel.
    pub(super) fn back_off(&self, (every, at_most): (f64, f64)) -> f64 {
        match self.standing {
            Standing::NotFound(MAX_MISSES..) => at_most,
            Standing::NotFound(misses) => (every * f64::from(1 << misses.saturating_sub(1))).min(at_most),
            Standing::Unknown | Standing::Found => 0.0,
        }
    }

    /// When its next poll is due in agenda time, given its interval and the limits of intervals, in seconds.
    pub(super) fn due(&self, index: u32, interval: f64, (every, at_most): (f64, f64)) -> u64 {
        let looked_up = self.looked_up.unwrap_or(0);
        let interval = interval.max(self.back_off((every, at_most)));
        if self.waits {
            return looked_up;
        }
        let chance = chance(index, looked_up);
        let after = if self.polled {
            let jittered = interval * (1.0 + JITTER * (2.0 * chance - 1.0));
            jittered.clamp(every, at_most.max(interval))
        } else {
            // At the start of a server many channels become known at once: spread their next polls over the interval.
            interval * chance
        };
        let after = Duration::from_secs_f64(after).as_nanos();
        looked_up.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// The earliest time of its next poll, whatever the agenda says.
    pub(super) fn allowed_at(&self, every: Duration) -> u64 {
        let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        let earliest = if self.polled && !self.waits {
            self.real_time.saturating_add(every)
        } else {
            0
        };
        earliest.max(self.not_before)
    }
}

impl Callers {
    /// Callers with their numbers of watches. A caller may appear more than once.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        let (one, many) = match self {
            Self::One(caller, watches) => (Some((*caller, *watches)), &[][..]),
            Self::Many(callers) => (None, &callers[..]),
        };
        one.into_iter().chain(many.iter().map(|caller| (*caller, 1)))
    }

    pub(super) fn add(&mut self, caller: u64) {
        match self {
            Self::One(only, watches) if *only == caller => *watches += 1,
            Self::One(first, watches) => {
                let mut callers = vec![*first; *watches as usize];
                callers.push(caller);
                *self = Self::Many(callers);
            }
            Self::Many(callers) => callers.push(caller),
        }
    }

    /// Removes a watch. Returns how many are left; `None` if `caller` has none.
    pub(super) fn remove(&mut self, caller: u64) -> Option<usize> {
        match self {
            Self::One(only, watches) => {
                *watches -= u32::from(*only == caller);
                (*only == caller).then_some(*watches as usize)
            }
            Self::Many(callers) => {
                let position = callers.iter().position(|other| *other == caller)?;
                callers.swap_remove(position);
                Some(callers.len())
            }
        }
    }
}

/// The number of misses after one more, up to the number at which the interval is the longest.
pub(super) fn next_miss(misses: u8, every: f64, at_most: f64) -> u8 {
    let misses = (misses + 1).min(MAX_MISSES);
    if every * f64::from(1 << (misses - 1)) < at_most {
        misses
    } else {
        MAX_MISSES
    }
}

/// A number from 0 to 1 that differs between channels and lookups: SplitMix64 of both.
#[expect(clippy::cast_precision_loss, reason = "of 53 bits")]
fn chance(index: u32, looked_up: u64) -> f64 {
    let mut mixed = looked_up ^ (u64::from(index) << 32 | u64::from(index));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}
