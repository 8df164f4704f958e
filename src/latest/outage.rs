//! Detects outages in which 404s mean nothing. Pure: time is a parameter.
//!
//! YouTube's feeds answer 404 in spells, even for channels that exist. A 404 for a *known-good* channel, one that was found before, is
//! evidence of such a spell; a 404 for a channel that was never found is not.
//!
//! **The rules**, over the last [`WINDOW`]:
//! 1. There is no outage if a channel was found more recently than any known-good one answered 404.
//! 2. There is an outage if at least [`AT_LEAST`] known-good channels have begun to answer 404, and they are at least half of those
//!    looked up.
//! 3. If neither rule or both apply, the canary decides: a channel that is known to exist. Its verdict holds for [`VERDICT_FOR`].
//!
//! Without a canary, there is an outage while at least [`AT_LEAST`] known-good channels answer 404, and at least one in [`ONE_IN`].
//!
//! A known-good channel that still answers 404 while others are found is *gone*, and not evidence any more: as soon as the canary is
//! found after the channel went missing; without a canary, when others are found and it has been missing for [`WINDOW`].

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::video::ChannelId;

/// Longer than the longest pause of a failing channel (6 minutes with its jitter): otherwise an outage of a few channels would seem to
/// end between two lookups.
const WINDOW: Duration = Duration::from_mins(10);

/// One channel may have been deleted. Two within minutes are unlikely to be a coincidence, unless many are looked up:
const AT_LEAST: usize = 2;

/// callers still ask for deleted channels, and among thousands there are always some. A spell hits all channels, but results from before
/// it count for a while.
const ONE_IN: usize = 5;

/// Spells last for minutes to hours: one lookup per minute costs little, and detects the end of a spell within a minute.
const VERDICT_FOR: Duration = Duration::from_mins(1);

/// More channels than this would not improve the decision. 72 bytes each.
const REMEMBERED: usize = 4096;

/// Detects outages from the outcomes of recent lookups.
pub(super) struct Outage {
    /// Held for a pass over the map, by lookups that have ended and never by hits.
    recent: Mutex<Recent>,
}

/// The outcome of a lookup of the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is no outage.
    Found,
    /// It answers 404: there is an outage.
    NotFound,
    /// The lookup failed in another way. This counts as an outage, since 404s cannot be trusted.
    Failed,
}

#[derive(Default)]
struct Recent {
    has_canary: bool,
    /// The last lookups of known-good channels.
    lookups: HashMap<ChannelId, Lookup>,
    /// When a channel was last found.
    last_found: Option<Instant>,
    /// The canary's last verdict.
    verdict: Option<(Instant, Verdict)>,
    /// When the canary was last found.
    canary_found: Option<Instant>,
    /// The outage holds until then, unless another lookup says otherwise.
    under_way_until: Option<Instant>,
    /// The outage whose beginning was logged, until its end is.
    logged: Option<Logged>,
}

struct Logged {
    since: Instant,
    /// 404s of known-good channels in it.
    not_found: u64,
}

/// The last lookup of a known-good channel.
struct Lookup {
    at: Instant,
    /// Since when it answers 404; `None` if it was found.
    missing_since: Option<Instant>,
}

/// Counts known-good channels, except those that are gone.
struct Counts {
    /// Looked up within the window.
    known: usize,
    /// When those that answered 404 were looked up, the newest first.
    missing: Vec<Instant>,
    /// How many of these have begun to answer 404 within the window.
    newly_missing: usize,
}

impl Outage {
    /// Creates a detector without history.
    pub(super) fn new(has_canary: bool) -> Self {
        let recent = Recent {
            has_canary,
            ..Recent::default()
        };
        Self {
            recent: Mutex::new(recent),
        }
    }

    /// Records a lookup of a known-good channel: `found`, or answered 404.
    pub(super) fn record_lookup(&self, channel: ChannelId, found: bool, now: Instant) {
        let mut recent = self.recent.lock();
        if found {
            recent.last_found = Some(now);
        }
        if recent.has_room_for(channel, now) {
            let before = recent
                .lookups
                .get(&channel)
                .and_then(|lookup| lookup.missing_since);
            let missing_since = (!found).then(|| before.unwrap_or(now));
            recent.lookups.insert(
                channel,
                Lookup {
                    at: now,
                    missing_since,
                },
            );
        }
        if let Some(logged) = recent.logged.as_mut().filter(|_| !found) {
            logged.not_found += 1;
        }
        recent.update(now);
    }

    /// Records a lookup of the canary.
    pub(super) fn record_verdict(&self, verdict: Verdict, now: Instant) {
        let mut recent = self.recent.lock();
        recent.verdict = Some((now, verdict));
        if verdict == Verdict::Found {
            recent.canary_found = Some(now);
            recent.last_found = Some(now);
        }
        recent.update(now);
    }

    /// Whether there is an outage. `None` means that the canary has to be looked up.
    pub(super) fn is_outage(&self, now: Instant) -> Option<bool> {
        let recent = self.recent.lock();
        recent.is_outage(&recent.counts(now), now)
    }

    /// Whether an outage was detected and has not ended.
    pub(super) fn under_way(&self, now: Instant) -> bool {
        self.recent.lock().is_under_way(now)
    }
}

impl Recent {
    /// Makes room for one more channel. Returns false if [`REMEMBERED`] others were looked up within the window.
    fn has_room_for(&mut self, channel: ChannelId, now: Instant) -> bool {
        // Missing channels are kept beyond the window while there is room, for `missing_since`.
        self.lookups
            .retain(|_, lookup| lookup.missing_since.is_some() || is_recent(lookup.at, now));
        let is_full =
            |lookups: &HashMap<_, _>| lookups.len() >= REMEMBERED && !lookups.contains_key(&channel);
        if is_full(&self.lookups) {
            self.lookups.retain(|_, lookup| is_recent(lookup.at, now));
        }
        !is_full(&self.lookups)
    }

    fn is_under_way(&self, now: Instant) -> bool {
        self.under_way_until.is_some_and(|until| now < until)
    }

    fn is_gone(&self, missing_since: Instant, now: Instant) -> bool {
        if self.has_canary {
            return self.canary_found.is_some_and(|at| at >= missing_since);
        }
        let others_are_found = self
            .last_found
            .is_some_and(|at| at > missing_since && is_recent(at, now));
        others_are_found && !is_recent(missing_since, now)
    }

    fn counts(&self, now: Instant) -> Counts {
        let mut counts = Counts {
            known: 0,
            missing: Vec::new(),
            newly_missing: 0,
        };
        for lookup in self.lookups.values().filter(|lookup| is_recent(lookup.at, now)) {
            match lookup.missing_since {
                Some(since) if self.is_gone(since, now) => continue,
                Some(since) => {
                    counts.missing.push(lookup.at);
                    counts.newly_missing += usize::from(is_recent(since, now));
                }
                None => {}
            }
            counts.known += 1;
        }
        counts.missing.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    fn is_outage(&self, counts: &Counts, now: Instant) -> Option<bool> {
        if !self.has_canary {
            let missing = counts.missing.len();
            return Some(missing >= AT_LEAST && missing * ONE_IN >= counts.known);
        }
        let canary_missing = self
            .verdict
            .filter(|(at, verdict)| *verdict == Verdict::NotFound && is_recent(*at, now));
        let last_missing = counts
            .missing
            .first()
            .copied()
            .max(canary_missing.map(|(at, _)| at));
        let no_outage =
            self.last_found > last_missing && self.last_found.is_some_and(|at| is_recent(at, now));
        // Channels that have been missing for longer may have been deleted. If not, the canary shows it.
        let is_outage = counts.newly_missing >= AT_LEAST && counts.newly_missing * 2 >= counts.known;
        if no_outage != is_outage {
            return Some(is_outage);
        }
        let (at, verdict) = self.verdict?;
        (now.saturating_duration_since(at) < VERDICT_FOR).then_some(verdict != Verdict::Found)
    }

    /// Updates the state after a lookup, and logs the beginning or the end of an outage.
    fn update(&mut self, now: Instant) {
        let counts = self.counts(now);
        let Some(is_outage) = self.is_outage(&counts, now) else {
            // The state is kept until the canary is looked up.
            return;
        };
        let of_known = counts.missing.get(AT_LEAST - 1).copied();
        let of_canary = self
            .verdict
            .and_then(|(at, verdict)| (verdict != Verdict::Found).then_some(at));
        // The outage lasts until its evidence is too old.
        let since = is_outage.then(|| of_known.max(of_canary)).flatten();
        self.under_way_until = since.map(|at| at + WINDOW);
        self.log(is_outage, &counts, now);
    }

    /// Logs an outage once when it begins and once when it ends, outside of the span of the lookup that showed it.
    fn log(&mut self, is_outage: bool, counts: &Counts, now: Instant) {
        if is_outage && self.logged.is_none() {
            self.logged = Some(Logged {
                since: now,
                not_found: counts.missing.len() as u64,
            });
            tracing::warn!(
                parent: None,
                missing = counts.missing.len(),
                known = counts.known,
                canary = self.verdict.map(|(_, verdict)| tracing::field::debug(verdict)),
                "feeds of channels that exist answer 404: a channel never seen counts as unavailable, not as missing"
            );
        } else if !is_outage && let Some(Logged { since, not_found }) = self.logged.take() {
            tracing::info!(
                parent: None,
                not_found,
                lasted = ?now.saturating_duration_since(since),
                "feeds of channels that exist are found again"
            );
        }
    }
}

/// Whether `at` is within the window that ends `now`.
fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < WINDOW
}
