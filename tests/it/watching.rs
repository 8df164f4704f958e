//! Watching channels for new uploads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use parking_lot::Mutex;
use plaque::{
    latest::{Event, Latest, LookupError, Query, Watch, WatchQuery},
    origin::{self, Origin, Upload},
    proto::v1::{WatchLatestVideoRequest, watch_latest_video_response::Event as Happened},
    server::Drained,
    video::Kind,
    youtube::{Settings, YouTube},
};
use tokio::{runtime::Handle, time::timeout};
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::support::{CHANNEL, Fake, channel, feed, reason, settings};

/// An origin whose one channel uploads, edits and fails as a test says.
struct Studio {
    origin: Origin,
    uploads: Arc<Mutex<Vec<Upload>>>,
    missing: Arc<AtomicBool>,
    latest: Arc<Latest>,
}

impl Studio {
    async fn start() -> Self {
        let uploads = Arc::new(Mutex::new(origin::uploads(time(15), 15)));
        let missing = Arc::new(AtomicBool::new(false));
        let (shown, gone) = (Arc::clone(&uploads), Arc::clone(&missing));
        let origin = Origin::start(move |lookup| {
            let answer: Response = if gone.load(SeqCst) {
                StatusCode::NOT_FOUND.into_response()
            } else {
                let shown = shown.lock();
                origin::feed(&lookup.channel, "A channel", &shown[..shown.len().min(15)])
            };
            async move { answer }
        })
        .await
        .expect("a free port");
        let settings = settings();
        let youtube = YouTube::new(Settings::new(origin.url().clone())).expect("a client");
        let latest = Arc::new(Latest::new(Arc::new(youtube), None, settings, Handle::current()));
        Self {
            origin,
            uploads,
            missing,
            latest,
        }
    }

    /// Puts a new upload on top of the feed.
    fn upload(&self, id: &str, hour: u64, short: bool) {
        let upload = Upload {
            id: id.into(),
            title: format!("Title of {id}"),
            short,
            published: time(hour),
        };
        self.uploads.lock().insert(0, upload);
    }

    /// Somebody asks for news, and by that the hub hears of them.
    async fn look_up(&self) {
        let query = Query {
            channel: channel(CHANNEL),
            kind: None,
            max_age: Some(Duration::ZERO),
        };
        self.latest.get(query).await;
    }

    fn watch(&self) -> Watch {
        self.watch_with(None, None)
    }

    fn watch_with(&self, kind: Option<Kind>, published_after: Option<SystemTime>) -> Watch {
        let watch = self.latest.watch(&WatchQuery {
            channels: vec![channel(CHANNEL)],
            kind,
            published_after,
            resume_tokens: vec![],
        });
        watch.expect("room for one more")
    }
}

/// Hours after an epoch of the tests' own; the fake's first 15 uploads are of the hours 1 to 15.
fn time(hour: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000 + hour)
}

/// What happened next: a video's ID, marked if it was there from the start, or a problem.
async fn next(watch: &mut Watch) -> String {
    match watch.next().await.expect("it goes on").expect("no error").event {
        Event::Problem { error, .. } => format!("problem: {error}"),
        Event::Recovered => "recovered".into(),
        Event::Missed => "missed".into(),
        event @ Event::Upload { initial, .. } => {
            let id = event.video().expect("an upload").id();
            if initial {
                format!("initially {id}")
            } else {
                id.to_string()
            }
        }
    }
}

/// Asserts that nothing has happened that the watch has not told.
async fn assert_quiet(watch: &mut Watch) {
    // Polled once: what there is to tell is told at once.
    let next = timeout(Duration::ZERO, watch.next()).await;
    assert!(next.is_err(), "{next:?}");
}

#[tokio::test]
async fn a_watch_begins_with_the_newest_upload_and_tells_each_new_one_once() {
    let studio = Studio::start().await;
    let mut watch = studio.watch();
    assert_eq!(next(&mut watch).await, "initially upload0015A");
    studio.upload("newnewnew1A", 16, false);
    studio.look_up().await;
    assert_eq!(next(&mut watch).await, "newnewnew1A");
    studio.look_up().await;
    assert_quiet(&mut watch).await;
}

#[tokio::test]
async fn an_edited_title_is_not_a_new_upload() {
    let studio = Studio::start().await;
    let mut watch = studio.watch();
    next(&mut watch).await;
    studio.uploads.lock()[0].title = "Another title".into();
    studio.look_up().await;
    assert_quiet(&mut watch).await;
}

#[tokio::test]
async fn an_upload_that_is_deleted_brings_no_old_one_up() {
    let studio = Studio::start().await;
    // A sixteenth, older than the fifteen that the feed shows.
    let older = origin::uploads(time(0), 1).remove(0);
    studio.uploads.lock().push(Upload {
        id: "oldoldoldoA".into(),
        ..older
    });
    let mut watch = studio.watch();
    next(&mut watch).await;
    let deleted = studio.uploads.lock().remove(0);
    studio.look_up().await;
    assert_quiet(&mut watch).await;
    // Nor is one new that comes back.
    studio.uploads.lock().insert(0, deleted);
    studio.look_up().await;
    assert_quiet(&mut watch).await;
}

#[tokio::test]
async fn a_watch_may_begin_where_another_ended() {
    let studio = Studio::start().await;
    let mut watch = studio.watch_with(None, Some(time(12)));
    for expected in [
        "initially upload0013A",
        "initially upload0014A",
        "initially upload0015A",
    ] {
        assert_eq!(next(&mut watch).await, expected);
    }
    assert_quiet(&mut watch).await;
    let mut up_to_date = studio.watch_with(None, Some(time(15)));
    assert_quiet(&mut up_to_date).await;
    studio.upload("newnewnew1A", 16, false);
    studio.look_up().await;
    assert_eq!(next(&mut up_to_date).await, "newnewnew1A");
}

#[tokio::test]
async fn a_slow_reader_gets_all_that_it_missed_in_order_and_slows_nobody() {
    let studio = Studio::start().await;
    let (mut slow, mut quick) = (studio.watch(), studio.watch());
    next(&mut slow).await;
    next(&mut quick).await;
    for number in 1..=5 {
        let id = format!("newnewnew{number}A");
        studio.upload(&id, 15 + number, false);
        studio.look_up().await;
        assert_eq!(next(&mut quick).await, id);
    }
    for number in 1..=5 {
        assert_eq!(next(&mut slow).await, format!("newnewnew{number}A"));
    }
    assert_quiet(&mut slow).await;
}

#[tokio::test]
async fn a_kind_is_all_that_is_told() {
    let studio = Studio::start().await;
    let mut shorts = studio.watch_with(Some(Kind::Short), None);
    assert_eq!(next(&mut shorts).await, "initially upload0013A");
    studio.upload("videovideoA", 16, false);
    studio.upload("shortshortA", 17, true);
    studio.look_up().await;
    assert_eq!(next(&mut shorts).await, "shortshortA");
    assert_quiet(&mut shorts).await;
}

#[tokio::test]
async fn trouble_is_told_once_and_the_watch_goes_on() {
    let studio = Studio::start().await;
    let mut watch = studio.watch();
    next(&mut watch).await;
    studio.missing.store(true, SeqCst);
    studio.look_up().await;
    assert_eq!(next(&mut watch).await, "problem: the upstream answered HTTP 404");
    studio.look_up().await;
    assert_quiet(&mut watch).await;
    // Whoever comes in the spell gets what is known, and is told of it.
    let mut other = studio.watch();
    let told = [next(&mut other).await, next(&mut other).await];
    assert!(
        told[0] == "initially upload0015A" && told[1].starts_with("problem:"),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_watch_that_begins_in_trouble_tells_the_newest_upload_first() {
    let studio = Studio::start().await;
    studio.look_up().await;
    studio.missing.store(true, SeqCst);
    studio.look_up().await;
    let mut watch = studio.watch();
    assert_eq!(next(&mut watch).await, "initially upload0015A");
    let problem = next(&mut watch).await;
    assert!(problem.starts_with("problem: "), "{problem}");
    assert_quiet(&mut watch).await;
}

#[tokio::test]
async fn a_channel_has_one_hub_however_many_watch_and_none_when_they_have_left() {
    let studio = Studio::start().await;
    let mut watches: Vec<_> = (0..100).map(|_| studio.watch()).collect();
    assert_eq!(studio.latest.watched(), 1);
    for watch in &mut watches {
        assert_eq!(next(watch).await, "initially upload0015A");
    }
    assert_eq!(studio.origin.lookups(channel(CHANNEL)), 1);
    watches.truncate(1);
    assert_eq!(studio.latest.watched(), 1);
    watches.clear();
    assert_eq!(studio.latest.watched(), 0);
}

#[tokio::test]
async fn a_watched_channel_is_polled() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.latest.watch_every = Duration::from_millis(5))
        .await;
    let request = WatchLatestVideoRequest {
        channel_ids: vec![CHANNEL.into()],
        ..WatchLatestVideoRequest::default()
    };
    let watch = server.client().0.watch_latest_video(request).await;
    let _watch = watch.expect("a stream");
    for _ in 0..3 {
        fake.arrival().await;
        fake.release();
    }
}

#[tokio::test]
async fn watches_of_many_channels_come_together_over_grpc() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let ids: Vec<_> = (0..100).map(|number| format!("UC{number:021}A")).collect();
    let mut asked = ids.clone();
    asked[99].clone_from(&ids[0]); // a repeat counts once
    let request = WatchLatestVideoRequest {
        channel_ids: asked,
        ..WatchLatestVideoRequest::default()
    };
    let mut watch = server
        .client()
        .0
        .watch_latest_video(request)
        .await
        .expect("a stream")
        .into_inner();
    let mut seen = Vec::new();
    for _ in 0..99 {
        let message = watch.message().await.expect("no error").expect("it goes on");
        assert!(message.initial);
        let Some(Happened::Video(video)) = message.event else {
            panic!("{message:?}");
        };
        seen.push(video.channel_id);
    }
    seen.sort();
    assert_eq!(seen, ids[..99]);
}

#[tokio::test]
async fn a_bad_watch_is_refused() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let too_many = vec![CHANNEL.to_owned(); 101];
    for (ids, expected) in [
        (vec![], "NO_CHANNELS"),
        (too_many, "TOO_MANY_CHANNELS"),
        (vec!["nonsense".into()], "INVALID_CHANNEL_ID"),
    ] {
        let request = WatchLatestVideoRequest {
            channel_ids: ids,
            ..WatchLatestVideoRequest::default()
        };
        let status = server.client().0.watch_latest_video(request).await;
        let status = status.expect_err(expected);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(reason(&status).0, expected);
    }
}

#[tokio::test]
async fn watches_end_when_the_server_stops() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let request = WatchLatestVideoRequest {
        channel_ids: vec![CHANNEL.into()],
        ..WatchLatestVideoRequest::default()
    };
    let watch = server.client().0.watch_latest_video(request).await;
    let mut watch = watch.expect("a stream").into_inner();
    watch
        .message()
        .await
        .expect("no error")
        .expect("the newest upload");
    let stopping = server.stop();
    let status = watch.message().await.expect_err("it ends");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(reason(&status).0, "SHUTTING_DOWN");
    assert_eq!(stopping.ended().await, Drained { cut_off: 0 });
}

#[tokio::test]
async fn a_service_that_is_closed_ends_new_watches_too() {
    let studio = Studio::start().await;
    let mut watch = studio.watch();
    next(&mut watch).await;
    studio.latest.close();
    let ended = watch.next().await.expect("an end");
    assert_eq!(ended.expect_err("an error"), LookupError::ShuttingDown);
    assert!(watch.next().await.is_none());
}
