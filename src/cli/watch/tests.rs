//! A watch over connections that break, on a clock that stands still but for pauses.

use std::{cell::RefCell, collections::VecDeque, io, slice};

use futures_util::stream::BoxStream;
use tonic::metadata::MetadataValue;

use super::*;
use crate::proto::v1::{LookupFailure, LookupResult, Video};

const CHANNEL: &str = "UC0123456789abcdefghijkA";
/// One that uploads seldom.
const QUIET: &str = "UCquiet6789abcdefghijkkA";

/// Hours after an epoch of the tests' own.
fn time(hour: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000 + hour)
}

/// An upload whose ID is its hour.
fn upload(channel: &str, hour: u64) -> WatchLatestVideoResponse {
    named(channel, &hour.to_string(), Some(time(hour)))
}

fn named(channel: &str, id: &str, published: Option<SystemTime>) -> WatchLatestVideoResponse {
    WatchLatestVideoResponse {
        event: Some(Event::Video(Video {
            video_id: id.into(),
            channel_id: channel.into(),
            publish_time: published.map(Into::into),
            ..Video::default()
        })),
        initial: false,
        resume_token: vec![],
    }
}

/// … that was there when the connection's watch began.
fn initially(mut event: WatchLatestVideoResponse) -> WatchLatestVideoResponse {
    event.initial = true;
    event
}

fn problem(reason: &str) -> WatchLatestVideoResponse {
    WatchLatestVideoResponse {
        event: Some(Event::Problem(LookupResult {
            channel_id: CHANNEL.into(),
            outcome: Some(Found::Failure(LookupFailure {
                reason: reason.into(),
                ..LookupFailure::default()
            })),
        })),
        initial: false,
        resume_token: vec![],
    }
}

/// What is printed of an event.
fn printed(event: &WatchLatestVideoResponse) -> String {
    let what = match &event.event {
        Some(Event::Video(video)) => video.video_id.clone(),
        Some(Event::Problem(problem)) => match &problem.outcome {
            Some(Found::Failure(failure)) => failure.reason.clone(),
            _ => panic!("{problem:?}"),
        },
        _ => panic!("{event:?}"),
    };
    if event.initial {
        format!("initially {what}")
    } else {
        what
    }
}

fn seen(channels: &[&str], published_after: Option<SystemTime>) -> Seen {
    let channels: Vec<_> = channels.iter().map(|id| id.parse().expect("valid")).collect();
    Seen::nothing(&channels, 0, published_after)
}

/// One connection: what it tells of, how long it then is quiet, and how it ends. Or an error, if there is none.
type Connection = Result<(Vec<WatchLatestVideoResponse>, Duration, Status), Status>;

/// One that breaks after it has told of `events`.
#[expect(clippy::unnecessary_wraps, reason = "a connection among those that fail")]
fn breaks(events: impl IntoIterator<Item = WatchLatestVideoResponse>) -> Connection {
    Ok((
        events.into_iter().collect(),
        Duration::ZERO,
        Status::unavailable("gone"),
    ))
}

/// What a watch of one channel does: what it prints, with the pauses before each try to connect anew. Refused at last.
async fn watched(connections: impl IntoIterator<Item = Connection>) -> (Vec<String>, Vec<Duration>, Status) {
    let refused = Err(Status::invalid_argument("the end"));
    let connections = connections.into_iter().chain([refused]);
    let connections = RefCell::new(connections.collect::<VecDeque<_>>());
    let (last, pauses) = (RefCell::new(None::<Instant>), RefCell::new(Vec::new()));
    let mut told = Vec::new();
    let open = async |_request| {
        if let Some(last) = last.take() {
            pauses.borrow_mut().push(last.elapsed());
        }
        let next = connections.borrow_mut().pop_front();
        let connection = next.expect("the watch has ended");
        let quiet = connection.as_ref().map_or(Duration::ZERO, |(_, quiet, _)| *quiet);
        *last.borrow_mut() = Some(Instant::now() + quiet);
        let (events, quiet, end) = connection?;
        let end = stream::once(async move {
            sleep(quiet).await;
            Err(end)
        });
        let events: BoxStream<'static, _> = stream::iter(events.into_iter().map(Ok)).chain(end).boxed();
        Ok(events)
    };
    let ended = watch(seen(&[CHANNEL], None), open, |news| {
        told.push(match news {
            News::Event(event) => printed(event),
            News::Lost(status) => format!("lost: {}", status.message()),
        });
        Ok(())
    });
    let ended = ended.await.expect("it prints");
    (told, pauses.into_inner(), ended)
}

/// Asserts that there are as many pauses as `seconds`, each as long, or up to twice that.
fn assert_about(pauses: &[Duration], seconds: &[u64]) {
    assert_eq!(pauses.len(), seconds.len(), "{pauses:?}");
    for (pause, seconds) in pauses.iter().zip(seconds) {
        let least = Duration::from_secs(*seconds);
        assert!(
            (least..=least * 2 + Duration::from_millis(1)).contains(pause),
            "{pauses:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_was_lost() {
    let (told, pauses, ended) = watched([
        breaks([initially(upload(CHANNEL, 15)), upload(CHANNEL, 16)]),
        Err(Status::unavailable("not there yet")),
        breaks([]),
        breaks([
            initially(upload(CHANNEL, 15)),
            initially(upload(CHANNEL, 16)),
            initially(upload(CHANNEL, 17)),
            upload(CHANNEL, 18),
        ]),
        breaks([initially(upload(CHANNEL, 18)), upload(CHANNEL, 19)]),
    ])
    .await;
    assert_eq!(
        told,
        [
            "initially 15",
            "16",
            "lost: gone",
            "17",
            "18",
            "lost: gone",
            "19",
            "lost: gone"
        ],
        "each upload once, and one line an outage"
    );
    assert_about(&pauses, &[1, 2, 4, 1, 1]);
    assert_eq!(ended.code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn pauses_are_half_a_minute_at_most() {
    let gone = || Err(Status::unavailable("gone"));
    let (told, pauses, _) = watched((0..8).map(|_| gone())).await;
    assert_eq!(told, ["lost: gone"]);
    assert_about(&pauses, &[1, 2, 4, 8, 15, 15, 15, 15]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_lasts_is_a_good_one_though_nothing_happens() {
    let lasts = |quiet| Ok((vec![], quiet, Status::deadline_exceeded("long enough")));
    let (told, pauses, _) = watched([
        breaks([]),
        breaks([]),
        lasts(LONGEST_PAUSE / 2),
        lasts(LONGEST_PAUSE),
    ])
    .await;
    assert_eq!(told, ["lost: gone", "lost: long enough"]);
    assert_about(&pauses, &[1, 2, 4, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_server_says_when_to_come_again_or_not_to() {
    let pushed_back = |by: &'static str| {
        let mut status = Status::resource_exhausted("busy");
        let pushback = MetadataValue::from_static(by);
        status.metadata_mut().insert("grpc-retry-pushback-ms", pushback);
        status
    };
    let (told, pauses, ended) = watched([
        Err(pushed_back("70000")),
        Ok((vec![], Duration::ZERO, pushed_back("250"))),
        Err(pushed_back("-1")),
    ])
    .await;
    assert_eq!(told, ["lost: busy"]);
    assert_eq!(pauses, [Duration::from_secs(70), Duration::from_millis(250)]);
    assert_eq!(ended.code(), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn what_another_try_would_not_mend_ends_the_watch() {
    for code in [
        Code::InvalidArgument,
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::Unimplemented,
    ] {
        let refused = || Status::new(code, "no");
        let (told, pauses, ended) = watched([Err(refused())]).await;
        assert_eq!((told.len(), pauses.len(), ended.code()), (0, 0, code));
        let (told, pauses, ended) = watched([Ok((vec![], Duration::ZERO, refused()))]).await;
        assert_eq!((told.len(), pauses.len(), ended.code()), (0, 0, code));
    }
    for code in [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Internal,
        Code::Unknown,
    ] {
        let (told, ..) = watched([Err(Status::new(code, "so"))]).await;
        assert_eq!(told, ["lost: so"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_connection_that_breaks_before_an_answer_ends_the_watch() {
    let broke = || Err(Status::from_error(Box::new(io::Error::other("no gRPC"))));
    let (told, pauses, ended) = watched([broke(), breaks([])]).await;
    assert_eq!((told.len(), pauses.len()), (0, 0));
    assert!(retry::lost(&ended).is_some());
    // A later one does not.
    let (told, pauses, _) = watched([breaks([]), broke(), broke()]).await;
    assert_eq!((told.len(), pauses.len()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_just_ends_is_opened_again() {
    let requests = RefCell::new(Vec::new());
    let open = async |request: WatchLatestVideoRequest| {
        requests.borrow_mut().push(request);
        match requests.borrow().len() {
            1..3 => Ok(stream::iter(vec![Ok(initially(upload(CHANNEL, 15)))])),
            3 => Err(Status::unauthenticated("")),
            _ => panic!("the watch has ended"),
        }
    };
    let mut told = 0;
    let ended = watch(seen(&[CHANNEL], None), open, |_| {
        told += 1;
        Ok(())
    });
    assert_eq!(ended.await.expect("it prints").code(), Code::Unauthenticated);
    assert_eq!(told, 3, "the upload, and that the server was lost, twice");
    let after: Vec<_> = requests
        .into_inner()
        .into_iter()
        .map(|request| request.published_after)
        .collect();
    let just_below: prost_types::Timestamp = (time(15) - Duration::from_nanos(1)).into();
    assert_eq!(after, [None, Some(just_below), Some(just_below)]);
}

#[tokio::test(start_paused = true)]
async fn all_streams_of_a_connection_end_together() {
    // The channel that has uploaded goes on; the other begins anew, and is quiet.
    let opened = RefCell::new(0);
    let open = async |_request| {
        *opened.borrow_mut() += 1;
        let events: BoxStream<'static, _> = match *opened.borrow() {
            1 | 2 => stream::iter([Ok(initially(upload(CHANNEL, 15)))]).boxed(),
            3 => stream::pending().boxed(),
            4 => return Err(Status::unauthenticated("")),
            _ => panic!("the watch has ended"),
        };
        Ok(events)
    };
    let ended = watch(seen(&[CHANNEL, QUIET], None), open, |_| Ok(()));
    let ended = timeout(LONGEST_PAUSE, ended).await.expect("it does not hang");
    assert_eq!(ended.expect("it prints").code(), Code::Unauthenticated);
    assert_eq!(opened.into_inner(), 4);
}

/// What `seen` lets through.
fn news(seen: &mut Seen, events: impl IntoIterator<Item = WatchLatestVideoResponse>) -> Vec<String> {
    let news = events.into_iter().filter_map(|event| seen.news(event));
    news.map(|event| printed(&event)).collect()
}

/// The channels and the times of the next connection's requests.
fn requests(seen: &mut Seen) -> Vec<(Vec<String>, Option<SystemTime>)> {
    let requests = seen.requests().into_iter();
    let time = |request: &WatchLatestVideoRequest| {
        let after = request.published_after;
        after.map(|time| SystemTime::try_from(time).expect("valid"))
    };
    requests
        .map(|request| (request.channel_ids.clone(), time(&request)))
        .collect()
}

fn just_below(time: SystemTime) -> SystemTime {
    time - Duration::from_nanos(1)
}

#[test]
fn a_channel_whose_newest_upload_is_not_told_yet_begins_with_it() {
    let mut seen = seen(&[CHANNEL, QUIET, CHANNEL], None);
    assert_eq!(requests(&mut seen), [(vec![CHANNEL.into(), QUIET.into()], None)]);
    news(&mut seen, [initially(upload(CHANNEL, 15))]);
    let (goes_on, begins) = (
        (vec![CHANNEL.into()], Some(just_below(time(15)))),
        (vec![QUIET.into()], None),
    );
    assert_eq!(requests(&mut seen), [goes_on, begins]);
    assert_eq!(news(&mut seen, [initially(upload(QUIET, 3))]), ["initially 3"]);
    let both = (vec![CHANNEL.into(), QUIET.into()], Some(just_below(time(3))));
    assert_eq!(requests(&mut seen), [both]);
}

#[test]
fn uploads_of_before_the_watch_stay_untold_though_another_channel_is_further_back() {
    let mut seen = seen(&[CHANNEL, QUIET], None);
    seen.requests();
    news(
        &mut seen,
        [initially(upload(CHANNEL, 15)), initially(upload(QUIET, 3))],
    );
    seen.requests();
    let again = (4..=16).map(|hour| initially(upload(CHANNEL, hour)));
    assert_eq!(news(&mut seen, again), ["16"]);
}

#[test]
fn an_upload_that_comes_late_into_the_feed_is_told() {
    let mut seen = seen(&[CHANNEL], None);
    seen.requests();
    news(&mut seen, [initially(upload(CHANNEL, 15)), upload(CHANNEL, 17)]);
    seen.requests();
    let twin = named(CHANNEL, "twin of 15", Some(time(15)));
    let again = [
        upload(CHANNEL, 15),
        twin,
        upload(CHANNEL, 16),
        upload(CHANNEL, 17),
    ]
    .map(initially);
    assert_eq!(news(&mut seen, again), ["twin of 15", "16"]);
}

#[test]
fn what_a_server_finds_new_is_told_though_its_date_is_old() {
    let mut seen = seen(&[CHANNEL], None);
    seen.requests();
    let events = [initially(upload(CHANNEL, 15)), upload(CHANNEL, 12)];
    assert_eq!(news(&mut seen, events), ["initially 15", "12"]);
}

#[test]
fn a_time_to_begin_with_holds_for_every_channel() {
    let mut seen = seen(&[CHANNEL, QUIET], Some(time(12)));
    let all = (vec![CHANNEL.to_owned(), QUIET.to_owned()], Some(time(12)));
    assert_eq!(requests(&mut seen), slice::from_ref(&all));
    let first = [13, 14].map(|hour| initially(upload(CHANNEL, hour)));
    assert_eq!(news(&mut seen, first), ["initially 13", "initially 14"]);
    assert_eq!(requests(&mut seen), [all]);
    let again = [13, 14, 15].map(|hour| initially(upload(CHANNEL, hour)));
    assert_eq!(news(&mut seen, again), ["15"]);
    assert_eq!(news(&mut seen, [initially(upload(QUIET, 13))]), ["initially 13"]);
}

#[test]
fn what_cannot_come_again_is_forgotten() {
    let mut seen = seen(&[CHANNEL], None);
    seen.requests();
    news(&mut seen, (1..=1000).map(|hour| upload(CHANNEL, hour)));
    assert_eq!(seen.remembered(), 15);
    assert_eq!(requests(&mut seen), [(vec![CHANNEL.into()], Some(time(985)))]);
    let again = (980..=1001).map(|hour| initially(upload(CHANNEL, hour)));
    assert_eq!(news(&mut seen, again), ["1001"]);
}

#[test]
fn an_upload_without_a_date_is_told_once() {
    let mut seen = seen(&[CHANNEL], None);
    for expected in [vec!["initially undated"], vec![]] {
        assert_eq!(requests(&mut seen), [(vec![CHANNEL.into()], None)]);
        assert_eq!(
            news(&mut seen, [initially(named(CHANNEL, "undated", None))]),
            expected
        );
    }
}

#[test]
fn an_upload_that_was_gone_for_a_while_is_told_once() {
    let mut seen = seen(&[CHANNEL], None);
    seen.requests();
    news(&mut seen, [initially(upload(CHANNEL, 15)), upload(CHANNEL, 16)]);
    seen.requests();
    // To a server that began while it was gone it is a new one.
    assert_eq!(
        news(&mut seen, [upload(CHANNEL, 16), upload(CHANNEL, 17)]),
        ["17"]
    );
}

#[test]
fn trouble_that_lasts_is_told_once() {
    let mut seen = seen(&[CHANNEL], None);
    seen.requests();
    assert_eq!(news(&mut seen, [problem("OUTAGE")]), ["OUTAGE"]);
    for told in [vec!["initially 15"], vec![]] {
        seen.requests();
        // With an old answer.
        let again = [problem("OUTAGE"), initially(upload(CHANNEL, 15))];
        assert_eq!(news(&mut seen, again), told);
    }
    assert_eq!(
        news(&mut seen, [problem("OUTAGE")]),
        ["OUTAGE"],
        "it was over, and began again"
    );
    seen.requests();
    assert_eq!(news(&mut seen, [problem("TIMEOUT")]), ["TIMEOUT"]);
    seen.requests();
    assert_eq!(
        news(&mut seen, [upload(CHANNEL, 16), problem("TIMEOUT")]),
        ["16", "TIMEOUT"]
    );
}
