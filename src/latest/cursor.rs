//! A watch's position in a channel's [`Timeline`]: what was sent, and what to send next. Pure: time is a parameter.
//!
//! **The rule.** An upload is sent if it was not sent before and was published after the cursor's *floor*: the oldest upload of the
//! snapshot with which the watch began, or the requested start time. So an upload that moves up in the feed because others were deleted
//! is never sent. An upload that the feed did not show when the watch began, resumed or read is sent when the feed shows it.
//!
//! A cursor has no queue. It records what was sent as a window of sequence numbers, like IPsec's anti-replay window (RFC 4303, section
//! 3.4.3): a slow reader finds in the newest timeline all that it has missed and that the feed still shows.

#[cfg(test)]
mod tests;
mod token;

use std::time::Duration;

use super::{
    resume::{Entry, Phase},
    timeline::{Shown, Timeline},
};
use crate::video::{Kind, Moment, Video};

/// A feed that is empty when a watch begins may be an error, or up to 15 minutes old. Uploads that appear later and were published more
/// than this before the beginning are not new.
const EMPTY_SINCE: Duration = Duration::from_hours(1);

/// What a watch was sent of one channel.
pub(super) struct Cursor {
    phase: Phase,
    /// The reason of the problem that was sent and is not over: [`LookupError::reason_code`](super::LookupError::reason_code).
    problem: Option<u8>,
    /// The newest number when the watch began. Uploads with greater numbers are sent if they are above the floor; for others the window
    /// alone decides.
    begun_at: u32,
    sent: Window,
    /// The numbers up to `begun_at` that were in the feed then and are to be sent first, as bits like those of the window.
    initial: u64,
    /// Uploads published at or before this time are not sent. Before the watch has begun, the requested start time.
    floor: Moment,
    /// Uploads of a resume token that this timeline has not shown yet.
    unmatched: Option<Box<[Entry]>>,
}

/// The next event of a watched channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An upload, by its index in the newest snapshot.
    Upload {
        index: usize,
        /// It was in the feed when the watch began.
        initial: bool,
    },
    /// Lookups fail, or fail for another reason than before.
    Problem,
    /// Lookups work again.
    Recovered,
    /// There may have been uploads that the feed no longer shows.
    Missed,
}

impl Cursor {
    /// Creates a cursor that begins after a time, or with the newest upload.
    pub(super) fn new(published_after: Option<Moment>) -> Self {
        let (phase, floor) = match published_after {
            Some(after) => (Phase::After, after),
            None => (Phase::Newest, Moment::NONE),
        };
        Self {
            phase,
            problem: None,
            initial: 0,
            begun_at: 0,
            sent: Window::default(),
            floor,
            unmatched: None,
        }
    }

    /// The next event for a watch of uploads of `kind`; `None` until the timeline changes.
    pub(super) fn next(&mut self, timeline: &Timeline, kind: Option<Kind>, now: Moment) -> Option<Step> {
        if timeline.channel().is_some() {
            if self.advance(timeline, kind, now) {
                return Some(Step::Missed);
            }
            if self.problem.is_some() && timeline.problem().is_none() {
                self.problem = None;
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
        let reason = timeline.problem().map(|problem| problem.error.reason_code());
        if reason.is_some() && reason != self.problem {
            self.problem = reason;
            return Some(Step::Problem);
        }
        None
    }

    /// The next upload to send: the oldest in the feed that was not sent.
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

    /// Advances to the newest snapshot. Returns whether uploads may have been missed: appeared and left the feed since the last call.
    fn advance(&mut self, timeline: &Timeline, kind: Option<Kind>, now: Moment) -> bool {
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
        // There is no gap if the feed reaches back to the floor.
        let is_below = |upload: Video<'_>| upload.moment().is_some() && !self.is_above(upload.moment());
        shares |= channel.uploads().any(is_below);
        let has_newer = channel.uploads().any(|upload| self.is_above(upload.moment()));
        had_any && !shares && has_newer
    }

    /// Begins with the newest snapshot: marks uploads that are not to be sent as sent.
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
            // The oldest itself is to be sent, and so are others of the same second.
            Phase::After => self.floor.max(just_before(oldest)),
            // In a feed with all uploads of the channel nothing moves up: another upload of the same second is new.
            _ if !channel.is_full() => just_before(oldest),
            _ => oldest,
        };
        // The upload with which the watch begins. Newer ones are sent when the feed shows them.
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
            let is_newest = shown.is_some_and(|shown| Some(shown.index) == newest);
            let is_wanted = match (upload, phase) {
                // Not in the feed now.
                (None, _) => self.is_above(seen.published) && is_newer(seen.published),
                (Some(_), Phase::After) => is_newer(seen.published),
                (Some(_), Phase::Empty) => {
                    let is_recent = !channel.is_full() || seen.published > after;
                    is_newest || seen.number > known && is_recent
                }
                (Some(upload), _) => {
                    // The feed may list an upload as another kind at first.
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

/// The numbers that were sent: those up to `top` − 64, and those whose bits are set. Bit 0 is that of `top`.
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

/// The bit of `number` in a window with this `top`; 0 if it is above or too far below.
fn bit(top: u32, number: u32) -> u64 {
    let age = top.checked_sub(number);
    age.and_then(|age| 1_u64.checked_shl(age)).unwrap_or(0)
}
