//! Pages of a channel's uploads, from the entry and from a source of older ones.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use plaque::{
    latest::{Latest, PageToken, Query},
    upstream::{Caller, Failure, Feed, Page, UploadPages, Upstream},
    video::{Channel, Kind, MAX_UPLOADS, Upload, VideoId},
};
use tokio::runtime::Handle;

use crate::stores::{Fake, channel, feed, query, settings, upload};

/// As many as the Data API gives at once.
const PAGE: usize = 50;

/// A channel with `count` uploads, of which `together` each have the same second.
fn uploads(count: usize, together: usize) -> Vec<Upload> {
    let of = |number: usize| {
        let second = (number / together) as u64;
        Upload {
            published: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - second)),
            ..upload(number, Kind::Video)
        }
    };
    (0..count).map(of).collect()
}

struct Pages(Vec<Upload>);

impl UploadPages for Pages {
    fn page<'a>(
        &'a self,
        _feed: Feed,
        page: Option<&'a str>,
        _caller: Caller,
    ) -> BoxFuture<'a, Result<Page, Failure>> {
        let first: usize = page.map_or(0, |page| page.parse().expect("a page"));
        let rest = &self.0[first..];
        let uploads = rest[..rest.len().min(PAGE)].to_vec();
        let next = (rest.len() > PAGE).then(|| (first + PAGE).to_string());
        let (title, entries) = (String::new(), uploads.len());
        Box::pin(async move {
            Ok(Page {
                title,
                uploads,
                entries,
                next,
            })
        })
    }
}

/// The IDs of all pages of this size, at most `limit` of them.
async fn all(latest: &Latest, size: usize, limit: usize) -> Vec<VideoId> {
    let (mut found, mut token) = (vec![], None);
    for _ in 0..limit {
        let listed = latest.list(query(), size, token, &Caller::default).await;
        let listed = listed.expect("a page");
        for (channel, indices) in &listed.channels {
            let ids = indices.iter().filter_map(|index| channel.upload(*index));
            found.extend(ids.map(|upload| upload.id()));
        }
        // As a client sends it.
        token = listed
            .next
            .map(|next| PageToken::decode(&next.encode()).expect("a token"));
        if token.is_none() {
            break;
        }
    }
    found
}

#[tokio::test]
async fn pages_of_any_size_have_each_upload_once_although_many_are_of_one_second() {
    for together in [1, 2, 3, 7, 60] {
        let uploads = uploads(120, together);
        let newest = uploads[..MAX_UPLOADS].to_vec();
        let upstream = Fake::open(move |_, feed| Ok(Channel::new(feed.channel, "A channel", newest.clone())));
        let latest = Latest::new(upstream as Arc<dyn Upstream>, None, settings(), Handle::current());
        let expected: Vec<_> = uploads.iter().map(|upload| upload.id).collect();
        let latest = latest.with_pages(Some(Arc::new(Pages(uploads))));
        for size in [1, 2, 5, 14, 15, 16, 49, 50] {
            let mut found = all(&latest, size, 200).await;
            assert_eq!(
                found.len(),
                expected.len(),
                "pages of {size}, {together} a second"
            );
            found.sort();
            assert!(
                expected.iter().all(|id| found.binary_search(id).is_ok()),
                "pages of {size}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_is_of_one_channel_and_kind() {
    let uploads = uploads(60, 1);
    let newest = uploads[..MAX_UPLOADS].to_vec();
    let upstream = Fake::open(move |_, feed| Ok(Channel::new(feed.channel, "A channel", newest.clone())));
    let latest = Latest::new(upstream as Arc<dyn Upstream>, None, settings(), Handle::current());
    let latest = latest.with_pages(Some(Arc::new(Pages(uploads))));
    let listed = latest.list(query(), 5, None, &Caller::default).await;
    let token = listed.expect("a page").next.expect("another page");
    let of = |number, kind| Query {
        channel: channel(number),
        kind,
        max_age: None,
    };
    assert_eq!(feed().channel, channel(0));
    for (query, expected) in [
        (of(0, None), true),
        (of(1, None), false),
        (of(0, Some(Kind::Video)), false),
        (of(0, Some(Kind::Short)), false),
    ] {
        assert_eq!(token.is_of(&query), expected, "{query:?}");
    }
}
