//! Replicas that share a store: one lookup among them, whatever happens to it or to the replica that makes it.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use plaque::{
    latest::{Event, LookupError, Query, Watch, WatchQuery},
    store::Lease,
    upstream::{Feed, UpstreamError},
};
use tokio::sync::Semaphore;

use super::rig::*;

/// Two replicas with one upstream.
async fn two(kind: &impl Kind, upstream: &Arc<Fake>) -> (Replica, Replica) {
    (
        Replica::start(kind, upstream).await,
        Replica::start(kind, upstream).await,
    )
}

/// Five hundred callers at each of two replicas, while the lookup waits at its gate. Returns their distinct answers.
async fn a_thousand_at_two(replicas: (&Replica, &Replica), upstream: &Fake, query: Query) -> Vec<String> {
    let calls = async {
        let (one, other) = replicas;
        tokio::join!(one.get_many(500, query), other.get_many(500, query))
    };
    let lookup = async {
        upstream.arrival().await;
        // Both have tried: one of them waits for the other.
        for replica in [replicas.0, replicas.1] {
            replica.store.until(|counts| counts.leases > 0).await;
        }
        upstream.release();
    };
    let ((mut answers, others), ()) = tokio::join!(calls, lookup);
    answers.extend(others);
    assert_eq!(answers.len(), 1000);
    answers.dedup();
    answers
}

pub async fn callers_of_two_replicas_cost_one_lookup<K: Shared>() {
    let kind = K::new();
    let upstream = Fake::gated(found);
    let (one, other) = two(&kind, &upstream).await;
    let answers = a_thousand_at_two((&one, &other), &upstream, query()).await;
    assert_eq!((answers, upstream.lookups()), (vec!["lookup 1".into()], 1));
    assert_eq!((one.latest.waiting(), other.latest.waiting()), (0, 0));
}

pub async fn callers_of_two_replicas_who_want_it_new_cost_one_lookup<K: Shared>() {
    let kind = K::new();
    saved_before(&kind, feed(), &success(feed(), "kept", FRESH)).await;
    let upstream = Fake::gated(found);
    let (one, other) = two(&kind, &upstream).await;
    let answers = a_thousand_at_two((&one, &other), &upstream, anew()).await;
    assert_eq!((answers, upstream.lookups()), (vec!["lookup 1".into()], 1));
}

pub async fn the_others_failure_is_ours<K: Shared>() {
    for error in [
        UpstreamError::NotFound,
        UpstreamError::Status(503),
        UpstreamError::Malformed("a page".into()),
    ] {
        let kind = K::new();
        let upstream = Fake::gated(fails(error.clone()));
        let (one, other) = two(&kind, &upstream).await;
        let answers = a_thousand_at_two((&one, &other), &upstream, query()).await;
        let expected = match error {
            UpstreamError::NotFound => LookupError::ChannelNotFound(feed().channel),
            error => LookupError::Upstream(error),
        };
        assert_eq!((answers, upstream.lookups()), (vec![expected.to_string()], 1));
    }
}

pub async fn what_the_upstream_thinks_of_one_replica_it_need_not_think_of_the_other<K: Shared>() {
    let kind = K::new();
    let (refusing, willing) = (
        Fake::gated(fails(UpstreamError::RateLimited(429))),
        Fake::open(found),
    );
    let (one, other) = (
        Replica::start(&kind, &refusing).await,
        Replica::start(&kind, &willing).await,
    );
    let refused = one.begin(query());
    refusing.arrival().await;
    let answered = other.begin(query());
    other.store.until(|counts| counts.leases > 0).await;
    assert_eq!(willing.lookups(), 0);
    refusing.release();
    let refused = refused.await.expect("no panic").outcome.expect_err("refused");
    assert_eq!(refused, LookupError::Upstream(UpstreamError::RateLimited(429)));
    assert_eq!(summary(&answered.await.expect("no panic")), "lookup 1");
}

pub async fn a_lease_that_is_given_up_is_taken_over<K: Shared>() {
    let kind = K::new();
    let upstream = Fake::open(found);
    let replica = Replica::start(&kind, &upstream).await;
    let other = kind.open().await;
    let held = acquire_lease(&*other, feed()).await;
    let call = replica.begin(query());
    replica.store.until(|counts| counts.leases > 0).await;
    assert_eq!(upstream.lookups(), 0);
    drop(held);
    assert_eq!(summary(&call.await.expect("no panic")), "lookup 1");
    assert_eq!(upstream.lookups(), 1);
}

pub async fn a_holder_that_lost_its_lease_overwrites_nothing<K: Shared>() {
    let kind = K::new();
    let (slow, quick) = (Fake::gated(found), Fake::open(|_, feed| found(2, feed)));
    let one = Replica::start(&kind, &slow).await;
    let late = one.begin(query());
    slow.arrival().await;
    kind.lose_lease(feed()).await;
    let other = Replica::start(&kind, &quick).await;
    assert_eq!(summary(&other.get(query()).await), "lookup 2");
    slow.release();
    // Its own callers do not get what it found, either.
    assert_eq!(summary(&late.await.expect("no panic")), "lookup 2");
    assert_eq!(summary(&one.get(query()).await), "lookup 2");
    let third = Replica::start(&kind, &quick).await;
    assert_eq!(summary(&third.get(query()).await), "lookup 2");
    assert_eq!(summary(&other.get(query()).await), "lookup 2");
    assert_eq!((slow.lookups(), quick.lookups()), (1, 1));
}

pub async fn what_the_last_holder_saved_between_our_look_and_our_lease_is_found<K: Shared>() {
    let kind = K::new();
    let upstream = Fake::open(never);
    let replica = Replica::start(&kind, &upstream).await;
    let other = kind.open().await;
    let holder = Arc::clone(&other);
    replica.store.before_lease(async move {
        let held = acquire_lease(&*holder, feed()).await;
        let found = success(feed(), "theirs", Duration::ZERO);
        holder.save(feed(), &found, Lease::Acquired(held)).await;
    });
    assert_eq!(summary(&replica.get(query()).await), "theirs");
    let counts = replica.store.counts();
    assert_eq!((counts.leases, counts.saves), (1, 0));
    // Nor is the lease still held.
    drop(acquire_lease(&*other, feed()).await);
}

pub async fn a_panic_under_a_lease_gives_it_up<K: Shared>() {
    let kind = K::new();
    let upstream = Fake::gated(|number, feed| {
        assert!(number > 1, "a bug in the lookup");
        found(number, feed)
    });
    let (one, other) = two(&kind, &upstream).await;
    let unlucky = one.begin(query());
    upstream.arrival().await;
    let waiting = other.begin(query());
    other.store.until(|counts| counts.leases > 0).await;
    upstream.release();
    let error = unlucky.await.expect("no panic here").outcome.expect_err("a bug");
    assert_eq!(error, LookupError::Upstream(UpstreamError::Panicked));
    upstream.arrival().await;
    upstream.release();
    assert_eq!(summary(&waiting.await.expect("no panic")), "lookup 2");
    assert_eq!(upstream.lookups(), 2);
}

pub async fn a_caller_who_leaves_while_another_replica_looks_up_changes_nothing<K: Shared>() {
    let kind = K::new();
    let upstream = Fake::open(found);
    let replica = Replica::start(&kind, &upstream).await;
    let other = kind.open().await;
    let held = acquire_lease(&*other, feed()).await;
    let leaving = replica.begin(query());
    replica.store.until(|counts| counts.leases > 0).await;
    leaving.abort();
    assert!(leaving.await.expect_err("aborted").is_cancelled());
    assert_eq!((replica.latest.flights(), replica.latest.waiting()), (1, 0));
    let staying = replica.begin(query());
    drop(held);
    assert_eq!(summary(&staying.await.expect("no panic")), "lookup 1");
    assert_eq!((upstream.lookups(), replica.store.counts().saves), (1, 1));
}

/// The next upload that a watcher gets.
async fn next(watch: &mut Watch) -> String {
    match watch.next().await.expect("it goes on").expect("no error").event {
        Event::Upload { channel, upload, .. } => {
            channel.upload(upload).expect("it has it").title().to_owned()
        }
        other => panic!("{other:?}"),
    }
}

fn watch(replica: &Replica, feed: Feed) -> Watch {
    let watch = replica.latest.watch(&WatchQuery {
        channels: vec![feed.channel],
        kind: None,
        published_after: None,
        resume_tokens: vec![],
    });
    watch.expect("room for one more")
}

pub async fn what_one_replica_finds_the_watchers_of_the_other_are_told<K: Shared>() {
    let kind = K::new();
    saved_before(&kind, feed(), &success(feed(), "kept", FRESH)).await;
    let upstream = Fake::open(|_, feed| found(3, feed));
    let (one, other) = two(&kind, &upstream).await;
    let mut watch = watch(&other, feed());
    assert_eq!(next(&mut watch).await, "Upload 1");
    assert_eq!(summary(&one.get(anew()).await), "lookup 3");
    assert_eq!(next(&mut watch).await, "Upload 2");
    assert_eq!(next(&mut watch).await, "Upload 3");
    // Callers get it, too, as soon as it is cached.
    while summary(&other.get(query()).await) != "lookup 3" {
        tokio::task::yield_now().await;
    }
    assert_eq!(upstream.lookups(), 1);
}

pub async fn an_older_remote_update_replaces_nothing_and_an_unwanted_one_is_not_loaded<K: Shared>() {
    let kind = K::new();
    let watched = channel(1).into();
    saved_before(&kind, watched, &success(watched, "kept", FRESH)).await;
    let upstream = Fake::open(found);
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
    let mut watch = watch(&replica, watched);
    assert_eq!(next(&mut watch).await, "Upload 1");
    let before = replica.store.counts();

    let other = kind.open().await;
    let save = async |feed, known| other.save(feed, &known, Lease::Uncoordinated).await;
    save(feed(), success(feed(), "older", FRESH)).await;
    let unwanted = channel(2).into();
    save(unwanted, success(unwanted, "unwanted", Duration::ZERO)).await;
    let newer = |number, age| good_channel(found(number, watched).expect("a channel"), age);
    save(watched, newer(2, FRESH / 2)).await;
    assert_eq!(next(&mut watch).await, "Upload 2");
    replica
        .store
        .until(|counts| counts.loads >= before.loads + 2)
        .await;
    // The first save would have been loaded by now.
    save(watched, newer(3, Duration::ZERO)).await;
    assert_eq!(next(&mut watch).await, "Upload 3");
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
    assert_eq!(replica.store.counts().loads, before.loads + 3);
}

pub async fn a_remote_update_that_is_slow_to_load_replaces_nothing_newer<K: Shared>() {
    let kind = K::new();
    saved_before(&kind, feed(), &success(feed(), "kept", FRESH * 2)).await;
    let watched = channel(1).into();
    saved_before(&kind, watched, &success(watched, "kept", FRESH)).await;
    let upstream = Fake::open(found);
    let replica = Replica::start(&kind, &upstream).await;
    assert_eq!(summary(&replica.get(query()).await), "kept");
    let mut watch = watch(&replica, watched);
    assert_eq!(next(&mut watch).await, "Upload 1");

    let (loaded, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (has_loaded, opened) = (Arc::clone(&loaded), Arc::clone(&gate));
    replica.store.after_load(async move {
        has_loaded.add_permits(1);
        opened.acquire().await.expect("never closed").forget();
    });
    let other = kind.open().await;
    let save = async |feed, known| other.save(feed, &known, Lease::Uncoordinated).await;
    save(feed(), success(feed(), "theirs", FRESH)).await;
    loaded.acquire().await.expect("never closed").forget();
    assert_eq!(summary(&replica.get(anew()).await), "lookup 1");
    // It does not delay others.
    let newer = found(2, watched).expect("a channel");
    save(watched, good_channel(newer, Duration::ZERO)).await;
    assert_eq!(next(&mut watch).await, "Upload 2");
    // Saved during its load, it is loaded once more, but not before the first load is applied.
    save(feed(), success(feed(), "theirs", FRESH)).await;
    let before = replica.store.counts();
    gate.add_permits(1);
    replica
        .store
        .until(|counts| counts.loads >= before.loads + 2)
        .await;
    assert_eq!(summary(&replica.get(query()).await), "lookup 1");
}
