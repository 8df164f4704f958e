//! What the status page shows in addition to metrics: the newest uploads, the health of sources, lookups in progress, the most requested and
//! the failing channels, the last hour, and the server itself.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::Mutex as AsyncMutex,
    task::spawn_blocking,
    time::{interval, sleep},
};

use super::{
    About,
    demand::Demand,
    history::{self, History},
};
use crate::{
    clock,
    grpc::{self, CallMetrics, CallTotals},
    latest::{FeedEntry, Latest},
    upstream::{Feed, UpstreamError},
};

/// As many as fit on a page.
const FLIGHTS: usize = 50;
const CHANNELS: usize = 20;
const UPLOADS: usize = 12;

/// After a scan of the cache that took *t*, waits 20 *t*: about a 5 % duty cycle.
const PAUSE_FACTOR: u32 = 20;

/// The same for scans that happen whether or not somebody looks: half a percent.
const MARK_PAUSE_FACTOR: u32 = 200;

/// The failures that are told: channels that still fail are looked up again within 6 minutes, if anybody asks.
const FAILING_FOR: Duration = Duration::from_mins(10);

pub(super) struct Busy {
    latest: Arc<Latest>,
    calls: Vec<Arc<CallMetrics>>,
    about: About,
    begun: Instant,
    /// Locked by whoever looks, and for a moment every [`history::PERIOD`].
    history: Mutex<History>,
    /// Locked by scans of the cache, on threads that may block.
    demand: Arc<Mutex<Demand>>,
    /// The last scan's results, and when they expire. Locked during a scan, so that concurrent requests share one.
    scanned: AsyncMutex<(Channels, Instant)>,
}

/// A feed that callers ask for, and how often a second.
struct Asked {
    feed: Feed,
    rate: f64,
    known: Arc<FeedEntry>,
}

/// The results of a scan of the cache.
#[derive(Clone, Default)]
struct Channels {
    busiest: Value,
    failing: Value,
}

impl Busy {
    pub(super) fn new(latest: Arc<Latest>, calls: Vec<Arc<CallMetrics>>, about: About) -> Self {
        let now = clock::now();
        Self {
            latest,
            calls,
            about,
            begun: now,
            history: Mutex::new(History::new(now)),
            demand: Arc::new(Mutex::new(Demand::new(now))),
            scanned: AsyncMutex::new((Channels::default(), Instant::now())),
        }
    }

    pub(super) async fn snapshot(&self) -> Value {
        let channels = self.channels().await;
        json!({
            "newest": self.newest(),
            "sources": self.sources(),
            "flights": self.flights(),
            "busiest": channels.busiest,
            "failing": channels.failing,
            "about": self.about(),
        })
    }

    /// What was counted in the last hour: of each span, how many seconds ago it began and ended, the calls, the errors, and the lookups by
    /// cache status.
    pub(super) fn history(&self) -> Value {
        let (now, totals) = (clock::now(), CallTotals::of(&self.calls));
        let spans = self.history.lock().spans(now, totals);
        let rows = spans.iter().map(|span| {
            let CallTotals {
                calls,
                errors,
                lookups,
            } = span.counts;
            let ages = [span.begun, span.ended].map(|age| age.as_secs_f64());
            json!([ages, calls, errors, lookups])
        });
        rows.collect()
    }

    /// Takes samples for [`history`](Self::history) and for the rates of channels. Never returns.
    pub(super) async fn sample(&self) {
        tokio::join!(self.sample_totals(), self.mark_demand());
    }

    async fn sample_totals(&self) {
        let mut ticks = interval(history::PERIOD);
        // The first one is over at once; the history begins with it.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let totals = CallTotals::of(&self.calls);
            self.history.lock().add(clock::now(), totals);
        }
    }

    async fn mark_demand(&self) {
        let mut pause = history::PERIOD;
        loop {
            sleep(pause).await;
            let (latest, demand) = (Arc::clone(&self.latest), Arc::clone(&self.demand));
            let begun = Instant::now();
            let mark = move || {
                let mut demand = demand.lock();
                latest.cached().for_each(|(_feed, known)| known.hits.mark());
                demand.mark(clock::now());
            };
            // It fails if the runtime ends.
            let _ = spawn_blocking(mark).await;
            pause = history::PERIOD.max(begun.elapsed() * MARK_PAUSE_FACTOR);
        }
    }

    fn about(&self) -> Value {
        let About { port, tls, settings } = &self.about;
        json!({
            "uptimeSeconds": clock::now().saturating_duration_since(self.begun).as_secs(),
            "grpcPort": port,
            "tls": tls,
            "settings": settings,
        })
    }

    fn newest(&self) -> Vec<Value> {
        let newest = self.latest.newest(UPLOADS);
        let rows = newest.iter().filter_map(|(channel, index)| {
            let upload = channel.upload(*index)?;
            let mut row = feed(Feed {
                channel: channel.id(),
                kind: Some(upload.kind()),
            });
            row["channelTitle"] = channel.title().into();
            row["title"] = upload.title().into();
            row["videoId"] = upload.id().as_str().into();
            row["url"] = upload.url().concat().into();
            row["ageSeconds"] = upload.published().map(seconds_since).into();
            Some(row)
        });
        rows.collect()
    }

    fn sources(&self) -> Vec<Value> {
        let rows = self.latest.sources().into_iter().map(|source| {
            json!({
                "source": source.source.name(),
                "host": source.host,
                "failingSeconds": source.failing_since.map(seconds_since),
                "failedSecondsAgo": source.last_failed.map(seconds_since),
                "error": source.error,
                "unitsLeft": source.units_left,
                "unitsADay": source.units_a_day,
            })
        });
        rows.collect()
    }

    fn flights(&self) -> Vec<Value> {
        let flights = self.latest.in_progress().into_iter().take(FLIGHTS);
        let rows = flights.map(|flight| {
            let mut row = feed(flight.key);
            row["ageSeconds"] = flight.started_at.elapsed().as_secs_f64().into();
            row["waiters"] = flight.waiters.into();
            row
        });
        rows.collect()
    }

    async fn channels(&self) -> Channels {
        let mut scanned = self.scanned.lock().await;
        let begun = Instant::now();
        if begun >= scanned.1 {
            let (latest, demand) = (Arc::clone(&self.latest), Arc::clone(&self.demand));
            let found = spawn_blocking(move || scan(&latest, &demand.lock(), clock::now())).await;
            *scanned = (
                found.unwrap_or_default(),
                Instant::now() + begun.elapsed() * PAUSE_FACTOR,
            );
        }
        scanned.0.clone()
    }
}

fn scan(latest: &Latest, demand: &Demand, now: Instant) -> Channels {
    let mut busiest: Vec<Asked> = Vec::new();
    let mut failing: BTreeMap<&'static str, (usize, String)> = BTreeMap::new();
    for (feed, known) in latest.cached() {
        if let Some((reason, error)) = failure(&known, now) {
            failing.entry(reason).or_insert_with(|| (0, error.to_string())).0 += 1;
        }
        if known.hits.count() > 0 {
            let rate = demand.rate(&known.hits, now);
            busiest.push(Asked { feed, rate, known });
            if busiest.len() >= 2 * CHANNELS {
                keep_busiest(&mut busiest);
            }
        }
    }
    keep_busiest(&mut busiest);
    let mut failing: Vec<_> = failing.into_iter().collect();
    failing.sort_by_key(|(_, (channels, _))| std::cmp::Reverse(*channels));
    let failing = failing
        .into_iter()
        .map(|(reason, (channels, error))| json!({ "reason": reason, "channels": channels, "error": error }));
    Channels {
        busiest: busiest.into_iter().map(row).collect(),
        failing: failing.collect(),
    }
}

fn keep_busiest(busiest: &mut Vec<Asked>) {
    busiest.sort_by(|a, b| {
        let (times, than) = (a.known.hits.count(), b.known.hits.count());
        b.rate.total_cmp(&a.rate).then(than.cmp(&times))
    });
    busiest.truncate(CHANNELS);
}

/// Why the last lookup of a feed failed, and its reason in callers' errors. `None` if it did not, or that was long ago, or the channel may
/// not exist.
fn failure(known: &FeedEntry, now: Instant) -> Option<(&'static str, &UpstreamError)> {
    let failure = known.failure.as_ref()?;
    let is_recent = now.saturating_duration_since(failure.at) < FAILING_FOR;
    match &failure.error {
        UpstreamError::NotFound | UpstreamError::NoSuchChannel | UpstreamError::Status(404) => None,
        error => is_recent.then(|| (grpc::reason(error), error)),
    }
}

fn row(
    Asked {
        feed: asked,
        rate,
        known,
    }: Asked,
) -> Value {
    let mut row = feed(asked);
    row["asked"] = known.hits.count().into();
    row["askedPerSecond"] = rate.into();
    if let Some(success) = &known.success {
        row["title"] = success.value.title().into();
        row["ageSeconds"] = success.age(clock::now()).as_secs_f64().into();
    }
    if let Some(failure) = &known.failure {
        row["failing"] = failure.error.to_string().into();
    }
    row
}

/// The seconds since a time; 0 if that is in the future.
fn seconds_since(time: SystemTime) -> u64 {
    time.elapsed().unwrap_or_default().as_secs()
}

fn feed(feed: Feed) -> Value {
    let mut row = json!({ "channelId": feed.channel.to_string() });
    if let Some(kind) = feed.kind {
        row["kind"] = kind.to_string().into();
    }
    row
}
