//! What the status page shows in addition to metrics: the newest uploads, the health of sources, lookups in progress, and the most requested
//! channels.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::{sync::Mutex, task::spawn_blocking};

use crate::{clock, latest::Latest, upstream::Feed};

/// As many as fit on a page.
const FLIGHTS: usize = 50;
const CHANNELS: usize = 20;
const UPLOADS: usize = 12;

/// After a scan of the cache that took *t*, waits 20 *t*: about a 5 % duty cycle.
const PAUSE_FACTOR: u32 = 20;

pub(super) struct Busy {
    latest: Arc<Latest>,
    /// The busiest channels, and when they expire. Locked during a scan of the cache, so that concurrent requests share one.
    busiest: Mutex<(Value, Instant)>,
}

impl Busy {
    pub(super) fn new(latest: Arc<Latest>) -> Self {
        Self {
            latest,
            busiest: Mutex::new((Value::Null, Instant::now())),
        }
    }

    pub(super) async fn snapshot(&self) -> Value {
        json!({
            "newest": self.newest(),
            "sources": self.sources(),
            "flights": self.flights(),
            "busiest": self.busiest().await,
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

    async fn busiest(&self) -> Value {
        let mut busiest = self.busiest.lock().await;
        let begun = Instant::now();
        if begun >= busiest.1 {
            let latest = Arc::clone(&self.latest);
            let found = spawn_blocking(move || channels(&latest)).await;
            *busiest = (
                found.unwrap_or_default(),
                Instant::now() + begun.elapsed() * PAUSE_FACTOR,
            );
        }
        busiest.0.clone()
    }
}

fn channels(latest: &Latest) -> Value {
    let busiest = latest.busiest(CHANNELS).into_iter();
    let rows = busiest.map(|asked| {
        let mut row = feed(asked.feed);
        row["asked"] = asked.times.into();
        row["askedPerSecond"] = asked.rate.into();
        if let Some(success) = &asked.known.success {
            row["title"] = success.value.title().into();
            row["ageSeconds"] = success.age(clock::now()).as_secs_f64().into();
        }
        if let Some(failure) = &asked.known.failure {
            row["failing"] = failure.error.to_string().into();
        }
        row
    });
    rows.collect()
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
