//! Sends requests to the Data API: each spends a unit first, and refusals are reported to the [`Ledger`].

use std::time::{Duration, SystemTime};

use http::{HeaderValue, header};
use parking_lot::Mutex;
use reqwest::{Client, StatusCode, Url};
use tokio::time::timeout;

use super::{ApiError, KeyFile, KeyId, Ledger, Use, answer};
use crate::{
    upstream::{Feed, Page, UpstreamError},
    video::ResolvedChannel,
    youtube::{body, client, list::List},
};

/// The header with the key. In a query string, logs of proxies would contain it.
pub(super) const KEY_HEADER: &str = "x-goog-api-key";

/// The prefix of the list of all uploads, whose ID ends with the channel's 22 characters.
const ALL_UPLOADS: &str = "UU";

/// The items of a page: the most that the API gives. A page costs one unit, whatever its size.
const PAGE_SIZE: &str = "50";

pub(super) struct Requests {
    pub(super) client: Client,
    pub(super) api: Url,
    pub(super) user_agent: HeaderValue,
    /// Locked while the file is checked for changes.
    pub(super) key: Mutex<KeyFile>,
    pub(super) ledger: Ledger,
    /// The time limit of one request.
    pub(super) time_limit: Duration,
}

impl Requests {
    /// A page of a list: the newest, or the one with this name.
    pub(super) async fn uploads(
        &self,
        list: List,
        page: Option<&str>,
        spend_for: Use,
    ) -> Result<Page, ApiError> {
        let Feed { channel, kind } = list.feed;
        let playlist = format!("{}{}", list.prefix.unwrap_or(ALL_UPLOADS), channel.unprefixed());
        let mut query = vec![
            ("part", "snippet,contentDetails"),
            ("playlistId", &playlist),
            ("maxResults", PAGE_SIZE),
            ("fields", answer::PLAYLIST_FIELDS),
        ];
        query.extend(page.map(|page| ("pageToken", page)));
        answer::uploads(
            &self.get("playlistItems", &query, spend_for).await?,
            channel,
            kind,
            SystemTime::now(),
        )
    }

    /// The channels that exist of those that `filter` names with `value`.
    pub(super) async fn channels(
        &self,
        filter: &str,
        value: &str,
        spend_for: Use,
    ) -> Result<Vec<ResolvedChannel>, ApiError> {
        let query = [
            ("part", "snippet"),
            (filter, value),
            ("maxResults", PAGE_SIZE),
            ("fields", answer::CHANNEL_FIELDS),
        ];
        answer::channels(&self.get("channels", &query, spend_for).await?)
    }

    /// Sends one request, for one unit, and returns the body of the answer.
    pub(super) async fn get(
        &self,
        method: &str,
        query: &[(&str, &str)],
        spend_for: Use,
    ) -> Result<Vec<u8>, ApiError> {
        let (key, id) = self.key();
        self.ledger.spend(spend_for, SystemTime::now(), id).await?;
        let answered = timeout(self.time_limit, self.send(method, query, key));
        let answered = answered
            .await
            .unwrap_or_else(|_elapsed| Err(UpstreamError::TimedOut(self.time_limit).into()));
        tracing::debug!(
            method,
            error = answered.as_ref().err().map(tracing::field::display),
            "asked the YouTube Data API"
        );
        let refusal = match &answered {
            Ok(_) | Err(ApiError::PlaylistNotFound | ApiError::PageNotFound) => None,
            Err(ApiError::Refused(refusal)) => Some(*refusal),
            // Such failures do not show whether Google refuses the key.
            Err(_) => return answered,
        };
        self.ledger.report(refusal, SystemTime::now(), id).await;
        answered
    }

    /// Which key the file has now.
    pub(super) fn key_id(&self) -> KeyId {
        self.key.lock().current().1
    }

    fn key(&self) -> (HeaderValue, KeyId) {
        let mut file = self.key.lock();
        let (key, id) = file.current();
        (key.header(), id)
    }

    async fn send(
        &self,
        method: &str,
        query: &[(&str, &str)],
        key: HeaderValue,
    ) -> Result<Vec<u8>, ApiError> {
        let mut url = self.api.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(method);
        }
        url.query_pairs_mut().extend_pairs(query);
        let request = self.client.get(url).header(KEY_HEADER, key);
        let response = request.header(header::USER_AGENT, &self.user_agent).send().await;
        let response = response.map_err(|error| client::unreachable(&error))?;
        let status = response.status();
        let body = body::read(response).await?;
        if status == StatusCode::OK {
            Ok(body)
        } else {
            Err(answer::error(status.as_u16(), &body))
        }
    }
}
