//! Which part of a channel's [`Timeline`] a watcher has been sent, and what it is to be sent next.
//!
//! **The rule.** An upload is sent if it was not sent before and was published after the cursor's *floor*: the oldest upload of the
//! snapshot with which the watch began, or the time with which it was to begin. So whatever moves up in the feed because others were
//! deleted is not sent, at whichever look it shows. What the watcher could not be sent, since the feed did not show it when it
//! began, resumed or read, is sent when it shows.
//!
//! A cursor does not hold a queue. It knows what it was sent as a window of sequence numbers, as IPsec's anti-replay window
//! (RFC 4303, section 3.4.3): a slow reader finds in the newest timeline all that it has missed and that is still shown.
//!
//! Pure: the time is an argument.

#[cfg(test)]
mod tests;
mod token;

use std::time::Duration;

use super::{
    resume::{Entry, Phase},
    timeline::{Shown, Timeline},
};
use crate::video::{Kind, Moment, Video};

/// A feed that is empty when a watch begins may be a bad answer, or up to 15 minutes old. When it fills, uploads that are older than
/// this before the beginning were there all along.
const EMPTY_SINCE: Duration = Duration::from_hours(1);

/// What a watcher was sent of one channel.
pub(super) struct Cursor {
    phase: Phase,
    /// The reason of the problem that was sent, and is not over: [`LookupError::reason_code`](super::LookupError::reason_code).
    trouble: Option<u8>,
    /// The newest number when the watch began. What has a greater one is sent if it is above the floor; for these the window says it.
    begun_at: u32,
    sent: Window,
    /// Which numbers up to that were in the feed then, and are to be sent first: as the window's bits.
    initial: u64,
    /// What was published at this time or before is not sent. Until the watch has begun: the time with which it is to begin.
    floor: Moment,
    /// What this watch knew elsewhere, and this timeline has not shown yet.
    unmatched: Option<Box<[Entry]>>,
}

/// What happens next to the watcher of a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The upload with this index in the newest snapshot.
    Upload {
        index: usize,
        /// It was there when the watch began.
        initial: bool,
    },
    /// Lookups fail, for another reason than before if they failed before.
    Problem,
    /// Lookups work again.
    Recovered,
    /// There may have been uploads that the feed no longer shows.
    Missed,
}

impl Cursor {
    /// Begins with what was published after a time, or with the newest upload.
    pub(super) fn new(published_after: Option<Moment>) -> Self {
        let (phase, floor) = match published_after {
            Some(after) => (Phase::After, after),
            None => (Phase::Newest, Moment::NONE),
        };
        Self {
            phase,
            trouble: None,
            initial: 0,
            begun_at: 0,
            sent: Window::default(),
            floor,
            unmatched: None,
        }
    }

    /// What happens next, to a watcher of uploads of `kind`. `None` until the timeline changes.
    pub(super) fn next(&mut self, timeline: &Timeline, kind: Option<Kind>, now: Moment) -> Option<Step> {
        if timeline.channel().is_some() {
            if self.take_in(timeline, kind, now) {
                return Some(Step::Missed);
            }
            if self.trouble.is_some() && timeline.trouble().is_none() {
                self.trouble = None;
                return Some(Step::Recovered);
            }
            if let Some(next) = self.pending(timeline, kind) {
                self.sent.insert(next.number);
                return Some(Step::Upload {
                    index: next.index,
                    initial: bit(self.begun_at, next.number) & self.initial != 0,
                });
            }
            self.initial = 0;
        }
        let reason = timeline.trouble().map(|trouble| trouble.error.reason_code());
        if reason.is_some() && reason != self.trouble {
            self.trouble = reason;
            return Some(Step::Problem);
        }
        None
    }

    /// The next upload to be sent: of those that are shown and were not sent, the oldest.
    fn pending(&self, timeline: &Timeline, kind: Option<Kind>) -> Option<Shown> {
        let channel = timeline.channel()?;
        let is_wanted = |shown: &Shown| {
            let upload = channel.upload(shown.index);
            shown.number != 0
                && !self.sent.contains(shown.number)
                && upload.is_some_and(|upload| {
                    kind.is_none_or(|kind| upload.kind() == kind)
                        && (shown.number <= self.begun_at || self.is_above(upload.moment()))
                })
        };
        let published = |shown: &Shown| channel.upload(shown.index).map(|upload| upload.moment());
        timeline
            .shown()
            .filter(is_wanted)
            .min_by_key(|shown| (published(shown), shown.number))
    }

    /// Takes in what has appeared since the last time. Says whether there may have been more than is shown.
    fn take_in(&mut self, timeline: &Timeline, kind: Option<Kind>, now: Moment) -> bool {
        match self.phase {
            Phase::Newest | Phase::After | Phase::Empty => {
                self.begin(timeline, kind, now);
                return false;
            }
            Phase::Begun if self.sent.top == timeline.newest() => return false,
            Phase::Begun | Phase::Resumed => {}
        }
        let Some(channel) = timeline.channel() else {
            return false;
        };
        let known = self.sent.top;
        self.sent.advance(timeline.newest());
        let had_any = known > 0 || self.unmatched.is_some();
        let mut shares = timeline.shown().any(|shown| (1..=known).contains(&shown.number));
        if let Some(unmatched) = self.unmatched.take() {
            shares |= self.match_token(unmatched.into_vec(), timeline, known);
        }
        self.phase = Phase::Begun;
        // A feed that goes back to the floor has no gap.
        let is_below = |upload: Video<'_>| upload.moment().is_some() && !self.is_above(upload.moment());
        shares |= channel.uploads().any(is_below);
        let has_newer = channel.uploads().any(|upload| self.is_above(upload.moment()));
        had_any && !shares && has_newer
    }

    /// Begins with the newest snapshot: marks as sent what is not to be sent.
    fn begin(&mut self, timeline: &Timeline, kind: Option<Kind>, now: Moment) {
        let Some(channel) = timeline.channel() else {
            return;
        };
        let oldest = channel
            .uploads()
            .map(|upload| upload.moment())
            .filter(|published| published.is_some())
            .min();
        let newest = channel.latest(kind);
        if channel.is_empty() && self.phase != Phase::After {
            if self.phase == Phase::Newest {
                self.phase = Phase::Empty;
                self.floor = now.before(EMPTY_SINCE);
                self.begun_at = timeline.newest();
            }
            return;
        }
        let (phase, after, known) = (self.phase, self.floor, self.begun_at);
        self.phase = Phase::Begun;
        self.begun_at = timeline.newest();
        self.sent.advance(timeline.newest());
        let oldest = oldest.unwrap_or(Moment::NONE);
        self.floor = match phase {
            // The oldest itself is still to be sent, and others of its second are wanted as well.
            Phase::After => self.floor.max(just_before(oldest)),
            // Nothing moves up in a feed that shows all that there is: another one of that second is new.
            _ if !channel.is_full() => just_before(oldest),
            _ => oldest,
        };
        // What the watch begins with. It is sent what is newer than that, when it shows.
        let begins_with = newest
            .and_then(|index| channel.upload(index))
            .map(|upload| upload.moment());
        let is_newer = |published: Moment| match phase {
            Phase::After => published > after,
            _ => begins_with.is_none_or(|begins_with| published > begins_with),
        };
        for seen in timeline.seen() {
            let shown = timeline.shown().find(|shown| shown.number == seen.number);
            let upload = shown.and_then(|shown| channel.upload(shown.index));
            let is_wanted = match (upload, phase) {
                // Hidden now.
                (None, _) => self.is_above(seen.published) && is_newer(seen.published),
                (Some(_), Phase::After) => is_newer(seen.published),
                (Some(_), Phase::Empty) => {
                    let is_newest = shown.map(|shown| shown.index) == newest;
                    let is_recent = !channel.is_full() || seen.published > after;
                    is_newest || seen.number > known && is_recent
                }
                (Some(upload), _) => {
                    let is_newest = shown.map(|shown| shown.index) == newest;
                    // One of another kind may turn out to be of this one.
                    let may_become =
                        kind.is_some_and(|kind| upload.kind() != kind) && is_newer(seen.published);
                    is_newest || may_become
                }
            };
            if !is_wanted {
                self.sent.insert(seen.number);
            } else if shown.is_some() && phase != Phase::Empty {
                self.initial |= bit(self.begun_at, seen.number);
            }
        }
    }

    fn is_above(&self, published: Moment) -> bool {
        !published.is_some() || published > self.floor
    }
}

fn just_before(moment: Moment) -> Moment {
    moment.before(Duration::from_nanos(1))
}

/// Which numbers were sent: those up to `top` − 64, and those whose bits are set. Bit 0 is `top`'s.
#[derive(Default)]
struct Window {
    top: u32,
    bits: u64,
}

impl Window {
    fn contains(&self, number: u32) -> bool {
        number + u64::BITS <= self.top || bit(self.top, number) & self.bits != 0
    }

    fn insert(&mut self, number: u32) {
        self.advance(number);
        self.bits |= bit(self.top, number);
    }

    fn advance(&mut self, top: u32) {
        if let Some(more) = top.checked_sub(self.top) {
            self.bits = self.bits.checked_shl(more).unwrap_or(0);
            self.top = top;
        }
    }
}

/// The bit of `number` in a window with this `top`. None above it, or too far below.
fn bit(top: u32, number: u32) -> u64 {
    let age = top.checked_sub(number);
    age.and_then(|age| 1_u64.checked_shl(age)).unwrap_or(0)
}
