//! Throttles repeated log lines: the first few are logged, the rest is counted. Pure.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// Lines of one kind are counted together for this time.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Lines logged in full per window: enough for what happens to a few things at once.
const LOGGED: u32 = 5;

/// The same if lines were withheld in the window before.
const LOGGED_IN_A_FLOOD: u32 = 1;

/// Counts lines by their kind `K`, and keeps a sample `S` of withheld ones.
///
/// Memory is bounded by the number of kinds. A kind without withheld lines starts afresh after its window.
#[derive(Debug)]
pub(super) struct Throttle<K, S> {
    kinds: HashMap<K, Kind<S>>,
}

#[derive(Debug)]
struct Kind<S> {
    began: Instant,
    /// How many more lines are logged in this window.
    left: u32,
    withheld: Option<Withheld<S>>,
}

/// The withheld lines of one kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Withheld<S> {
    pub(super) count: u64,
    pub(super) sample: S,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Log,
    /// The first withheld line of its kind and window: [`Throttle::due`] returns it when the window ends.
    WithholdFirst,
    Withhold,
}

impl<K: Hash + Eq + Clone, S> Throttle<K, S> {
    pub(super) fn new() -> Self {
        Self {
            kinds: HashMap::new(),
        }
    }

    /// Whether to log a line of `kind` at `now`. Otherwise it is counted, and the first one sampled.
    pub(super) fn admit(&mut self, kind: K, now: Instant, sample: impl FnOnce() -> S) -> Verdict {
        let kind = self.kinds.entry(kind).or_insert_with(|| Kind::new(now, LOGGED));
        // Withheld lines are reported before a new window begins.
        if kind.withheld.is_none() && now >= kind.began + WINDOW {
            *kind = Kind::new(now, LOGGED);
        }
        if kind.left > 0 {
            kind.left -= 1;
            return Verdict::Log;
        }
        if let Some(withheld) = &mut kind.withheld {
            withheld.count += 1;
            return Verdict::Withhold;
        }
        kind.withheld = Some(Withheld {
            count: 1,
            sample: sample(),
        });
        Verdict::WithholdFirst
    }

    /// The lines withheld in windows that have ended. Begins a new window for each kind.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Withheld<S>> {
        let ended = self.kinds.values_mut().filter(|kind| now >= kind.began + WINDOW);
        ended
            .filter_map(|kind| {
                let withheld = kind.withheld.take()?;
                *kind = Kind::new(now, LOGGED_IN_A_FLOOD);
                Some(withheld)
            })
            .collect()
    }

    /// When [`due`](Self::due) will return something.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let waiting = self.kinds.values().filter(|kind| kind.withheld.is_some());
        waiting.map(|kind| kind.began + WINDOW).min()
    }
}

impl<S> Kind<S> {
    fn new(began: Instant, left: u32) -> Self {
        Self {
            began,
            left,
            withheld: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Admits `count` lines of a kind at `now`. Returns how many are logged.
    fn logged(throttle: &mut Throttle<char, u64>, kind: char, now: Instant, count: u64) -> usize {
        let verdicts = (0..count).map(|number| throttle.admit(kind, now, || number));
        verdicts.filter(|verdict| *verdict == Verdict::Log).count()
    }

    #[test]
    fn what_repeats_is_told_a_few_times_and_then_counted() {
        let (start, mut throttle) = (Instant::now(), Throttle::new());
        assert_eq!(throttle.next_due(), None);
        assert_eq!(logged(&mut throttle, 'a', start, 10_000), 5);
        assert_eq!(throttle.next_due(), Some(start + WINDOW));
        let before = start + WINDOW.mul_f64(0.999);
        assert_eq!(throttle.due(before), []);
        let first = Withheld {
            count: 9_995,
            sample: 5,
        };
        assert_eq!(throttle.due(start + WINDOW), [first]);
        assert_eq!(
            (throttle.due(start + WINDOW), throttle.next_due()),
            (vec![], None)
        );
    }

    #[test]
    fn a_flood_that_goes_on_is_told_twice_in_a_window() {
        let (start, mut throttle) = (Instant::now(), Throttle::new());
        assert_eq!(logged(&mut throttle, 'a', start, 100), 5);
        for window in 1..100 {
            let now = start + WINDOW * window;
            assert_eq!(throttle.due(now).len(), 1, "{window}");
            assert_eq!(logged(&mut throttle, 'a', now, 100), 1, "{window}");
        }
        // Once it has ended, the kind starts afresh.
        let end = start + WINDOW * 100;
        assert_eq!(throttle.due(end).len(), 1);
        assert_eq!(logged(&mut throttle, 'a', end + WINDOW, 5), 5);
    }

    #[test]
    fn kinds_are_counted_each_for_itself() {
        let (start, mut throttle) = (Instant::now(), Throttle::new());
        assert_eq!(logged(&mut throttle, 'a', start, 6), 5);
        let later = start + WINDOW / 2;
        assert_eq!(logged(&mut throttle, 'b', later, 7), 5);
        assert_eq!(throttle.due(start + WINDOW)[0].count, 1);
        assert_eq!(throttle.next_due(), Some(later + WINDOW));
        assert_eq!(throttle.due(later + WINDOW)[0].count, 2);
    }

    #[test]
    fn what_is_seldom_is_told_in_full() {
        let (start, mut throttle) = (Instant::now(), Throttle::new());
        for window in 0..100 {
            assert_eq!(
                logged(&mut throttle, 'a', start + WINDOW * window, 5),
                5,
                "{window}"
            );
        }
        assert_eq!(throttle.next_due(), None);
    }

    #[test]
    fn a_count_that_is_late_is_whole() {
        let (start, mut throttle) = (Instant::now(), Throttle::new());
        assert_eq!(logged(&mut throttle, 'a', start, 6), 5);
        assert_eq!(logged(&mut throttle, 'a', start + WINDOW * 2, 6), 0);
        assert_eq!(throttle.due(start + WINDOW * 3)[0].count, 7);
    }
}
