//! Estimates how often a channel uploads from the dates in its feed.

use std::time::Duration;

/// The rate assumed for a channel without dates: an upload a day.
pub(super) const PRIOR_RATE: f64 = 1.0 / 86_400.0;

/// The weight of that assumption, in uploads. Rates vary by orders of magnitude: a standard deviation of 2 for the logarithm corresponds to
/// 1/2² of an upload.
const PRIOR_WEIGHT: f64 = 0.25;

/// Added to the count of uploads, as in Jeffreys' prior: none in a long time means a low rate, not 0.
const HALF: f64 = 0.5;

/// The shortest period: a few uploads within it do not mean thousands a day.
const MIN_PERIOD: f64 = 600.0;

/// Uploads a second, from the ages of the newest uploads: the mean of the logarithms of the Poisson estimate and of the assumed rate, by
/// their weights, as a log-normal prior has it. A gamma prior would be handier, but falls off so fast above its mean that it underestimates
/// busy channels, which have most of all uploads. The time since the oldest upload counts in full, so a channel that has stopped gets
/// slower from poll to poll.
pub(super) fn from_ages(ages: impl IntoIterator<Item = Duration>) -> f64 {
    let mut count = 0_u32;
    let mut oldest = Duration::ZERO;
    for age in ages {
        count += 1;
        oldest = oldest.max(age);
    }
    if count == 0 {
        return PRIOR_RATE;
    }
    // The oldest upload only begins the period.
    let uploads = f64::from(count - 1) + HALF;
    let seen = (uploads / oldest.as_secs_f64().max(MIN_PERIOD)).ln();
    let logarithm = (uploads * seen + PRIOR_WEIGHT * PRIOR_RATE.ln()) / (uploads + PRIOR_WEIGHT);
    logarithm.exp()
}

#[cfg(test)]
mod tests;
