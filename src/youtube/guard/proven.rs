//! Proven channels, which were found lately, to choose probes from.
//!
//! No caller can win the probes with channels of its own that answer 403 when it suits it:
//! - Each caller has a fair part of the table. When it is full, a channel of the caller with the most is replaced.
//! - A probe chooses a caller first, each with the same chance, and then one of its channels. A caller whose channel was just forbidden is
//!   left out as long as there is another. So two probes in a row are never of one caller's channels, if any other caller has had a single
//!   channel found.
//! - A caller with a channel that was forbidden within [`DISTRUSTED_FOR`] is left out as long as there is another. So channels that are
//!   found and later forbidden can open the breaker once, but cannot keep it open.
//!
//! Polls have no particular caller: any caller may own many of the watched channels. Their channels are chosen last.

use std::time::{Duration, Instant};

use crate::video::ChannelId;

/// More than can be excluded at a time (three), for several callers. The end of each lookup scans all of them.
pub(super) const MAX_CHANNELS: usize = 64;

/// How long a forbidden channel counts against its caller. Longer than the first pauses of the breaker.
const DISTRUSTED_FOR: Duration = Duration::from_mins(10);

#[derive(Clone, Copy)]
struct Proven {
    channel: ChannelId,
    /// A keyed hash of the caller who asked for it.
    caller: u64,
    forbidden: Option<Instant>,
}

/// The caller of channels found by polls: that of [`crate::upstream::Caller::default`].
const NOBODY: u64 = 0;

/// Channels that were found lately, for a random choice that is fair between callers.
#[derive(Default)]
pub(super) struct ProvenChannels(Vec<Proven>);

impl ProvenChannels {
    /// Adds a channel that was found for `caller`.
    pub(super) fn remember(&mut self, channel: ChannelId, caller: u64) {
        let proven = Proven {
            channel,
            caller,
            forbidden: None,
        };
        if let Some(index) = self.0.iter().position(|known| known.channel == channel) {
            // It belongs to the caller with fewer channels: a popular channel is not one caller's because that caller asked for it first.
            if self.count(caller) + 1 < self.count(self.0[index].caller) {
                self.0[index].caller = caller;
            }
        } else if self.0.len() < MAX_CHANNELS {
            self.0.push(proven);
        } else if let Some(index) = self.one_too_many(caller) {
            self.0[index] = proven;
        }
    }

    pub(super) fn forget(&mut self, channel: ChannelId) {
        self.0.retain(|proven| proven.channel != channel);
    }

    pub(super) fn distrust(&mut self, channel: ChannelId, now: Instant) {
        if let Some(proven) = self.0.iter_mut().find(|proven| proven.channel == channel) {
            proven.forbidden = Some(now);
        }
    }

    /// Whether there is one besides `channel` and the `excluded` ones.
    pub(super) fn has_another(&self, channel: ChannelId, excluded: &[Option<ChannelId>]) -> bool {
        let mut channels = self.0.iter().map(|proven| proven.channel);
        channels.any(|proven| proven != channel && !excluded.contains(&Some(proven)))
    }

    /// Chooses a channel to probe that is not `excluded`, and its caller.
    pub(super) fn choose(&self, excluded: &[Option<ChannelId>], now: Instant) -> Option<(ChannelId, u64)> {
        let (forbidden, fit): (Vec<_>, Vec<_>) = self
            .0
            .iter()
            .copied()
            .partition(|proven| excluded.contains(&Some(proven.channel)));
        let mut callers: Vec<_> = fit.iter().map(|proven| proven.caller).collect();
        callers.sort_unstable();
        callers.dedup();
        let suspected = |caller| forbidden.iter().any(|proven| proven.caller == caller);
        let distrusted = |caller| {
            let mut times = self
                .0
                .iter()
                .filter(|proven| proven.caller == caller)
                .filter_map(|proven| proven.forbidden);
            times.any(|at| now.saturating_duration_since(at) < DISTRUSTED_FOR)
        };
        // Lower is better.
        let rank = |caller: u64| {
            if suspected(caller) {
                (true, false, false)
            } else {
                (false, distrusted(caller), caller == NOBODY)
            }
        };
        let best = callers.iter().copied().map(rank).min()?;
        callers.retain(|caller| rank(*caller) == best);
        let caller = fastrand::choice(&callers)?;
        let of_caller = fit.iter().filter(|proven| proven.caller == *caller);
        let proven = fastrand::choice(of_caller.collect::<Vec<_>>())?;
        Some((proven.channel, proven.caller))
    }

    /// A random channel of the caller that would have the most if `caller` had one more.
    fn one_too_many(&self, caller: u64) -> Option<usize> {
        let most = self.0.iter().map(|proven| self.count(proven.caller)).max()?;
        let owner = self
            .0
            .iter()
            .map(|proven| proven.caller)
            .find(|owner| self.count(*owner) == most)?;
        let owner = if self.count(caller) + 1 > most {
            caller
        } else {
            owner
        };
        let of_owner = (0..self.0.len()).filter(|index| self.0[*index].caller == owner);
        fastrand::choice(of_owner.collect::<Vec<_>>())
    }

    fn count(&self, caller: u64) -> usize {
        self.0.iter().filter(|proven| proven.caller == caller).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEST: u64 = 1;
    const GREEDY: u64 = 2;

    fn channel(number: usize) -> ChannelId {
        format!("UC{number:021}A").parse().expect("a channel ID")
    }

    /// Adds `count` channels of `caller`, numbered from `first`.
    fn find(proven: &mut ProvenChannels, caller: u64, first: usize, count: usize) {
        for number in first..first + count {
            proven.remember(channel(number), caller);
        }
    }

    #[test]
    fn a_caller_with_any_number_of_channels_cannot_push_another_s_out() {
        let mut proven = ProvenChannels::default();
        find(&mut proven, GREEDY, 1000, 5);
        find(&mut proven, MODEST, 0, 3);
        find(&mut proven, GREEDY, 2000, 1000);
        assert_eq!(
            (proven.count(MODEST), proven.count(GREEDY)),
            (3, MAX_CHANNELS - 3)
        );
        // Nor can it keep the other out by being first; and a channel that both ask for is not the greedy one's.
        find(&mut proven, 3, 20_000, 100);
        find(&mut proven, GREEDY, 30_000, 1000);
        let [greedy, third] = [GREEDY, 3].map(|caller| proven.count(caller));
        assert!(
            proven.count(MODEST) == 3 && greedy.abs_diff(third) <= 1,
            "{greedy} {third}"
        );
        let theirs = proven
            .0
            .iter()
            .find(|proven| proven.caller == GREEDY)
            .expect("some")
            .channel;
        proven.remember(theirs, MODEST);
        assert_eq!(proven.count(MODEST), 4);
        proven.remember(theirs, GREEDY);
        assert_eq!(proven.count(MODEST), 4);
    }

    #[test]
    fn with_one_caller_s_channels_alone_the_choice_changes() {
        let mut proven = ProvenChannels::default();
        find(&mut proven, GREEDY, 0, MAX_CHANNELS);
        find(&mut proven, GREEDY, 1000, 1);
        assert_eq!(proven.0.len(), MAX_CHANNELS);
        assert!(proven.0.iter().any(|proven| proven.channel == channel(1000)));
        let [first, second] = [0, 1].map(|index| Some(proven.0[index].channel));
        for _ in 0..100 {
            let (chosen, caller) = proven
                .choose(&[first, second, None], Instant::now())
                .expect("others");
            assert!(caller == GREEDY && ![first, second].contains(&Some(chosen)));
        }
        proven.forget(channel(1000));
        assert!(proven.0.len() == MAX_CHANNELS - 1);
    }

    #[test]
    fn two_probes_in_a_row_are_not_of_one_caller_s_channels() {
        let mut proven = ProvenChannels::default();
        find(&mut proven, MODEST, 0, 1);
        find(&mut proven, GREEDY, 1000, 1000);
        // By polls of watched channels, whose caller is not known.
        find(&mut proven, NOBODY, 5000, 1000);
        let mut firsts = [0; 2];
        for _ in 0..1000 {
            let (first, caller) = proven.choose(&[None; 3], Instant::now()).expect("many");
            firsts[usize::from(caller == GREEDY)] += 1;
            let (_, second) = proven
                .choose(&[Some(first), None, None], Instant::now())
                .expect("many");
            assert_ne!(caller, second);
        }
        assert!(firsts.iter().all(|count| *count > 400), "{firsts:?}");
    }

    #[test]
    fn callers_whose_channels_were_forbidden_lately_are_asked_for_nothing_as_long_as_there_is_another() {
        let now = Instant::now();
        let mut proven = ProvenChannels::default();
        for attacker in 10..15 {
            find(
                &mut proven,
                attacker,
                1000 * usize::try_from(attacker).expect("small"),
                3,
            );
        }
        find(&mut proven, MODEST, 0, 5);
        for attacker in 10..15 {
            proven.distrust(channel(1000 * attacker), now);
            // Found again, its caller is still distrusted.
            proven.remember(channel(1000 * attacker), attacker as u64);
        }
        let chosen = |proven: &ProvenChannels, now| proven.choose(&[None; 3], now).expect("many").1;
        for _ in 0..100 {
            assert_eq!(chosen(&proven, now + Duration::from_mins(9)), MODEST);
        }
        assert!((0..1000).any(|_| chosen(&proven, now + Duration::from_mins(11)) != MODEST));
        // If all callers are distrusted, any may be chosen.
        proven.distrust(channel(0), now);
        assert!((0..1000).any(|_| chosen(&proven, now) != MODEST));
    }
}
