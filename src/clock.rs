//! The clock by which ages are reckoned: it counts the time that the machine slept.
//!
//! On Linux [`Instant::now`] reads `CLOCK_MONOTONIC`, which stops while the machine is suspended: an answer from before a night's sleep
//! would be seconds old. This clock advances by `CLOCK_BOOTTIME`, which does not stop. It gives an [`Instant`] all the same, since that
//! is what ages, [`Policy`](crate::latest::Policy) and tests reckon with.
//!
//! Whatever is compared with an age has to come from here: after a sleep this clock is ahead of `Instant::now` for good. Durations that
//! are measured from beginning to end (requests, lookups) and tokio's timers keep to `CLOCK_MONOTONIC`.

use std::time::Instant;

/// Now. Costs as much as [`Instant::now`]: one look at the clock, without a system call.
///
/// Where there is no `CLOCK_BOOTTIME`, it is [`Instant::now`].
#[must_use]
pub fn now() -> Instant {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return since_boot::now();
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return Instant::now();
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod since_boot {
    use std::{
        sync::OnceLock,
        time::{Duration, Instant},
    };

    use rustix::time::{ClockId, clock_gettime};

    /// One moment by both clocks.
    struct Base {
        instant: Instant,
        boottime: Duration,
    }

    impl Base {
        /// The moment at which `CLOCK_BOOTTIME` shows `boottime`.
        fn at(&self, boottime: Duration) -> Instant {
            self.instant + boottime.saturating_sub(self.boottime)
        }
    }

    pub(super) fn now() -> Instant {
        static BASE: OnceLock<Base> = OnceLock::new();
        let base = BASE.get_or_init(|| Base {
            boottime: boottime(),
            instant: Instant::now(),
        });
        base.at(boottime())
    }

    fn boottime() -> Duration {
        // Never negative: it counts from the machine's start.
        Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const HOUR: Duration = Duration::from_hours(1);

        #[test]
        fn it_advances_by_the_time_since_boot() {
            let instant = Instant::now();
            let base = Base {
                instant,
                boottime: HOUR * 7,
            };
            assert_eq!(base.at(HOUR * 7), instant);
            assert_eq!(base.at(HOUR * 8), instant + HOUR, "a sleep of an hour");
            assert_eq!(base.at(HOUR * 6), instant, "never back");
        }

        #[test]
        fn it_is_the_machines_clock() {
            let (before, first) = (Instant::now(), now());
            let (second, after) = (now(), Instant::now());
            assert!(first <= second);
            // The machine may have slept since the base was made, which this clock alone counts.
            assert!(second >= before);
            assert!(second - first <= after - before, "it runs as fast");
        }
    }
}
