//! From a cursor to a resume token and back, at a server whose timeline may know other uploads.

use super::{
    super::{
        resume::{self, Entry, Fate, Phase, ResumeToken},
        timeline::{Seen, Timeline, fingerprint},
    },
    Cursor,
};
use crate::video::Moment;

/// Uploads that a token names though they were not sent: enough that a later snapshot has one of them if it has anything in common
/// with this one.
const UNSENT: usize = 4;

/// What a watch knew elsewhere, and its timeline has not shown yet.
#[derive(Default)]
pub(super) struct Unmatched {
    /// Nothing in `others` that was sent was published after this.
    newest: Moment,
    others: Vec<Entry>,
    /// Nothing in `oldest` was published after this, nor after any upload that precedes it in the token.
    oldest_until: Moment,
    oldest: Vec<Entry>,
}

impl Cursor {
    /// Continues where the watcher was when it received `token`.
    pub(in crate::latest) fn resume(token: &ResumeToken) -> Self {
        let unmatched = || {
            Box::new(Unmatched {
                newest: token.newest,
                others: token.entries.clone(),
                ..Unmatched::default()
            })
        };
        Self {
            phase: match token.phase {
                Phase::Begun => Phase::Resumed,
                phase => phase,
            },
            trouble: token.trouble,
            floor: token.floor,
            unmatched: (!token.entries.is_empty()).then(unmatched),
            ..Self::new(None)
        }
    }

    /// Where the watcher is, for another server.
    pub(in crate::latest) fn token(&self, timeline: &Timeline, channel: &[u8]) -> ResumeToken {
        let mut token = ResumeToken {
            channel: fingerprint(channel),
            phase: self.phase,
            trouble: self.trouble,
            floor: self.floor,
            newest: Moment::NONE,
            entries: Vec::with_capacity(resume::MOST),
        };
        if self.phase == Phase::Begun {
            self.name_uploads(timeline, &mut token);
        } else if let Some(unmatched) = &self.unmatched {
            token.newest = unmatched.newest;
            token
                .entries
                .extend(unmatched.others.iter().chain(&unmatched.oldest));
        }
        token
    }

    /// Puts into `token` which uploads are known: what this timeline has not shown, as many as a feed shows of those that were sent,
    /// more of these if there is room, and what was not sent. The floor rises over what was sent and finds no room.
    fn name_uploads(&self, timeline: &Timeline, token: &mut ResumeToken) {
        let known = || timeline.seen().iter().filter(|seen| seen.number <= self.sent.top);
        let is_sent = |seen: &&Seen| self.sent.contains(seen.number);
        let is_above = |seen: &&Seen| self.is_above(seen.published);
        let named = |fate| move |seen: &Seen| Entry::new(seen.fingerprint, fate);
        let sent = || known().filter(is_sent).filter(is_above);
        // The date of a stream moves when it begins: it may not stay below the floor.
        let below = known().filter(|seen| is_sent(seen) && !is_above(seen));
        let unsent: Vec<_> = known()
            .filter(|seen| !is_sent(seen))
            .map(named(Fate::Unsent))
            .collect();

        let none = Unmatched::default();
        let unmatched = self.unmatched.as_deref().unwrap_or(&none);
        let (mut others, mut oldest) = (unmatched.others.clone(), unmatched.oldest.clone());
        let room = resume::MOST - unsent.len().min(UNSENT);
        let room_for_unmatched = room - sent().count().min(resume::FEED);
        if others.len() + oldest.len() > room_for_unmatched {
            others.retain(|entry| entry.fate() == Fate::Sent);
            oldest.retain(|entry| entry.fate() == Fate::Sent);
        }
        if others.len() > room_for_unmatched {
            others.clear();
            token.floor = token.floor.max(unmatched.newest);
        }
        if others.len() + oldest.len() > room_for_unmatched {
            oldest.truncate(room_for_unmatched - others.len());
            token.floor = token.floor.max(unmatched.oldest_until);
        }

        let is_newer = |seen: &&Seen| !seen.published.is_some() || seen.published >= unmatched.oldest_until;
        let mut newer = sent().filter(is_newer);
        let mut older = sent().filter(|seen| !is_newer(seen));
        let room_for_older = room - oldest.len();
        let entries = &mut token.entries;
        entries.extend(others);
        let left = room_for_older - entries.len();
        entries.extend(newer.by_ref().take(left).map(named(Fate::Sent)));
        let left = room_for_older - entries.len();
        entries.extend(oldest);
        entries.extend(older.by_ref().take(left).map(named(Fate::Sent)));
        // The first of each that is left out is its newest.
        for left_out in newer.next().into_iter().chain(older.next()) {
            token.floor = token.floor.max(left_out.published);
        }
        let left = room - entries.len();
        entries.extend(below.take(left).map(named(Fate::Below)));
        let left = resume::MOST - entries.len();
        entries.extend(unsent.into_iter().take(left));

        let dates = known().filter(is_sent).map(|seen| seen.published);
        let dates = dates.chain([unmatched.newest, unmatched.oldest_until]);
        token.newest = dates.max().unwrap_or_default();
    }

    /// Recognizes uploads of a token among those whose numbers are greater than `known`. Says whether any of it is shown.
    pub(super) fn match_token(&mut self, unmatched: Unmatched, timeline: &Timeline, known: u32) -> bool {
        let mut shares = false;
        let mut entries = unmatched.others;
        let (others, mut oldest_until) = (entries.len(), unmatched.oldest_until);
        entries.extend(unmatched.oldest);
        // The last upload of the token that was sent and is shown: what comes after it is older.
        let mut last = None;
        for seen in timeline.seen() {
            let Some(place) = entries.iter().position(|entry| entry.is(seen.fingerprint)) else {
                continue;
            };
            let fate = entries[place].fate();
            if timeline.shows(seen.number) {
                shares = true;
                if fate == Fate::Sent {
                    last = last.max(Some((place, seen.published)));
                }
            }
            if fate != Fate::Unsent && seen.number > known {
                self.sent.insert(seen.number);
            }
        }
        let mut from = others;
        if let Some((place, published)) = last
            && place < others
        {
            from = place;
            oldest_until = oldest_until.max(published);
        }
        let is_left = |entry: &&Entry| timeline.seen().iter().all(|seen| !entry.is(seen.fingerprint));
        let (others, oldest) = entries.split_at(from);
        let unmatched = Unmatched {
            newest: unmatched.newest,
            others: others.iter().filter(is_left).copied().collect(),
            oldest_until,
            oldest: oldest.iter().filter(is_left).copied().collect(),
        };
        if unmatched.others.len() + unmatched.oldest.len() > 0 {
            self.unmatched = Some(Box::new(unmatched));
        }
        shares
    }
}
