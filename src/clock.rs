//! The clock for ages. It includes the time that the machine was suspended.
//!
//! On Linux, [`Instant::now`] reads `CLOCK_MONOTONIC`, which stops during a suspend: an answer from before a night's sleep would be
//! seconds old. This clock advances with `CLOCK_BOOTTIME`, which does not stop. It returns an [`Instant`] because that is what
//! [`Policy`](crate::latest::Policy) and its tests calculate with.
//!
//! Every moment that an age is calculated from, or compared with, must come from this clock: after a suspend it stays ahead of
//! `Instant::now`. Measured durations (of requests and lookups) and tokio's timers use `CLOCK_MONOTONIC`.

use std::time::Instant;

/// The current moment. Costs the same as [`Instant::now`]: one read of the clock through the vDSO, no system call.
///
/// On systems without `CLOCK_BOOTTIME` this is [`Instant::now`].
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

    /// The same moment on both clocks.
    struct Base {
        instant: Instant,
        boottime: Duration,
    }

    impl Base {
        /// The moment when `CLOCK_BOOTTIME` reads `boottime`.
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
        // Never negative: it counts from boot.
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
            assert_eq!(base.at(HOUR * 8), instant + HOUR, "a suspend of an hour");
            assert_eq!(base.at(HOUR * 6), instant, "never back");
        }

        #[test]
        fn it_is_the_machines_clock() {
            let (before, first) = (Instant::now(), now());
            let (second, after) = (now(), Instant::now());
            assert!(first <= second);
            // A suspend since the base was taken puts this clock ahead of the other.
            assert!(second >= before);
            assert!(second - first <= after - before, "it runs as fast");
        }
    }
}
