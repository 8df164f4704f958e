//! Simulations of the planner: virtual time, uneven upload rates, the delay from upload to poll.

mod replicas;
mod steps;
mod together;

use fastrand::Rng;

use super::*;

const DAY: f64 = 86_400.0;

fn limits(budget: f64) -> Limits {
    Limits {
        every: Duration::from_mins(1),
        at_most: Duration::from_hours(1),
        budget,
    }
}

/// Uploads a second: log-normal with a median of two a day.
fn rates(count: usize, sigma: f64, rng: &mut Rng) -> Vec<f64> {
    let normal = |rng: &mut Rng| {
        let (radius, angle) = ((1.0 - rng.f64()).ln() * -2.0, std::f64::consts::TAU * rng.f64());
        radius.sqrt() * angle.cos()
    };
    (0..count)
        .map(|_| 2.0 / DAY * (sigma * normal(rng)).exp())
        .collect()
}

/// The mean delay with the best intervals for the true rates.
fn optimum(rates: &[f64], limits: &Limits) -> f64 {
    let (every, at_most) = (limits.every.as_secs_f64(), limits.at_most.as_secs_f64());
    let intervals = |scale: f64| {
        rates
            .iter()
            .map(move |rate| (scale / rate.sqrt()).clamp(every, at_most))
    };
    let (mut low, mut high) = (1e-9_f64, 1e9_f64);
    for _ in 0..200 {
        let scale = (low * high).sqrt();
        let polls: f64 = intervals(scale).map(f64::recip).sum();
        if polls > limits.budget {
            low = scale;
        } else {
            high = scale;
        }
    }
    mean_delay(rates, intervals(high))
}

fn mean_delay(rates: &[f64], intervals: impl Iterator<Item = f64>) -> f64 {
    let delays: f64 = rates
        .iter()
        .zip(intervals)
        .map(|(rate, interval)| rate * interval / 2.0)
        .sum();
    delays / rates.iter().sum::<f64>()
}

/// A channel that uploads at random, and its feed.
struct Uploads {
    rate: f64,
    /// The newest 15, newest last; seconds.
    dates: std::collections::VecDeque<f64>,
    next: f64,
}

impl Uploads {
    fn new(rate: f64, rng: &mut Rng) -> Self {
        let gap = |rng: &mut Rng| -(1.0 - rng.f64()).ln() / rate;
        let mut dates = std::collections::VecDeque::new();
        let mut date = -gap(rng);
        // The channel was created five years ago.
        while dates.len() < 15 && date > -5.0 * 365.0 * DAY {
            dates.push_front(date);
            date -= gap(rng);
        }
        Self {
            rate,
            dates,
            next: gap(rng),
        }
    }

    fn ages(&mut self, now: f64, rng: &mut Rng) -> Vec<Duration> {
        while self.next <= now {
            self.dates.push_back(self.next);
            self.next -= (1.0 - rng.f64()).ln() / self.rate;
        }
        while self.dates.len() > 15 {
            self.dates.pop_front();
        }
        self.dates
            .iter()
            .map(|date| Duration::from_secs_f64(now - date))
            .collect()
    }
}

/// The result of a simulation.
struct Came {
    mean_delay: f64,
    polls: f64,
    longest_interval: f64,
}

/// Simulates `warm` seconds, and `seconds` that count.
fn simulate(rates: &[f64], limits: Limits, known: bool, warm: f64, seconds: f64, rng: &mut Rng) -> Came {
    let epoch = Instant::now();
    let at = |now: f64| epoch + Duration::from_secs_f64(now);
    let mut planner = Planner::new(limits, epoch);
    let mut feeds: Vec<Uploads> = rates.iter().map(|rate| Uploads::new(*rate, rng)).collect();
    let look = |planner: &mut Planner<u32>, feeds: &mut [Uploads], key: u32, now: f64, rng: &mut Rng| {
        if known {
            planner.set_rate(key, rates[key as usize], at(now));
        } else {
            planner.observed(key, feeds[key as usize].ages(now, rng), at(now));
        }
    };
    let count = u32::try_from(rates.len()).expect("few");
    for key in 0..count {
        planner.insert(key, 1);
        look(&mut planner, &mut feeds, key, 0.0, rng);
    }
    let end = warm + seconds;
    // Of whole intervals that end in the time that counts: their number, sum, and half the sum of their squares.
    let mut last: Vec<Option<f64>> = vec![None; rates.len()];
    let mut sums = vec![(0.0, 0.0); rates.len()];
    let (mut now, mut polls, mut longest) = (0.0, 0_u32, 0.0_f64);
    while now < end {
        match planner.next(at(now)) {
            Next::Poll(key) => {
                let index = key as usize;
                if let Some(last) = last[index].replace(now)
                    && now >= warm
                {
                    let interval = now - last;
                    longest = longest.max(interval);
                    sums[index].0 += interval;
                    sums[index].1 += interval * interval / 2.0;
                }
                polls += u32::from(now >= warm);
                look(&mut planner, &mut feeds, key, now, rng);
            }
            Next::WaitUntil(until) => now = until.duration_since(epoch).as_secs_f64() + 1e-9,
            Next::Idle => panic!("channels are watched"),
        }
    }
    let mut delays = 0.0;
    for (index, (sum, half_squares)) in sums.iter().enumerate() {
        let interval_at_the_end = planner
            .interval(u32::try_from(index).expect("few"))
            .expect("it is watched");
        let delay = if *sum > 0.0 {
            half_squares / sum
        } else {
            interval_at_the_end.as_secs_f64() / 2.0
        };
        delays += rates[index] * delay;
    }
    Came {
        mean_delay: delays / rates.iter().sum::<f64>(),
        polls: f64::from(polls) / seconds,
        longest_interval: longest,
    }
}

/// The ratio of the mean delay to the optimum, with the delays of both and of even polling.
fn ratio(count: usize, budget: f64, sigma: f64, known: bool) -> f64 {
    let mut rng = Rng::with_seed(5);
    let rates = rates(count, sigma, &mut rng);
    let limits = limits(budget);
    let came = simulate(&rates, limits, known, 3600.0, 3600.0, &mut rng);
    assert!(came.polls <= 1.005 * budget, "{} of {budget}", came.polls);
    assert!(
        came.polls >= 0.95 * budget,
        "{} of {budget}: the budget is there to be used",
        came.polls
    );
    assert!(came.longest_interval < 1.05 * 3600.0, "{}", came.longest_interval);
    came.mean_delay / optimum(&rates, &limits)
}

#[test]
fn with_known_rates_the_mean_delay_is_near_the_optimum() {
    for (count, budget) in [(500, 2.0), (5000, 20.0)] {
        for sigma in [1.0, 2.0] {
            let ratio = ratio(count, budget, sigma, true);
            assert!(ratio < 1.1, "{count}, {sigma}: {ratio}");
        }
    }
}

#[test]
fn with_estimated_rates_too() {
    for (count, budget) in [(500, 2.0), (5000, 20.0)] {
        for sigma in [1.0, 2.0] {
            let ratio = ratio(count, budget, sigma, false);
            assert!(ratio < 1.15, "{count}, {sigma}: {ratio}");
        }
    }
}

#[test]
fn for_fifty_thousand_channels_too() {
    let ratio = ratio(50_000, 20.0, 2.0, false);
    assert!(ratio < 1.15, "{ratio}");
}

#[test]
fn two_thousand_channels_at_fifty_lookups_a_second_are_heard_of_within_ten_seconds() {
    let mut rng = Rng::with_seed(6);
    let rates = rates(2000, 2.0, &mut rng);
    let limits = Limits {
        every: Duration::from_secs(1),
        ..limits(50.0)
    };
    let came = simulate(&rates, limits, false, 3600.0, 600.0, &mut rng);
    assert!(came.mean_delay < 10.0, "{}", came.mean_delay);
}

#[test]
fn with_room_for_all_every_channel_is_polled_at_the_shortest_interval() {
    let mut rng = Rng::with_seed(7);
    let rates = rates(500, 2.0, &mut rng);
    let came = simulate(&rates, limits(20.0), false, 600.0, 1200.0, &mut rng);
    assert!((came.mean_delay - 30.0).abs() < 1.6, "{}", came.mean_delay);
    assert!(
        (60.0..67.0).contains(&came.longest_interval),
        "{}",
        came.longest_interval
    );
}

/// The table in docs/watching.md: `cargo test --release --lib table_of_delays -- --ignored --nocapture`.
#[test]
#[ignore = "prints a table"]
#[expect(clippy::print_stdout, reason = "it is what it is for")]
fn table_of_delays() {
    println!(
        "| polls a second | channels | every channel alike | planned | best possible | longest interval |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for budget in [5.0, 15.0, 50.0] {
        for count in [500_u32, 2000, 5000, 20_000, 50_000] {
            let mut rng = Rng::with_seed(5);
            let rates = rates(count as usize, 2.0, &mut rng);
            let limits = limits(budget);
            let came = simulate(&rates, limits, false, 2.0 * 3600.0, 2.0 * 3600.0, &mut rng);
            let alike = (f64::from(count) / budget).max(60.0) / 2.0;
            // If the longest interval cannot be kept, there is no optimum within the limits.
            let best = if f64::from(count) / 3600.0 > 0.8 * budget {
                "–".to_owned()
            } else {
                format!("{:.0} s", optimum(&rates, &limits))
            };
            println!(
                "| {budget} | {count} | {alike:.0} s | {:.0} s | {best} | {:.0} min |",
                came.mean_delay,
                came.longest_interval / 60.0
            );
        }
    }
}
