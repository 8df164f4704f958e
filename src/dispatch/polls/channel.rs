//! A watched channel, as the planner knows it.

use std::time::Duration;

/// Intervals vary by this part either way, so that channels which were polled together do not stay together.
const JITTER: f64 = 0.1;

/// After so many lookups that have not found a channel it has the longest interval, however short the shortest is.
pub(super) const BACKED_OFF: u8 = 12;

/// Below the histogram: a channel that was not found for long gets the longest interval.
pub(super) const NO_IMPORTANCE: f64 = 0.0;

#[derive(Debug)]
pub(super) struct Channel<K> {
    pub(super) key: K,
    pub(super) callers: Callers,
    /// The sum of its callers' weights, exact whenever it is polled.
    pub(super) weight: f64,
    /// Uploads a second.
    pub(super) rate: f32,
    /// As it is in the histogram.
    pub(super) importance: f64,
    /// When it was last looked up, by the agenda's clock. `None`: never.
    pub(super) looked_up: Option<u64>,
    /// The same by the clock on the wall.
    pub(super) really: u64,
    /// It was a poll, or not the first lookup: somebody else's, or another replica's.
    pub(super) polled: bool,
    /// The last poll got no turn: the next one is due at once.
    pub(super) waits: bool,
    /// The source wants it to be left alone until then.
    pub(super) not_before: u64,
    /// Its key in the agenda, or among the first.
    pub(super) at: u64,
    pub(super) standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Unknown,
    /// So many lookups have not found it, and none has.
    NotFound(u8),
    Found,
}

/// Most channels have one, however many watches of theirs there are.
#[derive(Debug)]
pub(super) enum Callers {
    /// So many watches of one.
    One(u64, u32),
    /// The caller of each watch.
    Many(Vec<u64>),
}

impl<K> Channel<K> {
    /// Its importance: what intervals are inverse to.
    pub(super) fn worth(&self) -> f64 {
        match self.standing {
            Standing::NotFound(BACKED_OFF..) => NO_IMPORTANCE,
            Standing::NotFound(misses) => self.importance() / f64::from(1 << misses),
            Standing::Unknown | Standing::Found => self.importance(),
        }
    }

    fn importance(&self) -> f64 {
        (self.weight.max(0.0) * f64::from(self.rate)).sqrt()
    }

    /// The least that its interval is, in seconds, whatever the budget has room for: it doubles with each lookup that has not found it.
    pub(super) fn back_off(&self, (every, at_most): (f64, f64)) -> f64 {
        match self.standing {
            Standing::NotFound(BACKED_OFF..) => at_most,
            Standing::NotFound(misses) => (every * f64::from(1 << misses.saturating_sub(1))).min(at_most),
            Standing::Unknown | Standing::Found => 0.0,
        }
    }

    /// When its next poll is due by the agenda's clock, with an interval in seconds that has the given limits.
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
            // Many become known at once when a server starts: they are not all due at once an interval later.
            interval * chance
        };
        let after = Duration::from_secs_f64(after).as_nanos();
        looked_up.saturating_add(u64::try_from(after).unwrap_or(u64::MAX))
    }

    /// Before when it is not polled, whatever the agenda says.
    pub(super) fn allowed_at(&self, every: Duration) -> u64 {
        let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
        let earliest = if self.polled && !self.waits {
            self.really.saturating_add(every)
        } else {
            0
        };
        earliest.max(self.not_before)
    }
}

impl Callers {
    /// The callers, and for how many watches each counts. One may come more than once.
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

    /// How many watches are left; `None` if `caller` has none of them.
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

/// A number from 0 to 1 that is another for each channel and lookup: SplitMix64 of both.
#[expect(clippy::cast_precision_loss, reason = "of 53 bits")]
fn chance(index: u32, looked_up: u64) -> f64 {
    let mut mixed = looked_up ^ (u64::from(index) << 32 | u64::from(index));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}
