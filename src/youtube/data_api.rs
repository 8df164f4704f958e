//! The YouTube Data API v3 (`--youtube-api-key-file`): a source that answers while feeds say 404, and knows for certain whether a channel exists.
//!
//! Three of its methods are used, with reqwest and serde_json. google-youtube3 is a generated client of all of them, with OAuth: 100,000 lines, an HTTP
//! client of its own beside reqwest, and no bound on what it reads.
//!
//! # For whoever calls it
//!
//! - [`DataApi::look_up`] is a lookup as an [`Upstream`] makes them: for a feed, with its purpose, and the last snapshot, if there is one, which
//!   saves a unit. A channel that was not `found_before` is asked about first, together with others, so that 50 made-up IDs cost one unit.
//!   [`ApiError::NoSuchChannel`] is certain: it is what a 404 of a feed never is.
//! - [`DataApi::find`] and [`DataApi::resolve`] find channels; [`DataApi::uploads`] is a page of uploads, also of older ones.
//! - Every request spends a unit of the [`Ledger`] first, and reports refusals to it. It has no queue and no breaker besides: units are scarcer than
//!   requests, and a dispatcher before it may have whatever rate.
//! - The key and what is asked are the only things that leave the machine: no trace context.

mod answer;
mod batch;
mod budget;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod key;
mod ledger;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io, iter,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, header};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use reqwest::{Client, StatusCode, Url};
use tokio::time::timeout;

use self::batch::Batch;
pub use self::{
    answer::UploadsPage,
    budget::{Budget, Day, Refusal},
    key::{ApiKey, KeyFile},
    ledger::{Ledger, SharedUnits},
};
use super::{SetupError, body, client, list::List, response};
use crate::{
    channel_name::{ChannelName, ResolvedChannel},
    upstream::{
        Failure, Feed, Lookup, LookupRequest, NameSource, Page, Purpose, SourceStatus, UploadPages, Upstream,
        UpstreamError,
    },
    video::{Channel, ChannelId, Kind, MAX_UPLOADS},
};

/// The header that the key is sent in. In the query it would be in every log on the way.
const KEY_HEADER: &str = "x-goog-api-key";

/// The list of all uploads: this and the channel's 22 characters.
const ALL_UPLOADS: &str = "UU";

/// The most items of a page. It costs a unit, whatever its size.
const MAX_PAGE: usize = 50;

/// Why the Data API brought no answer. Names no address and no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// There is no such channel, handle, name or video: for certain.
    #[error("there is no such channel")]
    NoSuchChannel,
    /// The playlist does not exist: the channel has no uploads of that kind, or does not exist.
    #[error("there is no such list of uploads")]
    PlaylistNotFound,
    /// Custom names (`/c/…`) are not known to the API.
    #[error("the YouTube Data API cannot resolve a custom name")]
    Unsupported,
    /// What is left of the day's units is for later, or for others. No request has gone out.
    #[error("what is left of the day's units of the YouTube Data API is kept for later")]
    OutOfUnits {
        /// When there is one, if nobody else spends it.
        retry_at: SystemTime,
    },
    /// Google refuses all requests; or did before, and none has gone out.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What can go wrong with any upstream.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// How the Data API is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its address.
    pub api: Url,
    /// The file with the key.
    pub key_file: PathBuf,
    /// The units that may be spent a day.
    pub quota: u64,
}

/// Why the Data API cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The HTTP client could not be created.
    #[error(transparent)]
    Client(#[from] SetupError),
    /// The key could not be read.
    #[error("--youtube-api-key-file: cannot read a key from {}: {error}", file.display())]
    Key {
        /// Its file.
        file: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

/// The Data API. A clone shares everything.
#[derive(Clone)]
pub struct DataApi {
    requests: Arc<Requests>,
    batch: Batch,
}

/// What requests are made of.
struct Requests {
    client: Client,
    api: Url,
    user_agent: HeaderValue,
    /// Locked for as long as it takes to look whether the file has changed.
    key: Mutex<KeyFile>,
    ledger: Ledger,
    /// Of one request.
    time_limit: Duration,
}

impl DataApi {
    /// Creates a client with the connection settings of `upstream`, which may be anything that `shared` counts units with.
    ///
    /// # Errors
    ///
    /// If the key cannot be read, or as for [`YouTube::new`](super::YouTube::new).
    pub fn open(
        settings: Settings,
        upstream: &super::Settings,
        shared: Option<Arc<dyn SharedUnits>>,
    ) -> Result<Self, OpenError> {
        let Settings { api, key_file, quota } = settings;
        let upstream = super::Settings {
            feeds: api.clone(),
            ..upstream.clone()
        };
        let client = client::client(&upstream)?;
        let key = KeyFile::open(key_file.clone());
        let key = key.map_err(|error| OpenError::Key {
            file: key_file,
            error,
        })?;
        let ledger = Ledger::new(quota, shared, SystemTime::now());
        Ok(Self::new(
            client,
            api,
            &upstream.user_agent,
            key,
            ledger,
            upstream.time_limit,
        ))
    }

    /// The API at `api` (`…/youtube/v3`). `client` must not follow redirects; `user_agent` is what it introduces itself with.
    #[must_use]
    pub fn new(
        client: Client,
        api: Url,
        user_agent: &HeaderValue,
        key: KeyFile,
        ledger: Ledger,
        time_limit: Duration,
    ) -> Self {
        // Google packs answers only for those whose name has this in it.
        let packed = [user_agent.as_bytes(), b" (gzip)"].concat();
        let requests = Arc::new(Requests {
            client,
            api,
            user_agent: HeaderValue::from_bytes(&packed).unwrap_or_else(|_| user_agent.clone()),
            key: Mutex::new(key),
            ledger,
            time_limit,
        });
        let asked = Arc::clone(&requests);
        let batch = Batch::new(move |ids, purpose| {
            let requests = Arc::clone(&asked);
            async move {
                let ids: Vec<&str> = ids.iter().map(ChannelId::as_str).collect();
                requests.channels("id", &ids.join(","), purpose).await
            }
            .boxed()
        });
        Self { requests, batch }
    }

    /// The newest uploads of `feed`. Costs one to three units; the last snapshot, if there is one, saves one if there is nothing new.
    ///
    /// # Errors
    ///
    /// [`ApiError::NoSuchChannel`] if it does not exist. A channel without uploads is no error.
    pub async fn look_up(&self, feed: Feed, request: LookupRequest) -> Result<Channel, ApiError> {
        let purpose = request.purpose;
        let mut title = None;
        if !request.found_before {
            title = Some(self.find(feed.channel, purpose).await?.title);
        }
        let mut found: Option<Channel> = None;
        let streams = (feed.kind == Some(Kind::Video)).then(|| List::streams(feed));
        for list in iter::once(List::of(feed)).chain(streams) {
            let Some(mut page) = self.list(list, purpose).await? else {
                continue;
            };
            if feed.kind.is_none() {
                self.tell_kinds(&mut page, feed.channel, purpose, request.known.as_deref())
                    .await?;
            }
            let channel = Channel::new(feed.channel, &page.title, page.uploads).with_entries(page.items);
            found = Some(found.map_or_else(|| channel.clone(), |before| before.merged(&channel)));
        }
        if let Some(found) = found {
            return Ok(found);
        }
        let title = match title {
            Some(title) => title,
            None => self.find(feed.channel, purpose).await?.title,
        };
        Ok(Channel::new(feed.channel, &title, vec![]))
    }

    /// The channel with this ID: asked about with others of the moment, for one unit.
    ///
    /// # Errors
    ///
    /// [`ApiError::NoSuchChannel`] if it does not exist.
    pub async fn find(&self, channel: ChannelId, purpose: Purpose) -> Result<ResolvedChannel, ApiError> {
        self.batch.find(channel, purpose).await
    }

    /// The channel that `name` means. Costs a unit.
    ///
    /// # Errors
    ///
    /// [`ApiError::NoSuchChannel`] if there is none, and [`ApiError::Unsupported`] for a custom name, which only pages know.
    pub async fn resolve(&self, name: &ChannelName, purpose: Purpose) -> Result<ResolvedChannel, ApiError> {
        let (filter, name) = match name {
            ChannelName::Id(id) => return self.find(*id, purpose).await,
            ChannelName::Custom(_) => return Err(ApiError::Unsupported),
            ChannelName::Video(id) => {
                let query = [
                    ("part", "snippet"),
                    ("id", id.as_str()),
                    ("fields", answer::VIDEO_FIELDS),
                ];
                let found = answer::uploader(&self.requests.get("videos", &query, purpose).await?)?;
                return found.ok_or(ApiError::NoSuchChannel);
            }
            ChannelName::Handle(name) => ("forHandle", format!("@{name}")),
            ChannelName::User(name) => ("forUsername", name.to_string()),
        };
        let found = self.requests.channels(filter, &name, purpose).await?;
        found.into_iter().next().ok_or(ApiError::NoSuchChannel)
    }

    /// A page of at most 50 uploads of `feed`, videos without streams: the newest, or that which `next_page` of another page names. Costs a unit.
    ///
    /// # Errors
    ///
    /// [`ApiError::PlaylistNotFound`] if there are none, also if the channel does not exist.
    pub async fn uploads(
        &self,
        feed: Feed,
        page: Option<&str>,
        size: usize,
        purpose: Purpose,
    ) -> Result<UploadsPage, ApiError> {
        self.requests.uploads(List::of(feed), page, size, purpose).await
    }

    /// What is left of the day's units, and the metrics of that.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.requests.ledger
    }

    /// The newest of a list. None if there is no such list.
    async fn list(&self, list: List, purpose: Purpose) -> Result<Option<UploadsPage>, ApiError> {
        match self.requests.uploads(list, None, MAX_PAGE, purpose).await {
            Ok(page) => Ok(Some(page)),
            Err(ApiError::PlaylistNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says which uploads are Shorts: the list of all does not. Asks for the list of Shorts if `known` lacks one of those that count.
    async fn tell_kinds(
        &self,
        page: &mut UploadsPage,
        channel: ChannelId,
        purpose: Purpose,
        known: Option<&Channel>,
    ) -> Result<(), ApiError> {
        let known = known.into_iter().flat_map(Channel::uploads);
        let mut kinds: HashMap<_, _> = known.map(|upload| (upload.id(), upload.kind())).collect();
        let mut newest = page.uploads.iter().take(MAX_UPLOADS);
        if newest.any(|upload| !kinds.contains_key(&upload.id)) {
            let shorts = List::of(Feed {
                channel,
                kind: Some(Kind::Short),
            });
            let shorts = self.list(shorts, purpose).await?;
            let shorts = shorts.into_iter().flat_map(|page| page.uploads);
            kinds.extend(shorts.map(|short| (short.id, Kind::Short)));
        }
        for upload in &mut page.uploads {
            upload.kind = kinds.get(&upload.id).copied().unwrap_or(Kind::Video);
        }
        Ok(())
    }
}

impl Upstream for DataApi {
    fn look_up(&self, feed: Feed, request: LookupRequest) -> Lookup<'_> {
        Box::pin(async move {
            let looked_up = DataApi::look_up(self, feed, request).await;
            looked_up.map_err(ApiError::into_failure)
        })
    }

    fn time_limit(&self) -> Duration {
        self.requests.time_limit
    }

    fn status(&self) -> SourceStatus {
        let ledger = &self.requests.ledger;
        SourceStatus {
            host: client::host(&self.requests.api),
            units: Some((ledger.left(SystemTime::now()).0, ledger.quota())),
            refusal: ledger.refusal().map(|refusal| refusal.to_string()),
            ..SourceStatus::default()
        }
    }

    fn register(&self, registry: &mut Registry) {
        self.requests.ledger.register(registry);
    }
}

impl UploadPages for DataApi {
    fn page<'a>(&'a self, feed: Feed, page: Option<&'a str>) -> BoxFuture<'a, Result<Page, Failure>> {
        Box::pin(async move {
            match self.uploads(feed, page, MAX_PAGE, Purpose::Awaited).await {
                Ok(UploadsPage {
                    title,
                    uploads,
                    next_page,
                    ..
                }) => Ok(Page {
                    title,
                    uploads,
                    next: next_page,
                }),
                Err(ApiError::PlaylistNotFound) => Ok(Page::default()),
                Err(error) => Err(error.into_failure()),
            }
        })
    }
}

impl NameSource for DataApi {
    fn resolve<'a>(
        &'a self,
        name: &'a ChannelName,
    ) -> BoxFuture<'a, Option<Result<ResolvedChannel, Failure>>> {
        Box::pin(async move {
            match DataApi::resolve(self, name, Purpose::Awaited).await {
                Err(ApiError::Unsupported) => None,
                resolved => Some(resolved.map_err(ApiError::into_failure)),
            }
        })
    }
}

impl ApiError {
    /// As the failure of a lookup.
    fn into_failure(self) -> Failure {
        let error = match self {
            Self::NoSuchChannel => UpstreamError::NoSuchChannel,
            Self::PlaylistNotFound | Self::Unsupported => UpstreamError::NotFound,
            Self::OutOfUnits { .. } => UpstreamError::Busy,
            Self::Refused(_) => UpstreamError::RateLimited(403),
            Self::Upstream(error) => error,
        };
        error.into()
    }
}

impl Requests {
    async fn uploads(
        &self,
        list: List,
        page: Option<&str>,
        size: usize,
        purpose: Purpose,
    ) -> Result<UploadsPage, ApiError> {
        let Feed { channel, kind } = list.feed;
        let playlist = format!("{}{}", list.prefix.unwrap_or(ALL_UPLOADS), channel.unprefixed());
        let size = size.clamp(1, MAX_PAGE).to_string();
        let mut query = vec![
            ("part", "snippet,contentDetails"),
            ("playlistId", &playlist),
            ("maxResults", &size),
            ("fields", answer::PLAYLIST_FIELDS),
        ];
        query.extend(page.map(|page| ("pageToken", page)));
        answer::uploads(&self.get("playlistItems", &query, purpose).await?, channel, kind)
    }

    /// Those channels that exist of what `filter` names.
    async fn channels(
        &self,
        filter: &str,
        value: &str,
        purpose: Purpose,
    ) -> Result<Vec<ResolvedChannel>, ApiError> {
        let query = [
            ("part", "snippet"),
            (filter, value),
            ("maxResults", "50"),
            ("fields", answer::CHANNEL_FIELDS),
        ];
        answer::channels(&self.get("channels", &query, purpose).await?)
    }

    /// One request, for one unit. Whatever comes of it is reported.
    async fn get(&self, method: &str, query: &[(&str, &str)], purpose: Purpose) -> Result<Vec<u8>, ApiError> {
        let (key, generation) = {
            let mut file = self.key.lock();
            let (key, generation) = file.current();
            (key.header(), generation)
        };
        self.ledger.spend(purpose, SystemTime::now(), generation).await?;
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
            Ok(_) | Err(ApiError::PlaylistNotFound) => None,
            Err(ApiError::Refused(refusal)) => Some(*refusal),
            // Says nothing of refusals.
            Err(_) => return answered,
        };
        self.ledger.report(refusal, SystemTime::now(), generation).await;
        answered
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
        let response = response.map_err(|error| response::unreachable(&error))?;
        let status = response.status();
        let body = body::read(response).await?;
        if status == StatusCode::OK {
            Ok(body)
        } else {
            Err(answer::error(status.as_u16(), &body))
        }
    }
}
