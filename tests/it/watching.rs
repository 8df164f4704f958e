//! `WatchLatestVideo`: watching channels for new uploads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use parking_lot::Mutex;
use plaque::{
    latest::{Event, Latest, LookupError, Query, ResumeToken, Settings, Watch, WatchQuery},
    origin::{self, Origin, Upload},
    proto::v1::{WatchLatestVideoRequest, watch_latest_video_response::Event as Happened},
    server::Drained,
    video::Kind,
    youtube::{self, YouTube},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{runtime::Handle, time::timeout};
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::support::{CHANNEL, Fake, channel, feed, reason, settings};

/// An origin whose one channel uploads, edits and fails as a test says.
struct Studio {
    origin: Arc<Origin>,
    /// The newest first; the feed shows 15 of them.
    uploads: Arc<Mutex<Vec<Upload>>>,
    /// What it answers: 200 with the feed, or another status.
    status: Arc<AtomicU16>,
    latest: Arc<Latest>,
}

fn latest(origin: &Origin, settings: Settings) -> Arc<Latest> {
    let youtube = YouTube::new(youtube::Settings::new(origin.url().clone())).expect("a client");
    Arc::new(Latest::new(Arc::new(youtube), None, settings, Handle::current()))
}

fn query() -> WatchQuery {
    WatchQuery {
        channels: vec![channel(CHANNEL)],
        kind: None,
        published_after: None,
        resume_tokens: vec![],
    }
}

impl Studio {
    /// It has uploads of the hours 1 to 15, and one of the hour 0 that the feed does not show.
    async fn start() -> Self {
        Self::start_with(settings()).await
    }

    async fn start_with(settings: Settings) -> Self {
        let mut uploads = origin::uploads(time(15), 15);
        uploads.push(Upload {
            id: "oldoldoldoA".into(),
            ..origin::uploads(time(0), 1).remove(0)
        });
        let uploads = Arc::new(Mutex::new(uploads));
        let status = Arc::new(AtomicU16::new(200));
        let (shown, answered) = (Arc::clone(&uploads), Arc::clone(&status));
        let origin = Origin::start(move |lookup| {
            let answer: Response = match answered.load(SeqCst) {
                200 => {
                    let shown = shown.lock();
                    origin::feed(&lookup.channel, "A channel", &shown[..shown.len().min(15)])
                }
                status => StatusCode::from_u16(status).expect("a status").into_response(),
            };
            async move { answer }
        })
        .await
        .expect("a free port");
        Self {
            latest: latest(&origin, settings),
            origin: Arc::new(origin),
            uploads,
            status,
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

    /// A caller asks for a new answer, which reaches the hub.
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
        let query = WatchQuery {
            kind,
            published_after,
            ..query()
        };
        self.latest.watch(&query).expect("room for one more")
    }

    fn resume(&self, token: ResumeToken) -> Watch {
        let query = WatchQuery {
            resume_tokens: vec![token],
            ..query()
        };
        self.latest.watch(&query).expect("room for one more")
    }

    /// Another replica, which knows nothing yet.
    fn replica(&self) -> Self {
        Self {
            origin: self.origin.clone(),
            uploads: Arc::clone(&self.uploads),
            status: Arc::clone(&self.status),
            latest: latest(&self.origin, settings()),
        }
    }

    /// Asserts that nothing is sent, at three looks.
    async fn assert_quiet_for_three_looks(&self, watch: &mut Watch) {
        for _ in 0..3 {
            self.look_up().await;
            assert_quiet(watch).await;
        }
    }

    /// Takes the upload at `index` out of the feed.
    fn hide(&self, index: usize) -> Upload {
        self.uploads.lock().remove(index)
    }

    fn show(&self, index: usize, upload: Upload) {
        self.uploads.lock().insert(index, upload);
    }
}

/// Hours after an epoch of the tests' own; the fake's first 15 uploads are of the hours 1 to 15.
fn time(hour: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000 + hour)
}

/// What happened next: a video's ID, marked if it was there from the start, or a problem.
async fn next(watch: &mut Watch) -> String {
    next_with_token(watch).await.0
}

/// The same, and where to resume after it.
async fn next_with_token(watch: &mut Watch) -> (String, ResumeToken) {
    let happened = watch.next().await.expect("it goes on").expect("no error");
    let what = match &happened.event {
        Event::Problem { error, .. } => format!("problem: {error}"),
        Event::Recovered => "recovered".into(),
        Event::Missed => "missed".into(),
        event @ Event::Upload { initial, .. } => {
            let id = event.video().expect("an upload").id();
            if *initial {
                format!("initially {id}")
            } else {
                id.to_string()
            }
        }
    };
    (what, happened.resume_token)
}

/// Asserts that the watch has no event.
async fn assert_quiet(watch: &mut Watch) {
    // Polled once: a pending event is returned at once.
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
    let mut watch = studio.watch();
    next(&mut watch).await;
    let deleted = studio.hide(0);
    studio.assert_quiet_for_three_looks(&mut watch).await;
    // Nor is one new that comes back.
    studio.show(0, deleted);
    studio.assert_quiet_for_three_looks(&mut watch).await;
}

#[tokio::test]
async fn uploads_that_become_private_do_not_make_old_ones_new() {
    let studio = Studio::start().await;
    let older = (1..=5).map(|hour| Upload {
        id: format!("olderolde{hour}A"),
        ..origin::uploads(time(0) - Duration::from_hours(hour), 1).remove(0)
    });
    studio.uploads.lock().extend(older);
    let mut watch = studio.watch();
    next(&mut watch).await;
    let private: Vec<_> = (0..5).map(|_| studio.hide(2)).collect();
    studio.assert_quiet_for_three_looks(&mut watch).await;
    for upload in private.into_iter().rev() {
        studio.show(2, upload);
    }
    studio.assert_quiet_for_three_looks(&mut watch).await;
    studio.upload("newnewnew1A", 16, false);
    studio.look_up().await;
    assert_eq!(next(&mut watch).await, "newnewnew1A");
    studio.assert_quiet_for_three_looks(&mut watch).await;
}

#[tokio::test]
async fn a_feed_that_was_not_full_shows_nothing_new_when_it_shows_an_older_one() {
    let studio = Studio::start().await;
    let rest = studio.uploads.lock().split_off(12);
    let mut watch = studio.watch();
    next(&mut watch).await;
    studio.uploads.lock().extend(rest);
    studio.assert_quiet_for_three_looks(&mut watch).await;
}

#[tokio::test]
async fn a_watch_that_begins_in_an_older_snapshot_is_sent_the_newest_upload_when_it_shows() {
    let studio = Studio::start().await;
    let mut first = studio.watch();
    next(&mut first).await;
    let newest = studio.hide(0);
    studio.look_up().await;
    let mut watch = studio.watch();
    assert_eq!(next(&mut watch).await, "initially upload0014A");
    studio.assert_quiet_for_three_looks(&mut watch).await;
    studio.show(0, newest);
    studio.look_up().await;
    assert_eq!(next(&mut watch).await, "upload0015A");
    studio.assert_quiet_for_three_looks(&mut watch).await;
    assert_quiet(&mut first).await;
}

#[tokio::test]
async fn a_slow_reader_is_sent_what_was_hidden_when_it_read() {
    let studio = Studio::start().await;
    let mut slow = studio.watch();
    next(&mut slow).await;
    studio.upload("newnewnew1A", 16, false);
    studio.look_up().await;
    let hidden = studio.hide(0);
    studio.upload("newnewnew2A", 17, false);
    studio.look_up().await;
    assert_eq!(next(&mut slow).await, "newnewnew2A");
    studio.show(1, hidden);
    studio.look_up().await;
    assert_eq!(next(&mut slow).await, "newnewnew1A");
    studio.assert_quiet_for_three_looks(&mut slow).await;
}

#[tokio::test]
async fn an_upload_that_turns_out_to_be_a_short_is_sent_to_watches_of_shorts() {
    let studio = Studio::start().await;
    let mut shorts = studio.watch_with(Some(Kind::Short), None);
    let mut videos = studio.watch_with(Some(Kind::Video), None);
    assert_eq!(next(&mut shorts).await, "initially upload0013A");
    assert_eq!(next(&mut videos).await, "initially upload0015A");
    studio.upload("newnewnew1A", 16, false);
    studio.look_up().await;
    assert_eq!(next(&mut videos).await, "newnewnew1A");
    assert_quiet(&mut shorts).await;
    studio.uploads.lock()[0].short = true;
    studio.look_up().await;
    assert_eq!(next(&mut shorts).await, "newnewnew1A");
    studio.uploads.lock()[0].short = false;
    studio.assert_quiet_for_three_looks(&mut shorts).await;
    studio.assert_quiet_for_three_looks(&mut videos).await;
}

#[tokio::test]
async fn how_late_a_new_upload_is_noticed_is_measured_and_of_nothing_else() {
    let studio = Studio::start().await;
    let mut registry = Registry::default();
    studio.latest.register(&mut registry);
    let noticed = || {
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("notice_delay_seconds_count "));
        count.expect("a histogram").parse::<u32>().expect("a number")
    };
    let mut watch = studio.watch();
    next(&mut watch).await;
    assert_eq!(noticed(), 0, "what a watch begins with");
    for number in 1..=3 {
        studio.upload(&format!("newnewnew{number}A"), 15 + u64::from(number), false);
        studio.look_up().await;
        assert_eq!(noticed(), number);
    }
    // One of them is deleted: older ones move up. It comes back: it is not new.
    let deleted = studio.hide(1);
    let older = studio.hide(12);
    studio.look_up().await;
    studio.show(1, deleted);
    studio.show(12, older);
    studio.look_up().await;
    assert_eq!(noticed(), 3);
    // One of before the watch, which the feed had not shown.
    studio.uploads.lock()[5].id = "beforebeforA".into();
    studio.uploads.lock()[5].published = SystemTime::now() - Duration::from_mins(1);
    studio.look_up().await;
    assert_eq!(noticed(), 3);
}

#[tokio::test]
async fn more_uploads_than_the_feed_shows_are_reported_as_missed() {
    let studio = Studio::start().await;
    let mut watch = studio.watch();
    next(&mut watch).await;
    for number in 1..=25 {
        studio.upload(&format!("newnewne{number:02}A"), 15 + number, false);
    }
    studio.look_up().await;
    assert_eq!(next(&mut watch).await, "missed");
    for number in 11..=25 {
        assert_eq!(next(&mut watch).await, format!("newnewne{number:02}A"));
    }
    studio.assert_quiet_for_three_looks(&mut watch).await;
}

#[tokio::test]
async fn a_watch_resumes_at_a_replica_that_knows_nothing() {
    let studio = Studio::start().await;
    let mut watch = studio.watch();
    let (_, token) = next_with_token(&mut watch).await;
    drop(watch);
    // Of the same moment as one that was sent, and one that is dated earlier.
    studio.upload("twintwintwA", 15, false);
    studio.upload("latelatelaA", 8, false);
    studio.upload("newnewnew1A", 16, false);
    let replica = studio.replica();
    let mut resumed = replica.resume(token);
    let (first, halfway) = next_with_token(&mut resumed).await;
    assert_eq!(first, "latelatelaA");
    let replica = studio.replica();
    let mut resumed = replica.resume(halfway);
    assert_eq!(next(&mut resumed).await, "twintwintwA");
    let (last, token) = next_with_token(&mut resumed).await;
    assert_eq!(last, "newnewnew1A");
    replica.assert_quiet_for_three_looks(&mut resumed).await;
    // A deletion while the channel is not watched.
    studio.hide(0);
    let replica = studio.replica();
    let mut resumed = replica.resume(token);
    replica.assert_quiet_for_three_looks(&mut resumed).await;
}

#[tokio::test]
async fn a_watch_that_resumes_in_an_older_snapshot_is_sent_nothing_twice() {
    let studio = Studio::start().await;
    let mut watch = studio.watch();
    next(&mut watch).await;
    studio.upload("newnewnew1A", 16, false);
    studio.look_up().await;
    let (_, token) = next_with_token(&mut watch).await;
    let hidden = studio.hide(0);
    let replica = studio.replica();
    let mut resumed = replica.resume(token);
    replica.assert_quiet_for_three_looks(&mut resumed).await;
    studio.show(0, hidden);
    replica.assert_quiet_for_three_looks(&mut resumed).await;
}

#[tokio::test]
async fn a_problem_and_its_end_are_reported_across_connections() {
    let studio = Studio::start().await;
    let mut watch = studio.watch();
    next(&mut watch).await;
    studio.status.store(503, SeqCst);
    studio.look_up().await;
    let (problem, token) = next_with_token(&mut watch).await;
    assert_eq!(problem, "problem: the upstream answered HTTP 503");
    // It lasts: not again.
    let mut resumed = studio.resume(token.clone());
    assert_quiet(&mut resumed).await;
    // It is over at a replica that never knew of it.
    studio.status.store(200, SeqCst);
    let replica = studio.replica();
    let mut resumed = replica.resume(token.clone());
    let (recovered, over) = next_with_token(&mut resumed).await;
    assert_eq!(recovered, "recovered");
    // Another reason, elsewhere.
    studio.status.store(429, SeqCst);
    let replica = studio.replica();
    let mut resumed = replica.resume(token);
    let problem = next(&mut resumed).await;
    assert!(problem.contains("refuses to answer"), "{problem}");
    studio.status.store(200, SeqCst);
    let replica = studio.replica();
    let mut resumed = replica.resume(over);
    replica.assert_quiet_for_three_looks(&mut resumed).await;
}

#[tokio::test]
async fn a_channel_that_is_gone_for_too_long_is_reported_as_not_found() {
    let mut settings = settings();
    (settings.policy.fresh_for, settings.policy.stale_if_error) = (Duration::ZERO, Duration::ZERO);
    let studio = Studio::start_with(settings).await;
    let mut watch = studio.watch();
    assert_eq!(next(&mut watch).await, "initially upload0015A");
    studio.status.store(404, SeqCst);
    studio.look_up().await;
    assert_eq!(
        next(&mut watch).await,
        format!("problem: channel {CHANNEL} was not found")
    );
    studio.assert_quiet_for_three_looks(&mut watch).await;
}

#[tokio::test]
async fn as_many_channels_are_watched_as_may_be_counted_once_for_each_watch() {
    let settings = Settings {
        max_watched: 4,
        ..settings()
    };
    let studio = Studio::start_with(settings).await;
    let ids = |count: usize| (0..count).map(|number| channel(&format!("UC{number:021}A")));
    let watch = |count| {
        studio.latest.watch(&WatchQuery {
            // A repeat counts once.
            channels: ids(count).chain(ids(count)).collect(),
            ..query()
        })
    };
    let three = watch(3).expect("room for three");
    assert_eq!(watch(2).err(), Some(LookupError::TooManyWatched(4)));
    let one = watch(1).expect("room for one more");
    assert_eq!(watch(1).err(), Some(LookupError::TooManyWatched(4)));
    drop((three, one));
    assert_eq!(studio.latest.watched(), 0);
    watch(4).expect("room for four");
    assert_eq!(watch(5).err(), Some(LookupError::TooManyWatched(4)));
    assert_eq!(watch(40).err(), Some(LookupError::TooManyWatched(4)));
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
async fn a_slow_reader_gets_all_that_it_missed_in_order_and_does_not_slow_others() {
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
async fn a_watch_of_a_kind_gets_only_that_kind() {
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
async fn a_problem_is_reported_once_and_the_watch_goes_on() {
    let studio = Studio::start().await;
    let mut watch = studio.watch();
    next(&mut watch).await;
    studio.status.store(404, SeqCst);
    studio.look_up().await;
    assert_eq!(next(&mut watch).await, "problem: the upstream answered HTTP 404");
    studio.look_up().await;
    assert_quiet(&mut watch).await;
    // A new watch during the spell gets the cached answer and the problem.
    let mut other = studio.watch();
    let events = [next(&mut other).await, next(&mut other).await];
    assert!(
        events[0] == "initially upload0015A" && events[1].starts_with("problem:"),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_watch_that_begins_in_trouble_tells_the_newest_upload_first() {
    let studio = Studio::start().await;
    studio.look_up().await;
    studio.status.store(404, SeqCst);
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
async fn events_of_many_channels_arrive_on_one_stream() {
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
async fn a_time_that_cannot_be_is_refused_and_one_in_the_future_is_awaited() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let watch = async |seconds, nanos| {
        let request = WatchLatestVideoRequest {
            channel_ids: vec![CHANNEL.into()],
            published_after: Some(prost_types::Timestamp { seconds, nanos }),
            ..WatchLatestVideoRequest::default()
        };
        server.client().0.watch_latest_video(request).await
    };
    for (seconds, nanos) in [
        (0, 1_000_000_000),
        (0, -1),
        (253_402_300_800, 0),
        (-62_135_596_801, 0),
        (i64::MAX, 0),
        (i64::MIN, 0),
    ] {
        let status = watch(seconds, nanos).await.expect_err("it cannot be");
        assert_eq!(reason(&status).0, "INVALID_PUBLISHED_AFTER", "{seconds} {nanos}");
    }
    // Of the year 9999: not within 292 years of 1970.
    let mut future = watch(253_402_300_799, 999_999_999)
        .await
        .expect("a stream")
        .into_inner();
    let mut past = watch(-62_135_596_800, 0).await.expect("a stream").into_inner();
    for _ in 0..15 {
        past.message().await.expect("no error").expect("an upload");
    }
    assert!(
        timeout(Duration::ZERO, future.message()).await.is_err(),
        "nothing was published then"
    );
}

#[tokio::test]
async fn another_upload_of_the_second_of_the_only_one_is_sent() {
    let studio = Studio::start().await;
    studio.uploads.lock().truncate(1);
    let mut watch = studio.watch();
    let (_, token) = next_with_token(&mut watch).await;
    studio.upload("twintwintwA", 15, false);
    studio.look_up().await;
    assert_eq!(next(&mut watch).await, "twintwintwA");
    let replica = studio.replica();
    assert_eq!(next(&mut replica.resume(token)).await, "twintwintwA");
    studio.assert_quiet_for_three_looks(&mut watch).await;
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
