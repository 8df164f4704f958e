//! The upstream adapter: YouTube's public Atom feeds over HTTP.
//!
//! A feed needs no key and tells no lies, but the server in front of it answers 404 for channels that exist, refuses busy
//! addresses for hours, and sends no `Retry-After`, `ETag` or `Last-Modified`. Everything here is bounded: the time of a lookup,
//! the bytes of an answer, the lookups at once.

pub mod feed;

use std::{error::Error, num::NonZeroUsize, time::Duration};

use futures_util::future::BoxFuture;
use reqwest::{Client, StatusCode, Url, redirect};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::{
    upstream::{Upstream, UpstreamError},
    video::{Channel, ChannelId},
};

/// The longest body that is read, after decompression. The largest feed seen has 80 kB; 500 entries of that size have 2.6 MB,
/// but a feed has 15.
const MAX_BODY: usize = 2 << 20;

/// How we introduce ourselves, so that whoever runs the upstream can tell who asks.
const USER_AGENT: &str = concat!("plaque/", env!("CARGO_PKG_VERSION"));

/// YouTube's feeds, or something that serves the same under another address.
pub struct YouTube {
    client: Client,
    feeds: Url,
    /// Of the whole lookup: waiting for a permit, connecting, headers, body.
    time_limit: Duration,
    permits: Semaphore,
}

/// The HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS for the upstream (are the system's CA certificates installed?): {0}")]
pub struct SetupError(#[source] reqwest::Error);

impl YouTube {
    /// An adapter for the feeds at `feeds`, to which `channel_id=…` is appended.
    ///
    /// # Errors
    ///
    /// If `feeds` is an `https` address and the system has no usable certificate store.
    pub fn new(feeds: Url, time_limit: Duration, concurrency: NonZeroUsize) -> Result<Self, SetupError> {
        // Fails only if a provider is there already, which is then as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            // A redirect leads to a consent page or a login, never to a feed.
            .redirect(redirect::Policy::none())
            .no_proxy();
        if feeds.scheme() == "http" {
            // No certificate will be looked at; a machine without any must not keep us from starting.
            client = client.tls_certs_only([]);
        }
        Ok(Self {
            client: client.build().map_err(SetupError)?,
            feeds,
            time_limit,
            permits: Semaphore::new(concurrency.get().min(Semaphore::MAX_PERMITS)),
        })
    }

    async fn fetch(&self, channel: ChannelId) -> Result<Channel, UpstreamError> {
        let _permit = self.permits.acquire().await;
        let mut url = self.feeds.clone();
        url.query_pairs_mut().append_pair("channel_id", channel.as_str());
        let mut response = self
            .client
            .get(url)
            .send()
            .await
            .map_err(|error| unreachable(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(UpstreamError::NotFound),
            status @ (StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) => {
                return Err(UpstreamError::RateLimited(status.as_u16()));
            }
            status => return Err(UpstreamError::Status(status.as_u16())),
        }

        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(UpstreamError::Malformed(
                    format!("it is longer than {MAX_BODY} bytes").into(),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        feed::parse(&body, channel).map_err(|error| UpstreamError::Malformed(error.to_string().into()))
    }
}

impl Upstream for YouTube {
    fn look_up(&self, channel: ChannelId) -> BoxFuture<'_, Result<Channel, UpstreamError>> {
        let span = tracing::info_span!("lookup", %channel);
        let lookup = async move {
            let outcome = tokio::time::timeout(self.time_limit, self.fetch(channel))
                .await
                .unwrap_or(Err(UpstreamError::TimedOut(self.time_limit)));
            match &outcome {
                Ok(found) => tracing::info!(uploads = found.len(), "looked up"),
                Err(error) => tracing::warn!(%error, "lookup failed"),
            }
            outcome
        };
        Box::pin(lookup.instrument(span))
    }
}

/// The innermost cause says what happened (`Connection refused`); the outer ones name addresses, which are not the caller's.
fn unreachable(error: &reqwest::Error) -> UpstreamError {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    UpstreamError::Unreachable(cause.to_string().into())
}
