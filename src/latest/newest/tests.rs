use std::time::{Duration, SystemTime};

use super::*;
use crate::video::{Kind, Upload};

/// A channel with an upload on each of these days; on day 0 an upload without a date.
fn channel(number: usize, days: &[usize]) -> Arc<Channel> {
    let upload = |day: &usize| Upload {
        id: format!("c{number:04}d{day:04}A").parse().expect("an ID"),
        kind: Kind::Video,
        title: format!("{number}/{day}"),
        published: (*day > 0)
            .then(|| SystemTime::UNIX_EPOCH + Duration::from_hours(24) * u32::try_from(*day).expect("few")),
        updated: None,
        thumbnail: None,
        views: None,
    };
    let id = format!("UC{number:021}A").parse().expect("an ID");
    Arc::new(Channel::new(id, "A channel", days.iter().map(upload).collect()))
}

fn titles(newest: &NewestUploads, most: usize) -> Vec<String> {
    let newest = newest.get(most);
    let title = |(channel, index): &Newest| channel.upload(*index).expect("it is there").title().to_owned();
    newest.iter().map(title).collect()
}

#[test]
fn the_newest_uploads_of_all_channels_come_first_and_those_without_a_date_last() {
    let newest = NewestUploads::default();
    newest.add(&channel(1, &[9, 5, 0]));
    newest.add(&channel(2, &[]));
    newest.add(&channel(3, &[7, 6]));
    assert_eq!(titles(&newest, 9), ["1/9", "3/7", "3/6", "1/5", "1/0"]);
    assert_eq!(titles(&newest, 2), ["1/9", "3/7"]);
}

#[test]
fn a_snapshot_replaces_the_one_before_of_its_channel() {
    let newest = NewestUploads::default();
    newest.add(&channel(1, &[9, 8]));
    newest.add(&channel(2, &[7]));
    // It has a new upload, and one was deleted.
    newest.add(&channel(1, &[10, 8]));
    assert_eq!(titles(&newest, 9), ["1/10", "1/8", "2/7"]);
}

#[test]
fn however_many_channels_there_are_a_few_uploads_are_kept() {
    let newest = NewestUploads::default();
    let days: Vec<usize> = (1..=15).collect();
    for number in 0..100 {
        newest.add(&channel(number, &days));
    }
    assert_eq!(newest.0.lock().len(), KEPT);
    assert!(titles(&newest, KEPT).iter().all(|title| title.ends_with("/15")));
}
