//! What repeats is told once, with a count: nobody can fill the log by causing the same line again and again. Pure.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// For so long lines of one kind are counted together.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// As many of them are told in full: enough for what happens to a few things at once.
const TOLD: u32 = 5;

/// As many, if there were more in the window before.
const TOLD_IN_A_FLOOD: u32 = 1;

/// Counts lines by their kind `K`, and keeps a sample `S` of those that are not told.
///
/// Its memory is bounded by the number of kinds. A kind without withheld lines is as good as new after its window.
#[derive(Debug)]
pub(super) struct Throttle<K, S> {
    kinds: HashMap<K, Kind<S>>,
}

#[derive(Debug)]
struct Kind<S> {
    began: Instant,
    /// How many more are told in this window.
    left: u32,
    withheld: Option<Withheld<S>>,
}

/// Lines of one kind that were not told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Withheld<S> {
    /// How many.
    pub(super) count: u64,
    /// The first of them.
    pub(super) sample: S,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Tell,
    /// The first of its kind and window that is not told: [`Throttle::due`] has it when the window ends.
    WithholdFirst,
    Withhold,
}

impl<K: Hash + Eq + Clone, S> Throttle<K, S> {
    pub(super) fn new() -> Self {
        Self {
            kinds: HashMap::new(),
        }
    }

    /// Whether a line of `kind` is told at `now`. If not, it is counted, and the first is kept.
    pub(super) fn admit(&mut self, kind: K, now: Instant, sample: impl FnOnce() -> S) -> Verdict {
        let kind = self.kinds.entry(kind).or_insert_with(|| Kind::new(now, TOLD));
        // What was withheld is told before a new window begins.
        if kind.withheld.is_none() && now >= kind.began + WINDOW {
            *kind = Kind::new(now, TOLD);
        }
        if kind.left > 0 {
            kind.left -= 1;
            return Verdict::Tell;
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

    /// What has been withheld in windows that have ended. For each of these another begins.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Withheld<S>> {
        let ended = self.kinds.values_mut().filter(|kind| now >= kind.began + WINDOW);
        ended
            .filter_map(|kind| {
                let withheld = kind.withheld.take()?;
                *kind = Kind::new(now, TOLD_IN_A_FLOOD);
                Some(withheld)
            })
            .collect()
    }

    /// When [`due`](Self::due) will have something, if there is anything.
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

    /// `count` lines of a kind at `now`, and how many of them are told.
    fn told(throttle: &mut Throttle<char, u64>, kind: char, now: Instant, count: u64) -> usize {
        let verdicts = (0..count).map(|number| throttle.admit(kind, now, || number));
        verdicts.filter(|verdict| *verdict == Verdict::Tell).count()
    }

    #[test]
    fn what_repeats_is_told_a_few_times_and_then_counted() {
        let (start, mut throttle) = (Instant::now(), Throttle::new());
        assert_eq!(throttle.next_due(), None);
        assert_eq!(told(&mut throttle, 'a', start, 10_000), 5);
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
        assert_eq!(told(&mut throttle, 'a', start, 100), 5);
        for window in 1..100 {
            let now = start + WINDOW * window;
            assert_eq!(throttle.due(now).len(), 1, "{window}");
            assert_eq!(told(&mut throttle, 'a', now, 100), 1, "{window}");
        }
        // And when it has ended, all is as before.
        let end = start + WINDOW * 100;
        assert_eq!(throttle.due(end).len(), 1);
        assert_eq!(told(&mut throttle, 'a', end + WINDOW, 5), 5);
    }

    #[test]
    fn kinds_are_counted_each_for_itself() {
        let (start, mut throttle) = (Instant::now(), Throttle::new());
        assert_eq!(told(&mut throttle, 'a', start, 6), 5);
        let later = start + WINDOW / 2;
        assert_eq!(told(&mut throttle, 'b', later, 7), 5);
        assert_eq!(throttle.due(start + WINDOW)[0].count, 1);
        assert_eq!(throttle.next_due(), Some(later + WINDOW));
        assert_eq!(throttle.due(later + WINDOW)[0].count, 2);
    }

    #[test]
    fn what_is_seldom_is_told_in_full() {
        let (start, mut throttle) = (Instant::now(), Throttle::new());
        for window in 0..100 {
            assert_eq!(
                told(&mut throttle, 'a', start + WINDOW * window, 5),
                5,
                "{window}"
            );
        }
        assert_eq!(throttle.next_due(), None);
    }

    #[test]
    fn a_count_that_is_late_is_whole() {
        let (start, mut throttle) = (Instant::now(), Throttle::new());
        assert_eq!(told(&mut throttle, 'a', start, 6), 5);
        assert_eq!(told(&mut throttle, 'a', start + WINDOW * 2, 6), 0);
        assert_eq!(throttle.due(start + WINDOW * 3)[0].count, 7);
    }
}
