//! What any store provides: a restart changes nothing, and stored entries are used before the upstream.

use std::time::Duration;

use plaque::{
    latest::{CacheStatus, LookupError, MissReason, Query},
    store::{Lease, Store as _, lifetime::NAME_LIFETIME},
    upstream::{Failure, Feed, UpstreamError},
    video::{Channel, ChannelName, Kind as VideoKind, ResolvedChannel},
};

use super::rig::*;

pub async fn what_was_kept_is_given_with_its_age_and_without_a_lookup<K: Kind>() {
    for (age, shown) in [(FRESH, "kept"), (STALE, "kept (stale)")] {
        let kind = K::new();
        let known = success(feed(), "kept", age);
        saved_before(&kind, feed(), &known).await;
        // The lookup that revalidates a stale one does not matter here.
        let upstream = Fake::gated(found);
        let replica = Replica::start(&kind, &upstream).await;
        let reply = replica.get(query()).await;
        assert_eq!(summary(&reply), shown);
        let left = 60 - i64::try_from(age.as_secs()).expect("some minutes");
        // A file's wall clock may run at another speed than the monotonic one; and a machine may be busy.
        assert!((left - 10..=left + 2).contains(&ttl(&reply)), "{reply:?}");
        let fetched = reply.outcome.expect("an answer").fetched;
        assert_eq!(fetched, known.success.expect("good").time);
        if age == FRESH {
            assert_eq!((upstream.lookups(), replica.latest.flights()), (0, 0));
        }
    }
}

pub async fn a_thousand_callers_of_what_was_kept_cost_one_load<K: Kind>() {
    let kind = K::new();
    saved_before(&kind, feed(), &success(feed(), "kept", FRESH)).await;
    let upstream = Fake::open(never);
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(replica.get_many(1000, query()).await, vec!["kept"; 1000]);
    assert_eq!(replica.get_many(1000, query()).await, vec!["kept"; 1000]);
    let counts = Counts {
        loads: 1,
        ..Counts::default()
    };
    assert_eq!(replica.store.counts(), counts);
}

pub async fn a_thousand_callers_of_what_nobody_knows_cost_one_lookup<K: Kind>() {
    let kind = K::new();
    let upstream = Fake::open(found);
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(replica.get_many(1000, query()).await, vec!["lookup 1"; 1000]);
    let counts = replica.store.counts();
    assert_eq!((upstream.lookups(), counts.saves), (1, 1));
    assert!(counts.loads <= 2 && counts.leases == 1, "{counts:?}");
    replica.stop().await;
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
    assert_eq!(upstream.lookups(), 1);
}

pub async fn a_stale_answer_is_given_at_once_and_looked_up_once_behind_it<K: Kind>() {
    let kind = K::new();
    saved_before(&kind, feed(), &success(feed(), "kept", STALE)).await;
    // The gate is shut: waiting for a lookup would take forever.
    let upstream = Fake::gated(found);
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(replica.get_many(100, query()).await, vec!["kept (stale)"; 100]);
    upstream.arrival().await;
    assert_eq!(replica.get_many(100, query()).await, vec!["kept (stale)"; 100]);
    upstream.release();
    let newer = Query {
        max_age: Some(FRESH),
        ..query()
    };
    assert_eq!(summary(&replica.get(newer).await), "lookup 1");
    assert_eq!((upstream.lookups(), replica.store.counts().saves), (1, 1));
}

pub async fn an_old_answer_is_given_if_the_lookup_fails<K: Kind>() {
    let kind = K::new();
    saved_before(&kind, feed(), &success(feed(), "kept", OLD)).await;
    let upstream = Fake::open(fails(UpstreamError::Status(503)));
    let replica = Replica::start(&kind, &upstream).await;
    let reply = replica.get(query()).await;
    assert_eq!(summary(&reply), "kept (stale)");
    // This instance had nothing cached.
    let cache_status = CacheStatus::Forwarded {
        reason: MissReason::NotCached,
        collapsed: false,
        status: Some(503),
    };
    assert_eq!((reply.cache_status, upstream.lookups()), (cache_status, 1));
}

pub async fn a_failure_is_remembered_and_the_good_answer_with_it<K: Kind>() {
    for error in [
        UpstreamError::NotFound,
        UpstreamError::Status(503),
        UpstreamError::TimedOut(LONG),
    ] {
        let kind = K::new();
        saved_before(&kind, channel(1).into(), &success(channel(1).into(), "kept", OLD)).await;
        let known = Query {
            channel: channel(1),
            ..query()
        };
        let upstream = Fake::open(fails(error));
        let replica = Replica::start(&kind, &upstream).await;
        let first = replica.get(query()).await;
        assert_eq!(summary(&replica.get(known).await), "kept (stale)");
        assert_eq!(upstream.lookups(), 2);
        replica.stop().await;

        let replica = Replica::start(&kind, &upstream).await;
        for max_age in [None, Some(Duration::ZERO)] {
            let again = replica.get(Query { max_age, ..query() }).await;
            assert_eq!(summary(&again), summary(&first));
            let (was, is) = (
                first.retry_after.expect("some time"),
                again.retry_after.expect("some time"),
            );
            assert!(is.abs_diff(was) < FRESH, "{is:?}, was {was:?}");
            assert_eq!(
                summary(&replica.get(Query { max_age, ..known }).await),
                "kept (stale)"
            );
        }
        assert_eq!(upstream.lookups(), 2);
    }
}

pub async fn a_pause_that_is_over_is_over_and_the_streak_goes_on<K: Kind>() {
    let kind = K::new();
    saved_before(
        &kind,
        feed(),
        &bad(UpstreamError::NotFound, 3, FRESH, Duration::ZERO),
    )
    .await;
    let upstream = Fake::open(fails(UpstreamError::NotFound));
    let replica = Replica::start(&kind, &upstream).await;
    let reply = replica.get(query()).await;
    assert_eq!(upstream.lookups(), 1);
    let pause = reply.retry_after.expect("some time");
    // Doubled three times.
    assert!(
        pause > Duration::from_mins(7) && pause <= Duration::from_mins(8),
        "{pause:?}"
    );
}

pub async fn what_the_upstream_thinks_of_us_is_not_kept<K: Kind>() {
    let kind = K::new();
    let upstream = Fake::open(|number, feed| match number {
        1 => Err(UpstreamError::RateLimited(429).into()),
        _ => found(number, feed),
    });
    let replica = Replica::start(&kind, &upstream).await;
    let refused = replica.get(query()).await.outcome.expect_err("refused");
    assert_eq!(refused, LookupError::Upstream(UpstreamError::RateLimited(429)));
    replica.stop().await;
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(query()).await), "lookup 2");
}

pub async fn what_happens_in_our_own_queue_says_nothing_of_the_channel<K: Kind>() {
    for error in [UpstreamError::Busy, UpstreamError::RateLimited(429)] {
        let kind = K::new();
        let pause = Duration::from_secs(40);
        let upstream = Fake::open(move |number, feed| match number {
            1 | 3 | 4 => Err(Failure {
                out_of_budget: false,
                error: error.clone(),
                retry_after: Some(pause),
            }),
            _ => found(number, feed),
        });
        let replica = Replica::start(&kind, &upstream).await;
        let refused = replica.get(query()).await;
        refused.outcome.expect_err("refused");
        let left = refused.retry_after.expect("some time");
        assert!(
            left <= pause && left.abs_diff(pause) < FRESH,
            "as it was said: {left:?}"
        );
        // The very next caller gets a lookup, here and elsewhere.
        assert_eq!(summary(&replica.get(query()).await), "lookup 2");
        // The stored success does not change, and there is no pause.
        for lookups in [3, 4] {
            // An entry of the same moment may count as new.
            while upstream.lookups() < lookups {
                let wants_newer = replica.get(anew()).await;
                assert_eq!(summary(&wants_newer), "lookup 2");
            }
            let hit = replica.get(query()).await;
            assert!(matches!(hit.cache_status, CacheStatus::Hit { .. }), "{hit:?}");
            assert_eq!(upstream.lookups(), lookups);
        }
        while summary(&replica.get(anew()).await) != "lookup 5" {}
        assert_eq!(upstream.lookups(), 5);
    }
}

pub async fn a_spell_of_404_is_noticed_by_what_was_kept<K: Kind>() {
    let kind = K::new();
    for number in [1, 2] {
        let feed = channel(number).into();
        saved_before(&kind, feed, &success(feed, "kept", OLD)).await;
    }
    let upstream = Fake::open(fails(UpstreamError::NotFound));
    let replica = Replica::start(&kind, &upstream).await;
    for number in [1, 2] {
        let query = Query {
            channel: channel(number),
            ..query()
        };
        assert_eq!(summary(&replica.get(query).await), "kept (stale)");
    }
    let unknown = replica.get(query()).await.outcome.expect_err("a 404");
    assert_eq!(unknown, LookupError::Upstream(UpstreamError::Outage));
}

pub async fn a_caller_who_wants_it_new_gets_it_new<K: Kind>() {
    let kind = K::new();
    saved_before(&kind, feed(), &success(feed(), "kept", FRESH)).await;
    let upstream = Fake::open(found);
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(anew()).await), "lookup 1");
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
    // An entry of the same moment may count as new.
    while summary(&replica.get(anew()).await) != "lookup 2" {}
    assert_eq!(upstream.lookups(), 2);
}

pub async fn nothing_older_replaces_what_is_known<K: Kind>() {
    let kind = K::new();
    let upstream = Fake::open(|number, feed| match number {
        1 => found(number, feed),
        _ => Err(UpstreamError::Status(503).into()),
    });
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
    let older = success(feed(), "older", FRESH);
    replica.store.save(feed(), &older, Lease::Uncoordinated).await;
    // It is loaded, and the lookup fails.
    assert_eq!(summary(&replica.get(anew()).await), "lookup 1");
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
    assert_eq!(upstream.lookups(), 2);
}

pub async fn a_failure_of_who_knew_nothing_is_no_reason_to_forget<K: Kind>() {
    let kind = K::new();
    let upstream = Fake::open(found);
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
    // A store may round times to milliseconds: the failure has to be later in any case.
    let found_at = plaque::clock::now();
    while plaque::clock::now() - found_at < Duration::from_millis(2) {
        tokio::task::yield_now().await;
    }
    let failure = bad(UpstreamError::NotFound, 1, Duration::ZERO, LONG);
    replica.store.save(feed(), &failure, Lease::Uncoordinated).await;
    // It is loaded, and prevents a lookup.
    assert_eq!(summary(&replica.get(anew()).await), "lookup 1");
    assert_eq!(upstream.lookups(), 1);
}

pub async fn an_answer_is_found_that_was_kept_before_our_own_failure<K: Kind>() {
    let kind = K::new();
    let upstream = Fake::open(|number, _| {
        let error = match number {
            1 => UpstreamError::RateLimited(429),
            _ => UpstreamError::Status(503),
        };
        let retry_after = Some(if number == 1 { Duration::ZERO } else { LONG });
        Err(Failure {
            out_of_budget: false,
            error,
            retry_after,
        })
    });
    let replica = Replica::start(&kind, &upstream).await;
    replica.get(query()).await.outcome.expect_err("nothing is known");
    // For example, the store was failing when this instance asked.
    let kept = success(feed(), "kept", OLD);
    replica.store.save(feed(), &kept, Lease::Uncoordinated).await;
    assert_eq!(summary(&replica.get(query()).await), "kept (stale)");
    assert_eq!(upstream.lookups(), 2);
    replica.stop().await;
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(query()).await), "kept (stale)");
    assert_eq!(upstream.lookups(), 2);
}

pub async fn kinds_are_kept_apart<K: Kind>() {
    let kind = K::new();
    let of = |kind| Feed { kind, ..feed() };
    let channel = |title, kind| Channel::new(feed().channel, title, vec![upload(1, kind)]);
    for (feed, channel) in [
        (of(None), channel("all", VideoKind::Video)),
        (of(Some(VideoKind::Video)), channel("videos", VideoKind::Video)),
        (of(Some(VideoKind::Short)), channel("shorts", VideoKind::Short)),
    ] {
        saved_before(&kind, feed, &good_channel(channel, FRESH)).await;
    }
    let upstream = Fake::open(never);
    let replica = Replica::start(&kind, &upstream).await;
    for (kind, shown) in [
        (Some(VideoKind::Short), "shorts"),
        // The channel's own feed has one.
        (Some(VideoKind::Video), "all"),
        (None, "all"),
    ] {
        let reply = replica.get(Query { kind, ..query() }).await;
        assert_eq!(summary(&reply), shown);
    }
    let videos = replica.store.load(of(Some(VideoKind::Video))).await;
    let videos = videos.expect("kept").success.expect("good");
    assert_eq!(videos.value.title(), "videos");
}

pub async fn what_cannot_be_read_counts_as_absent_and_is_replaced<K: Kind>() {
    let kind = K::new();
    saved_before(&kind, feed(), &success(feed(), "kept", FRESH)).await;
    kind.corrupt(feed()).await;
    let upstream = Fake::open(found);
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
    replica.stop().await;
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
    assert_eq!(upstream.lookups(), 1);
}

pub async fn the_units_of_a_day_are_added_up_by_key_and_outlive_a_restart<K: Kind>() {
    const A: u16 = 0;
    const B: u16 = u16::MAX;
    let kind = K::new();
    let store = kind.open().await;
    assert_eq!(store.add_units(1, A, 0).await, Some(0));
    assert_eq!(store.add_units(1, A, 3).await, Some(3));
    assert_eq!(store.add_units(1, A, 2).await, Some(5));
    assert_eq!(store.add_units(1, B, 1).await, Some(1), "another key");
    store.close(LONG).await;
    drop(store);
    let store = kind.open().await;
    assert_eq!(store.add_units(1, A, 0).await, Some(5));
    assert_eq!(store.add_units(1, B, 2).await, Some(3));
    assert_eq!(store.add_units(2, A, 1).await, Some(1), "another day");
    store.close(LONG).await;
}

pub async fn names_outlive_a_restart_and_each_is_of_one_channel<K: Kind>() {
    let kind = K::new();
    let name = |text: &str| text.parse::<ChannelName>().expect(text);
    // The longest handle, in letters of four bytes, is longer than a key of the file.
    let long = format!("@{}", "\u{20000}".repeat(100));
    let names = [
        "@name",
        "@name2",
        "youtube.com/user/name",
        "youtu.be/aaaaaaaaaaa",
        &long,
    ]
    .map(name);
    let resolved = |number: u8| ResolvedChannel {
        id: channel(number),
        title: if number == 0 { "".into() } else { "A title ".into() },
    };
    let store = kind.open().await;
    for (number, name) in (0..).zip(&names) {
        assert_eq!(store.load_name(name).await, None);
        store.save_name(name, &resolved(number)).await;
        let (kept, left) = store.load_name(name).await.expect("saved");
        assert_eq!(kept.id, channel(number));
        assert!(left <= NAME_LIFETIME && left + LONG > NAME_LIFETIME, "{left:?}");
    }
    store.save_name(&names[0], &resolved(9)).await;
    store.close(LONG).await;
    drop(store);
    let store = kind.open().await;
    for (number, name) in [9, 1, 2, 3, 4].into_iter().zip(&names) {
        let (kept, _left) = store.load_name(name).await.expect("it outlives a restart");
        assert_eq!((kept.id, kept.title.trim()), (channel(number), "A title"));
    }
    assert_eq!(store.load_name(&name("@another")).await, None);
    assert!(store.load(feed()).await.is_none(), "a name is no feed");
    store.close(LONG).await;
}
