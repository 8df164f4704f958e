//! The dispatcher's cost per lookup, compared with a plain bounded queue with a token bucket: `cargo bench -p benches --bench dispatch`.
//!
//! Each lookup is admitted, started when there is a token, and finished, while others are queued. Time is virtual, so nothing waits.
//! Memory is measured in separate processes, since memory freed by one measurement would be reused by the next.

#[path = "common/resident.rs"]
mod resident;
#[path = "common/table.rs"]
mod table;

use std::{
    collections::VecDeque,
    env,
    hint::black_box,
    io::{self, Write as _},
    num::NonZeroU32,
    process::Command,
    time::{Duration, Instant},
};

use mimalloc::MiMalloc;
use plaque::dispatch::{Budget, Class, Dispatcher, Next, Outcome, Permit, Request};
use rustix::time::{ClockId, clock_gettime};

use self::{resident::resident, table::table};

/// The same as in the program.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Far faster than any source, so that 100,000 queued lookups are within the longest wait.
const RATE: f64 = 20_000.0;

/// The time between two tokens.
const INTERVAL: Duration = Duration::from_micros(50);

const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Lookups in progress, of which the oldest ends when another starts.
const IN_PROGRESS: usize = 32;

/// Lookups in a round, and rounds, of which the median is reported.
const LOOKUPS: u32 = 100_000;
const ROUNDS: usize = 5;

/// The number of queued lookups, and of callers.
const SCENES: [(u32, u32); 6] = [
    (0, 1),
    (1_000, 1),
    (1_000, 100),
    (100_000, 1),
    (100_000, 100),
    (100_000, 10_000),
];

/// As large as the queue's real payload.
type Payload = u64;

/// The interface of both queues.
trait Line {
    /// Admits a lookup, or returns false.
    fn admit(&mut self, number: u32, flows: u32, now: Instant) -> bool;
    /// Starts a lookup, and ends the oldest one in progress.
    fn next(&mut self, now: Instant) -> bool;
}

struct Fair {
    dispatcher: Dispatcher<Payload>,
    in_progress: VecDeque<Permit>,
}

impl Fair {
    fn new(places: u32, now: Instant) -> Self {
        let count = |count| NonZeroU32::new(count).expect("not 0");
        let budget = Budget {
            rate: Some(RATE),
            burst: 1.0,
            slots: count(100_000),
            places: count(places),
            max_queue_wait: LONGEST_WAIT,
        };
        Self {
            dispatcher: Dispatcher::new(&budget, now),
            in_progress: VecDeque::with_capacity(IN_PROGRESS),
        }
    }
}

impl Line for Fair {
    fn admit(&mut self, number: u32, flows: u32, now: Instant) -> bool {
        let request = Request {
            class: Class::ALL[(number / flows) as usize % Class::ALL.len()],
            caller: (number % flows).into(),
            connection: 0,
            latest_start: Some(now + LONGEST_WAIT),
        };
        let chance = f64::from(number % 100) / 100.0;
        let admitted = self.dispatcher.admit(&request, number.into(), now, chance);
        black_box(admitted).is_ok()
    }

    fn next(&mut self, now: Instant) -> bool {
        let Next::Start { payload, permit, .. } = self.dispatcher.next(now) else {
            return false;
        };
        black_box(payload);
        self.in_progress.push_back(permit);
        if self.in_progress.len() == IN_PROGRESS
            && let Some(permit) = self.in_progress.pop_front()
        {
            self.dispatcher.finished(permit, now, Outcome::Completed);
        }
        true
    }
}

/// A FIFO queue that admits lookups while it has room.
struct Plain {
    waiting: VecDeque<(Instant, Payload)>,
    places: usize,
    /// When the next token is available.
    ready: Instant,
}

impl Plain {
    fn new(places: u32, now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            places: places as usize,
            ready: now,
        }
    }
}

impl Line for Plain {
    fn admit(&mut self, number: u32, _flows: u32, now: Instant) -> bool {
        let has_room = self.waiting.len() < self.places;
        if has_room {
            self.waiting.push_back(black_box((now, number.into())));
        }
        black_box(has_room)
    }

    fn next(&mut self, now: Instant) -> bool {
        if self.ready > now {
            return false;
        }
        self.ready = self.ready.max(now) + INTERVAL;
        black_box(self.waiting.pop_front()).is_some()
    }
}

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let [child, line, queued, flows] = arguments.as_slice()
        && child == "child"
    {
        let number = |text: &String| text.parse().expect("a number");
        let bytes = memory(line, number(queued), number(flows));
        return write!(io::stdout(), "{bytes}");
    }
    writeln!(io::stdout(), "{}\n\n{}", times(), memories())
}

/// The median CPU time in nanoseconds of a lookup, and of a rejection.
fn times() -> comfy_table::Table {
    let mut table = table(&[
        "queued, callers",
        "a lookup",
        "plain queue",
        "a refusal",
        "plain queue",
    ]);
    for (queued, flows) in SCENES {
        let mut rounds = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            let now = Instant::now();
            rounds[0].push(lookups(&mut Fair::new(1_000_000, now), queued, flows, now));
            rounds[1].push(lookups(&mut Plain::new(1_000_000, now), queued, flows, now));
            if queued > 0 {
                rounds[2].push(refusals(&mut Fair::new(queued, now), queued, flows, now));
                rounds[3].push(refusals(&mut Plain::new(queued, now), queued, flows, now));
            }
        }
        let mut row = vec![format!("{queued}, {flows}")];
        row.extend(rounds.map(|mut round| {
            round.sort_unstable();
            let median = round.get(round.len() / 2);
            median.map_or(String::new(), |nanos| format!("{nanos} ns"))
        }));
        table.add_row(row);
    }
    table
}

/// One lookup is admitted for each that is started.
fn lookups(line: &mut impl Line, queued: u32, flows: u32, mut now: Instant) -> u64 {
    fill(line, queued, flows, now);
    let begun = on_cpu();
    for number in queued..queued + LOOKUPS {
        now += INTERVAL;
        assert!(line.admit(number, flows, now), "there is room");
        assert!(line.next(now), "there is a token, and something in line");
    }
    (on_cpu() - begun) / u64::from(LOOKUPS)
}

/// Lookups are admitted or rejected, and none is started.
fn refusals(line: &mut impl Line, queued: u32, flows: u32, mut now: Instant) -> u64 {
    // More than the queue's capacity, so that each class and each caller reaches its share.
    for number in 0..4 * queued {
        line.admit(number, flows, now);
    }
    let (begun, mut refused) = (on_cpu(), 0);
    for number in queued..queued + LOOKUPS {
        now += INTERVAL / 100;
        refused += u32::from(!line.admit(number, flows, now));
    }
    let took = on_cpu() - begun;
    assert!(refused > LOOKUPS / 100 * 99, "{refused} were refused");
    took / u64::from(LOOKUPS)
}

/// The CPU time of this thread in nanoseconds, so that other load on the machine does not count.
fn on_cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let [seconds, nanos] = [time.tv_sec, time.tv_nsec].map(|part| u64::try_from(part).expect("not negative"));
    seconds * 1_000_000_000 + nanos
}

fn fill(line: &mut impl Line, queued: u32, flows: u32, now: Instant) {
    for number in 0..queued {
        assert!(line.admit(number, flows, now), "there is room for {number}");
    }
}

/// The memory in bytes of a queued lookup and of a caller.
fn memories() -> comfy_table::Table {
    const QUEUED: u32 = 100_000;
    let measure = |line: &str, flows: u32| -> usize {
        let program = env::current_exe().expect("this program has a path");
        let child = Command::new(program)
            .args(["child", line, &QUEUED.to_string(), &flows.to_string()])
            .output()
            .expect("it runs");
        let text = String::from_utf8(child.stdout).expect("a number");
        text.parse().expect("a number")
    };
    let [plain, one, each] = [("plain", 1), ("fair", 1), ("fair", QUEUED)]
        .map(|(line, flows)| measure(line, flows) / QUEUED as usize);
    let mut table = table(&["memory", "bytes"]);
    table.add_row(["plain queue: a queued lookup".into(), plain.to_string()]);
    table.add_row(["a queued lookup, of one caller".into(), one.to_string()]);
    table.add_row(["a queued lookup, each of its own caller".into(), each.to_string()]);
    table.add_row(["so a caller with a connection".into(), (each - one).to_string()]);
    table
}

fn memory(line: &str, queued: u32, flows: u32) -> usize {
    fn grown(line: &mut impl Line, queued: u32, flows: u32, now: Instant) -> usize {
        let before = resident();
        fill(line, queued, flows, now);
        resident() - before
    }
    let now = Instant::now();
    match line {
        "fair" => grown(&mut Fair::new(1_000_000, now), queued, flows, now),
        _ => grown(&mut Plain::new(1_000_000, now), queued, flows, now),
    }
}
