//! The units of a day, and who may spend one. Pure: `now` is an argument.
//!
//! Google counts units by the day of Pacific time; each request of plaque costs one. Two rules make them last: after a unit is spent
//! for a poll or a refresh, there must be left what an even pace needs until the reset; after one for somebody who waits, half of that.
//! So callers can get half of a day's units at once and polls never take theirs: who waits gets one at least every 17 s (of 10,000 a day),
//! as long as Google itself does not refuse.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Datelike as _, Days, NaiveDate, TimeDelta, Utc, Weekday};

use super::ApiError;
use crate::upstream::Purpose;

/// The part of an even pace that must be left after a unit for somebody who waits.
const AWAITED_SHARE: f64 = 0.5;

/// If units are used up so soon after a reset, our clock or our calendar may be wrong about when it was.
const EARLY: Duration = Duration::from_hours(2);

/// Until it is tried again, then.
const EARLY_PAUSE: Duration = Duration::from_mins(15);

/// Until a key is tried again that may not use the API: somebody may be about to switch it on.
const NOT_CONFIGURED_PAUSE: Duration = Duration::from_hours(1);

/// Until the next request after too many of them. Google's limits are by the minute.
const RATE_PAUSE: Duration = Duration::from_mins(1);

/// A day of Pacific time, by which units are counted. `Display`ed as `2026-11-26`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(NaiveDate);

impl Day {
    /// The day's number, which is that of no other.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0.num_days_from_ce().unsigned_abs()
    }

    /// The day that `now` is in.
    #[must_use]
    pub fn of(now: SystemTime) -> Self {
        let seconds = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let utc = DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let winter = utc.checked_sub_signed(TimeDelta::hours(8)).unwrap_or(utc);
        let day = Self(winter.date_naive());
        // In summer, a day begins an hour earlier.
        if day.end() <= now { day.next() } else { day }
    }

    /// Its midnight. The rule is that of the USA since 2007: summer time from the second Sunday in March to the first in November,
    /// changing at 2 o'clock. (chrono-tz would bring the rules of the world, and no newer ones than its release.)
    #[must_use]
    pub fn start(self) -> SystemTime {
        let sunday =
            |month, nth| NaiveDate::from_weekday_of_month_opt(self.0.year(), month, Weekday::Sun, nth);
        let is_summer = sunday(3, 2).is_some_and(|first| self.0 > first)
            && sunday(11, 1).is_some_and(|last| self.0 <= last);
        let midnight = self.0.and_time(chrono::NaiveTime::MIN).and_utc().timestamp();
        let seconds = midnight + if is_summer { 7 } else { 8 } * 3600;
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }

    /// The midnight after it, when units are new.
    #[must_use]
    pub fn end(self) -> SystemTime {
        self.next().start()
    }

    fn next(self) -> Self {
        Self(self.0.checked_add_days(Days::new(1)).unwrap_or(self.0))
    }

    /// What is left of it at `now`, as a part of the whole: from 1 down to 0.
    fn left(self, now: SystemTime) -> f64 {
        let left = self.end().duration_since(now).unwrap_or_default();
        left.div_duration_f64(self.length()).min(1.0)
    }

    /// 23 to 25 hours.
    fn length(self) -> Duration {
        self.end().duration_since(self.start()).unwrap_or_default()
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why Google answers no request at all, whatever it is about.
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
}

/// That no request may go out: until a time, or until there is another key than this one.
#[derive(Clone, Copy, Debug)]
struct Closed {
    refusal: Refusal,
    until: Option<SystemTime>,
    key: Option<u64>,
}

/// The units of a day.
#[derive(Debug)]
pub struct Budget {
    quota: u64,
    day: Day,
    /// By all replicas, as far as is known.
    spent: u64,
    closed: Option<Closed>,
}

impl Budget {
    /// `quota` units a day, of which none is spent.
    #[must_use]
    pub fn new(quota: u64, now: SystemTime) -> Self {
        Self {
            quota,
            day: Day::of(now),
            spent: 0,
            closed: None,
        }
    }

    /// Spends a unit, with the key of this generation.
    ///
    /// # Errors
    ///
    /// If there is none for this purpose.
    pub fn try_spend(&mut self, purpose: Purpose, now: SystemTime, key: u64) -> Result<(), ApiError> {
        self.advance(now);
        if let Some(Closed {
            refusal,
            until,
            key: refused,
        }) = self.closed
        {
            if until.is_none_or(|until| now < until) && refused.is_none_or(|refused| refused == key) {
                return Err(refusal.into());
            }
            self.closed = None;
        }
        let left = self.left();
        let share = if purpose == Purpose::Awaited {
            AWAITED_SHARE
        } else {
            1.0
        };
        let even = units(self.quota) * share;
        if left == 0 || even * self.day.left(now) >= units(left) {
            let rest = if left == 0 { 0.0 } else { units(left) / even };
            // A millisecond, so that rounding does not make it a moment too early.
            let retry_at = self.day.end() - self.day.length().mul_f64(rest) + Duration::from_millis(1);
            return Err(ApiError::OutOfUnits { retry_at });
        }
        self.spent += 1;
        Ok(())
    }

    /// Whether all that was spent is within the quota: what others spent may be known only afterwards.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn check(&self) -> Result<(), ApiError> {
        let retry_at = self.day.end();
        if self.spent > self.quota {
            Err(ApiError::OutOfUnits { retry_at })
        } else {
            Ok(())
        }
    }

    /// What all replicas have spent on `day`. Never fewer than known: requests of this replica may be under way.
    pub fn learn(&mut self, day: Day, spent: u64) {
        if day == self.day {
            self.spent = self.spent.max(spent);
        }
    }

    /// Google refuses a request with the key of this generation. Returns how many units are lost for all replicas: what was left, if it
    /// says that there are none.
    pub fn close(&mut self, refusal: Refusal, now: SystemTime, key: u64) -> u64 {
        self.advance(now);
        let is_early = now.duration_since(self.day.start()).is_ok_and(|age| age < EARLY);
        let (until, key, lost) = match refusal {
            Refusal::QuotaExceeded if is_early => (Some(now + EARLY_PAUSE), None, 0),
            Refusal::QuotaExceeded => (Some(self.day.end()), None, self.left()),
            Refusal::KeyInvalid => (None, Some(key), 0),
            Refusal::NotConfigured => (Some(now + NOT_CONFIGURED_PAUSE), Some(key), 0),
            Refusal::RateLimited => (Some(now + RATE_PAUSE), None, 0),
        };
        self.spent += lost;
        self.closed = Some(Closed { refusal, until, key });
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

    /// The units left of it.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.quota.saturating_sub(self.spent)
    }

    /// Begins a new day, if it is one. A clock that is set back does not bring a day back.
    pub fn advance(&mut self, now: SystemTime) {
        let day = Day::of(now);
        if day > self.day {
            self.day = day;
            self.spent = 0;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a day has some thousands")]
fn units(number: u64) -> f64 {
    number as f64
}
