//! Whose channel a name means, by YouTube's pages: for a server without an API key, and for names that the Data API does not know.
//!
//! [`Pages::resolve`] loads a channel's page (`--youtube-pages`), or asks oEmbed for a video's author, and then loads that channel's page. It has
//! no cache, no coalescing and no rate limit of its own: whoever calls it brings those, and reports the failures to a breaker. They are
//! those of a feed: `NotFound` (no such handle), `RateLimited`, `Malformed` (a consent page, or a page that names no channel), ….

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod page;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::{Client, Response, Url, header};
use serde_json::Value;
use tokio::time::timeout;

use self::page::Page;
use super::{SetupError, body, client, response};
use crate::{
    channel_name::{ChannelName, ResolvedChannel},
    upstream::{Failure, NameSource, UpstreamError},
    video::{self, VideoId},
};

/// What says that cookies were refused. Without it, visitors from Europe get a page that asks for consent.
const COOKIE: &str = "SOCS=CAI";

/// As much of a page is read. Channels' pages are some megabyte long, and what is looked for is in their head.
const MAX_PAGE: usize = 2 << 20;

/// From here on, a page is searched each time that it has doubled: twice its length in all, however small the pieces in which it comes.
const FIRST_SEARCH: usize = 16 << 10;

/// `/user/name` leads to `/@handle`, and that to the same with other capitals.
const MAX_REDIRECTS: usize = 3;

/// YouTube's pages, or something that serves the like at another address.
#[derive(Clone)]
pub struct Pages {
    client: Client,
    base: Url,
    /// Of one resolution, with all of its requests.
    time_limit: Duration,
}

impl NameSource for Pages {
    fn resolve<'a>(
        &'a self,
        name: &'a ChannelName,
    ) -> BoxFuture<'a, Option<Result<ResolvedChannel, Failure>>> {
        Box::pin(async move { Some(Pages::resolve(self, name).await) })
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
            client,
            base,
            time_limit,
        }
    }

    /// The channel that `name` means, and its title.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such page or video; otherwise as a feed's.
    pub async fn resolve(&self, name: &ChannelName) -> Result<ResolvedChannel, Failure> {
        let resolved = timeout(self.time_limit, async {
            match name {
                ChannelName::Video(id) => self.channel(&self.author(*id).await?).await,
                name => self.channel(name).await,
            }
        });
        let resolved = resolved.await;
        resolved.unwrap_or_else(|_elapsed| Err(UpstreamError::TimedOut(self.time_limit).into()))
    }

    /// By the channel's page.
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
        Err(malformed("it redirects again and again"))
    }

    /// The uploader of a video, by oEmbed.
    async fn author(&self, video: VideoId) -> Result<ChannelName, Failure> {
        let mut url = self.address(&["oembed"])?;
        let page = format!("https://www.youtube.com/watch?v={video}");
        url.query_pairs_mut()
            .append_pair("format", "json")
            .append_pair("url", &page);
        let response = self.get(url).await?;
        if !response.status().is_success() {
            // 400 is its answer for IDs of no video.
            return Err(match response.status().as_u16() {
                400 => UpstreamError::NotFound.into(),
                _ => response::failure(&response),
            });
        }
        let embed: Value = serde_json::from_slice(&body::read(response).await?).unwrap_or_default();
        let author = embed["author_url"].as_str().and_then(|url| url.parse().ok());
        author.ok_or_else(|| malformed("it is no oEmbed of a channel's video"))
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
        // Not packed: what is unpacked piece by piece needs a bound of its own, and a page is needed once in 30 days.
        let request = self.client.get(url).header(header::ACCEPT_ENCODING, "identity");
        let response = request.header(header::COOKIE, COOKIE).send().await;
        Ok(response.map_err(|error| response::unreachable(&error))?)
    }

    /// Where a response leads that is no page: only to another page of the same server.
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

/// Reads a page until it says which channel it is of.
async fn read(mut response: Response) -> Result<ResolvedChannel, Failure> {
    if body::is_gzipped(&response)? {
        return Err(malformed("it is packed, which was not asked for"));
    }
    let (mut html, mut next_search) = (Vec::new(), FIRST_SEARCH);
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(|error| response::unreachable(&error))?;
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
