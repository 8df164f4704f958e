//! A channel over time, its watchers, and an oracle: what each of them is to be sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;
use crate::{
    cache_entry::{CacheEntry, Failure},
    latest::{
        LookupError, ResumeToken, resume,
        timeline::{Health, Problem},
    },
    upstream::UpstreamError,
    video::{Channel, ChannelId, MAX_UPLOADS, Upload},
};

const CHANNEL: &str = "UC0123456789abcdefghijkA";

/// What can happen.
#[derive(Clone, Debug)]
enum Happening {
    /// An upload: so many hours after the newest one; 0: in the same moment; below: dated earlier.
    Upload { hours: i64, short: bool },
    /// Uploads within one poll.
    Burst(usize),
    /// The upload at this place among the newest is deleted, or made private.
    Hide(usize),
    /// One that is private becomes public.
    Unhide(usize),
    /// The upload at this place turns out to be of the other kind.
    Flip(usize),
    /// The upload at this place gets another date: a stream begins.
    Move { place: usize, hours: i64 },
    /// Hub `hub` gets the snapshot of so many happenings ago, with at most so many entries.
    Poll { hub: usize, ago: usize, entries: usize },
    /// Hub `hub` gets a failure.
    Fail { hub: usize, status: u16 },
    /// A watcher begins at a hub.
    Begin {
        hub: usize,
        kind: Option<Kind>,
        after: Option<usize>,
    },
    /// A watcher reads so many events.
    Read { watcher: usize, events: usize },
    /// A watcher loses its connection, and resumes at a hub.
    Resume { watcher: usize, hub: usize },
    /// A hub's server restarts: it knows nothing. Its watchers resume.
    Restart { hub: usize },
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let kind = prop_oneof![2 => Just(None), 1 => Just(Some(Kind::Video)), 1 => Just(Some(Kind::Short))];
    let entries = prop_oneof![6 => Just(MAX_UPLOADS), 1 => 0..MAX_UPLOADS];
    let ago = prop_oneof![4 => Just(0_usize), 1 => 1..12_usize];
    let events = prop_oneof![3 => Just(usize::MAX), 1 => 0..4_usize];
    prop_oneof![
        6 => (prop_oneof![4 => 1..5_i64, 1 => Just(0), 1 => -40..0_i64], any::<bool>())
            .prop_map(|(hours, short)| Upload { hours, short }),
        1 => (2..25_usize).prop_map(Burst),
        3 => (0..17_usize).prop_map(Hide),
        2 => any::<usize>().prop_map(Unhide),
        1 => (0..16_usize).prop_map(Flip),
        1 => (0..16_usize, 1..5_i64).prop_map(|(place, hours)| Move { place, hours }),
        12 => (0..2_usize, ago, entries).prop_map(|(hub, ago, entries)| Poll { hub, ago, entries }),
        1 => (0..2_usize, prop_oneof![Just(404), Just(429), Just(503)]).prop_map(|(hub, status)| Fail { hub, status }),
        3 => (0..2_usize, kind, prop_oneof![3 => Just(None), 1 => (0..20_usize).prop_map(Some)])
            .prop_map(|(hub, kind, after)| Begin { hub, kind, after }),
        10 => (any::<usize>(), events).prop_map(|(watcher, events)| Read { watcher, events }),
        3 => (any::<usize>(), 0..2_usize).prop_map(|(watcher, hub)| Resume { watcher, hub }),
        1 => (0..2_usize).prop_map(|hub| Restart { hub }),
    ]
}

/// An upload as it is: its number, its date in hours, its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fact {
    number: usize,
    date: i64,
    short: bool,
    hidden: bool,
}

/// Uploads as the feed shows them: the newest first.
fn snapshot(facts: &[Fact], entries: usize) -> Vec<Fact> {
    let mut shown: Vec<_> = facts.iter().copied().filter(|fact| !fact.hidden).collect();
    shown.sort_by_key(|fact| std::cmp::Reverse(fact.date));
    shown.truncate(entries);
    shown
}

fn moment(date: i64) -> Moment {
    Moment::from_nanos((date + 500_000) * 3_600_000_000_000)
}

fn channel(shown: &[Fact]) -> Arc<Channel> {
    let id: ChannelId = CHANNEL.parse().expect("valid");
    let upload = |fact: &Fact| Upload {
        id: format!("{:010}A", fact.number).parse().expect("valid"),
        kind: if fact.short { Kind::Short } else { Kind::Video },
        title: String::new(),
        published: moment(fact.date).time(),
        updated: None,
        thumbnail: None,
        views: None,
    };
    Arc::new(Channel::new(id, "", shown.iter().map(upload).collect()))
}

/// A server's view of the channel.
#[derive(Default)]
struct Hub {
    timeline: Timeline,
    shown: Option<Vec<Fact>>,
    /// Every upload that it ever saw, with the date that it had then.
    seen: BTreeMap<usize, i64>,
}

/// A watcher over all its connections, and what the oracle knows of it.
struct Watcher {
    hub: usize,
    cursor: Cursor,
    kind: Option<Kind>,
    after: Option<i64>,
    sent: BTreeSet<usize>,
    /// Since its first snapshot with uploads.
    begun: Option<Begun>,
    /// It began when the feed had no uploads; the hub had seen these before.
    empty: Option<BTreeMap<usize, i64>>,
    /// What it was sent, and what was shown when it had read all that there was for it.
    read: BTreeSet<usize>,
    /// What its hubs had shown by the time of its reads.
    could_know: BTreeSet<usize>,
    /// Uploads may have been missed, which was not reported yet.
    gap: bool,
    /// It has resumed, and read nothing since.
    resumed: bool,
    /// The newest number when it read first after that.
    resumed_at: Option<u32>,
    /// What may be lost.
    optional: BTreeSet<usize>,
    reason: Option<u8>,
}

/// What the watch began with.
#[derive(Debug)]
struct Begun {
    floor: i64,
    /// What the hub had shown by then: whether it is to be sent when it is of the kind and shown.
    known: BTreeMap<usize, bool>,
    /// What was shown at the beginning.
    shown: BTreeSet<usize>,
}

impl Watcher {
    fn is_of_kind(&self, fact: Fact) -> bool {
        self.kind.is_none_or(|kind| (kind == Kind::Short) == fact.short)
    }

    /// The oracle: whether this upload, which the feed shows now, is to be sent.
    fn wants(&self, fact: Fact) -> bool {
        let Some(begun) = &self.begun else { return false };
        if self.sent.contains(&fact.number) || !self.is_of_kind(fact) {
            return false;
        }
        begun
            .known
            .get(&fact.number)
            .copied()
            .unwrap_or(fact.date > begun.floor)
    }

    /// The oracle of the beginning.
    fn begin(&mut self, shown: &[Fact], seen: &BTreeMap<usize, i64>) {
        let oldest = shown.iter().map(|fact| fact.date).min();
        if oldest.is_none() && self.after.is_none() {
            self.empty.get_or_insert_with(|| seen.clone());
            return;
        }
        let floor = match (self.after, oldest) {
            (Some(after), oldest) => oldest.map_or(after, |oldest| after.max(oldest - 1)),
            (None, Some(oldest)) if shown.len() < MAX_UPLOADS => oldest - 1,
            (None, oldest) => oldest.unwrap_or(i64::MIN),
        };
        let newest = shown.iter().copied().find(|fact| self.is_of_kind(*fact));
        let with = self.after.or(newest.map(|fact| fact.date));
        let is_newer = |date: i64| with.is_none_or(|with| date > with);
        let is_wanted = |fact: &Fact| {
            let is_newest = newest.is_some_and(|newest| newest.number == fact.number);
            if let Some(seen) = &self.empty {
                // The made-up dates are long ago: nothing is recent.
                is_newest || !seen.contains_key(&fact.number) && shown.len() < MAX_UPLOADS
            } else if self.after.is_some() {
                is_newer(fact.date)
            } else {
                is_newest || !self.is_of_kind(*fact) && is_newer(fact.date)
            }
        };
        let hidden = seen
            .iter()
            .map(|(number, date)| (*number, *date > floor && is_newer(*date)));
        let mut known: BTreeMap<_, _> = hidden.collect();
        known.extend(shown.iter().map(|fact| (fact.number, is_wanted(fact))));
        self.begun = Some(Begun {
            floor,
            known,
            shown: shown.iter().map(|fact| fact.number).collect(),
        });
    }
}

#[derive(Default)]
struct World {
    facts: Vec<Fact>,
    history: Vec<Vec<Fact>>,
    hubs: [Hub; 2],
    watchers: Vec<Watcher>,
    polls: u32,
}

impl World {
    fn newest(&self) -> i64 {
        self.facts.iter().map(|fact| fact.date).max().unwrap_or(0)
    }

    fn upload(&mut self, hours: i64, short: bool) {
        let (number, date) = (self.facts.len(), self.newest() + hours);
        self.facts.push(Fact {
            number,
            date,
            short,
            hidden: false,
        });
    }

    /// The upload at this place among the newest that are public.
    fn at(&mut self, place: usize) -> Option<&mut Fact> {
        let number = snapshot(&self.facts, usize::MAX).get(place)?.number;
        self.facts.get_mut(number)
    }

    fn apply(&mut self, hub: usize, success: Option<Vec<Fact>>, failure: Option<u16>) {
        self.polls += 1;
        let hub = &mut self.hubs[hub];
        let now = start() + Duration::from_secs(self.polls.into());
        let entry = match (&success, failure) {
            (Some(shown), None) => CacheEntry::succeeded(channel(shown), now, SystemTime::UNIX_EPOCH),
            (_, failure) => CacheEntry::failed(
                None,
                Failure {
                    out_of_budget: false,
                    error: UpstreamError::Status(failure.unwrap_or(500)),
                    at: now,
                    retry_at: now,
                    streak: 1,
                },
            ),
        };
        let health = match failure {
            None => Health::Works,
            Some(status) => Health::Fails(Problem {
                error: match status {
                    404 => LookupError::Upstream(UpstreamError::Outage),
                    429 => LookupError::Upstream(UpstreamError::RateLimited(429)),
                    status => LookupError::Upstream(UpstreamError::Status(status)),
                },
                retry_at: now,
            }),
        };
        hub.timeline.apply(&entry, health);
        if let Some(shown) = success {
            hub.seen.extend(shown.iter().map(|fact| (fact.number, fact.date)));
            hub.shown = Some(shown);
        }
    }

    fn resume(&mut self, watcher: usize, hub: usize) {
        let watcher = &mut self.watchers[watcher];
        let timeline = &self.hubs[watcher.hub].timeline;
        let token = watcher.cursor.token(timeline, CHANNEL.as_bytes());
        let bytes = token.encode();
        assert!(bytes.len() <= 128, "{}", bytes.len());
        let token = ResumeToken::decode(&bytes).expect("its own token");
        watcher.cursor = Cursor::resume(&token);
        // What the old hub had seen before an empty feed is not in a token.
        watcher.empty.iter_mut().for_each(BTreeMap::clear);
        // Nor is that the oldest upload of the beginning may turn out to be of the kind that is wanted.
        if let Some(begun) = &watcher.begun {
            let numbers = begun.known.keys().copied();
            watcher
                .optional
                .extend(numbers.filter(|number| self.facts[*number].date <= begun.floor));
        }
        watcher.hub = hub;
        watcher.resumed = true;
    }

    /// A watcher reads, and the oracle compares.
    fn read(&mut self, watcher: usize, mut events: usize) {
        let watcher = &mut self.watchers[watcher];
        let hub = &self.hubs[watcher.hub];
        let Some(shown) = hub.shown.as_deref().or(Some(&[])) else {
            return;
        };
        if events == 0 {
            return;
        }
        let begins = watcher.begun.is_none();
        if hub.shown.is_some() && begins {
            watcher.begin(shown, &hub.seen);
        } else if hub.shown.is_some() && std::mem::take(&mut watcher.resumed) {
            watcher.resumed_at = Some(hub.timeline.newest());
        }
        let channel = channel(shown);
        let fact = |index| {
            let id = channel.upload(index).expect("shown").id();
            shown
                .iter()
                .copied()
                .find(|fact| id.as_str() == format!("{:010}A", fact.number))
        };
        let now = moment(0).before(Duration::ZERO);
        let is_first_since_token = watcher.resumed_at == Some(hub.timeline.newest());
        let is_gap = !begins
            && watcher.begun.as_ref().is_some_and(|begun| {
                let is_new =
                    |fact: &Fact| !watcher.could_know.contains(&fact.number) && fact.date > begun.floor;
                !watcher.could_know.is_empty() && !shown.is_empty() && shown.iter().all(is_new)
            });
        watcher.gap |= is_gap;
        watcher.could_know.extend(hub.seen.keys());
        let mut last = None;
        while events > 0 {
            events -= 1;
            let later = Moment::from_nanos(now.to_nanos() + 3_600_000_000_000 * 1_000_000);
            match watcher.cursor.next(&hub.timeline, watcher.kind, later) {
                Some(Step::Upload { index, initial }) => {
                    let fact = fact(index).expect("it is shown");
                    assert!(!watcher.sent.contains(&fact.number), "sent twice: {fact:?}");
                    assert!(watcher.wants(fact), "not wanted: {fact:?}, {:?}", watcher.begun);
                    let is_first = watcher
                        .begun
                        .as_ref()
                        .is_some_and(|begun| begun.shown.contains(&fact.number));
                    assert!(is_first || !initial, "{fact:?}");
                    assert!(
                        last.is_none_or(|last| last != Step::Problem),
                        "uploads come before a problem"
                    );
                    watcher.sent.insert(fact.number);
                    watcher.read.insert(fact.number);
                    last = Some(Step::Upload { index, initial });
                }
                Some(Step::Problem) => {
                    let reason = hub.timeline.problem().map(|problem| problem.error.reason_code());
                    assert!(reason.is_some() && watcher.reason != reason, "{reason:?}");
                    watcher.reason = reason;
                    last = Some(Step::Problem);
                }
                Some(Step::Recovered) => {
                    assert!(watcher.reason.take().is_some() && hub.timeline.problem().is_none());
                }
                Some(Step::Missed) => {
                    watcher.gap = false;
                    // A token does not name all that a watcher of one kind was not sent.
                    if is_first_since_token && watcher.kind.is_some() {
                        continue;
                    }
                    assert!(
                        shown.iter().all(|fact| !watcher.read.contains(&fact.number)),
                        "it shares an upload"
                    );
                    let began = watcher
                        .begun
                        .as_ref()
                        .is_some_and(|begun| !begun.known.is_empty());
                    assert!(
                        !shown.is_empty() && (began || !watcher.read.is_empty()),
                        "nothing was known"
                    );
                }
                None => {
                    let reason = hub.timeline.problem().map(|problem| problem.error.reason_code());
                    if hub.shown.is_some() || reason.is_some() {
                        assert_eq!(watcher.reason, reason, "the problem or its end was reported");
                    }
                    let left: Vec<_> = shown
                        .iter()
                        .copied()
                        .filter(|fact| watcher.wants(*fact) && !is_out_of_reach(watcher, *fact, &self.facts))
                        .collect();
                    assert_eq!(left, [], "not sent, of {:?}", watcher.begun);
                    assert!(!watcher.gap, "reported that some may be missed");
                    watcher.read.extend(shown.iter().map(|fact| fact.number));
                    break;
                }
            }
        }
    }
}

/// A token names 20 uploads, and how old they are only about: one that is dated before all of them is not told apart from those
/// before.
fn is_out_of_reach(watcher: &Watcher, fact: Fact, facts: &[Fact]) -> bool {
    let is_known = |other: &&Fact| {
        let of_begin = watcher
            .begun
            .as_ref()
            .is_some_and(|begun| begun.known.contains_key(&other.number));
        watcher.sent.contains(&other.number) || watcher.read.contains(&other.number) || of_begin
    };
    let known = || facts.iter().filter(is_known).map(|other| other.date);
    let newest = known().max().unwrap_or(i64::MIN);
    // A fourteenth at each of some resumptions.
    let slack = 1 + newest.saturating_sub(fact.date).max(0) / 4;
    let newer = known()
        .filter(|date| *date >= fact.date.saturating_sub(slack))
        .count();
    watcher.optional.contains(&fact.number) || newer >= resume::MOST - 4
}

fn start() -> Instant {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn run(happenings: &[Happening]) {
    let mut world = World::default();
    run_in(&mut world, happenings);
    for watcher in 0..world.watchers.len() {
        world.read(watcher, usize::MAX);
    }
}

fn run_in(world: &mut World, happenings: &[Happening]) {
    while world.facts.len() < 20 {
        world.upload(3, false);
    }
    for happening in happenings {
        world.history.push(world.facts.clone());
        match *happening {
            Happening::Upload { hours, short } => world.upload(hours, short),
            Happening::Burst(count) => (0..count).for_each(|number| world.upload(1, number % 3 == 0)),
            Happening::Hide(place) => {
                if let Some(fact) = world.at(place) {
                    fact.hidden = true;
                }
            }
            Happening::Unhide(any) => {
                let mut hidden: Vec<_> = world.facts.iter_mut().filter(|fact| fact.hidden).collect();
                let count = hidden.len().max(1);
                if let Some(fact) = hidden.get_mut(any % count) {
                    fact.hidden = false;
                }
            }
            Happening::Flip(place) => {
                if let Some(fact) = world.at(place) {
                    fact.short = !fact.short;
                }
            }
            Happening::Move { place, hours } => {
                if let Some(fact) = world.at(place) {
                    fact.date += hours;
                }
            }
            Happening::Poll { hub, ago, entries } => {
                let facts = &world.history[world.history.len().saturating_sub(ago + 1)];
                let facts = if ago == 0 { &world.facts } else { facts };
                let shown = snapshot(facts, entries);
                world.apply(hub, Some(shown), None);
            }
            Happening::Fail { hub, status } => world.apply(hub, None, Some(status)),
            Happening::Begin { hub, kind, after } => {
                let after = after.map(|hours| world.newest() - i64::try_from(hours).expect("few"));
                world.watchers.push(Watcher {
                    hub,
                    cursor: Cursor::new(after.map(moment)),
                    kind,
                    after,
                    sent: BTreeSet::new(),
                    begun: None,
                    empty: None,
                    read: BTreeSet::new(),
                    could_know: BTreeSet::new(),
                    gap: false,
                    resumed: false,
                    resumed_at: None,
                    optional: BTreeSet::new(),
                    reason: None,
                });
                // What it begins with is what the hub shows when it comes.
                world.read(world.watchers.len() - 1, 1);
            }
            Happening::Read { watcher, events } => {
                if let Some(watcher) = watcher.checked_rem(world.watchers.len()) {
                    world.read(watcher, events);
                }
            }
            Happening::Resume { watcher, hub } => {
                if let Some(watcher) = watcher.checked_rem(world.watchers.len()) {
                    world.resume(watcher, hub);
                }
            }
            Happening::Restart { hub } => {
                for watcher in 0..world.watchers.len() {
                    if world.watchers[watcher].hub == hub {
                        world.resume(watcher, hub);
                    }
                }
                world.hubs[hub] = Hub::default();
            }
        }
    }
}

/// The same histories in every run. For others set PROPTEST_RNG_SEED, for more PROPTEST_CASES.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: config.cases.max(500),
        rng_seed: match config.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            fixed @ RngSeed::Fixed(_) => fixed,
        },
        failure_persistence: None,
        ..config
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn each_watcher_is_sent_what_is_new_to_it_once(happenings in prop::collection::vec(happening(), 1..80)) {
        run(&happenings);
    }
}

#[test]
fn what_a_token_has_no_room_for_is_not_sent_again() {
    let mut world = World::default();
    run_in(&mut world, &[]);
    let begin = Happening::Begin {
        hub: 0,
        kind: None,
        after: None,
    };
    let poll = Happening::Poll {
        hub: 0,
        ago: 0,
        entries: MAX_UPLOADS,
    };
    let read = Happening::Read {
        watcher: 0,
        events: usize::MAX,
    };
    run_in(&mut world, &[poll.clone(), begin]);
    for _ in 0..6 {
        run_in(&mut world, &[Happening::Burst(10), poll.clone(), read.clone()]);
    }
    assert_eq!(world.watchers[0].sent.len(), 61);
    world.resume(0, 1);
    // From the newest snapshot to older ones, each of uploads that were sent long ago.
    for newest in (MAX_UPLOADS + 5..=world.facts.len()).rev() {
        let shown = snapshot(&world.facts[..newest], MAX_UPLOADS);
        world.apply(1, Some(shown), None);
        world.read(0, usize::MAX);
    }
    assert_eq!(world.watchers[0].sent.len(), 61);
}
