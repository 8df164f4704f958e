//! Coalescing as seen by callers, over real gRPC.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{http::StatusCode, response::IntoResponse as _};
use futures_util::future::{BoxFuture, join_all};
use plaque::{
    upstream::{Failure, Feed, LookupRequest, Upstream},
    video::Channel,
    youtube::YouTube,
};
use tonic::{Code, Request};

use crate::support::{CHANNEL, Fake, Server, cache_status, feed, reason, request, youtube};

#[tokio::test]
async fn a_thousand_callers_cost_one_lookup() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let mut calls = Vec::new();
    for _ in 0..10 {
        let client = server.client();
        calls.extend((0..100).map(|_| client.start(CHANNEL)));
    }
    fake.arrival().await;
    fake.release();
    let mut collapsed = 0;
    for call in join_all(calls).await {
        let (response, cache_status) = call.expect("no panic").expect("an answer");
        assert_eq!(response.video.expect("set").video_id, "upload0015A");
        collapsed += usize::from(cache_status == "plaque; fwd=uri-miss; collapsed");
    }
    assert_eq!(fake.lookups(CHANNEL), 1);
    assert!(collapsed > 0, "some came while the lookup was under way");
}

#[tokio::test]
async fn a_caller_that_hangs_up_changes_nothing_for_the_others() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let leader = server.client().start(CHANNEL);
    fake.arrival().await;
    let follower = server.client().start(CHANNEL);
    leader.abort();
    assert!(leader.await.expect_err("aborted").is_cancelled());
    let newcomer = server.client().start(CHANNEL);
    fake.release();
    for call in [follower, newcomer] {
        call.await.expect("no panic").expect("an answer");
    }
    assert_eq!(fake.lookups(CHANNEL), 1);
}

#[tokio::test]
async fn deadlines_shorter_than_the_upstream_cost_one_lookup_which_later_callers_get() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    let impatient = (0..100).map(|_| {
        let mut request = Request::new(request(CHANNEL));
        request.set_timeout(Duration::from_millis(40));
        client.ask(request)
    });
    for outcome in join_all(impatient).await {
        let status = outcome.expect_err("the gate is shut");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    let patient = client.start(CHANNEL);
    fake.arrival().await;
    fake.release();
    patient.await.expect("no panic").expect("an answer");
    client.get(CHANNEL).await.expect("an answer, from the cache");
    assert_eq!(fake.lookups(CHANNEL), 1);
}

/// The real adapter with a bug: its first lookup panics, after the upstream has answered.
struct Buggy {
    youtube: YouTube,
    mended: AtomicBool,
}

impl Upstream for Buggy {
    fn look_up(&self, feed: Feed, request: LookupRequest) -> BoxFuture<'_, Result<Channel, Failure>> {
        Box::pin(async move {
            let found = self.youtube.look_up(feed, request).await;
            assert!(self.mended.swap(true, SeqCst), "a bug in the lookup");
            found
        })
    }

    fn time_limit(&self) -> Duration {
        self.youtube.time_limit()
    }
}

#[tokio::test]
async fn a_panic_reaches_251_callers_and_fails_only_its_feed() {
    let fake = Fake::gated(feed).await;
    let config = fake.config();
    let buggy = Buggy {
        youtube: youtube(&config),
        mended: AtomicBool::new(false),
    };
    let server = Server::start(config, Arc::new(buggy)).await;
    let (client, other) = (server.client(), server.client());
    let mut calls = client.start_many(CHANNEL, 125).await;
    calls.extend(other.start_many(CHANNEL, 126).await);
    fake.arrival().await;
    fake.release();
    for call in calls {
        let status = call.await.expect("no panic here").expect_err("a bug");
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(reason(&status).0, "LOOKUP_PANICKED");
        assert!(
            !status.message().contains("a bug in the lookup"),
            "the panic's own words are for the log: {}",
            status.message()
        );
    }
    // The next caller does not start it again.
    let status = client.get(CHANNEL).await.expect_err("a bug");
    let (why, details) = reason(&status);
    assert_eq!(why, "LOOKUP_PANICKED");
    let retry = details.retry_info().and_then(|info| info.retry_delay);
    assert!((3..=6).contains(&retry.expect("a pause").as_secs()), "{retry:?}");
    assert_eq!(fake.lookups(CHANNEL), 1);

    let next = client.start("UC0123456789abcdefghijQA");
    fake.arrival().await;
    fake.release();
    next.await.expect("no panic").expect("an answer");
}

#[tokio::test]
async fn a_failure_reaches_all_waiters() {
    let fake = Fake::gated(|_| StatusCode::BAD_GATEWAY.into_response()).await;
    let server = fake.serve().await;
    let calls = server.client().start_many(CHANNEL, 100).await;
    for _of_two_attempts in 0..2 {
        fake.arrival().await;
        fake.release();
    }
    let mut collapsed = 0;
    for call in calls {
        let status = call.await.expect("no panic").expect_err("it fails");
        assert_eq!(reason(&status).0, "UPSTREAM_ERROR");
        let cache_status = cache_status(status.metadata());
        collapsed += usize::from(cache_status == "plaque; fwd=uri-miss; collapsed; fwd-status=502");
    }
    assert_eq!((collapsed, fake.lookups(CHANNEL)), (99, 2));
}

#[tokio::test]
async fn a_lookup_whose_callers_have_all_left_is_joined_by_the_next() {
    let fake = Fake::gated(feed).await;
    let server = fake.serve().await;
    let client = server.client();
    for call in client.start_many(CHANNEL, 100).await {
        call.abort();
    }
    fake.arrival().await;
    let newcomers = client.start_many(CHANNEL, 10).await;
    fake.release();
    for call in newcomers {
        let (_, cache_status) = call.await.expect("no panic").expect("an answer");
        assert_eq!(cache_status, "plaque; fwd=uri-miss; collapsed");
    }
    assert_eq!(fake.lookups(CHANNEL), 1);
}
