//! Pages of a channel's uploads: the newest from the cache entry, older ones from a source that has them.

mod scan;
mod token;

use std::{sync::Arc, time::Duration};

use coalesce::{Coalescer, Overloaded, Retention};
use tokio::runtime::Handle;

pub use self::token::{InvalidPageToken, PageToken};
use self::{
    scan::Scan,
    token::{Place, Position},
};
use super::{Answer, Latest, LookupError, OVERLOAD_PAUSE, Query, map_flight_error};
use crate::{
    upstream::{Caller, Failure, Feed, List, Page, UploadPages},
    video::{Channel, MAX_UPLOADS, Source},
};

/// The most pages of the source that are read for one of ours: what appeared since the list began comes before what is wanted, and videos
/// are in two lists.
const MAX_PAGES: usize = 6;

/// The pages of the source that are cached, of up to 50 uploads each.
const CACHED_PAGES: u64 = 200;

/// How long these are cached. Less if another page shows that something has appeared or vanished since.
const KEEP_PAGES_FOR: Duration = Duration::from_mins(5);

/// A source of older uploads, whose pages are coalesced and cached.
#[derive(Clone)]
pub(super) struct OlderUploads {
    source: Arc<dyn UploadPages>,
    pages: Coalescer<Name, Loaded>,
}

/// A page of a list: by its name; `None`: the newest.
type Name = (Feed, List, Option<String>);

/// `None`: there is no page of that name.
type Loaded = Arc<Result<Option<Page>, Failure>>;

/// Why uploads cannot be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListError {
    /// The token names a page that the source does not know.
    InvalidPageToken,
    /// A lookup failed, and when to retry.
    Lookup(LookupError, Option<Duration>),
}

impl OlderUploads {
    pub(super) fn new(source: Arc<dyn UploadPages>, runtime: Handle) -> Self {
        let pages = Coalescer::<_, Loaded>::builder(CACHED_PAGES)
            .retention(|_page, loaded| match **loaded {
                Ok(Some(_)) => Retention::Keep,
                Ok(None) | Err(_) => Retention::Discard,
            })
            .time_to_live(KEEP_PAGES_FOR)
            .runtime(runtime)
            .build();
        Self { source, pages }
    }

    async fn page(&self, name: Name, caller: Caller) -> Result<Page, ListError> {
        let (source, (feed, list, page)) = (Arc::clone(&self.source), name.clone());
        let load = move || async move { Arc::new(source.page(feed, list, page.as_deref(), caller).await) };
        match self.pages.get_or_fetch(name, load).await {
            Ok(loaded) => match (*loaded).clone() {
                Ok(page) => page.ok_or(ListError::InvalidPageToken),
                Err(failure) => {
                    let error = LookupError::Upstream(failure.error);
                    Err(ListError::Lookup(error, failure.retry_after))
                }
            },
            Err(coalesce::Error::Overloaded(Overloaded(waiters))) => {
                let error = LookupError::Overloaded(waiters);
                Err(ListError::Lookup(error, Some(OVERLOAD_PAUSE)))
            }
            Err(coalesce::Error::Flight(error)) => Err(ListError::Lookup(map_flight_error(error), None)),
        }
    }

    /// Loads what is needed for `size` uploads of `feed`, or as much of that as may be.
    async fn scan(&self, feed: Feed, size: usize, scan: &mut Scan, caller: Caller) -> Result<(), ListError> {
        for _ in 0..MAX_PAGES {
            let Some((index, page)) = scan.wanted(size) else {
                break;
            };
            let list = feed.lists()[index];
            let loaded = self.page((feed, list, page), caller).await?;
            for outdated in scan.add(index, loaded).unwrap_or_default() {
                self.pages.invalidate(&(feed, list, outdated)).await;
            }
        }
        Ok(())
    }
}

/// A page of uploads, in channels of at most [`MAX_UPLOADS`] each.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Newest first, and which of their uploads are in the page.
    pub channels: Vec<(Arc<Channel>, Vec<usize>)>,
    /// The answer that they come from; `None` for older uploads.
    pub answer: Option<Answer>,
    /// Whether the kinds of the uploads are known.
    pub has_kinds: bool,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<PageToken>,
}

impl Latest {
    /// Lists up to `size` uploads, after those of the page that `token` is of. A page may have fewer, even none, if it is not the last.
    ///
    /// # Errors
    ///
    /// As for [`Self::get_for`], but a channel without uploads is an empty page; and if the source does not know the token's page.
    pub async fn list(
        &self,
        query: Query,
        size: usize,
        token: Option<PageToken>,
        caller: &impl Fn() -> Caller,
    ) -> Result<Listed, ListError> {
        let (mut place, positions) = match token {
            Some(token) => (token.place, token.positions),
            None => (Place::first(), None),
        };
        // Older pages need nothing of the entry.
        if let Some(positions) = positions {
            return self
                .older(query, size, Scan::new(place, positions), caller())
                .await;
        }
        let reply = self.get_for(query, caller).await;
        let answer = match reply.outcome {
            Ok(answer) => answer,
            Err(LookupError::NoUploads { .. }) => return Ok(Listed::empty()),
            Err(error) => return Err(ListError::Lookup(error, reply.retry_after)),
        };
        let channel = answer.shared_channel();
        let is_wanted = |index: &usize| {
            let upload = channel.upload(*index);
            upload.is_some_and(|upload| {
                let is_of_kind = query.kind.is_none_or(|kind| upload.kind() == kind);
                is_of_kind && place.precedes(upload.id(), upload.moment())
            })
        };
        let mut indices: Vec<usize> = (0..channel.len()).filter(is_wanted).collect();
        let has_more = indices.len() > size;
        indices.truncate(size);
        for upload in indices.iter().filter_map(|index| channel.upload(*index)) {
            place.pass(upload.id(), upload.moment());
        }
        // Mirrors may have fewer than a feed.
        let has_older = self.pages.is_some() && (channel.is_full() || channel.source() == Source::Mirror);
        if indices.is_empty() && has_older {
            let positions = query.feed().lists().iter().map(|_| Position::First);
            let scan = Scan::new(place, positions.collect());
            return self.older(query, size, scan, caller()).await;
        }
        let next = (has_more || has_older).then(|| PageToken {
            feed: query.feed(),
            place,
            positions: None,
        });
        Ok(Listed {
            channels: vec![(channel, indices)],
            answer: Some(answer),
            has_kinds: true,
            next,
        })
    }

    /// A page of uploads that the entry does not have.
    async fn older(
        &self,
        query: Query,
        size: usize,
        mut scan: Scan,
        caller: Caller,
    ) -> Result<Listed, ListError> {
        let Some(source) = &self.pages else {
            return Ok(Listed::empty());
        };
        let feed = query.feed();
        source.scan(feed, size, &mut scan, caller).await?;
        let (uploads, title, next) = scan.finish(size);
        let channels = uploads.chunks(MAX_UPLOADS).map(|uploads| {
            let channel = Channel::new(query.channel, &title, uploads.to_vec());
            let indices = (0..channel.len()).collect();
            (Arc::new(channel), indices)
        });
        Ok(Listed {
            channels: channels.collect(),
            answer: None,
            has_kinds: query.kind.is_some(),
            next: next.map(|(place, positions)| PageToken {
                feed,
                place,
                positions: Some(positions),
            }),
        })
    }
}

impl Listed {
    fn empty() -> Self {
        Self {
            channels: vec![],
            answer: None,
            has_kinds: true,
            next: None,
        }
    }
}
