use std::time::{Duration, SystemTime};

use super::*;
use crate::video::Upload;

/// An upload of that day, with so many views. It was last changed on the day after.
fn upload(day: u64, views: u64) -> Upload {
    let at = |day| SystemTime::UNIX_EPOCH + Duration::from_hours(24 * (20_000 + day));
    Upload {
        id: format!("upload{day:04}A").parse().expect("an ID"),
        kind: Kind::Video,
        title: format!("Upload of day {day}"),
        published: Some(at(day)),
        updated: Some(at(day + 1)),
        thumbnail: None,
        views: Some(views),
    }
}

fn channel(uploads: Vec<Upload>) -> Channel {
    let id = "UC0123456789abcdefghijkA".parse().expect("an ID");
    Channel::new(id, "A channel", uploads)
}

/// Fifteen uploads to that day; the newer, the fewer views.
fn full(newest: u64) -> Vec<Upload> {
    (newest - 14..=newest)
        .map(|day| upload(day, 10_000 - day))
        .collect()
}

/// The same some minutes later: all have been viewed.
fn viewed(uploads: Vec<Upload>) -> Vec<Upload> {
    let more = |upload: Upload| Upload {
        views: upload.views.map(|views| views + 7),
        ..upload
    };
    uploads.into_iter().map(more).collect()
}

fn suspect(new: Vec<Upload>, known: Vec<Upload>) -> bool {
    is_suspect(&channel(new), &channel(known))
}

#[test]
fn an_empty_feed_is_suspect_after_one_that_was_not() {
    assert!(suspect(vec![], full(30)));
    assert!(suspect(vec![], vec![upload(1, 0)]));
    assert!(!suspect(vec![], vec![]));
    assert!(!suspect(full(30), vec![]));
}

#[test]
fn a_snapshot_that_continues_the_last_is_not_suspect() {
    assert!(!suspect(full(30), full(30)));
    assert!(!suspect(viewed(full(30)), full(30)));
    assert!(!suspect(viewed(full(31)), full(30)));
    // More than the feed holds, between two lookups: nothing to compare.
    assert!(!suspect(full(60), full(30)));
}

#[test]
fn an_older_snapshot_is_suspect() {
    let (older, newer) = (full(30), viewed(full(31)));
    assert!(suspect(older.clone(), newer.clone()), "fewer views");
    let one_changed = |mut uploads: Vec<Upload>| {
        let last = uploads.len() - 2;
        uploads[last].updated = uploads[last].updated.map(|at| at + Duration::from_secs(1));
        uploads
    };
    assert!(suspect(older.clone(), one_changed(full(31))), "an earlier change");
    let without_views = |uploads: Vec<Upload>| {
        let bare = |upload| Upload {
            views: None,
            ..upload
        };
        uploads.into_iter().map(bare).collect::<Vec<_>>()
    };
    // Without any counts there is nothing to go by.
    assert!(!suspect(without_views(older), without_views(newer)));
}

#[test]
fn a_deletion_of_the_newest_is_not_suspect_while_other_data_advances() {
    let without_the_newest = |mut uploads: Vec<Upload>| {
        uploads.pop();
        uploads
    };
    assert!(!suspect(without_the_newest(viewed(full(30))), full(30)));
    assert!(
        !suspect(without_the_newest(full(30)), full(30)),
        "nothing has changed"
    );
    // The 16th moves up.
    let mut moved_up = without_the_newest(viewed(full(30)));
    moved_up.push(upload(15, 3));
    assert!(!suspect(moved_up, full(30)));
    // One or the other may go back, as long as all together do not.
    let mut one_back = without_the_newest(viewed(full(30)));
    one_back[3].views = one_back[3].views.map(|views| views - 20);
    assert!(!suspect(one_back, full(30)));
}

#[test]
fn nothing_is_suspect_while_the_newest_upload_shows() {
    let mut fewer_views = full(30);
    for upload in &mut fewer_views {
        upload.views = upload.views.map(|views| views - 100);
        upload.updated = upload.published;
    }
    assert!(!suspect(fewer_views.clone(), full(30)));
    fewer_views.remove(0);
    assert!(!suspect(fewer_views, full(30)), "an older one was deleted");
}

#[test]
fn snapshots_with_nothing_in_common_to_compare_are_compared_by_their_newest_uploads() {
    // As mirrors and the Data API have them.
    let bare = |uploads: Vec<Upload>| -> Vec<Upload> {
        let bare = |upload| Upload {
            views: None,
            updated: None,
            ..upload
        };
        uploads.into_iter().map(bare).collect()
    };
    for (new, known) in [
        (full(29), bare(full(30))),
        (bare(full(29)), full(30)),
        (bare(full(29)), bare(full(30))),
    ] {
        assert!(suspect(new, known));
    }
    for new in [full(30), full(31), full(60)] {
        assert!(!suspect(bare(new.clone()), full(30)));
        assert!(!suspect(new, bare(full(30))));
    }
    // The newest was deleted, and there is a newer one.
    let mut newer = bare(full(31));
    newer.remove(13);
    assert!(!suspect(newer, full(30)));
}

#[test]
fn counts_of_any_size_can_be_compared() {
    let huge = |day| upload(day, u64::MAX);
    let known = vec![huge(1), huge(2), huge(3)];
    assert!(!suspect(vec![huge(1), huge(2)], known.clone()));
    assert!(suspect(vec![huge(1), upload(2, u64::MAX - 1)], known));
}

fn short(day: u64) -> Upload {
    Upload {
        kind: Kind::Short,
        ..upload(day, 1)
    }
}

fn out(new: Vec<Upload>, known: Vec<Upload>) -> Vec<Kind> {
    pushed_out(&channel(new), &channel(known)).collect()
}

#[test]
fn a_kind_is_pushed_out_when_its_last_upload_leaves_the_feed() {
    let shorts = |days: std::ops::RangeInclusive<u64>| days.map(short).collect::<Vec<_>>();
    let known = [vec![upload(1, 1)], shorts(2..=15)].concat();
    assert_eq!(out(shorts(2..=16), known.clone()), [Kind::Video]);
    assert_eq!(out(known.clone(), known.clone()), []);
    // It was there no more the last time, either.
    assert_eq!(out(shorts(3..=17), shorts(2..=16)), []);
    // There is a newer one.
    let newer = [shorts(2..=15), vec![upload(16, 1)]].concat();
    assert_eq!(out(newer, known.clone()), []);
    // It turned out to be a Short.
    assert_eq!(out([shorts(1..=15)].concat(), known.clone()), []);
    assert_eq!(out(vec![], known), []);
}

#[test]
fn the_newest_of_a_kind_makes_way_for_an_older_one() {
    let known = vec![upload(1, 1), upload(5, 1), short(9)];
    // The newest video was deleted. The one that is left is the newest.
    assert_eq!(out(vec![upload(1, 1), short(9)], known), []);
}

const MINUTE: Duration = Duration::from_mins(1);
const WEEK: Duration = Duration::from_hours(7 * 24);

fn success(uploads: Vec<Upload>, source: Source, unlisted_since: Option<Instant>) -> Success<Arc<Channel>> {
    Success {
        value: Arc::new(channel(uploads).with_source(source)),
        at: Instant::now(),
        time: SystemTime::UNIX_EPOCH,
        unlisted_since,
    }
}

#[test]
fn an_upload_that_only_other_sources_list_is_not_deleted_while_the_feed_lags() {
    let now = Instant::now();
    let lags = |new: Vec<Upload>, source, since, after| {
        let known = success(full(30), Source::DataApi, since);
        lags(&channel(new).with_source(source), &known, WEEK, now + after)
    };
    let (since, last) = (Some(now), Duration::from_secs(15 * 60 - 1));
    for new in [full(29), viewed(full(29)), vec![]] {
        for after in [Duration::ZERO, MINUTE, last] {
            assert!(lags(new.clone(), Source::Feed, since, after));
        }
        assert!(!lags(new.clone(), Source::Feed, since, MINUTE * 15));
        // The feed had listed it, or a version found it that did not note that.
        assert!(!lags(new.clone(), Source::Feed, None, MINUTE));
        // Others do not lag.
        assert!(!lags(new.clone(), Source::DataApi, since, MINUTE));
        assert!(!lags(new, Source::Mirror, since, MINUTE));
    }
    for new in [full(30), full(31)] {
        assert!(!lags(new, Source::Feed, since, MINUTE));
    }
}

#[test]
fn a_feed_that_lags_is_believed_before_the_last_answer_is_too_old() {
    let known = success(full(30), Source::DataApi, Some(Instant::now()));
    let lags_at = |age| lags(&channel(full(29)), &known, MINUTE * 2, known.at + age);
    assert!(lags_at(MINUTE));
    assert!(!lags_at(MINUTE + Duration::from_nanos(1)));
}

#[test]
fn an_upload_is_unlisted_from_its_first_report_until_the_feed_lists_it() {
    let (first, now) = (Instant::now(), Instant::now() + MINUTE);
    let sources = [Source::Mirror, Source::DataApi];
    for source in sources {
        let new = channel(full(30)).with_source(source);
        assert_eq!(unlisted_since(&new, None, now), Some(now));
        let known_of = |newest, before, since| Some(success(full(newest), before, since));
        for (known, expected) in [
            (known_of(29, Source::Feed, None), Some(now)),
            (known_of(30, Source::Feed, None), None),
            (known_of(29, Source::DataApi, Some(first)), Some(now)),
            (known_of(30, Source::DataApi, Some(first)), Some(first)),
            (known_of(30, Source::Mirror, Some(first)), Some(first)),
            (known_of(30, Source::Mirror, None), None),
        ] {
            assert_eq!(unlisted_since(&new, known.as_ref(), now), expected);
        }
        let empty = channel(vec![]).with_source(source);
        assert_eq!(unlisted_since(&empty, None, now), None);
        // What the feed lists is listed.
        let known = success(full(30), source, Some(first));
        assert_eq!(unlisted_since(&channel(full(30)), Some(&known), now), None);
    }
}
