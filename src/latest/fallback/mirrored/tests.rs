use std::time::Duration;

use super::*;
use crate::video::Kind;

const HOUR: Duration = Duration::from_hours(1);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 500_000 * HOUR
}

/// An upload of so many hours ago, which is also its number.
fn upload(hours: u32) -> Upload {
    dated(hours, Some(now() - hours * HOUR))
}

fn dated(number: u32, published: Option<SystemTime>) -> Upload {
    Upload {
        id: format!("upload{number:04}A").parse().expect("an ID"),
        kind: Kind::Video,
        title: String::new(),
        published,
        updated: None,
        thumbnail: None,
        views: None,
    }
}

fn channel(uploads: impl IntoIterator<Item = Upload>) -> Channel {
    let id = "UC0123456789abcdefghijkA".parse().expect("an ID");
    Channel::new(id, "A channel", uploads.into_iter().collect())
}

fn ids(channel: &Channel) -> Vec<String> {
    channel.uploads().map(|upload| upload.id().to_string()).collect()
}

fn accepted(mirrored: &Channel, known: &Channel, vanished: &Vanished) -> Result<Channel, UpstreamError> {
    accept(mirrored, Some(known), vanished, now())
}

#[test]
fn what_is_dated_in_the_future_does_not_count() {
    let known = channel((1..=5).map(upload));
    let future = |ahead| dated(9, Some(now() + ahead));
    let (soon, late) = (future(HOUR), future(HOUR + Duration::from_secs(1)));
    let mirrored = accepted(
        &channel((1..=5).map(upload).chain([late.clone()])),
        &known,
        &Vanished::default(),
    );
    assert_eq!(mirrored.map(|mirrored| ids(&mirrored)), Ok(ids(&known)));
    // It does not hide that the mirror is behind.
    let behind = accepted(
        &channel((3..=5).map(upload).chain([late.clone()])),
        &known,
        &Vanished::default(),
    );
    assert_eq!(behind, Err(UpstreamError::SuspectSnapshot));
    let nothing = accept(&channel([late]), None, &Vanished::default(), now());
    assert!(matches!(nothing, Err(UpstreamError::Malformed(_))));
    // The clock of the mirror, or of this machine, may be wrong.
    let newer = accepted(&channel([soon]), &known, &Vanished::default());
    assert_eq!(newer.map(|newer| newer.len()), Ok(1));
}

#[test]
fn what_has_vanished_from_the_feed_does_not_return_by_a_mirror() {
    let (before, after) = (channel((1..=15).map(upload)), channel((2..=16).map(upload)));
    let mut vanished = Vanished::default();
    vanished.note(&after, &before);
    for known in [&after, &channel((3..=17).map(upload))] {
        let mirrored = accepted(&before, known, &vanished).expect("the others");
        assert_eq!(ids(&mirrored), ids(&before)[1..]);
    }
    // The feed shows it again.
    assert_eq!(accepted(&before, &before, &vanished).map(|it| it.len()), Ok(15));
    // What newer uploads have pushed out has not vanished.
    let mut vanished = Vanished::default();
    vanished.note(&channel((1..=15).map(upload)), &channel((5..=19).map(upload)));
    assert!(vanished.0.is_empty());
    for number in 0..2 * u32::try_from(REMEMBERED).expect("small") {
        vanished.note(&channel([]), &channel([dated(number % 9999, Some(now()))]));
    }
    assert_eq!(vanished.0.len(), REMEMBERED);
}

#[test]
fn uploads_without_a_date_get_their_known_one() {
    let known = channel((1..=5).map(upload));
    let undated = channel((1..=9).map(|number| dated(number, None)));
    let mirrored = accepted(&undated, &known, &Vanished::default()).expect("the newest is there");
    assert_eq!(ids(&mirrored), ids(&undated));
    let published = |channel: &Channel| {
        channel
            .uploads()
            .take(5)
            .map(|upload| upload.published())
            .collect::<Vec<_>>()
    };
    assert_eq!(published(&mirrored), published(&known));
}
