//! Converts a cursor to a resume token and back, at a server whose timeline may have other uploads.

use std::cmp::Reverse;

use super::{
    super::{
        resume::{self, Entry, Fate, Phase, ResumeToken},
        timeline::{Timeline, fingerprint},
    },
    Cursor,
};

/// How many uploads that were not sent a token always has: they show whether a later snapshot has anything in common with this one.
const UNSENT: usize = 2;

impl Cursor {
    /// Resumes from `token`.
    pub(in crate::latest) fn resume(token: &ResumeToken) -> Self {
        Self {
            phase: match token.phase {
                Phase::Begun => Phase::Resumed,
                phase => phase,
            },
            problem: token.problem,
            floor: token.floor,
            unmatched: (!token.entries.is_empty()).then(|| token.entries.clone().into()),
            ..Self::new(None)
        }
    }

    /// The position as a token, which any server can resume from.
    pub(in crate::latest) fn token(&self, timeline: &Timeline, channel: &[u8]) -> ResumeToken {
        let unmatched = self.unmatched.as_deref().unwrap_or_default();
        let mut token = ResumeToken {
            channel: fingerprint(channel),
            phase: self.phase,
            problem: self.problem,
            floor: self.floor,
            entries: unmatched.to_vec(),
        };
        if self.phase == Phase::Begun {
            self.name_uploads(timeline, &mut token);
        }
        token
    }

    /// Adds uploads to `token`: the newest that were sent, here or elsewhere, and others if there is room. The floor rises above uploads that
    /// were sent and do not fit.
    fn name_uploads(&self, timeline: &Timeline, token: &mut ResumeToken) {
        let known = timeline.seen().iter().filter(|seen| seen.number <= self.sent.top);
        token.entries.extend(known.map(|seen| Entry {
            name: resume::short_name(seen.fingerprint),
            published: seen.published,
            fate: match (self.sent.contains(seen.number), self.is_above(seen.published)) {
                (false, _) => Fate::Unsent,
                (true, true) => Fate::Sent,
                // The date of a stream changes when it begins, so it may rise above the floor.
                (true, false) => Fate::Below,
            },
        }));
        // Uploads without a date first, since no floor covers them.
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

    /// Matches uploads of a token with those whose numbers are greater than `known`. Returns whether any of them is in the feed.
    pub(super) fn match_token(&mut self, mut unmatched: Vec<Entry>, timeline: &Timeline, known: u32) -> bool {
        let mut shares = false;
        for seen in timeline.seen().iter().filter(|seen| seen.number > known) {
            let name = resume::short_name(seen.fingerprint);
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
