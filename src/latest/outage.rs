//! Whether a 404 means anything just now. Pure: time is an argument.
//!
//! YouTube's feeds answer 404 in spells, for channels that exist too. A *known-good* channel, which was found before, and is now "not
//! found" is evidence of such a spell; one that was never seen is not.
//!
//! **The rules**, over the last [`WINDOW`]:
//! 1. All is well, if a channel was found more recently than any known-good one answered 404.
//! 2. There is an outage, if at least [`AT_LEAST`] known-good channels have begun to answer 404, and they are at least half of those
//!    looked up.
//! 3. If neither holds, or both, the canary settles it: a channel that exists. What it shows holds for [`VERDICT_FOR`].
//!
//! Without a canary, there is an outage while at least [`AT_LEAST`] known-good channels answer 404, and at least one in [`ONE_IN`].
//!
//! A known-good channel that goes on answering 404 while others are found is *gone*, and no evidence any more: as soon as the canary is
//! found after it went missing; without a canary, when others are found and it has been missing for [`WINDOW`].

#[cfg(test)]
mod tests;

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

/// Spells last for minutes to hours: with one lookup a minute, the canary costs next to nothing and is late by a minute at most.
const VERDICT_FOR: Duration = Duration::from_mins(1);

/// More channels than this add nothing to the judgement. 72 bytes each.
const REMEMBERED: usize = 4096;

/// What channels answered lately.
pub(super) struct Outage {
    /// Held for a pass over the map, by lookups that have ended: never by callers with a hit.
    recent: Mutex<Recent>,
}

/// What a lookup of the canary has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// 404s mean what they say.
    Found,
    /// It answers 404: there is an outage.
    NotFound,
    /// The lookup failed in another way. Nobody can tell, which is told as an outage.
    Failed,
}

#[derive(Default)]
struct Recent {
    has_canary: bool,
    /// The last lookups of known-good channels.
    lookups: HashMap<ChannelId, Lookup>,
    /// When any channel was last found.
    last_found: Option<Instant>,
    /// The canary's last verdict.
    verdict: Option<(Instant, Verdict)>,
    /// When the canary was last found.
    canary_found: Option<Instant>,
    /// The outage holds until then, unless another lookup says otherwise.
    under_way_until: Option<Instant>,
    /// The outage of whose beginning the log has told, until it tells of the end.
    logged: Option<Logged>,
}

struct Logged {
    since: Instant,
    /// Lookups of known-good channels that were answered 404 in it.
    not_found: u64,
}

/// The last lookup of a known-good channel.
struct Lookup {
    at: Instant,
    /// Since when it answers 404. `None`: it was found.
    missing_since: Option<Instant>,
}

/// What the known-good channels show, those that are gone aside.
struct Tally {
    /// Looked up within the window.
    known: usize,
    /// When those of them were looked up that answered 404, the newest first.
    missing: Vec<Instant>,
    /// How many of these have begun to within the window.
    newly_missing: usize,
}

impl Outage {
    /// Knows nothing yet. With a canary, what is in doubt is left to it.
    pub(super) fn new(has_canary: bool) -> Self {
        let recent = Recent {
            has_canary,
            ..Recent::default()
        };
        Self {
            recent: Mutex::new(recent),
        }
    }

    /// Notes that a known-good channel was looked up, and either `found` or answered 404.
    pub(super) fn note(&self, channel: ChannelId, found: bool, now: Instant) {
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

    /// Notes what a lookup of the canary has shown.
    pub(super) fn settle(&self, verdict: Verdict, now: Instant) {
        let mut recent = self.recent.lock();
        recent.verdict = Some((now, verdict));
        if verdict == Verdict::Found {
            recent.canary_found = Some(now);
            recent.last_found = Some(now);
        }
        recent.update(now);
    }

    /// Whether a 404 of `now` says nothing. `None`: the canary has to be looked up.
    pub(super) fn decide(&self, now: Instant) -> Option<bool> {
        let recent = self.recent.lock();
        recent.decide(&recent.tally(now), now)
    }

    /// Whether 404s say nothing at `now`, as far as is known.
    pub(super) fn under_way(&self, now: Instant) -> bool {
        self.recent.lock().is_under_way(now)
    }
}

impl Recent {
    /// Makes room for one more channel, unless there are so many already that were looked up within the window.
    fn has_room_for(&mut self, channel: ChannelId, now: Instant) -> bool {
        // Since when a channel is missing is worth remembering for as long as there is room.
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

    fn tally(&self, now: Instant) -> Tally {
        let mut tally = Tally {
            known: 0,
            missing: Vec::new(),
            newly_missing: 0,
        };
        for lookup in self.lookups.values().filter(|lookup| is_recent(lookup.at, now)) {
            match lookup.missing_since {
                Some(since) if self.is_gone(since, now) => continue,
                Some(since) => {
                    tally.missing.push(lookup.at);
                    tally.newly_missing += usize::from(is_recent(since, now));
                }
                None => {}
            }
            tally.known += 1;
        }
        tally.missing.sort_unstable_by(|a, b| b.cmp(a));
        tally
    }

    fn decide(&self, tally: &Tally, now: Instant) -> Option<bool> {
        if !self.has_canary {
            let missing = tally.missing.len();
            return Some(missing >= AT_LEAST && missing * ONE_IN >= tally.known);
        }
        let canary_missing = self
            .verdict
            .filter(|(at, verdict)| *verdict == Verdict::NotFound && is_recent(*at, now));
        let last_missing = tally
            .missing
            .first()
            .copied()
            .max(canary_missing.map(|(at, _)| at));
        let is_well = self.last_found > last_missing && self.last_found.is_some_and(|at| is_recent(at, now));
        // Those that have been missing for longer were deleted, perhaps. If they were not, the canary shows it.
        let is_outage = tally.newly_missing >= AT_LEAST && tally.newly_missing * 2 >= tally.known;
        if is_well != is_outage {
            return Some(is_outage);
        }
        let (at, verdict) = self.verdict?;
        (now.saturating_duration_since(at) < VERDICT_FOR).then_some(verdict != Verdict::Found)
    }

    /// Takes in what has changed, and says in the log if an outage begins or ends.
    fn update(&mut self, now: Instant) {
        let tally = self.tally(now);
        let Some(is_outage) = self.decide(&tally, now) else {
            // What held before holds on until the canary was looked up.
            return;
        };
        let of_known = tally.missing.get(AT_LEAST - 1).copied();
        let of_canary = self
            .verdict
            .and_then(|(at, verdict)| (verdict != Verdict::Found).then_some(at));
        // It holds until what it rests on is too old.
        let since = is_outage.then(|| of_known.max(of_canary)).flatten();
        self.under_way_until = since.map(|at| at + WINDOW);
        self.log(is_outage, &tally, now);
    }

    /// Tells once that an outage begins, and once that it has ended. Neither is about the lookup that showed it.
    fn log(&mut self, is_outage: bool, tally: &Tally, now: Instant) {
        if is_outage && self.logged.is_none() {
            self.logged = Some(Logged {
                since: now,
                not_found: tally.missing.len() as u64,
            });
            tracing::warn!(
                parent: None,
                missing = tally.missing.len(),
                known = tally.known,
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
