//! The planner and the dispatcher together, beside callers.

use std::{cmp::Reverse, collections::BinaryHeap, num::NonZeroU32};

use super::*;
use crate::dispatch::{self, Budget, Class, Dispatcher, Outcome, Permit, Request};

/// The mean latency of a fetch; it varies by half.
const LATENCY: f64 = 0.2;

enum Job {
    Poll(u32),
    /// Of a caller who came then.
    Call(f64),
}

/// The settings of a simulation.
struct Scene {
    /// Lookups a second.
    rate: f64,
    every: f64,
    /// The channels' uploads a second.
    uploads: Vec<f64>,
    /// Calls a second at random times, and when they begin.
    calls: f64,
    calls_from: f64,
    /// The beginning and end of the time that counts.
    warm: f64,
    until: f64,
    seed: u64,
}

#[derive(Debug, Default)]
struct Seen {
    /// When each channel was first found.
    first_found: Vec<Option<f64>>,
    /// The mean time from an upload to the fetch that finds it.
    mean_delay: f64,
    /// Per second.
    polls: f64,
    answers: f64,
    /// Polls that got no permit.
    refused_polls: u32,
    refused_calls: u32,
    longest_wait: f64,
    mean_wait: f64,
}

#[expect(clippy::too_many_lines, reason = "one loop over everything that happens")]
fn play(scene: &Scene) -> Seen {
    let mut rng = Rng::with_seed(scene.seed);
    let epoch = Instant::now();
    let at = |now: f64| epoch + Duration::from_secs_f64(now);
    let after = |instant: Instant| instant.duration_since(epoch).as_secs_f64() + 1e-9;
    let budget = Budget {
        rate: Some(scene.rate),
        burst: scene.rate.max(1.0),
        slots: NonZeroU32::new(32).expect("some"),
        places: NonZeroU32::new(1000).expect("some"),
        max_queue_wait: Duration::from_secs(5),
    };
    let mut dispatcher = Dispatcher::<Job>::new(&budget, epoch);
    let limits = Limits {
        every: Duration::from_secs_f64(scene.every),
        at_most: Duration::from_hours(1),
        budget: scene.rate,
    };
    let mut planner = Planner::new(limits, epoch);
    let mut feeds: Vec<_> = scene
        .uploads
        .iter()
        .map(|rate| Uploads::new(*rate, &mut rng))
        .collect();
    let count = feeds.len();
    (0..u32::try_from(count).expect("few")).for_each(|key| planner.insert(key, 1));
    let mut seen = Seen {
        first_found: vec![None; count],
        ..Seen::default()
    };
    let mut last_found = vec![None::<f64>; count];
    let mut sums = vec![(0.0, 0.0); count];
    let mut under_way = vec![false; count];
    // Fetches by their end, with the index of job and permit in `running`.
    let mut ends: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut running: Vec<Option<(Job, Permit)>> = Vec::new();
    let gap = |rng: &mut Rng| -(1.0 - rng.f64()).ln() / scene.calls;
    let mut next_call = if scene.calls > 0.0 {
        scene.calls_from + gap(&mut rng)
    } else {
        f64::INFINITY
    };
    let (mut now, mut next_budget, mut calls, mut waits) = (0.0_f64, 0.0_f64, 0_u32, 0.0);
    while now < scene.until {
        let counts = now >= scene.warm;
        while let Some(Reverse((end, place))) = ends.peek().copied()
            && f64::from_bits(end) <= now
        {
            ends.pop();
            let (job, permit) = running[place].take().expect("it runs");
            dispatcher.finished(permit, at(now), Outcome::Completed);
            match job {
                Job::Poll(key) => {
                    let index = key as usize;
                    under_way[index] = false;
                    planner.observed(key, feeds[index].ages(now, &mut rng), at(now));
                    seen.first_found[index].get_or_insert(now);
                    if let Some(last) = last_found[index].replace(now)
                        && counts
                    {
                        let interval = now - last;
                        sums[index].0 += interval;
                        sums[index].1 += interval * interval / 2.0;
                    }
                    seen.polls += f64::from(u8::from(counts));
                }
                Job::Call(_) => seen.answers += f64::from(u8::from(counts)),
            }
        }
        if now >= next_budget {
            let room = dispatcher.room_for_polls(at(now)).expect("there is a rate");
            planner.set_budget(room, at(now));
            next_budget = now + 1.0;
        }
        let request = |class, deadline: Option<f64>| Request {
            class,
            caller: u64::from(class != Class::Poll),
            connection: 0,
            latest_start: deadline.map(at),
        };
        while next_call <= now {
            next_call += gap(&mut rng);
            let request = request(Class::AwaitedKnown, Some(now + 29.0));
            let admitted = dispatcher.admit(&request, Job::Call(now), at(now), rng.f64());
            seen.refused_calls += u32::from(admitted.is_err());
        }
        let next_poll = loop {
            match planner.next(at(now)) {
                Next::Poll(key) if std::mem::replace(&mut under_way[key as usize], true) => {
                    planner.return_poll();
                }
                Next::Poll(key) => {
                    let request = request(Class::Poll, None);
                    let admitted = dispatcher.admit(&request, Job::Poll(key), at(now), rng.f64());
                    if let Err(refused) = admitted {
                        under_way[key as usize] = false;
                        seen.refused_polls += 1;
                        planner.refused(key, refused.retry_after, at(now));
                    }
                }
                Next::WaitUntil(until) => break after(until),
                Next::Idle => break f64::INFINITY,
            }
        };
        let next_start = loop {
            match dispatcher.next(at(now)) {
                dispatch::Next::Start { payload, permit, .. } => {
                    if let Job::Call(came) = payload {
                        let wait = now - came;
                        seen.longest_wait = seen.longest_wait.max(wait);
                        waits += wait;
                        calls += 1;
                    }
                    let end: f64 = now + LATENCY * (0.5 + rng.f64());
                    ends.push(Reverse((end.to_bits(), running.len())));
                    running.push(Some((payload, permit)));
                }
                dispatch::Next::Expired { payload, refused, .. } => match payload {
                    Job::Poll(key) => {
                        under_way[key as usize] = false;
                        seen.refused_polls += 1;
                        planner.refused(key, refused.retry_after, at(now));
                    }
                    Job::Call(_) => seen.refused_calls += 1,
                },
                dispatch::Next::WaitUntil(until) => break after(until),
                dispatch::Next::Idle => break f64::INFINITY,
            }
        };
        let ended = ends.peek().map_or(f64::INFINITY, |end| f64::from_bits(end.0.0));
        now = next_poll
            .min(next_start)
            .min(ended)
            .min(next_call)
            .min(next_budget)
            .max(now);
    }
    let mut delays = 0.0;
    for (index, (sum, half_squares)) in sums.iter().enumerate() {
        let key = u32::try_from(index).expect("few");
        let interval = planner.interval(key).expect("it is watched").as_secs_f64();
        let delay = if *sum > 0.0 {
            half_squares / sum
        } else {
            interval / 2.0
        };
        delays += scene.uploads[index] * delay;
    }
    // A fetch may miss an upload during it.
    seen.mean_delay = delays / scene.uploads.iter().sum::<f64>() + LATENCY;
    seen.polls /= scene.until - scene.warm;
    seen.answers /= scene.until - scene.warm;
    seen.mean_wait = waits / f64::from(calls.max(1));
    seen
}

fn uneven(count: usize, seed: u64) -> Vec<f64> {
    rates(count, 2.0, &mut Rng::with_seed(seed))
}

#[test]
fn six_hundred_new_watches_are_all_polled_within_33_seconds_and_none_is_refused() {
    let seen = play(&Scene {
        rate: 20.0,
        every: 60.0,
        uploads: uneven(600, 1),
        calls: 0.0,
        calls_from: 0.0,
        warm: 0.0,
        until: 40.0,
        seed: 1,
    });
    let found = seen
        .first_found
        .iter()
        .map(|found| found.unwrap_or(f64::INFINITY));
    let last = found.fold(0.0, f64::max);
    assert!(last < 33.0, "{last}");
    assert_eq!(seen.refused_polls, 0);
}

#[test]
fn beside_callers_an_upload_is_noticed_within_ten_seconds() {
    // 2,000 channels at 50 lookups a second, of which callers take a tenth.
    let seen = play(&Scene {
        rate: 50.0,
        every: 1.0,
        uploads: uneven(2000, 6),
        calls: 5.0,
        calls_from: 0.0,
        warm: 1800.0,
        until: 2400.0,
        seed: 2,
    });
    assert!(seen.mean_delay < 10.0, "{}", summary(&seen));
    assert!(seen.polls + seen.answers > 0.95 * 50.0, "{}", summary(&seen));
    assert_eq!(seen.refused_calls, 0);
    // Polls use all that callers leave, and callers wait a turn or two at most.
    assert!(seen.mean_wait < 2.0 / 50.0, "{}", summary(&seen));
}

#[test]
fn when_callers_take_all_they_can_polls_keep_their_share() {
    let seen = play(&Scene {
        rate: 20.0,
        every: 60.0,
        uploads: uneven(2000, 7),
        calls: 60.0,
        calls_from: 600.0,
        warm: 700.0,
        until: 1300.0,
        seed: 3,
    });
    // A quarter is guaranteed; of two classes with more demand than capacity, polls get two fifths.
    assert!((4.9..8.1).contains(&seen.polls), "{}", summary(&seen));
    assert!(seen.polls + seen.answers > 0.97 * 20.0, "{}", summary(&seen));
    // After the first moments the plan matches the capacity.
    assert!(seen.refused_polls < 50, "{}", summary(&seen));
}

fn summary(seen: &Seen) -> String {
    format!(
        "delay {:.2}, polls {:.2}, answers {:.2}, refused {} polls, {} calls, waits {:.3} and {:.3}",
        seen.mean_delay,
        seen.polls,
        seen.answers,
        seen.refused_polls,
        seen.refused_calls,
        seen.mean_wait,
        seen.longest_wait
    )
}
