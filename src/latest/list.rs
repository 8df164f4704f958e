//! Pages of a channel's uploads: the newest from the cache entry, older ones from a source that has them.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use coalesce::{Coalescer, Overloaded, Retention};
use tokio::runtime::Handle;

use super::{Answer, Latest, LookupError, OVERLOAD_PAUSE, Query, map_flight_error};
use crate::{
    upstream::{Caller, Failure, Feed, Page, UploadPages},
    video::{Channel, MAX_UPLOADS, Moment, VideoId},
};

/// The most pages of the source that are read for one of ours: some of its uploads may be newer than where the last page ended.
const MAX_PAGES: usize = 3;

/// The pages of the source that are cached, of up to 50 uploads each.
const CACHED_PAGES: u64 = 200;

/// How long these are cached: new uploads move all others.
const KEEP_PAGES_FOR: Duration = Duration::from_mins(5);

/// A source of older uploads, whose pages are coalesced and cached.
#[derive(Clone)]
pub(super) struct OlderUploads {
    source: Arc<dyn UploadPages>,
    pages: Coalescer<(Feed, Option<String>), Loaded>,
}

type Loaded = Arc<Result<Page, Failure>>;

impl OlderUploads {
    pub(super) fn new(source: Arc<dyn UploadPages>, runtime: Handle) -> Self {
        let pages = Coalescer::<_, Loaded>::builder(CACHED_PAGES)
            .retention(|_page, loaded| match **loaded {
                Ok(_) => Retention::Keep,
                Err(_) => Retention::Discard,
            })
            .time_to_live(KEEP_PAGES_FOR)
            .runtime(runtime)
            .build();
        Self { source, pages }
    }

    async fn page(
        &self,
        feed: Feed,
        page: Option<String>,
        caller: Caller,
    ) -> Result<Page, (LookupError, Option<Duration>)> {
        let (source, wanted) = (Arc::clone(&self.source), page.clone());
        let load = move || async move { Arc::new(source.page(feed, wanted.as_deref(), caller).await) };
        match self.pages.get_or_fetch((feed, page), load).await {
            Ok(loaded) => (*loaded)
                .clone()
                .map_err(|failure| (LookupError::Upstream(failure.error), failure.retry_after)),
            Err(coalesce::Error::Overloaded(Overloaded(waiters))) => {
                Err((LookupError::Overloaded(waiters), Some(OVERLOAD_PAUSE)))
            }
            Err(coalesce::Error::Flight(error)) => Err((map_flight_error(error), None)),
        }
    }
}

/// Where the next page of a feed begins: after an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    feed: Feed,
    after: VideoId,
    published: Moment,
    /// The page of the source that has what comes next; empty for its first. `None`: the entry may have it.
    page: Option<String>,
}

/// A text is not the token of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPageToken;

impl PageToken {
    /// The token as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let Self { feed, after, .. } = self;
        let mut text = format!("{} {after} {}", feed.tag(), self.published.to_nanos());
        if let Some(page) = &self.page {
            text = format!("{text} {page}");
        }
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    /// Whether it is of a list of these uploads.
    #[must_use]
    pub fn is_of(&self, query: &Query) -> bool {
        self.feed == query.feed()
    }

    /// Parses a token.
    ///
    /// # Errors
    ///
    /// If the text is not one.
    pub fn decode(text: &str) -> Result<Self, InvalidPageToken> {
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or(InvalidPageToken)?;
        let mut parts = decoded.splitn(4, ' ');
        let mut part = || parts.next().ok_or(InvalidPageToken);
        Ok(Self {
            feed: Feed::from_tag(part()?).ok_or(InvalidPageToken)?,
            after: part()?.parse().map_err(|_| InvalidPageToken)?,
            published: Moment::from_nanos(part()?.parse().map_err(|_| InvalidPageToken)?),
            page: parts.next().map(str::to_owned),
        })
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
    /// Lists up to `size` uploads, after those of the page that `token` is of.
    ///
    /// # Errors
    ///
    /// As for [`Self::get_for`], but a channel without uploads is an empty page.
    pub async fn list(
        &self,
        query: Query,
        size: usize,
        token: Option<PageToken>,
        caller: &impl Fn() -> Caller,
    ) -> Result<Listed, (LookupError, Option<Duration>)> {
        // Older pages of the source need nothing of the entry.
        if let Some(token @ PageToken { page: Some(_), .. }) = token {
            return self.older(query, size, token, caller()).await;
        }
        let reply = self.get_for(query, caller).await;
        let answer = match reply.outcome {
            Ok(answer) => answer,
            Err(LookupError::NoUploads { .. }) => return Ok(Listed::empty()),
            Err(error) => return Err((error, reply.retry_after)),
        };
        let channel = answer.shared_channel();
        let of_kind = |index: &usize| {
            let upload = channel.upload(*index);
            upload.is_some_and(|upload| query.kind.is_none_or(|kind| upload.kind() == kind))
        };
        let mut indices: Vec<usize> = (0..channel.len()).filter(of_kind).collect();
        if let Some(token) = token {
            let is_after = |index: &usize| {
                channel
                    .upload(*index)
                    .is_some_and(|upload| upload.id() == token.after)
            };
            match indices.iter().position(is_after) {
                Some(position) if position + 1 < indices.len() => drop(indices.drain(..=position)),
                _ => return self.older(query, size, token, caller()).await,
            }
        }
        let has_more = indices.len() > size;
        indices.truncate(size);
        let last = indices.last().and_then(|index| channel.upload(*index));
        let next = last.filter(|_| has_more || self.pages.is_some() && channel.is_full());
        let next = next.map(|last| PageToken {
            feed: query.feed(),
            after: last.id(),
            published: last.moment(),
            page: None,
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
        token: PageToken,
        caller: Caller,
    ) -> Result<Listed, (LookupError, Option<Duration>)> {
        let Some(source) = &self.pages else {
            return Ok(Listed::empty());
        };
        let feed = query.feed();
        let mut page = token.page.filter(|page| !page.is_empty());
        for _ in 0..MAX_PAGES {
            let loaded = source.page(feed, page.clone(), caller).await?;
            let mut uploads = loaded.uploads;
            match uploads.iter().position(|upload| upload.id == token.after) {
                // By its place, since others may be of the same second.
                Some(last) => drop(uploads.drain(..=last)),
                // The upload is in the page before, or is gone.
                None => uploads.retain(|upload| Moment::new(upload.published) <= token.published),
            }
            let has_more = uploads.len() > size;
            uploads.truncate(size);
            if uploads.is_empty() && loaded.next.is_some() {
                page = loaded.next;
                continue;
            }
            let next = uploads.last().filter(|_| has_more || loaded.next.is_some());
            let next = next.map(|last| PageToken {
                feed,
                after: last.id,
                published: Moment::new(last.published),
                page: Some(if has_more { page } else { loaded.next }.unwrap_or_default()),
            });
            let channels = uploads.chunks(MAX_UPLOADS).map(|uploads| {
                let channel = Channel::new(query.channel, &loaded.title, uploads.to_vec());
                let indices = (0..channel.len()).collect();
                (Arc::new(channel), indices)
            });
            return Ok(Listed {
                channels: channels.collect(),
                answer: None,
                has_kinds: query.kind.is_some(),
                next,
            });
        }
        Ok(Listed::empty())
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
