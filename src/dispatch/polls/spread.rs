//! The square-root rule with limits: the interval of each channel within a budget.
//!
//! A channel with λ uploads a second that is polled every `I` seconds has λ·I/2 seconds of delay a second. With weights w and a budget for
//! Σ 1/I, the weighted sum of delays is least if 1/I is proportional to √(w·λ) (Cho and Garcia-Molina 2003; Sia, Cho and Cho 2007), within
//! the limits of I. So one number, the scale, determines all intervals. It is found from a histogram of √(w·λ), at the same cost for fifty
//! channels and fifty thousand.

/// Within an eighth of an octave, intervals differ by a tenth; that only matters in the bucket that contains a limit.
const BUCKETS_PER_OCTAVE: f64 = 8.0;

/// The lower end of the histogram: one of 100,000 channels of a caller, with an upload in three centuries.
const MIN_IMPORTANCE: f64 = 1e-9;

/// 32 octaves.
const BUCKETS: usize = 256;

/// The most of the budget, as a part, that is spent on polling every channel at the longest interval. With more channels than that allows,
/// the longest interval is exceeded, so that some of the budget still goes by rate and weight.
const MAX_BASELINE: f64 = 0.8;

/// The numbers of channels by √(w·λ).
#[derive(Debug)]
pub(super) struct Histogram {
    counts: [u32; BUCKETS],
    sums: [f64; BUCKETS],
    /// Channels without importance, which get the longest interval even if there is room for all.
    zeros: u32,
    total: u32,
}

/// The intervals of all channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// Polls a second for each unit of √(w·λ).
    scale: f64,
    slowest: f64,
    fastest: f64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
            sums: [0.0; BUCKETS],
            zeros: 0,
            total: 0,
        }
    }

    pub(super) fn add(&mut self, importance: f64) {
        self.total += 1;
        if importance <= 0.0 {
            self.zeros += 1;
            return;
        }
        let bucket = bucket(importance);
        self.counts[bucket] += 1;
        self.sums[bucket] += importance;
    }

    pub(super) fn remove(&mut self, importance: f64) {
        self.total -= 1;
        if importance <= 0.0 {
            self.zeros -= 1;
            return;
        }
        let bucket = bucket(importance);
        self.counts[bucket] -= 1;
        self.sums[bucket] -= importance;
        if self.counts[bucket] == 0 {
            // Rounding errors do not outlive the channels.
            self.sums[bucket] = 0.0;
        }
    }

    #[cfg(test)]
    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// Spends `budget` polls a second on intervals from `every` to `at_most` seconds.
    pub(super) fn spread(&self, budget: f64, every: f64, at_most: f64) -> Spread {
        let total = f64::from(self.total.max(1));
        let fastest = every.recip();
        let slowest = at_most.recip().min(MAX_BASELINE * budget / total).min(fastest);
        let spread = |scale| Spread {
            scale,
            slowest,
            fastest,
        };
        let zeros = f64::from(self.zeros);
        if (total - zeros) * fastest + zeros * slowest <= budget {
            return spread(f64::INFINITY);
        }
        let (mut low, mut high) = (-60.0_f64, 60.0_f64);
        while high - low > 1e-4 {
            let middle = f64::midpoint(low, high);
            if self.polls(spread(middle.exp2())) > budget {
                high = middle;
            } else {
                low = middle;
            }
        }
        spread(low.exp2())
    }

    fn polls(&self, spread: Spread) -> f64 {
        let buckets = self.counts.iter().zip(&self.sums);
        let polls = buckets.filter(|(count, _)| **count > 0).map(|(count, sum)| {
            let count = f64::from(*count);
            count * spread.rate(sum / count)
        });
        polls.sum::<f64>() + f64::from(self.zeros) * spread.slowest
    }
}

impl Spread {
    /// Whether the budget is too small for the shortest interval everywhere.
    pub(super) fn is_limited(self) -> bool {
        self.scale.is_finite()
    }

    fn rate(self, importance: f64) -> f64 {
        if importance <= 0.0 {
            return self.slowest;
        }
        (self.scale * importance).clamp(self.slowest, self.fastest)
    }

    /// In seconds.
    pub(super) fn interval(self, importance: f64) -> f64 {
        self.rate(importance).recip()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the buckets"
)]
fn bucket(importance: f64) -> usize {
    let octaves = (importance.max(MIN_IMPORTANCE) / MIN_IMPORTANCE).log2();
    ((octaves * BUCKETS_PER_OCTAVE) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests;
