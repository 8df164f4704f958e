//! Serves a stale value at once, and fetches a new one behind it: `cargo run -p coalesce --example stale_while_revalidate`.

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use coalesce::{Coalescer, Error};
use tokio::time::sleep;

/// An answer, and when it was fetched: how old is too old is the reader's decision, not the cache's.
struct Forecast {
    text: String,
    fetched_at: Instant,
}

#[derive(Clone)]
struct Forecasts {
    cache: Coalescer<&'static str, Arc<Forecast>>,
    fresh_for: Duration,
}

impl Forecasts {
    async fn get(&self, city: &'static str) -> Result<Arc<Forecast>, Error> {
        let Some(cached) = self.cache.get(&city).await else {
            return self.cache.get_or_fetch(city, move || fetch(city)).await;
        };
        if cached.fetched_at.elapsed() > self.fresh_for {
            // Returns at once. One flight, however many callers find the value stale.
            self.cache.refresh(city, move |_context| fetch(city));
        }
        Ok(cached)
    }
}

async fn fetch(city: &'static str) -> Arc<Forecast> {
    sleep(Duration::from_millis(100)).await;
    Arc::new(Forecast {
        text: format!("{city}: rain"),
        fetched_at: Instant::now(),
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let forecasts = Forecasts {
        cache: Coalescer::new(1_000),
        fresh_for: Duration::from_millis(200),
    };
    let first = forecasts.get("Hamburg").await?;
    sleep(2 * forecasts.fresh_for).await;

    let asked = Instant::now();
    let mut stale = Vec::new();
    for _ in 0..100 {
        stale.push(forecasts.get("Hamburg").await?);
    }
    writeln!(
        io::stdout(),
        "{}: 100 stale answers in {:?}, {} flight behind them",
        first.text,
        asked.elapsed(),
        forecasts.cache.flight_count()
    )?;
    assert!(Arc::ptr_eq(&stale[0], &first));

    while forecasts.cache.flight_count() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    let renewed = forecasts.get("Hamburg").await?;
    assert!(renewed.fetched_at > first.fetched_at);
    Ok(())
}
