//! Sources that hang: a caller who can be given the last success is given it in time, however many there are.

use std::{sync::Arc, time::Duration};

use plaque::{
    latest::{Latest, Query},
    upstream::{Caller, Fallback, Feed, Upstream},
    video::{Channel, Kind as VideoKind, Source},
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use crate::{
    store_memory::Memory,
    stores::{Fake, Kind as _, anew, found, settings, upload},
};

/// The limit of a source that has others behind it.
const FEED: Duration = Duration::from_secs(2);

const MARGIN: Duration = Duration::from_millis(50);

/// A source that answers so many lookups, and then hangs.
fn hangs(after: usize, limit: Duration) -> Arc<Fake> {
    Arc::new(Fake::with(found, after, limit))
}

/// What a caller with this deadline gets of a known channel, and when.
struct Given {
    title: String,
    after: Duration,
}

/// The channel is known since lookup 1 of the feed, which has hung since; after a restart only the store knows it.
async fn answer(others: &[Arc<Fake>], feed: Duration, deadline: Duration, restarts: bool) -> Given {
    let fallbacks = || {
        let fallback = |fake: &Arc<Fake>| Fallback {
            source: Source::Mirror,
            upstream: Arc::clone(fake) as Arc<dyn Upstream>,
        };
        others.iter().map(fallback).collect()
    };
    let feed = hangs(1, feed);
    let store = Memory::new().open().await;
    let start = || {
        let (feed, store) = (Arc::clone(&feed), Arc::clone(&store));
        Latest::with_fallbacks(feed, fallbacks(), Some(store), settings(), Handle::current())
    };
    let mut latest = start();
    assert!(latest.get(anew()).await.outcome.is_ok());
    if restarts {
        latest = start();
    }
    let began = Instant::now();
    let caller = || Caller {
        deadline: Some(began + deadline),
        ..Caller::default()
    };
    let reply = latest.get_for(anew(), &caller).await;
    let after = began.elapsed();
    // The lookup goes on without its caller.
    while latest.flights() > 0 {
        sleep(Duration::from_millis(100)).await;
    }
    let title = reply.outcome.expect("an answer").channel().title().to_owned();
    Given { title, after }
}

#[tokio::test(start_paused = true)]
async fn all_other_sources_together_are_waited_for_as_long_as_one() {
    for (count, restarts) in (1..=5).flat_map(|count| [(count, false), (count, true)]) {
        let others = [(); 5].map(|()| hangs(0, Duration::from_secs(10)));
        let given = answer(&others[..count], FEED, Duration::from_secs(30), restarts).await;
        assert_eq!(given.title, "lookup 1");
        let expected = Duration::from_secs(4)..Duration::from_millis(4_100);
        assert!(
            expected.contains(&given.after),
            "{:?} {count} {restarts}",
            given.after
        );
        for (index, other) in others.iter().enumerate() {
            assert_eq!(
                other.lookups(),
                usize::from(index < count),
                "each may have the answer"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_slow_source_behind_one_that_hangs_is_given_in_time() {
    for (takes, is_in_time) in [(100, true), (1_400, true), (1_900, false)] {
        let newer = |_, feed| found(2, feed);
        let slow = Arc::new(Fake::with(newer, 0, Duration::from_secs(10)));
        let others = [hangs(0, Duration::from_millis(500)), Arc::clone(&slow)];
        tokio::spawn(async move {
            slow.arrival().await;
            sleep(Duration::from_millis(takes)).await;
            slow.release();
        });
        let given = answer(&others, FEED, Duration::from_secs(5), false).await;
        let takes = Duration::from_millis(2_500 + takes).min(Duration::from_secs(4));
        assert!(
            (takes..takes + MARGIN).contains(&given.after),
            "{:?}",
            given.after
        );
        assert_eq!(given.title == "lookup 2", is_in_time, "{} {takes:?}", given.title);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_success_is_given_before_the_deadline_of_the_caller() {
    for (limit, deadline) in
        [(2, 5), (2, 3), (2, 1), (60, 5)].map(|pair| (pair.0, Duration::from_secs(pair.1)))
    {
        let others = [(); 2].map(|()| hangs(0, Duration::from_secs(10)));
        for restarts in [false, true] {
            let given = answer(&others, Duration::from_secs(limit), deadline, restarts).await;
            assert_eq!(given.title, "lookup 1");
            assert!(
                given.after + MARGIN <= deadline,
                "{:?} of {deadline:?}",
                given.after
            );
        }
    }
    // Also without other sources.
    let given = answer(&[], Duration::from_mins(1), Duration::from_secs(5), false).await;
    assert_eq!(given.after + MARGIN, Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_caller_of_two_feeds_waits_as_long_as_of_one() {
    // The videos are in a feed of their own, since the channel's own has nothing but Shorts.
    let lists = |_, feed: Feed| {
        let kind = feed.kind.unwrap_or(VideoKind::Short);
        Ok(Channel::new(feed.channel, "A channel", vec![upload(1, kind)]))
    };
    let feed = Arc::new(Fake::with(lists, 2, FEED));
    let mirror = Fallback {
        source: Source::Mirror,
        upstream: hangs(0, Duration::from_secs(10)),
    };
    let latest = Latest::with_fallbacks(feed, vec![mirror], None, settings(), Handle::current());
    let videos = Query {
        kind: Some(VideoKind::Video),
        ..anew()
    };
    assert!(latest.get(videos).await.outcome.is_ok());
    let began = Instant::now();
    assert!(latest.get(videos).await.outcome.is_ok());
    let took = began.elapsed();
    assert!((FEED * 2..FEED * 2 + MARGIN).contains(&took), "{took:?}");
}
