//! YouTube's pages (`--youtube-pages`) as a source of names: without a key for the Data API, and for names that the API does not know.
//!
//! A name is resolved by its channel's page; a video by oEmbed, which says who uploaded it, and then by that channel's page. While the pages
//! refuse this address, none is loaded. The caller brings cache, coalescing and rate. Failures are those of a feed: `NotFound` if there is no
//! such page, `Malformed` if it names no channel or asks for consent, ….

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod page;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::{Client, Response, Url, header};
use serde_json::Value;
use tokio::time::timeout;

use self::page::Page;
use super::{SetupError, body, client, guard::Guard, response};
use crate::{
    upstream::{Caller, Failure, NameSource, UpstreamError},
    video::{self, ChannelName, ResolvedChannel, VideoId, is_youtube},
};

/// Says that cookies were refused. Without it, addresses in Europe get a page that asks for consent.
const COOKIE: &str = "SOCS=CAI";

/// The most that is read of a page. Channels' pages have about a megabyte, and the links are in their head.
const MAX_PAGE: usize = 2 << 20;

/// The length at which a page is searched first, and then each time that it has doubled. So the work is at most twice its length, however
/// small the chunks are in which it arrives.
const FIRST_SEARCH: usize = 16 << 10;

/// `/user/name` redirects to `/@handle`, and that to the same handle with other capitals.
const MAX_REDIRECTS: usize = 3;

/// YouTube's pages, or another server with such pages. Clones share everything.
#[derive(Clone)]
pub struct Pages {
    client: Client,
    base: Url,
    /// The limit of one name, with all of its requests.
    time_limit: Duration,
    guard: Arc<Guard>,
}

impl NameSource for Pages {
    fn resolve<'a>(
        &'a self,
        name: &'a ChannelName,
        caller: Caller,
    ) -> BoxFuture<'a, Option<Result<ResolvedChannel, Failure>>> {
        Box::pin(async move {
            let resolved = Pages::resolve(self, name);
            Some(self.guard.request_by_name(caller.id, resolved).await)
        })
    }

    fn host(&self) -> Option<&str> {
        // Another host may be known inside only.
        self.base.host_str().filter(|host| is_youtube(host))
    }
}

impl Pages {
    /// Pages below `base`, with the connection settings of `upstream`.
    ///
    /// # Errors
    ///
    /// As for [`YouTube::new`](super::YouTube::new).
    pub fn open(base: Url, upstream: &super::Settings) -> Result<Self, SetupError> {
        let upstream = super::Settings {
            feeds: base.clone(),
            ..upstream.clone()
        };
        Ok(Self::new(client::client(&upstream)?, base, upstream.time_limit))
    }

    /// Pages below `base`. `client` must not follow redirects.
    #[must_use]
    pub fn new(client: Client, base: Url, time_limit: Duration) -> Self {
        Self {
            guard: Arc::new(Guard::new(client::host(&base))),
            client,
            base,
            time_limit,
        }
    }

    /// The channel that `name` stands for.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such page or video; otherwise the errors of a feed.
    async fn resolve(&self, name: &ChannelName) -> Result<ResolvedChannel, Failure> {
        let resolved = timeout(self.time_limit, async {
            match name {
                ChannelName::Video(id) => self.channel(&self.author(*id).await?).await,
                name => self.channel(name).await,
            }
        });
        let resolved = resolved.await;
        resolved.unwrap_or_else(|_elapsed| Err(UpstreamError::TimedOut(self.time_limit).into()))
    }

    /// Resolves a name by the channel's page.
    async fn channel(&self, name: &ChannelName) -> Result<ResolvedChannel, Failure> {
        let handle;
        let path = match name {
            ChannelName::Id(id) => ["channel", id.as_str()],
            ChannelName::Handle(name) => {
                handle = format!("@{name}");
                ["", &handle]
            }
            ChannelName::User(name) => ["user", name],
            ChannelName::Custom(name) => ["c", name],
            ChannelName::Video(_) => return Err(malformed("a video's author is another video")),
        };
        let mut url = self.address(&path)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.get(url).await?;
            if response.status().is_success() {
                return read(response).await;
            }
            url = self.redirect(&response)?;
        }
        Err(malformed("it redirects too often"))
    }

    /// The name of a video's uploader, by oEmbed.
    async fn author(&self, video: VideoId) -> Result<ChannelName, Failure> {
        let mut url = self.address(&["oembed"])?;
        let page = format!("https://www.youtube.com/watch?v={video}");
        url.query_pairs_mut()
            .append_pair("format", "json")
            .append_pair("url", &page);
        let response = self.get(url).await?;
        if !response.status().is_success() {
            // It answers 400 if there is no such video.
            return Err(match response.status().as_u16() {
                400 => UpstreamError::NotFound.into(),
                _ => response::failure(&response),
            });
        }
        let embed: Value = serde_json::from_slice(&body::read(response).await?).unwrap_or_default();
        let author = embed["author_url"].as_str().and_then(|url| url.parse().ok());
        author.ok_or_else(|| malformed("it is not the oEmbed of a channel's video"))
    }

    fn address(&self, path: &[&str]) -> Result<Url, Failure> {
        let mut url = self.base.clone();
        let segments = path.iter().filter(|segment| !segment.is_empty());
        url.path_segments_mut()
            .map_err(|()| malformed("its address has no path"))?
            .pop_if_empty()
            .extend(segments);
        Ok(url)
    }

    async fn get(&self, url: Url) -> Result<Response, Failure> {
        // Not compressed: decompression in chunks needs another bound, and a page is loaded once in 30 days.
        let request = self.client.get(url).header(header::ACCEPT_ENCODING, "identity");
        let response = request.header(header::COOKIE, COOKIE).send().await;
        Ok(response.map_err(|error| client::unreachable(&error))?)
    }

    /// The target of a redirect, which must be another page of the same server.
    fn redirect(&self, response: &Response) -> Result<Url, Failure> {
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let target = location.and_then(|location| response.url().join(location).ok());
        match target {
            Some(target) if !response.status().is_redirection() || target.path().starts_with("/sorry/") => {
                Err(response::failure(response))
            }
            Some(target) if page::is_consent(&target) => Err(consent()),
            Some(target) if target.origin() == self.base.origin() => Ok(target),
            _ => Err(response::failure(response)),
        }
    }
}

/// Reads a page until it names its channel.
async fn read(mut response: Response) -> Result<ResolvedChannel, Failure> {
    if body::is_gzipped(&response)? {
        return Err(malformed("it is compressed, which was not requested"));
    }
    let (mut html, mut next_search) = (Vec::new(), FIRST_SEARCH);
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(|error| client::unreachable(&error))?;
        html.extend_from_slice(chunk.as_deref().unwrap_or_default());
        let is_complete = chunk.is_none() || html.len() >= MAX_PAGE;
        if is_complete || html.len() >= next_search {
            match page::read(&html, is_complete) {
                Some(Page::Channel(channel)) => return Ok(channel),
                Some(Page::Consent) => return Err(consent()),
                None if is_complete => return Err(malformed("it is a page that names no channel")),
                None => next_search = 2 * html.len(),
            }
        }
    }
}

fn consent() -> Failure {
    malformed("it is a page that asks for consent to cookies")
}

fn malformed(why: &str) -> Failure {
    UpstreamError::Malformed(video::message(why)).into()
}
