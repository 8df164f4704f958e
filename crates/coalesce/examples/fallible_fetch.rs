//! Fetches that fail: every caller gets the error, and the error's kind decides whether it is cached.
//!
//! `cargo run -p coalesce --example fallible_fetch`

use std::{
    io::{self, Write as _},
    time::Duration,
};

use coalesce::{Coalescer, Retention};
use tokio::time::sleep;

#[derive(Clone, Copy, Debug, PartialEq)]
enum LoadError {
    /// The source answered: there is no such thing.
    NotFound,
    /// The source did not answer.
    Unreachable,
}

type Price = Result<u32, LoadError>;

/// How long a miss is believed.
const MISS_LIFETIME: Duration = Duration::from_secs(30);

/// A source that does not work in its second minute.
async fn load_price(product: &'static str, minute: u32) -> Price {
    sleep(Duration::from_millis(10)).await;
    match (product, minute) {
        (_, 2) => Err(LoadError::Unreachable),
        ("tea", _) => Ok(100 + minute),
        _ => Err(LoadError::NotFound),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let prices = Coalescer::<&str, Price>::builder(10_000)
        // Anybody can make up products: misses evict nothing but misses.
        .low_priority_capacity(1_000)
        .retention(|_product, price| match price {
            Ok(_) => Retention::Keep,
            Err(LoadError::NotFound) => Retention::LowPriority,
            Err(LoadError::Unreachable) => Retention::Discard,
        })
        .expire_after_write(|_product, price| price.is_err().then_some(MISS_LIFETIME))
        .build();

    for minute in 1..=3 {
        for product in ["tea", "phlogiston"] {
            // Fetches whether something is cached or not. `get_or_fetch` would be content with what is.
            let waiter = prices.join(product, move |_| load_price(product, minute))?;
            let fetched = waiter.outcome().await?;
            let cached = prices.get(&product).await;
            writeln!(
                io::stdout(),
                "minute {minute}, {product}: fetched {fetched:?}, cached {cached:?}"
            )?;
            if minute == 2 {
                assert_eq!(fetched, Err(LoadError::Unreachable));
            }
        }
    }
    // An outage replaced nothing.
    assert_eq!(prices.get(&"tea").await, Some(Ok(103)));
    assert_eq!(prices.get(&"phlogiston").await, Some(Err(LoadError::NotFound)));
    Ok(())
}
