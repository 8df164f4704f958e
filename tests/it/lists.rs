//! Pages of a channel's uploads, from the entry and from a source of older ones.

use std::{
    cmp::Reverse,
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use plaque::{
    latest::{Latest, ListError, PageToken, Query},
    upstream::{Caller, Failure, Feed, List, Page, UploadPages, Upstream},
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

/// The uploads of a channel, in the order in which the API lists them, and whether they are streams. Its pages are named by their places, as the
/// API's are.
struct Shown(Mutex<Vec<(Upload, bool)>>);

impl Shown {
    fn new(uploads: impl IntoIterator<Item = Upload>) -> Arc<Self> {
        let uploads = uploads.into_iter().map(|upload| (upload, false));
        Arc::new(Self(Mutex::new(uploads.collect())))
    }

    /// The newest uploads by publication, as in a feed.
    fn newest(&self) -> Vec<Upload> {
        let mut uploads: Vec<_> = self.0.lock().iter().map(|(upload, _)| upload.clone()).collect();
        uploads.sort_by_key(|upload| Reverse(upload.published));
        uploads.truncate(MAX_UPLOADS);
        uploads
    }

    fn ids(&self) -> Vec<VideoId> {
        self.0.lock().iter().map(|(upload, _)| upload.id).collect()
    }
}

impl UploadPages for Shown {
    fn page<'a>(
        &'a self,
        feed: Feed,
        list: List,
        page: Option<&'a str>,
        _caller: Caller,
    ) -> BoxFuture<'a, Result<Option<Page>, Failure>> {
        let first: Option<usize> = page.map_or(Some(0), |page| page.parse().ok());
        let all = self.0.lock();
        let is_of_list = |is_stream: bool| feed.kind.is_none() || is_stream == (list == List::Streams);
        let of_list = all.iter().filter(|(_, is_stream)| is_of_list(*is_stream));
        let of_list: Vec<_> = of_list.map(|(upload, _)| upload.clone()).collect();
        let loaded = first.map(|first| {
            let rest = of_list.get(first..).unwrap_or_default();
            let mut uploads = rest[..rest.len().min(PAGE)].to_vec();
            uploads.sort_by_key(|upload| Reverse(upload.published));
            Page {
                title: String::new(),
                entries: uploads.len(),
                uploads,
                total: Some(of_list.len() as u64),
                next: (rest.len() > PAGE).then(|| (first + PAGE).to_string()),
            }
        });
        Box::pin(async move { Ok(loaded) })
    }
}

/// A feed that shows the newest uploads whenever it is looked up, and the list of all, or no list.
fn latest(shown: &Arc<Shown>, has_list: bool) -> Latest {
    let newest = Arc::clone(shown);
    let upstream = Fake::open(move |_, feed| Ok(Channel::new(feed.channel, "A channel", newest.newest())));
    let mut settings = settings();
    settings.policy.fresh_for = Duration::ZERO;
    let latest = Latest::new(upstream as Arc<dyn Upstream>, None, settings, Handle::current());
    latest.with_pages(has_list.then(|| Arc::clone(shown) as Arc<dyn UploadPages>))
}

/// The IDs of all pages of this size, at most `limit` of them; `between` is called after each page.
async fn all(
    latest: &Latest,
    query: Query,
    size: usize,
    limit: usize,
    mut between: impl FnMut(usize),
) -> Vec<VideoId> {
    let (mut found, mut token) = (vec![], None);
    for page in 1..=limit {
        let listed = latest.list(query, size, token, &Caller::default).await;
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
            return found;
        }
        between(page);
    }
    panic!("the list does not end");
}

fn of(number: u8, kind: Option<Kind>) -> Query {
    Query {
        channel: channel(number),
        kind,
        max_age: None,
    }
}

#[tokio::test]
async fn pages_of_any_size_have_each_upload_once_although_many_are_of_one_second() {
    for together in [1, 2, 3, 7, 60] {
        let uploads = uploads(120, together);
        let shown = Shown::new(uploads);
        let latest = latest(&shown, true);
        for size in [1, 2, 5, 14, 15, 16, 49, 50] {
            let mut found = all(&latest, query(), size, 200, |_| ()).await;
            found.sort();
            let mut expected = shown.ids();
            expected.sort();
            assert_eq!(found, expected, "pages of {size}, {together} a second");
        }
    }
}

#[tokio::test]
async fn videos_and_streams_are_one_list_by_publication() {
    for streams_from in [0, 40, 130] {
        let shown = Shown::new(uploads(180, 1));
        for (number, (_, is_stream)) in shown.0.lock().iter_mut().enumerate() {
            *is_stream = number >= streams_from && number % 4 == 1;
        }
        let latest = latest(&shown, true);
        for size in [7, 50] {
            let found = all(&latest, of(0, Some(Kind::Video)), size, 200, |_| ()).await;
            assert_eq!(
                found,
                shown.ids(),
                "streams from {streams_from} on, pages of {size}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_somewhat_out_of_order_is_listed() {
    let mut uploads = uploads(170, 1);
    for (position, place) in [(60, 40), (70, 30), (149, 124)] {
        uploads[position].published = uploads[place]
            .published
            .map(|time| time + Duration::from_millis(500));
    }
    let shown = Shown::new(uploads);
    let mut expected = shown.0.lock().clone();
    expected.sort_by_key(|(upload, _)| Reverse(upload.published));
    let expected: Vec<_> = expected.into_iter().map(|(upload, _)| upload.id).collect();
    for size in [1, 10, 50] {
        let latest = latest(&shown, true);
        assert_eq!(
            all(&latest, query(), size, 300, |_| ()).await,
            expected,
            "pages of {size}"
        );
    }
}

#[tokio::test]
async fn while_uploads_appear_and_vanish_the_others_are_listed_once() {
    for seed in 0..80 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (together, kind) = (random.usize(1..4), random.bool().then_some(Kind::Video));
        let mut uploads = uploads(400, together);
        let newer = uploads.split_off(250);
        let mut newer = newer.into_iter().enumerate().map(|(number, upload)| Upload {
            published: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + number as u64)),
            ..upload
        });
        let shown = Shown::new(uploads);
        if kind.is_some() {
            shown
                .0
                .lock()
                .iter_mut()
                .for_each(|(_, is_stream)| *is_stream = random.u8(..3) == 0);
        }
        let (before, mut vanished) = (shown.ids(), HashSet::new());
        let latest = latest(&shown, true);
        let size = random.usize(1..=50);
        let found = all(&latest, of(0, kind), size, 500, |page| {
            let mut shown = shown.0.lock();
            let appear = [0, 0, 1, 3, 60][random.usize(..5)];
            for upload in newer.by_ref().take(appear) {
                shown.insert(0, (upload, false));
            }
            for _ in 0..[0, 1, 1, 20][random.usize(..4)] {
                // Those that were listed last vanish most often.
                let end = (appear + page * size).min(shown.len());
                if end > 0 {
                    vanished.insert(shown.remove(random.usize(..end)).0.id);
                }
            }
        });
        let found = found.await;
        let once: HashSet<_> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "seed {seed}: listed twice");
        let missing = before
            .iter()
            .filter(|id| !vanished.contains(id) && !once.contains(id));
        assert_eq!(missing.count(), 0, "seed {seed}: not listed");
        assert!(
            once.iter().all(|id| before.contains(id)),
            "seed {seed}: newer than the list"
        );
    }
}

#[tokio::test]
async fn a_list_goes_on_after_two_hundred_new_uploads() {
    let mut uploads = uploads(600, 1);
    let older = uploads.split_off(500);
    let shown = Shown::new(older);
    let latest = latest(&shown, true);
    let before = shown.ids();
    let mut uploads = uploads.into_iter().map(|upload| (upload, false));
    let found = all(&latest, query(), 10, 100, |_| {
        shown.0.lock().splice(0..0, uploads.by_ref());
    });
    assert_eq!(found.await, before);
}

#[tokio::test]
async fn without_older_pages_the_list_goes_on_at_its_place_and_ends_with_the_feed() {
    let shown = Shown::new(uploads(15, 1));
    let latest = latest(&shown, false);
    let before = shown.ids();
    let found = all(&latest, query(), 5, 3, |page| {
        // The last upload of the page vanishes.
        let gone = before[5 * page - 1];
        shown.0.lock().retain(|(upload, _)| upload.id != gone);
    });
    assert_eq!(found.await, before, "in three pages");
}

#[tokio::test]
async fn a_page_that_the_source_does_not_know_is_the_tokens_fault() {
    let latest = latest(&Shown::new(uploads(60, 1)), true);
    let token = |page: &str| {
        let text = format!("{} 0    page={page}", feed().tag());
        let token = PageToken::decode(&BASE64_URL_SAFE_NO_PAD.encode(text)).expect("a token");
        latest.list(query(), 5, Some(token), &Caller::default)
    };
    assert_eq!(token("made-up").await.err(), Some(ListError::InvalidPageToken));
    assert!(token("50").await.is_ok());
}

#[tokio::test]
async fn a_token_is_of_one_channel_and_kind() {
    let latest = latest(&Shown::new(uploads(60, 1)), true);
    let listed = latest.list(query(), 5, None, &Caller::default).await;
    let token = listed.expect("a page").next.expect("another page");
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
