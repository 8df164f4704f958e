//! What a status page shows beside the metrics: the lookups in progress, and the channels that are asked for most.

use std::{sync::Arc, time::Instant};

use serde_json::{Value, json};
use tokio::{sync::Mutex, task::spawn_blocking};

use crate::{clock, latest::Latest, upstream::Feed};

/// As many as a page has room for.
const FLIGHTS: usize = 50;
const CHANNELS: usize = 20;

/// The cache is looked through at most in so much of the time: once, and then not for so many times as long.
const REST: u32 = 20;

/// Tells what is busy.
pub(super) struct Busy {
    latest: Arc<Latest>,
    /// The busiest channels, and until when that will do. Held while the cache is looked through: whoever asks meanwhile waits
    /// for the same.
    busiest: Mutex<(Value, Instant)>,
}

impl Busy {
    pub(super) fn new(latest: Arc<Latest>) -> Self {
        Self {
            latest,
            busiest: Mutex::new((Value::Null, Instant::now())),
        }
    }

    pub(super) async fn tell(&self) -> Value {
        json!({ "flights": self.flights(), "busiest": self.busiest().await })
    }

    fn flights(&self) -> Vec<Value> {
        let flights = self.latest.in_progress().into_iter().take(FLIGHTS);
        let tell = flights.map(|flight| {
            let mut told = feed(flight.key);
            told["ageSeconds"] = flight.started_at.elapsed().as_secs_f64().into();
            told["waiters"] = flight.waiters.into();
            told
        });
        tell.collect()
    }

    async fn busiest(&self) -> Value {
        let mut busiest = self.busiest.lock().await;
        let begun = Instant::now();
        if begun >= busiest.1 {
            let latest = Arc::clone(&self.latest);
            let found = spawn_blocking(move || channels(&latest)).await;
            *busiest = (found.unwrap_or_default(), Instant::now() + begun.elapsed() * REST);
        }
        busiest.0.clone()
    }
}

fn channels(latest: &Latest) -> Value {
    let busiest = latest.busiest(CHANNELS).into_iter();
    let tell = busiest.map(|asked| {
        let mut told = feed(asked.feed);
        told["asked"] = asked.times.into();
        told["askedPerSecond"] = asked.rate.into();
        if let Some(good) = &asked.known.good {
            told["title"] = good.value.title().into();
            told["ageSeconds"] = good.age(clock::now()).as_secs_f64().into();
        }
        if let Some(failed) = &asked.known.failed {
            told["failing"] = failed.error.to_string().into();
        }
        told
    });
    tell.collect()
}

fn feed(feed: Feed) -> Value {
    let mut told = json!({ "channelId": feed.channel.to_string() });
    if let Some(kind) = feed.kind {
        told["kind"] = kind.to_string().into();
    }
    told
}
