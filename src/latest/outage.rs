//! Whether a 404 means anything just now.
//!
//! YouTube's feeds answer 404 in spells, for channels that exist too. A channel that was looked up well before and is now "not
//! found" is evidence of such a spell; one that was never seen is not.
//!
//! **The rule**: there is an outage while, of the known-good channels that were looked up within the last [`WINDOW`], at least
//! [`AT_LEAST`] answered 404 the last time, and at least one in [`ONE_IN`].

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::video::ChannelId;

/// A channel that fails is asked again after at most 6 minutes (the longest pause and its jitter): with less than that, an outage
/// of a few channels would seem to end between two lookups.
const WINDOW: Duration = Duration::from_mins(10);

/// One may have been deleted. Two within minutes are no coincidence, unless very many are watched:
const AT_LEAST: usize = 2;

/// … channels that are gone for good are asked for still, and among thousands there are always some. A spell hits all, but
/// answers from before it count for a while.
const ONE_IN: usize = 5;

/// More channels than this add nothing to the judgement. 64 bytes each.
const REMEMBERED: usize = 4096;

/// What known-good channels answered lately.
#[derive(Default)]
pub(super) struct Outage {
    /// Held for a pass over the map, by lookups that have ended: never by callers with a hit.
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    /// When a channel was last looked up, and whether it was found.
    lookups: HashMap<ChannelId, (Instant, bool)>,
    /// The rule holds until then, unless another lookup says otherwise.
    under_way_until: Option<Instant>,
}

impl Outage {
    /// Notes that a known-good channel was looked up, and either `found` or answered 404.
    pub(super) fn note(&self, channel: ChannelId, found: bool, now: Instant) {
        let mut recent = self.recent.lock();
        if recent.lookups.len() >= REMEMBERED && !recent.lookups.contains_key(&channel) {
            recent.forget_old(now);
            if recent.lookups.len() >= REMEMBERED {
                return;
            }
        }
        recent.lookups.insert(channel, (now, found));
        recent.judge(now);
    }

    /// Whether a 404 says nothing at `now`.
    pub(super) fn under_way(&self, now: Instant) -> bool {
        self.recent
            .lock()
            .under_way_until
            .is_some_and(|until| now < until)
    }
}

impl Recent {
    fn forget_old(&mut self, now: Instant) {
        self.lookups
            .retain(|_, (at, _)| now.saturating_duration_since(*at) < WINDOW);
    }

    fn judge(&mut self, now: Instant) {
        self.forget_old(now);
        let mut missing: Vec<Instant> = self
            .lookups
            .values()
            .filter_map(|(at, found)| (!found).then_some(*at))
            .collect();
        let before = self.under_way_until.is_some();
        let holds = missing.len() >= AT_LEAST && missing.len() * ONE_IN >= self.lookups.len();
        // It holds until the second newest of the 404s is too old.
        missing.sort_unstable_by(|a, b| b.cmp(a));
        self.under_way_until = holds
            .then(|| missing.get(AT_LEAST - 1).map(|at| *at + WINDOW))
            .flatten();
        if holds != before {
            let known = self.lookups.len();
            tracing::warn!(
                missing = missing.len(),
                known,
                "{}",
                if holds {
                    "feeds of channels that exist answer 404: a channel never seen counts as unavailable, not as missing"
                } else {
                    "feeds of channels that exist are found again"
                }
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(number: usize) -> ChannelId {
        format!("UC{number:021}A").parse().expect("valid")
    }

    #[test]
    fn two_known_channels_that_go_missing_are_an_outage_and_one_is_not() {
        let (outage, now) = (Outage::default(), Instant::now());
        assert!(!outage.under_way(now));
        outage.note(channel(1), false, now);
        outage.note(channel(1), false, now);
        assert!(!outage.under_way(now), "one channel, however often");
        outage.note(channel(2), false, now);
        assert!(outage.under_way(now));
    }

    #[test]
    fn it_ends_when_they_are_found_again() {
        let (outage, now) = (Outage::default(), Instant::now());
        outage.note(channel(1), false, now);
        outage.note(channel(2), false, now);
        outage.note(channel(1), true, now + Duration::from_secs(1));
        assert!(!outage.under_way(now + Duration::from_secs(1)));
    }

    #[test]
    fn it_ends_when_nothing_was_heard_for_the_window() {
        let (outage, now) = (Outage::default(), Instant::now());
        outage.note(channel(1), false, now);
        outage.note(channel(2), false, now + WINDOW / 2);
        assert!(outage.under_way(now + WINDOW / 2));
        assert!(outage.under_way(now + WINDOW.checked_sub(Duration::from_secs(1)).expect("longer")));
        assert!(!outage.under_way(now + WINDOW));
    }

    #[test]
    fn a_few_that_are_gone_among_many_are_no_outage() {
        let (outage, now) = (Outage::default(), Instant::now());
        for number in 0..100 {
            outage.note(channel(number), true, now);
        }
        for number in 0..19 {
            outage.note(channel(number), false, now);
            assert!(!outage.under_way(now), "{number}");
        }
        outage.note(channel(19), false, now);
        assert!(outage.under_way(now), "one in five");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (outage, now) = (Outage::default(), Instant::now());
        for number in 0..REMEMBERED + 100 {
            outage
                .recent
                .lock()
                .lookups
                .insert(channel(number % REMEMBERED), (now, true));
        }
        outage.note(channel(REMEMBERED + 1), true, now);
        assert_eq!(outage.recent.lock().lookups.len(), REMEMBERED);
        outage.note(channel(REMEMBERED + 1), true, now + WINDOW);
        assert_eq!(outage.recent.lock().lookups.len(), 1);
    }
}
