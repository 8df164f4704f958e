//! From a cursor to a resume token and back, at a server whose timeline may know other uploads.

use std::cmp::Reverse;

use super::{
    super::{
        resume::{self, Entry, Fate, Phase, ResumeToken},
        timeline::{Timeline, fingerprint},
    },
    Cursor,
};

/// Uploads that a token names in any case though they were not sent: they show whether a later snapshot has anything in common with
/// this one.
const UNSENT: usize = 2;

impl Cursor {
    /// Continues where the watcher was when it received `token`.
    pub(in crate::latest) fn resume(token: &ResumeToken) -> Self {
        Self {
            phase: match token.phase {
                Phase::Begun => Phase::Resumed,
                phase => phase,
            },
            trouble: token.trouble,
            floor: token.floor,
            unmatched: (!token.entries.is_empty()).then(|| token.entries.clone().into()),
            ..Self::new(None)
        }
    }

    /// Where the watcher is, for another server.
    pub(in crate::latest) fn token(&self, timeline: &Timeline, channel: &[u8]) -> ResumeToken {
        let unmatched = self.unmatched.as_deref().unwrap_or_default();
        let mut token = ResumeToken {
            channel: fingerprint(channel),
            phase: self.phase,
            trouble: self.trouble,
            floor: self.floor,
            entries: unmatched.to_vec(),
        };
        if self.phase == Phase::Begun {
            self.name_uploads(timeline, &mut token);
        }
        token
    }

    /// Puts into `token` which uploads are known: the newest that were sent, here or elsewhere; others, if there is room. The floor
    /// rises over what was sent and finds no room.
    fn name_uploads(&self, timeline: &Timeline, token: &mut ResumeToken) {
        let known = timeline.seen().iter().filter(|seen| seen.number <= self.sent.top);
        token.entries.extend(known.map(|seen| Entry {
            name: resume::name(seen.fingerprint),
            published: seen.published,
            fate: match (self.sent.contains(seen.number), self.is_above(seen.published)) {
                (false, _) => Fate::Unsent,
                (true, true) => Fate::Sent,
                // The date of a stream moves when it begins: it may not stay below the floor.
                (true, false) => Fate::Below,
            },
        }));
        // Those without a date first: no floor covers them.
        let order = |entry: &Entry| (entry.fate, entry.published.is_some(), Reverse(entry.published));
        token.entries.sort_by_key(order);
        let count = |fate| token.entries.iter().filter(|entry| entry.fate == fate).count();
        let (sent, below) = (count(Fate::Sent), count(Fate::Below));
        let mut unsent = token.entries.split_off(sent + below);
        let others = unsent.split_off(unsent.len().min(UNSENT));

        let kept = sent.min(resume::MOST - unsent.len());
        let left_out = token.entries.splice(kept..sent, unsent);
        let left_out = left_out.map(|entry| entry.published).max();
        token.floor = token.floor.max(left_out.unwrap_or_default());
        token.entries.extend(others);
        token.entries.truncate(resume::MOST);
    }

    /// Recognizes uploads of a token among those whose numbers are greater than `known`. Says whether any of it is shown.
    pub(super) fn match_token(&mut self, mut unmatched: Vec<Entry>, timeline: &Timeline, known: u32) -> bool {
        let mut shares = false;
        for seen in timeline.seen().iter().filter(|seen| seen.number > known) {
            let name = resume::name(seen.fingerprint);
            let place = unmatched.iter().position(|entry| entry.name == name);
            if let Some(entry) = place.map(|place| unmatched.remove(place)) {
                shares |= timeline.shows(seen.number);
                if entry.fate != Fate::Unsent {
                    self.sent.insert(seen.number);
                }
            }
        }
        self.unmatched = (!unmatched.is_empty()).then(|| unmatched.into());
        shares
    }
}
