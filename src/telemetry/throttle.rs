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
mod tests;
