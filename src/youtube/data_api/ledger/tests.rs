use std::{collections::HashMap, time::Duration};

use futures_util::{FutureExt as _, future::join_all};
use prometheus_client::encoding::text::encode;

use super::*;
use crate::{captured_log::CapturedLog, upstream::Purpose};

const KEY: KeyId = KeyId {
    generation: 1,
    fingerprint: 7,
};
const AWAITED: Use = Use::Lookup(Purpose::Awaited);

/// A store that can be out of reach.
#[derive(Default)]
struct Store {
    sums: Mutex<HashMap<(Day, u16), u64>>,
    is_down: Mutex<bool>,
}

impl SharedUnits for Store {
    fn add(&self, day: Day, key: u16, units: u64) -> BoxFuture<'_, Option<u64>> {
        async move {
            // Others come in between.
            tokio::task::yield_now().await;
            if *self.is_down.lock() {
                return None;
            }
            let mut sums = self.sums.lock();
            let sum = sums.entry((day, key)).or_default();
            *sum += units;
            Some(*sum)
        }
        .boxed()
    }
}

fn noon() -> SystemTime {
    humantime::parse_rfc3339("2026-11-26T20:00:00Z").expect("a time")
}

fn replica(store: &Arc<Store>) -> Ledger {
    Ledger::new(100, Some(Arc::clone(store) as Arc<dyn SharedUnits>), noon())
}

async fn spend(ledger: &Ledger) -> Result<(), ApiError> {
    ledger.spend(AWAITED, noon(), KEY).await
}

fn last_minute() -> SystemTime {
    Day::of(noon()).end() - Duration::from_millis(1)
}

#[tokio::test]
async fn replicas_share_a_day_and_a_restart_forgets_nothing() {
    let store = Arc::new(Store::default());
    let replicas = [replica(&store), replica(&store), replica(&store)];
    // At the end of the day, all of it may be spent.
    let attempts = replicas.iter().cycle().take(300);
    let spent = join_all(attempts.map(|ledger| ledger.spend(AWAITED, last_minute(), KEY))).await;
    assert_eq!(spent.iter().filter(|spent| spent.is_ok()).count(), 100);
    let restarted = replica(&store);
    assert!(restarted.spend(AWAITED, last_minute(), KEY).await.is_err());
    assert_eq!(restarted.left(last_minute(), KEY).0, 0);
    let tomorrow = Day::of(noon()).end();
    assert_eq!(restarted.spend(AWAITED, tomorrow, KEY).await, Ok(()));
    assert_eq!(store.sums.lock()[&(Day::of(tomorrow), KEY.fingerprint)], 1);
    assert_eq!(restarted.left(tomorrow, KEY), (99, Day::of(tomorrow).end()));
}

#[tokio::test]
async fn what_was_spent_before_a_restart_is_known_without_a_request() {
    let store = Arc::new(Store::default());
    for _ in 0..40 {
        assert_eq!(replica(&store).spend(AWAITED, last_minute(), KEY).await, Ok(()));
    }
    let restarted = replica(&store);
    let first = restarted.left(last_minute(), KEY).0;
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    assert_eq!((first, restarted.left(last_minute(), KEY).0), (100, 60));
}

#[tokio::test]
async fn a_store_that_is_down_is_told_later() {
    let store = Arc::new(Store::default());
    let ledger = replica(&store);
    *store.is_down.lock() = true;
    for _ in 0..5 {
        assert_eq!(spend(&ledger).await, Ok(()), "units are counted here");
    }
    assert_eq!(ledger.left(noon(), KEY).0, 95);
    *store.is_down.lock() = false;
    assert_eq!(spend(&ledger).await, Ok(()));
    assert_eq!(store.sums.lock()[&(Day::of(noon()), KEY.fingerprint)], 6);
    assert_eq!(ledger.left(noon(), KEY).0, 94);
}

#[tokio::test]
async fn a_used_up_quota_is_so_for_all_replicas() {
    let store = Arc::new(Store::default());
    let (one, other) = (replica(&store), replica(&store));
    assert_eq!(spend(&one).await, Ok(()));
    one.report(Some(Refusal::QuotaExceeded), noon(), KEY).await;
    assert_eq!(spend(&one).await, Err(Refusal::QuotaExceeded.into()));
    assert!(matches!(spend(&other).await, Err(ApiError::OutOfUnits { .. })));
    assert_eq!(
        store.sums.lock()[&(Day::of(noon()), KEY.fingerprint)],
        100,
        "and not more than there were"
    );
}

#[tokio::test]
async fn another_key_has_units_of_its_own_also_after_a_restart_and_at_another_replica() {
    let store = Arc::new(Store::default());
    let (one, other) = (replica(&store), replica(&store));
    assert_eq!(spend(&one).await, Ok(()));
    one.report(Some(Refusal::QuotaExceeded), noon(), KEY).await;
    let new = |generation| KeyId {
        generation,
        fingerprint: 8,
    };
    assert_eq!(other.spend(AWAITED, noon(), new(1)).await, Ok(()));
    assert_eq!(one.spend(AWAITED, noon(), new(2)).await, Ok(()));
    assert_eq!(
        (other.left(noon(), new(1)).0, one.left(noon(), new(2)).0),
        (99, 98)
    );
    let restarted = replica(&store);
    assert_eq!(restarted.spend(AWAITED, noon(), new(1)).await, Ok(()));
    assert_eq!(restarted.left(noon(), new(1)).0, 97);
    // With the last key again, all of its units are spent.
    let back = KeyId { generation: 3, ..KEY };
    assert!(one.spend(AWAITED, noon(), back).await.is_err());
    assert_eq!(one.left(noon(), back).0, 0);
    assert!(spend(&replica(&store)).await.is_err());
}

#[tokio::test]
async fn what_others_have_spent_is_known_before_the_first_unit_of_a_day() {
    let store = Arc::new(Store::default());
    let (one, other) = (replica(&store), replica(&store));
    assert_eq!(spend(&one).await, Ok(()));
    let tomorrow = Day::of(noon()).end();
    while other.spend(AWAITED, tomorrow, KEY).await.is_ok() {}
    assert!(one.spend(AWAITED, tomorrow, KEY).await.is_err());
    assert_eq!(store.sums.lock()[&(Day::of(tomorrow), KEY.fingerprint)], 50);
}

#[tokio::test]
async fn a_refusal_is_logged_when_it_begins_and_when_it_ends() {
    let log = CapturedLog::begin();
    let ledger = Ledger::new(100, None, noon());
    for refusal in [
        None,
        Some(Refusal::KeyInvalid),
        Some(Refusal::KeyInvalid),
        None,
        None,
    ] {
        ledger.report(refusal, noon(), KEY).await;
    }
    let log = log.lines().join("\n");
    assert_eq!(log.matches("is not valid").count(), 1, "{log}");
    assert_eq!(log.matches("answers again").count(), 1, "{log}");
    assert!(
        !log.contains("retry_at"),
        "that is when there is another key: {log}"
    );
}

#[tokio::test]
async fn units_that_google_says_are_used_up_are_not_left() {
    let log = CapturedLog::begin();
    let now = Day::of(noon()).start() + Duration::from_hours(1);
    let ledger = Ledger::new(100, None, now);
    ledger.report(Some(Refusal::QuotaExceeded), now, KEY).await;
    assert_eq!(ledger.left(now, KEY).0, 0);
    let log = log.lines().join("\n");
    assert!(log.contains("retry_at=2026-11-26T09:15:00Z"), "{log}");
    assert_eq!(ledger.left(now + Duration::from_mins(15), KEY).0, 100, "perhaps");
}

#[tokio::test]
async fn metrics_say_what_is_spent_and_left() {
    let ledger = Ledger::new(100, None, SystemTime::now());
    ledger
        .spend(AWAITED, SystemTime::now(), KEY)
        .await
        .expect("a unit");
    let (mut registry, mut text) = (Registry::default(), String::new());
    ledger.register(&mut registry, || KEY);
    encode(&mut text, &registry).expect("in memory");
    for line in [
        "youtube_api_units_total 1\n",
        "youtube_api_units_left 99\n",
        "youtube_api_reset_timestamp_seconds ",
    ] {
        assert!(text.contains(line), "{text}");
    }
}
