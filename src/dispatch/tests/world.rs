//! A simulation around a dispatcher: loads of calls, a source with latency, and the outcome of each call.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use fastrand::Rng;

use crate::dispatch::{Budget, Class, Dispatcher, Next, Outcome, Permit, Refused, Request};

/// A load: who calls, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) class: Class,
    /// Calls a second, at random times.
    pub(super) rate: f64,
    /// The number of callers of this load, one of which makes each call at random.
    pub(super) callers: u64,
    /// Each call uses a new connection.
    pub(super) reconnects: bool,
    /// The number of connections, one of which makes all calls of a batch at random.
    pub(super) connections: u64,
    /// The callers are those of that load, over other connections.
    pub(super) caller_of: Option<usize>,
    /// Calls come at equal intervals, within a tenth.
    pub(super) regular: bool,
    /// Calls at once.
    pub(super) batch: u32,
    /// The time from call to deadline. `None`: nobody waits.
    pub(super) patience: Option<f64>,
    /// How often a refused call is retried when it was told to.
    pub(super) comes_again: u32,
    /// The time span.
    pub(super) from: f64,
    pub(super) until: f64,
}

impl Load {
    /// One caller with 30 s of patience.
    pub(super) fn new(class: Class, rate: f64) -> Self {
        Self {
            class,
            rate,
            callers: 1,
            reconnects: false,
            connections: 1,
            caller_of: None,
            regular: false,
            batch: 1,
            patience: class.is_awaited().then_some(30.0),
            comes_again: 0,
            from: 0.0,
            until: f64::INFINITY,
        }
    }
}

/// The outcomes of a load's calls. Times are in seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) offered: u64,
    pub(super) admitted: u64,
    pub(super) refused: u64,
    pub(super) expired: u64,
    pub(super) started: u64,
    /// Answers in time for their callers.
    pub(super) answered: u64,
    pub(super) waits: Vec<f64>,
    /// Waits that were longer than promised.
    pub(super) late: u64,
    /// Retries at the given time, and those admitted.
    pub(super) came_again: u64,
    pub(super) got_in: u64,
    /// The same for reservations.
    pub(super) came_reserved: u64,
    pub(super) got_in_reserved: u64,
    pub(super) longest_pause: f64,
    /// Answers of each caller.
    pub(super) by_caller: Vec<u64>,
}

impl Tally {
    pub(super) fn mean_wait(&self) -> f64 {
        self.waits.iter().sum::<f64>() / self.waits.len().max(1) as f64
    }

    pub(super) fn longest_wait(&self) -> f64 {
        self.waits.iter().copied().fold(0.0, f64::max)
    }
}

#[derive(Debug)]
struct Call {
    load: usize,
    caller: u64,
    connection: u64,
    deadline: Option<f64>,
    /// Retries left.
    left: u32,
    again: bool,
    reserved: bool,
    promised: f64,
}

#[derive(Debug)]
enum Event {
    Calls(usize),
    Again(Call),
    Finished(Permit, Call),
    Wake,
}

#[derive(Debug)]
struct At(f64, u64, Event);

impl PartialEq for At {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for At {}
impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

pub(super) struct World {
    dispatcher: Dispatcher<Call>,
    loads: Vec<Load>,
    /// The source's mean latency in seconds; it varies by half.
    latency: f64,
    epoch: Instant,
    events: BinaryHeap<Reverse<At>>,
    made: u64,
    /// One for each load, so that a load's calls are the same beside any other load.
    rngs: Vec<Rng>,
    rng: Rng,
    warm: f64,
    max_queue_wait: f64,
    wake: f64,
    pub(super) tallies: Vec<Tally>,
    pub(super) most_running: u32,
    running: u32,
    /// Starts of all loads, in order.
    pub(super) starts: Vec<f64>,
}

/// 20 a second, 32 at once: plaque's own settings.
pub(super) fn budget() -> Budget {
    Budget {
        rate: Some(20.0),
        burst: 20.0,
        slots: NonZeroU32::new(32).expect("not 0"),
        places: NonZeroU32::new(1000).expect("not 0"),
        max_queue_wait: Duration::from_secs(5),
    }
}

impl World {
    pub(super) fn new(budget: &Budget, latency: f64, loads: &[Load], seed: u64) -> Self {
        let epoch = Instant::now();
        let mut world = Self {
            dispatcher: Dispatcher::new(budget, epoch),
            loads: loads.to_vec(),
            latency,
            epoch,
            events: BinaryHeap::new(),
            made: 0,
            rngs: (0..)
                .map(|load| Rng::with_seed(seed ^ (load + 1)))
                .take(loads.len())
                .collect(),
            rng: Rng::with_seed(seed),
            warm: 0.0,
            max_queue_wait: budget.max_queue_wait.as_secs_f64(),
            wake: f64::INFINITY,
            tallies: loads
                .iter()
                .map(|load| Tally {
                    by_caller: vec![0; usize::try_from(load.callers).expect("few")],
                    ..Tally::default()
                })
                .collect(),
            most_running: 0,
            running: 0,
            starts: Vec::new(),
        };
        for (load, of) in loads.iter().enumerate() {
            let first = of.from + world.gap(load);
            world.put(first, Event::Calls(load));
        }
        world
    }

    /// Runs for `warm` seconds, and then for `seconds` that count.
    pub(super) fn run(mut self, warm: f64, seconds: f64) -> Self {
        self.warm = warm;
        while let Some(Reverse(At(now, _, event))) = self.events.pop() {
            if now > warm + seconds {
                break;
            }
            match event {
                Event::Calls(load) => {
                    let connection = match self.loads[load].connections {
                        1 => load as u64,
                        several => self.rngs[load].u64(..several),
                    };
                    for _ in 0..self.loads[load].batch {
                        let call = self.call(load, connection, now);
                        self.offer(call, now);
                    }
                    let next = now + self.gap(load);
                    if next < self.loads[load].until {
                        self.put(next, Event::Calls(load));
                    }
                }
                Event::Again(call) => self.offer(call, now),
                Event::Finished(permit, call) => self.finish(permit, &call, now),
                Event::Wake => self.wake = f64::INFINITY,
            }
            self.dispatch(now);
        }
        self
    }

    fn call(&mut self, load: usize, connection: u64, now: f64) -> Call {
        let of = self.loads[load];
        Call {
            load,
            caller: self.rngs[load].u64(0..of.callers),
            connection: if of.reconnects {
                self.rngs[load].u64(..)
            } else {
                connection
            },
            deadline: of.patience.map(|patience| now + patience),
            left: of.comes_again,
            again: false,
            reserved: false,
            promised: 0.0,
        }
    }

    fn offer(&mut self, mut call: Call, now: f64) {
        let counts = now >= self.warm;
        let at = self.at(now);
        let index = call.load;
        let load = self.loads[index];
        if call.again {
            call.deadline = load.patience.map(|patience| now + patience);
        }
        let usual = self.dispatcher.usual_fetch(at).as_secs_f64();
        let latest_start = call.deadline.map(|deadline| deadline - usual);
        let request = Request {
            class: load.class,
            caller: load.caller_of.unwrap_or(call.load) as u64 * 1_000_000 + call.caller,
            connection: call.connection,
            // Not before the beginning of the simulation.
            latest_start: latest_start.map(|latest| self.epoch + Duration::from_secs_f64(latest.max(0.0))),
        };
        call.promised = latest_start
            .unwrap_or(f64::INFINITY)
            .min(now + self.max_queue_wait);
        let chance = self.rng.f64();
        let (again, reserved) = (call.again, call.reserved);
        let again_with = Call { ..call };
        let admitted = self.dispatcher.admit(&request, call, at, chance);
        if let Err(Refused {
            retry_after,
            reserved,
        }) = admitted
            && again_with.left > 0
        {
            // The network's round trip.
            let at = now + retry_after.as_secs_f64() + 0.01 * self.rng.f64();
            let call = Call {
                left: again_with.left - 1,
                again: true,
                reserved,
                ..again_with
            };
            self.put(at, Event::Again(call));
        }
        if !counts {
            return;
        }
        let tally = &mut self.tallies[index];
        tally.offered += u64::from(!again);
        tally.came_again += u64::from(again);
        tally.came_reserved += u64::from(again && reserved);
        match admitted {
            Ok(_) => {
                tally.admitted += 1;
                tally.got_in += u64::from(again);
                tally.got_in_reserved += u64::from(again && reserved);
            }
            Err(refused) => {
                tally.refused += 1;
                tally.longest_pause = tally.longest_pause.max(refused.retry_after.as_secs_f64());
            }
        }
    }

    fn dispatch(&mut self, now: f64) {
        loop {
            match self.dispatcher.next(self.at(now)) {
                Next::Start {
                    payload: call,
                    permit,
                    waited,
                    ..
                } => {
                    self.running += 1;
                    self.most_running = self.most_running.max(self.running);
                    if now >= self.warm {
                        self.starts.push(now);
                        let tally = &mut self.tallies[call.load];
                        tally.started += 1;
                        tally.waits.push(waited.as_secs_f64());
                        tally.late += u64::from(now > call.promised + 1e-6);
                    }
                    let takes = self.latency * (0.5 + self.rng.f64());
                    self.put(now + takes, Event::Finished(permit, call));
                }
                Next::Expired { payload: call, .. } => {
                    if now >= self.warm {
                        self.tallies[call.load].expired += 1;
                    }
                }
                Next::WaitUntil(until) => {
                    let until = until.duration_since(self.epoch).as_secs_f64() + 1e-9;
                    assert!(until > now, "it says to wait until {until} at {now}");
                    if until < self.wake {
                        self.wake = until;
                        self.put(until, Event::Wake);
                    }
                    return;
                }
                Next::Idle => {
                    assert_eq!(self.dispatcher.queued(), 0);
                    return;
                }
            }
        }
    }

    fn finish(&mut self, permit: Permit, call: &Call, now: f64) {
        self.running -= 1;
        self.dispatcher.finished(permit, self.at(now), Outcome::Completed);
        if now >= self.warm && call.deadline.is_none_or(|deadline| now <= deadline) {
            let tally = &mut self.tallies[call.load];
            tally.answered += 1;
            tally.by_caller[usize::try_from(call.caller).expect("few")] += 1;
        }
    }

    /// The time until a load's next calls: exponential, unless they are regular.
    fn gap(&mut self, load: usize) -> f64 {
        let of = self.loads[load];
        let chance = self.rngs[load].f64();
        let part = if of.regular {
            0.9 + 0.2 * chance
        } else {
            -(1.0 - chance).ln()
        };
        part * f64::from(of.batch) / of.rate
    }

    fn put(&mut self, at: f64, event: Event) {
        self.made += 1;
        self.events.push(Reverse(At(at, self.made, event)));
    }

    fn at(&self, now: f64) -> Instant {
        self.epoch + Duration::from_secs_f64(now)
    }
}

/// Jain's fairness index: 1 if all get the same, 1/n if one gets everything.
pub(super) fn jain(got: &[f64]) -> f64 {
    let sum = got.iter().sum::<f64>();
    let squares = got.iter().map(|each| each * each).sum::<f64>();
    sum * sum / (got.len() as f64 * squares)
}
