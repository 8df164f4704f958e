//! A watch over connections that break, on a paused clock.

use std::{cell::RefCell, collections::VecDeque, io};

use futures_util::stream::{self, BoxStream};
use tonic::metadata::MetadataValue;

use super::*;
use crate::proto::v1::{
    LookupFailure, LookupResult, Missed, Recovered, Video, lookup_result::Outcome as Found,
};

const CHANNEL: &str = "UC0123456789abcdefghijkA";
/// A channel that rarely uploads.
const QUIET: &str = "UCquiet6789abcdefghijkkA";

/// An upload, with a token that names it.
fn upload(channel: &str, id: &str) -> WatchLatestVideoResponse {
    WatchLatestVideoResponse {
        event: Some(Event::Video(Video {
            video_id: id.into(),
            channel_id: channel.into(),
            ..Video::default()
        })),
        initial: false,
        resume_token: id.into(),
    }
}

/// The same as an initial event, from before the connection's watch.
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
        resume_token: reason.into(),
    }
}

/// What is printed for an event.
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

fn request(channels: &[&str]) -> WatchLatestVideoRequest {
    WatchLatestVideoRequest {
        channel_ids: channels.iter().map(ToString::to_string).collect(),
        ..WatchLatestVideoRequest::default()
    }
}

/// A connection: its events, how long it then stays open, and its final status. Or the error of connecting.
type Connection = Result<(Vec<WatchLatestVideoResponse>, Duration, Status), Status>;

/// A connection that breaks after `events`.
#[expect(clippy::unnecessary_wraps, reason = "a connection among those that fail")]
fn breaks(events: impl IntoIterator<Item = WatchLatestVideoResponse>) -> Connection {
    Ok((
        events.into_iter().collect(),
        Duration::ZERO,
        Status::unavailable("gone"),
    ))
}

/// Runs a watch of one channel until connecting is refused. Returns its output and its pauses.
async fn watched(connections: impl IntoIterator<Item = Connection>) -> (Vec<String>, Vec<Duration>, Status) {
    let refused = Err(Status::invalid_argument("the end"));
    let connections = connections.into_iter().chain([refused]);
    let connections = RefCell::new(connections.collect::<VecDeque<_>>());
    let (last, pauses) = (RefCell::new(None::<Instant>), RefCell::new(Vec::new()));
    let mut printed_lines = Vec::new();
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
    let ended = watch(request(&[CHANNEL]), open, |output| {
        printed_lines.push(match output {
            Output::Event(event) => printed(event),
            Output::Lost(status) => format!("lost: {}", status.message()),
        });
        Ok(())
    });
    let ended = ended.await.expect("it prints");
    (printed_lines, pauses.into_inner(), ended)
}

/// Asserts that there is a pause for each of `seconds`, as long as that or up to twice.
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
    let (printed_lines, pauses, ended) = watched([
        breaks([initially(upload(CHANNEL, "15")), upload(CHANNEL, "16")]),
        Err(Status::unavailable("not there yet")),
        breaks([]),
        breaks([upload(CHANNEL, "17"), upload(CHANNEL, "18")]),
        breaks([upload(CHANNEL, "19")]),
    ])
    .await;
    assert_eq!(
        printed_lines,
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
    let (printed_lines, pauses, _) = watched((0..8).map(|_| gone())).await;
    assert_eq!(printed_lines, ["lost: gone"]);
    assert_about(&pauses, &[1, 2, 4, 8, 15, 15, 15, 15]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_lasts_is_a_good_one_though_nothing_happens() {
    let lasts = |quiet| Ok((vec![], quiet, Status::deadline_exceeded("long enough")));
    let (printed_lines, pauses, _) =
        watched([breaks([]), breaks([]), lasts(MAX_PAUSE / 2), lasts(MAX_PAUSE)]).await;
    assert_eq!(printed_lines, ["lost: gone", "lost: long enough"]);
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
    let (printed_lines, pauses, ended) = watched([
        Err(pushed_back("70000")),
        Ok((vec![], Duration::ZERO, pushed_back("250"))),
        Err(pushed_back("-1")),
    ])
    .await;
    assert_eq!(printed_lines, ["lost: busy"]);
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
        let (printed_lines, pauses, ended) = watched([Err(refused())]).await;
        assert_eq!((printed_lines.len(), pauses.len(), ended.code()), (0, 0, code));
        let (printed_lines, pauses, ended) = watched([Ok((vec![], Duration::ZERO, refused()))]).await;
        assert_eq!((printed_lines.len(), pauses.len(), ended.code()), (0, 0, code));
    }
    for code in [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Internal,
        Code::Unknown,
    ] {
        let (printed_lines, ..) = watched([Err(Status::new(code, "so"))]).await;
        assert_eq!(printed_lines, ["lost: so"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_connection_that_breaks_before_an_answer_ends_the_watch() {
    let broke = || Err(Status::from_error(Box::new(io::Error::other("no gRPC"))));
    let (printed_lines, pauses, ended) = watched([broke(), breaks([])]).await;
    assert_eq!((printed_lines.len(), pauses.len()), (0, 0));
    assert!(retry::connection_error(&ended).is_some());
    // A later connection does not.
    let (printed_lines, pauses, _) = watched([breaks([]), broke(), broke()]).await;
    assert_eq!((printed_lines.len(), pauses.len()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_just_ends_is_opened_again() {
    let requests = RefCell::new(Vec::new());
    let open = async |request: WatchLatestVideoRequest| {
        requests.borrow_mut().push(request);
        match requests.borrow().len() {
            1..3 => Ok(stream::iter(vec![Ok(initially(upload(CHANNEL, "15")))])),
            3 => Err(Status::unauthenticated("")),
            _ => panic!("the watch has ended"),
        }
    };
    let mut printed_lines = 0;
    let ended = watch(request(&[CHANNEL]), open, |_| {
        printed_lines += 1;
        Ok(())
    });
    assert_eq!(ended.await.expect("it prints").code(), Code::Unauthenticated);
    assert_eq!(
        printed_lines, 4,
        "what the server sends, and that it was lost, twice"
    );
    let tokens: Vec<_> = requests
        .into_inner()
        .into_iter()
        .map(|request| request.resume_tokens)
        .collect();
    assert_eq!(tokens, [vec![], vec![b"15".to_vec()], vec![b"15".to_vec()]]);
}

#[tokio::test(start_paused = true)]
async fn each_connection_resumes_with_the_last_token_of_every_channel() {
    let begun = WatchLatestVideoRequest {
        kind: 2,
        published_after: Some(prost_types::Timestamp::default()),
        ..request(&[CHANNEL, QUIET])
    };
    let (recovered, missed) = (
        Event::Recovered(Recovered {
            channel_id: QUIET.into(),
        }),
        Event::Missed(Missed {
            channel_id: QUIET.into(),
        }),
    );
    let without_upload = |event, token: &str| WatchLatestVideoResponse {
        event: Some(event),
        initial: false,
        resume_token: token.into(),
    };
    let connections = RefCell::new(VecDeque::from([
        vec![initially(upload(CHANNEL, "15")), upload(QUIET, "3")],
        vec![problem("OUTAGE")],
        vec![without_upload(recovered, "recovered")],
        vec![without_upload(missed, "missed"), upload(CHANNEL, "16")],
    ]));
    let requests = RefCell::new(Vec::new());
    let open = async |request| {
        requests.borrow_mut().push(request);
        let events = connections.borrow_mut().pop_front();
        events
            .map(|events| stream::iter(events.into_iter().map(Ok)))
            .ok_or(Status::unauthenticated(""))
    };
    let ended = watch(begun.clone(), open, |_| Ok(()));
    assert_eq!(ended.await.expect("it prints").code(), Code::Unauthenticated);
    let tokens = [
        vec![],
        vec!["15", "3"],
        vec!["OUTAGE", "3"],
        vec!["OUTAGE", "recovered"],
        vec!["16", "missed"],
    ];
    let expected = tokens.map(|tokens| WatchLatestVideoRequest {
        resume_tokens: tokens.into_iter().map(Into::into).collect(),
        ..begun.clone()
    });
    assert_eq!(requests.into_inner(), expected);
}
