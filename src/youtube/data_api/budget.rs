//! The units of a day, and who may spend one. Pure: `now` is a parameter.
//!
//! Google counts units by the day of Pacific time; each request of plaque costs one. Four rules make them last:
//!
//! - After a unit for a poll or a refresh, what an even pace needs until the reset must be left; after one for a caller who waits, half of
//!   that. So callers can spend half of a day's units at once, and at least one every 17 s (of 10,000 a day).
//! - Names and older pages ([`Use::Extra`]) have a token bucket besides, and never take most of a day.
//! - Channels that were never found, names and older pages can be made up. So a caller may have spent on them no more than what is left for
//!   others: one caller takes half, two take a third each. The same goes for watches of channels that were never found.
//! - If Google refuses, no request is sent for a while.

mod day;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

pub use self::day::Day;
use super::{ApiError, KeyId};
use crate::upstream::{LookupRequest, Purpose};

/// The part of an even pace that must be left after a unit for a caller who waits.
const AWAITED_SHARE: f64 = 0.5;

/// The part of a day's units that the bucket of names and older pages holds when it is full.
const EXTRA_BURST: f64 = 0.1;

/// The part of a day's units that it gets a day. With the burst, lookups keep seven tenths of any day.
const EXTRA_SHARE: f64 = 0.2;

/// If units are used up this soon after a reset, the local clock may be wrong, or the rule by which the reset is calculated.
const EARLY: Duration = Duration::from_hours(2);

/// The pause in that case.
const EARLY_PAUSE: Duration = Duration::from_mins(15);

/// The pause for a key that may not use the API: somebody may be about to enable it.
const NOT_CONFIGURED_PAUSE: Duration = Duration::from_hours(1);

/// The pause after too many requests, whose limits are by the minute, and after an answer that is not the API's.
const SHORT_PAUSE: Duration = Duration::from_mins(1);

/// Added to a time of a retry, so that rounding does not make it too early.
const ROUNDING: Duration = Duration::from_millis(1);

/// What a unit is spent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// A lookup of a channel that was found before.
    Lookup(Purpose),
    /// A lookup of a channel that was never found, for this caller.
    Unknown(Purpose, u64),
    /// A name, or a page of older uploads, for this caller.
    Extra(u64),
}

impl Use {
    /// What a lookup spends units for.
    #[must_use]
    pub fn of(request: &LookupRequest) -> Self {
        if request.found_before {
            Self::Lookup(request.purpose)
        } else {
            Self::Unknown(request.purpose, request.caller.id)
        }
    }

    fn share(self) -> f64 {
        match self {
            Self::Lookup(Purpose::Awaited) | Self::Unknown(Purpose::Awaited, _) | Self::Extra(_) => {
                AWAITED_SHARE
            }
            Self::Lookup(_) | Self::Unknown(..) => 1.0,
        }
    }
}

/// Why Google refuses all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The day's units are used up, here or by others with the same key.
    #[error("the day's units of the YouTube Data API are used up")]
    QuotaExceeded,
    /// There is no such key (any more).
    #[error("the key of the YouTube Data API is not valid; replace it in its file")]
    KeyInvalid,
    /// The key's project has not enabled the API, or the key may not be used for it or from here.
    #[error(
        "the key may not use the YouTube Data API; enable the API for its project, and check the key's restrictions"
    )]
    NotConfigured,
    /// Too many requests at once.
    #[error("too many requests to the YouTube Data API at once")]
    RateLimited,
    /// A plain 404, which the API does not answer: it is another server, or another path.
    #[error("there is no YouTube Data API at this address (HTTP 404); check --youtube-api")]
    NoApi,
}

/// No request may be sent: until a time, if there is one, or until there is another key.
#[derive(Clone, Copy, Debug)]
struct Closed {
    refusal: Refusal,
    until: Option<SystemTime>,
}

/// The units of a day.
#[derive(Debug)]
pub struct Budget {
    quota: u64,
    day: Day,
    /// The newest key.
    key: KeyId,
    /// Spent today by all replicas, as far as is known, by fingerprint of the key.
    spent: HashMap<u16, u64>,
    /// Spent here today, by use with a caller. Each entry has cost a unit.
    by_caller: HashMap<Use, u64>,
    /// The bucket for [`Use::Extra`]: its tokens, and when they were counted. It starts full, also after a restart.
    extra: (f64, SystemTime),
    closed: Option<Closed>,
}

impl Budget {
    /// A budget of `quota` units a day, none of which is spent.
    #[must_use]
    pub fn new(quota: u64, now: SystemTime) -> Self {
        let mut budget = Self {
            quota,
            day: Day::of(now),
            key: KeyId::default(),
            spent: HashMap::new(),
            by_caller: HashMap::new(),
            extra: (0.0, now),
            closed: None,
        };
        budget.extra.0 = budget.burst();
        budget
    }

    /// Spends a unit, for a request with this key.
    ///
    /// # Errors
    ///
    /// If there is none for this use.
    pub fn try_spend(&mut self, spend_for: Use, now: SystemTime, key: KeyId) -> Result<(), ApiError> {
        self.is_left(spend_for, now, key)?;
        if let Use::Extra(_) = spend_for {
            self.take_token(self.used(spend_for), now)?;
        }
        if let Use::Unknown(..) | Use::Extra(_) = spend_for {
            *self.by_caller.entry(spend_for).or_default() += 1;
        }
        *self.spent() += 1;
        Ok(())
    }

    /// When requests may be sent again, if they may not now and time changes that.
    #[must_use]
    pub fn reopens_at(&self) -> Option<SystemTime> {
        self.closed.and_then(|closed| closed.until)
    }

    /// Checks that a unit is left for this use, and that Google does not refuse all requests with this key.
    ///
    /// # Errors
    ///
    /// If there is none, or it does.
    pub fn is_left(&mut self, spend_for: Use, now: SystemTime, key: KeyId) -> Result<(), ApiError> {
        self.advance(now, key);
        self.closed.map_or(Ok(()), |closed| Err(closed.refusal))?;
        let used = self.used(spend_for);
        let (left, even) = (units(self.left()), units(self.quota) * spend_for.share());
        let for_caller = match spend_for {
            Use::Unknown(..) => left - used,
            Use::Lookup(_) | Use::Extra(_) => left,
        };
        if left == 0.0 || even * self.day.left(now) >= for_caller {
            let rest = (for_caller / even).max(0.0);
            let retry_at = self.day.end() - self.day.length().mul_f64(rest) + ROUNDING;
            return Err(ApiError::OutOfUnits { retry_at });
        }
        Ok(())
    }

    /// Whether there is a newer key than this one.
    #[must_use]
    pub fn is_replaced(&self, key: KeyId) -> bool {
        key < self.key
    }

    /// Takes a token of the bucket, for a caller who has `used` some today and must leave as many.
    fn take_token(&mut self, used: f64, now: SystemTime) -> Result<(), ApiError> {
        let needed = used + 1.0;
        if self.extra.0 >= needed {
            self.extra.0 -= 1.0;
            return Ok(());
        }
        let rate = units(self.quota) * EXTRA_SHARE;
        let filled = |tokens: f64| {
            let missing = (tokens - self.extra.0).max(0.0);
            now + self.day.length().mul_f64(missing / rate) + ROUNDING
        };
        // With a new day, one is enough.
        let tomorrow = filled(1.0).max(self.day.end());
        let retry_at = if needed > self.burst() {
            tomorrow
        } else {
            filled(needed).min(tomorrow)
        };
        Err(ApiError::OutOfUnits { retry_at })
    }

    /// The one of these uses for which a unit is the likeliest to be there.
    pub fn likeliest(&self, uses: impl IntoIterator<Item = Use>, now: SystemTime) -> Option<Use> {
        let reserved = |of: &Use| of.share() * units(self.quota) * self.day.left(now) + self.used(*of);
        uses.into_iter()
            .min_by(|one, other| reserved(one).total_cmp(&reserved(other)))
    }

    fn used(&self, spend_for: Use) -> f64 {
        units(self.by_caller.get(&spend_for).copied().unwrap_or(0))
    }

    fn burst(&self) -> f64 {
        (units(self.quota) * EXTRA_BURST).max(1.0)
    }

    /// Checks that all that was spent is within the quota: what other replicas have spent may be known only afterwards.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn check(&mut self) -> Result<(), ApiError> {
        let retry_at = self.day.end();
        if *self.spent() > self.quota {
            Err(ApiError::OutOfUnits { retry_at })
        } else {
            Ok(())
        }
    }

    /// Notes what all replicas have spent with `key` on `day`. Never lowers what is known, since requests of this replica may be in progress.
    pub fn learn(&mut self, day: Day, key: KeyId, spent: u64) {
        if (day, key) == (self.day, self.key) {
            *self.spent() = spent.max(*self.spent());
        }
    }

    /// Notes that Google refused a request with this key. Returns the units that are lost to all replicas: those that were left, if Google
    /// says that there are none.
    pub fn close(&mut self, refusal: Refusal, now: SystemTime, key: KeyId) -> u64 {
        self.advance(now, key);
        if self.is_replaced(key) {
            // Of a request that was sent before the key was replaced.
            return 0;
        }
        let is_early = now.duration_since(self.day.start()).is_ok_and(|age| age < EARLY);
        let (until, lost) = match refusal {
            Refusal::QuotaExceeded if is_early => (Some(now + EARLY_PAUSE), 0),
            Refusal::QuotaExceeded => (Some(self.day.end()), self.unspent()),
            Refusal::KeyInvalid => (None, 0),
            Refusal::NotConfigured => (Some(now + NOT_CONFIGURED_PAUSE), 0),
            Refusal::RateLimited | Refusal::NoApi => (Some(now + SHORT_PAUSE), 0),
        };
        *self.spent() += lost;
        self.closed = Some(Closed { refusal, until });
        lost
    }

    /// The day that is counted.
    #[must_use]
    pub fn day(&self) -> Day {
        self.day
    }

    /// The units of a day.
    #[must_use]
    pub fn quota(&self) -> u64 {
        self.quota
    }

    /// The units that are left of it: none while Google says so.
    #[must_use]
    pub fn left(&self) -> u64 {
        let is_used_up = |closed: Closed| closed.refusal == Refusal::QuotaExceeded;
        if self.closed.is_some_and(is_used_up) {
            0
        } else {
            self.unspent()
        }
    }

    fn unspent(&self) -> u64 {
        let spent = self.spent.get(&self.key.fingerprint);
        self.quota.saturating_sub(spent.copied().unwrap_or(0))
    }

    /// What is spent with the newest key.
    fn spent(&mut self) -> &mut u64 {
        self.spent.entry(self.key.fingerprint).or_default()
    }

    /// Begins a new day, if it is one, ends a pause that is over, and fills the bucket. A clock that is set back does not bring a day back.
    /// A new key may be of another project: it has units of its own, and ends what Google said of the last one.
    pub fn advance(&mut self, now: SystemTime, key: KeyId) {
        let day = Day::of(now);
        if day > self.day {
            self.day = day;
            self.spent.clear();
            self.by_caller.clear();
        }
        if key > self.key {
            (self.key, self.closed) = (key, None);
            self.by_caller.clear();
        }
        if self.reopens_at().is_some_and(|until| until <= now) {
            self.closed = None;
        }
        if let Ok(passed) = now.duration_since(self.extra.1) {
            let new = units(self.quota) * EXTRA_SHARE * passed.div_duration_f64(self.day.length());
            self.extra = ((self.extra.0 + new).min(self.burst()), now);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a day has some thousands")]
fn units(number: u64) -> f64 {
    number as f64
}
