//! Channels that were found lately, to choose probes from.
//!
//! Nobody can win the probes with channels of theirs, which answer 403 when it suits them. Each caller's channels take a fair part of the
//! places: where there is no place left, one of the caller's goes that has the most. A probe asks for a channel of a caller that is chosen
//! first, each with the same chance, and not of one whose channel was just forbidden as long as there is another. So two probes in a row
//! are never of one caller's channels, if anybody else has had a single channel found. And a caller of whose channels one was forbidden
//! within [`DISTRUSTED_FOR`] is asked for nothing as long as there is another: who has channels that are found and then forbidden can
//! open the breaker with them once, and not keep it open.
//!
//! Polls are nobody's in particular: of the watched channels, too, anybody may own many. They are asked for where nothing else is left.

use std::time::{Duration, Instant};

use crate::video::ChannelId;

/// More than can be excluded at a time (three), for several callers. A lookup's end looks through all of them.
pub(super) const MOST: usize = 64;

/// How long a forbidden channel tells against its caller. Longer than the first pauses of the breaker.
const DISTRUSTED_FOR: Duration = Duration::from_mins(10);

#[derive(Clone, Copy)]
struct Good {
    channel: ChannelId,
    /// Who asked for it, as a keyed hash.
    caller: u64,
    /// When it was last forbidden.
    forbidden: Option<Instant>,
}

/// Whose channels those are that were found by polls: [`crate::upstream::Caller::default`]'s.
const NOBODY: u64 = 0;

/// A random choice of the channels that were found lately, fair between those who asked for them.
#[derive(Default)]
pub(super) struct GoodChannels(Vec<Good>);

impl GoodChannels {
    /// Takes in that `channel` was found for `caller`.
    pub(super) fn remember(&mut self, channel: ChannelId, caller: u64) {
        let good = Good {
            channel,
            caller,
            forbidden: None,
        };
        if let Some(index) = self.0.iter().position(|known| known.channel == channel) {
            // Who has fewer may have it: a crowd's channels are not one caller's for having been asked for by that one first.
            if self.count(caller) + 1 < self.count(self.0[index].caller) {
                self.0[index].caller = caller;
            }
        } else if self.0.len() < MOST {
            self.0.push(good);
        } else if let Some(index) = self.one_too_many(caller) {
            self.0[index] = good;
        }
    }

    /// Takes in that `channel` was not found.
    pub(super) fn forget(&mut self, channel: ChannelId) {
        self.0.retain(|good| good.channel != channel);
    }

    /// Takes in that `channel` was forbidden.
    pub(super) fn distrust(&mut self, channel: ChannelId, now: Instant) {
        if let Some(good) = self.0.iter_mut().find(|good| good.channel == channel) {
            good.forbidden = Some(now);
        }
    }

    /// Whether there is one besides `channel` and the `excluded` ones.
    pub(super) fn has_another(&self, channel: ChannelId, excluded: &[Option<ChannelId>]) -> bool {
        let mut channels = self.0.iter().map(|good| good.channel);
        channels.any(|good| good != channel && !excluded.contains(&Some(good)))
    }

    /// One to probe that is not among the `excluded` ones, and its caller.
    pub(super) fn choose(&self, excluded: &[Option<ChannelId>], now: Instant) -> Option<(ChannelId, u64)> {
        let (forbidden, fit): (Vec<_>, Vec<_>) = self
            .0
            .iter()
            .copied()
            .partition(|good| excluded.contains(&Some(good.channel)));
        let mut callers: Vec<_> = fit.iter().map(|good| good.caller).collect();
        callers.sort_unstable();
        callers.dedup();
        let suspected = |caller| forbidden.iter().any(|good| good.caller == caller);
        let distrusted = |caller| {
            let mut times = self
                .0
                .iter()
                .filter(|good| good.caller == caller)
                .filter_map(|good| good.forbidden);
            times.any(|at| now.saturating_duration_since(at) < DISTRUSTED_FOR)
        };
        // The least is best.
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
        let of_caller = fit.iter().filter(|good| good.caller == *caller);
        let good = fastrand::choice(of_caller.collect::<Vec<_>>())?;
        Some((good.channel, good.caller))
    }

    /// A random one of the caller that would have the most, if `caller` had one more.
    fn one_too_many(&self, caller: u64) -> Option<usize> {
        let most = self.0.iter().map(|good| self.count(good.caller)).max()?;
        let owner = self
            .0
            .iter()
            .map(|good| good.caller)
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
        self.0.iter().filter(|good| good.caller == caller).count()
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

    /// Has `caller` find the channels from `first` on.
    fn find(good: &mut GoodChannels, caller: u64, first: usize, count: usize) {
        for number in first..first + count {
            good.remember(channel(number), caller);
        }
    }

    #[test]
    fn a_caller_with_any_number_of_channels_cannot_push_another_s_out() {
        let mut good = GoodChannels::default();
        find(&mut good, GREEDY, 1000, 5);
        find(&mut good, MODEST, 0, 3);
        find(&mut good, GREEDY, 2000, 1000);
        assert_eq!((good.count(MODEST), good.count(GREEDY)), (3, MOST - 3));
        // Nor keep it out, whoever was there first; and a channel that both ask for is not the greedy one's.
        find(&mut good, 3, 20_000, 100);
        find(&mut good, GREEDY, 30_000, 1000);
        let [greedy, third] = [GREEDY, 3].map(|caller| good.count(caller));
        assert!(
            good.count(MODEST) == 3 && greedy.abs_diff(third) <= 1,
            "{greedy} {third}"
        );
        let theirs = good
            .0
            .iter()
            .find(|good| good.caller == GREEDY)
            .expect("some")
            .channel;
        good.remember(theirs, MODEST);
        assert_eq!(good.count(MODEST), 4);
        good.remember(theirs, GREEDY);
        assert_eq!(good.count(MODEST), 4);
    }

    #[test]
    fn with_one_caller_s_channels_alone_the_choice_changes() {
        let mut good = GoodChannels::default();
        find(&mut good, GREEDY, 0, MOST);
        find(&mut good, GREEDY, 1000, 1);
        assert_eq!(good.0.len(), MOST);
        assert!(good.0.iter().any(|good| good.channel == channel(1000)));
        let [first, second] = [0, 1].map(|index| Some(good.0[index].channel));
        for _ in 0..100 {
            let (chosen, caller) = good
                .choose(&[first, second, None], Instant::now())
                .expect("others");
            assert!(caller == GREEDY && ![first, second].contains(&Some(chosen)));
        }
        good.forget(channel(1000));
        assert!(good.0.len() == MOST - 1);
    }

    #[test]
    fn two_probes_in_a_row_are_not_of_one_caller_s_channels() {
        let mut good = GoodChannels::default();
        find(&mut good, MODEST, 0, 1);
        find(&mut good, GREEDY, 1000, 1000);
        // By watches, of which nobody knows whose they are.
        find(&mut good, NOBODY, 5000, 1000);
        let mut firsts = [0; 2];
        for _ in 0..1000 {
            let (first, caller) = good.choose(&[None; 3], Instant::now()).expect("many");
            firsts[usize::from(caller == GREEDY)] += 1;
            let (_, second) = good
                .choose(&[Some(first), None, None], Instant::now())
                .expect("many");
            assert_ne!(caller, second);
        }
        assert!(firsts.iter().all(|count| *count > 400), "{firsts:?}");
    }

    #[test]
    fn callers_whose_channels_were_forbidden_lately_are_asked_for_nothing_as_long_as_there_is_another() {
        let now = Instant::now();
        let mut good = GoodChannels::default();
        for attacker in 10..15 {
            find(
                &mut good,
                attacker,
                1000 * usize::try_from(attacker).expect("small"),
                3,
            );
        }
        find(&mut good, MODEST, 0, 5);
        for attacker in 10..15 {
            good.distrust(channel(1000 * attacker), now);
            // Found again, it is not trusted again.
            good.remember(channel(1000 * attacker), attacker as u64);
        }
        let chosen = |good: &GoodChannels, now| good.choose(&[None; 3], now).expect("many").1;
        for _ in 0..100 {
            assert_eq!(chosen(&good, now + Duration::from_mins(9)), MODEST);
        }
        assert!((0..1000).any(|_| chosen(&good, now + Duration::from_mins(11)) != MODEST));
        // Where everybody's are, there is nothing else to go by.
        good.distrust(channel(0), now);
        assert!((0..1000).any(|_| chosen(&good, now) != MODEST));
    }
}
