//! What replicas share while everything works.

use std::thread;

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::runtime;

use super::*;

#[tokio::test]
async fn an_answer_comes_back_as_old_as_the_servers_clock_says() {
    let server = Server::start(&[]);
    let (one, other) = (store(&server.url()).await, store(&server.url()).await);
    assert_eq!(loaded(&other).await, None);
    one.save(feed(), &found("here", SECOND * 10), Lease::Uncoordinated)
        .await;
    let age = |known: FeedEntry| known.success.expect("a success").age(clock::now());
    let known = other.load(feed()).await.expect("something");
    assert_eq!(title(&known), "here");
    let is = age(known);
    assert!((SECOND * 10..SECOND * 20).contains(&is), "{is:?}");
    // Lets a minute pass at the server, and nowhere else.
    let left: i64 = server.command(&["PTTL", KEY]);
    let () = server.command(&["PEXPIRE", KEY, &(left - 60_000).to_string()]);
    let is = age(other.load(feed()).await.expect("something"));
    assert!((SECOND * 70..SECOND * 80).contains(&is), "{is:?}");
}

#[tokio::test]
async fn one_has_the_lease_as_long_as_it_wants_and_the_others_hear_of_the_answer() {
    let server = Server::start(&[]);
    let (one, other) = (store(&server.url()).await, store(&server.url()).await);
    let held = acquire_lease(&one).await;
    let end = held_elsewhere(&other).await;
    // It is renewed.
    let mut end = Box::pin(end);
    timeout(LEASE * 3, &mut end).await.expect_err("still theirs");
    let began = Instant::now();
    one.save(feed(), &found("here", Duration::ZERO), Lease::Acquired(held))
        .await;
    soon(end).await;
    // Not by asking when the lease may have ended.
    assert!(began.elapsed() < LEASE / 2, "{:?}", began.elapsed());
    assert_eq!(loaded(&other).await.as_deref(), Some("here"));
    drop(acquire_lease(&other).await);
}

#[tokio::test]
async fn a_lease_that_is_given_up_is_told() {
    let server = Server::start(&[]);
    let (one, other) = (store(&server.url()).await, store(&server.url()).await);
    let held = acquire_lease(&one).await;
    let (end, same) = (held_elsewhere(&other).await, held_elsewhere(&other).await);
    let began = Instant::now();
    drop(held);
    soon(end).await;
    soon(same).await;
    assert!(began.elapsed() < LEASE / 2, "{:?}", began.elapsed());
    let held = acquire_lease(&other).await;
    // It releases its leases before it closes.
    drop(held);
    other.close(SOON).await;
    let exists: i64 = server.command(&["EXISTS", &format!("{KEY}:lease")]);
    assert_eq!(exists, 0);
}

#[tokio::test]
async fn a_holder_that_dies_is_replaced_within_the_lease() {
    let server = Server::start(&[]);
    let other = store(&server.url()).await;
    let url = server.url();
    // A replica with a runtime of its own, whose tasks end in the middle of what they do.
    let token = thread::spawn(move || {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let held = runtime.block_on(async {
            let one = store(&url).await;
            let held = acquire_lease(&one).await;
            std::mem::forget(one);
            held
        });
        runtime.shutdown_background();
        held.token
    });
    let token = token.join().expect("no panic");
    let end = held_elsewhere(&other).await;
    let began = Instant::now();
    soon(end).await;
    assert!(began.elapsed() < LEASE + LEASE / 2, "{:?}", began.elapsed());
    let held = acquire_lease(&other).await;
    assert!(held.token > token);
}

#[tokio::test]
async fn a_late_holder_overwrites_nothing_newer() {
    let server = Server::start(&[]);
    let (one, other) = (store(&server.url()).await, store(&server.url()).await);
    let late = acquire_lease(&one).await;
    // As if it had not been renewed in time.
    let () = server.command(&["DEL", &format!("{KEY}:lease")]);
    let held = acquire_lease(&other).await;
    assert!(held.token > late.token);
    other
        .save(feed(), &found("newer", Duration::ZERO), Lease::Acquired(held))
        .await;
    let third = acquire_lease(&other).await;
    let mut updates = other.remote_updates();
    let kept = one
        .save(feed(), &found("late", Duration::ZERO), Lease::Acquired(late))
        .await;
    assert!(!kept);
    assert_eq!(loaded(&other).await.as_deref(), Some("newer"));
    assert!(updates.next().now_or_never().is_none());
    // Nor does it end another replica's lease.
    drop(held_elsewhere(&one).await);
    let kept = other
        .save(feed(), &found("newest", Duration::ZERO), Lease::Acquired(third))
        .await;
    assert!(kept);
    assert_eq!(loaded(&one).await.as_deref(), Some("newest"));
    // A replica without coordination has found something newer than all others.
    one.save(feed(), &found("alone", Duration::ZERO), Lease::Uncoordinated)
        .await;
    assert_eq!(loaded(&other).await.as_deref(), Some("alone"));
}

#[tokio::test]
async fn what_only_this_replica_has_met_ends_its_lease_at_once_and_saves_nothing() {
    let server = Server::start(&[]);
    let (one, other) = (store(&server.url()).await, store(&server.url()).await);
    for error in [UpstreamError::Busy, UpstreamError::RateLimited(429)] {
        let held = acquire_lease(&one).await;
        let end = held_elsewhere(&other).await;
        let began = Instant::now();
        let known = failed(error, SECOND * 60);
        one.save(feed(), &known, Lease::Acquired(held)).await;
        soon(end).await;
        assert!(began.elapsed() < LEASE / 2, "{:?}", began.elapsed());
        assert_eq!(loaded(&other).await, None);
    }
}

#[tokio::test]
async fn others_hear_of_what_is_found_and_again_after_a_reconnect() {
    let server = Server::start(&[]);
    let (one, other) = (store(&server.url()).await, store(&server.url()).await);
    let (mut own, mut updates) = (one.remote_updates(), other.remote_updates());
    one.save(feed(), &found("first", Duration::ZERO), Lease::Uncoordinated)
        .await;
    assert_eq!(soon(updates.next()).await, Some(RemoteUpdate::Saved(feed())));
    assert_eq!(loaded(&other).await.as_deref(), Some("first"));
    let killed: i64 = server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(killed, 2);
    let again = async {
        let mut got = vec![];
        while got.len() < 2 {
            one.save(feed(), &found("second", Duration::ZERO), Lease::Uncoordinated)
                .await;
            if let Ok(Some(update)) = timeout(LEASE / 4, updates.next()).await
                && !got.contains(&update)
            {
                got.push(update);
            }
        }
        got
    };
    // It is also told that it has missed messages.
    let got = soon(again).await;
    for update in [RemoteUpdate::Lost(None), RemoteUpdate::Saved(feed())] {
        assert!(got.contains(&update), "{got:?}");
    }
    // It gets messages before it is connected.
    soon(other.up()).await;
    assert_eq!(loaded(&other).await.as_deref(), Some("second"));
    // Only other replicas' saves are updates: the next one is theirs.
    while updates.next().now_or_never().is_some() {}
    one.save(feed(), &found("own", Duration::ZERO), Lease::Uncoordinated)
        .await;
    other
        .save(feed(), &found("theirs", Duration::ZERO), Lease::Uncoordinated)
        .await;
    assert_eq!(soon(own.next()).await, Some(RemoteUpdate::Lost(None)));
    assert_eq!(soon(own.next()).await, Some(RemoteUpdate::Saved(feed())));
    assert_eq!(loaded(&one).await.as_deref(), Some("theirs"));
    assert!(own.next().now_or_never().is_none());
}

#[tokio::test]
async fn two_prefixes_do_not_see_each_other() {
    let server = Server::start(&[]);
    let one = store(&server.url()).await;
    let other = soon(Redis::start(Settings {
        prefix: "staging".parse().expect("a prefix"),
        ..settings(&server.url())
    }))
    .await;
    let mut updates = other.remote_updates();
    let (held, same) = (acquire_lease(&one).await, acquire_lease(&other).await);
    one.save(feed(), &found("here", Duration::ZERO), Lease::Acquired(held))
        .await;
    assert_eq!(loaded(&other).await, None);
    drop(same);
    assert!(updates.next().now_or_never().is_none());
    let keys: Vec<String> = server.command(&["KEYS", "plaque:1:*/all}"]);
    assert_eq!(keys, [KEY]);
}

#[tokio::test]
async fn garbage_counts_as_absent_and_is_replaced() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    let garbage: [&[&[&str]]; 6] = [
        &[&["SET", KEY, "text"]],
        &[
            &["SADD", KEY, "text"],
            &["SET", "plaque:1:{UCsXVk37bltHxD1rDPwtNM8Q/all}:lease", "text"],
        ],
        &[
            &[
                "HSET",
                KEY,
                "v",
                "\x01garbage",
                "k",
                "604800000",
                "f",
                "x",
                "n",
                "y",
            ],
            &["EXPIRE", KEY, "60"],
        ],
        &[&["HSET", KEY, "v", "", "k", "x"], &["EXPIRE", KEY, "60"]],
        &[&["HSET", KEY, "v", "", "k", "1"], &["EXPIRE", KEY, "60"]],
        &[&["HSET", KEY, "v", "", "k", "604800000"]],
    ];
    for commands in garbage {
        let () = server.command(&["FLUSHALL"]);
        for command in commands {
            let () = server.command(command);
        }
        assert_eq!(loaded(&store).await, None, "{commands:?}");
        let held = acquire_lease(&store).await;
        assert_eq!(loaded(&store).await, None, "{commands:?}");
        store
            .save(feed(), &found("here", Duration::ZERO), Lease::Acquired(held))
            .await;
        assert_eq!(loaded(&store).await.as_deref(), Some("here"), "{commands:?}");
    }
}

#[tokio::test]
async fn units_that_a_replica_of_an_earlier_version_counts_are_those_of_the_next_key() {
    // What such a replica runs.
    const ADD: &str = "local sum = (tonumber(redis.call('GET', KEYS[1]) or '') or 0) + tonumber(ARGV[1]) \
                       redis.call('SET', KEYS[1], string.format('%.0f', sum), 'PX', 172800000) return sum";
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    let earlier = |units: &str| server.command::<u64>(&["EVAL", ADD, "1", "plaque:1:{units/1}", units]);
    assert_eq!(earlier("5"), 5);
    assert_eq!(store.add_units(1, 7, 1).await, Some(6));
    assert_eq!(store.add_units(1, 8, 2).await, Some(2));
    assert_eq!(earlier("10"), 18, "of all keys");
    assert_eq!(store.add_units(1, 7, 0).await, Some(16));
    assert_eq!(store.add_units(1, 8, 1).await, Some(3));
    assert_eq!(earlier("0"), 19);
    // All of it ends.
    for key in ["plaque:1:{units/1}", "plaque:1:{units/1}:lease"] {
        let left: i64 = server.command(&["PTTL", key]);
        assert!((1..=172_800_000).contains(&left), "{key}: {left}");
    }
}
