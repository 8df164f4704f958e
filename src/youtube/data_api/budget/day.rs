//! Days of Pacific time, by which Google counts units.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Datelike as _, Days, NaiveDate, TimeDelta, Utc, Weekday};

/// A day of Pacific time, by which units are counted. Displayed as `2026-11-26`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(NaiveDate);

impl Day {
    /// The day's number: no other day has it.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0.num_days_from_ce().unsigned_abs()
    }

    /// The day that contains `now`.
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

    /// Its first moment. In the USA, summer time lasts from 2 o'clock on the second Sunday in March to 2 o'clock on the first Sunday in
    /// November, since 2007. (chrono-tz has the rules of the whole world, as of its release.)
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

    /// The first moment of the next day, when units are new.
    #[must_use]
    pub fn end(self) -> SystemTime {
        self.next().start()
    }

    fn next(self) -> Self {
        Self(self.0.checked_add_days(Days::new(1)).unwrap_or(self.0))
    }

    /// The part of it that is left at `now`: from 1 down to 0.
    pub(super) fn left(self, now: SystemTime) -> f64 {
        let left = self.end().duration_since(now).unwrap_or_default();
        left.div_duration_f64(self.length()).min(1.0)
    }

    /// 23 to 25 hours.
    pub(super) fn length(self) -> Duration {
        self.end().duration_since(self.start()).unwrap_or_default()
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
