use std::time::{Duration, SystemTime};

use super::*;
use crate::video::Kind;

fn upload(number: usize) -> Upload {
    let before = Duration::from_secs(1_700_000_000 - number as u64);
    Upload {
        id: format!("upload{number:04}A").parse().expect("an ID"),
        kind: Kind::Video,
        title: String::new(),
        published: Some(SystemTime::UNIX_EPOCH + before),
        updated: None,
        thumbnail: None,
        views: None,
    }
}

/// How many of 120 uploads are listed in at most 100 calls of six pages each, with these answers to the name of a page, and whether the list ends.
fn listed(mut answer: impl FnMut(usize) -> Page) -> (usize, bool) {
    let (mut place, mut positions, mut count) = (Place::first(), vec![Position::First], 0);
    for _ in 0..100 {
        let mut scan = Scan::new(place, positions);
        for _ in 0..6 {
            let Some((list, name)) = scan.wanted(10) else {
                break;
            };
            scan.add(
                list,
                answer(name.map_or(0, |name| name.parse().expect("a number"))),
            );
        }
        let (uploads, _, next) = scan.finish(10);
        count += uploads.len();
        let Some(next) = next else { return (count, true) };
        (place, positions) = next;
    }
    (count, false)
}

fn page(first: usize, total: u64, next: Option<usize>) -> Page {
    Page {
        uploads: (first..120.min(first + 50)).map(upload).collect(),
        total: Some(total),
        entries: 50,
        next: next.map(|next| next.to_string()),
        ..Page::default()
    }
}

#[test]
fn a_source_that_counts_differently_each_time_is_listed() {
    let mut count = 0;
    let counted = |first: usize| {
        count += 1;
        page(first, count, (first < 100).then_some(first + 50))
    };
    assert_eq!(listed(counted), (120, true));
}

#[test]
fn a_list_ends_although_a_page_names_itself_as_the_next() {
    let (count, ends) = listed(|first| page(first, 120, Some(50.min(first + 50))));
    assert!(ends && count >= 50, "{count}");
}
