//! The YouTube Data API v3 (`--youtube-api-key-file`): a source that has answers while feeds get 404, and that knows which channels exist.
//!
//! plaque uses three of its methods, with reqwest and serde_json. The crate google-youtube3 is a generated client of all methods, with OAuth:
//! 100,000 lines, a second HTTP client, and no limit on the size of answers.
//!
//! - A lookup takes the purpose and the last snapshot, which saves a unit if there is nothing new. Whether a channel that was never found
//!   exists is asked first, in one request for up to 50 channels. [`ApiError::NoSuchChannel`] is certain, unlike a 404 of a feed.
//! - Each request spends a unit of the [`Ledger`] first. There is no queue and no breaker besides: units are scarcer than requests.
//! - Only the key and the query leave the machine: no trace context.

mod answer;
mod batch;
mod budget;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod key;
mod ledger;
mod requests;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::HeaderValue;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use reqwest::{Client, Url};

use self::{batch::Batch, requests::Requests};
pub use self::{
    budget::{Budget, Day, Refusal, Use},
    key::{ApiKey, KeyFile, KeyId},
    ledger::{Ledger, SharedUnits},
};
use super::{SetupError, client, list::List};
use crate::{
    upstream::{
        self, Caller, Failure, Feed, Lookup, LookupRequest, NameSource, Page, Purpose, SourceStatus,
        UploadPages, Upstream, UpstreamError,
    },
    video::{Channel, ChannelId, ChannelName, Kind, MAX_UPLOADS, ResolvedChannel},
};

/// Why the Data API gave no answer. The texts contain no address and no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The channel, handle, name or video does not exist.
    #[error("there is no such channel")]
    NoSuchChannel,
    /// The playlist does not exist: the channel has no uploads of that kind, or does not exist.
    #[error("there is no such list of uploads")]
    PlaylistNotFound,
    /// The page of the playlist does not exist: its name is made up.
    #[error("there is no such page of uploads")]
    PageNotFound,
    /// The API does not know custom names (`/c/…`).
    #[error("the YouTube Data API cannot resolve a custom name")]
    Unsupported,
    /// The remaining units of the day are reserved for later, or for other callers. No request was sent.
    #[error("what is left of the day's units of the YouTube Data API is kept for later")]
    OutOfUnits {
        /// When there will be one, if nobody else spends it.
        retry_at: SystemTime,
    },
    /// Google refuses all requests. If it did before, no request was sent.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A failure that any upstream can have.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// Settings of the Data API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of the API.
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
        /// The file.
        file: PathBuf,
        /// The error.
        error: io::Error,
    },
}

/// The Data API. Clones share everything.
#[derive(Clone)]
pub struct DataApi {
    requests: Arc<Requests>,
    batch: Batch,
}

impl DataApi {
    /// Creates a client with the connection settings of `upstream`. Units are counted with `shared`, too.
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

    /// The API at `api` (`…/youtube/v3`). `client` must not follow redirects, since the key would be sent along.
    #[must_use]
    pub fn new(
        client: Client,
        api: Url,
        user_agent: &HeaderValue,
        key: KeyFile,
        ledger: Ledger,
        time_limit: Duration,
    ) -> Self {
        // Google compresses answers only if the user agent contains this.
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
        let batch = Batch::new(move |ids, uses| {
            let requests = Arc::clone(&asked);
            async move {
                let ids: Vec<&str> = ids.iter().map(ChannelId::as_str).collect();
                // A caller who has no units left must not keep others from theirs.
                let spend_for = requests.ledger.likeliest(uses, SystemTime::now());
                let spend_for = spend_for.unwrap_or(Use::Lookup(Purpose::Poll));
                requests.channels("id", &ids.join(","), spend_for).await
            }
            .boxed()
        });
        Self { requests, batch }
    }

    /// The newest uploads of `feed`. Costs one to three units, and one less if the last snapshot shows that there is nothing new.
    ///
    /// # Errors
    ///
    /// [`ApiError::NoSuchChannel`] if it does not exist. A channel without uploads is no error.
    async fn newest(&self, feed: Feed, request: LookupRequest) -> Result<Channel, ApiError> {
        let spend_for = Use::of(&request);
        let mut title = None;
        if !request.found_before {
            title = Some(self.find(feed.channel, spend_for).await?.title);
        }
        let mut found: Option<Channel> = None;
        for list in feed.lists() {
            let Some(mut page) = self.list(List::one(feed, *list), spend_for).await? else {
                continue;
            };
            if feed.kind.is_none() {
                self.set_kinds(&mut page, feed.channel, spend_for, request.known.as_deref())
                    .await?;
            }
            let channel = Channel::new(feed.channel, &page.title, page.uploads).with_entries(page.entries);
            found = Some(found.map_or_else(|| channel.clone(), |before| before.merged(&channel)));
        }
        if let Some(found) = found {
            return Ok(found);
        }
        let title = match title {
            Some(title) => title,
            None => self.find(feed.channel, spend_for).await?.title,
        };
        Ok(Channel::new(feed.channel, &title, vec![]))
    }

    /// The channel that `name` stands for. Costs a unit.
    ///
    /// # Errors
    ///
    /// [`ApiError::NoSuchChannel`] if there is none, and [`ApiError::Unsupported`] for a custom name.
    async fn channel(&self, name: &ChannelName, spend_for: Use) -> Result<ResolvedChannel, ApiError> {
        let (filter, name) = match name {
            ChannelName::Id(id) => return self.find(*id, spend_for).await,
            ChannelName::Custom(_) => return Err(ApiError::Unsupported),
            ChannelName::Video(id) => {
                let query = [
                    ("part", "snippet"),
                    ("id", id.as_str()),
                    ("fields", answer::VIDEO_FIELDS),
                ];
                let found = answer::uploader(&self.requests.get("videos", &query, spend_for).await?)?;
                return found.ok_or(ApiError::NoSuchChannel);
            }
            ChannelName::Handle(name) => ("forHandle", format!("@{name}")),
            ChannelName::User(name) => ("forUsername", name.to_string()),
        };
        let found = self.requests.channels(filter, &name, spend_for).await?;
        found.into_iter().next().ok_or(ApiError::NoSuchChannel)
    }

    /// The units that are left for today, and their metrics.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.requests.ledger
    }

    /// The channel with this ID, in one request with others. Fails at once if none can be sent now.
    async fn find(&self, channel: ChannelId, spend_for: Use) -> Result<ResolvedChannel, ApiError> {
        self.check(spend_for)?;
        self.batch.find(channel, spend_for).await
    }

    fn check(&self, spend_for: Use) -> Result<(), ApiError> {
        self.ledger()
            .check(spend_for, SystemTime::now(), self.requests.key_id())
    }

    /// The newest page of a list; `None` if there is no such list.
    async fn list(&self, list: List, spend_for: Use) -> Result<Option<Page>, ApiError> {
        match self.requests.uploads(list, None, spend_for).await {
            Ok(page) => Ok(Some(page)),
            Err(ApiError::PlaylistNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the kinds of uploads, which the list of all uploads does not have. Loads the list of Shorts, unless `known` has all of those
    /// that count.
    async fn set_kinds(
        &self,
        page: &mut Page,
        channel: ChannelId,
        spend_for: Use,
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
            let shorts = self.list(shorts, spend_for).await?;
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
            self.newest(feed, request).await.map_err(|error| {
                let is_refused = matches!(error, ApiError::Refused(_));
                let mut failure = Failure::from(error);
                // Until requests may be sent again, `has_budget` is false. Then nobody has to wait for the end of the feed's backoff.
                failure.out_of_budget |= is_refused;
                failure
            })
        })
    }

    fn has_budget(&self, request: &LookupRequest) -> bool {
        self.check(Use::of(request)).is_ok()
    }

    fn time_limit(&self) -> Duration {
        self.requests.time_limit
    }

    fn status(&self) -> SourceStatus {
        let ledger = &self.requests.ledger;
        let key = self.requests.key_id();
        let (left, _reset) = ledger.left(SystemTime::now(), key);
        SourceStatus {
            host: client::host(&self.requests.api),
            units: Some((left, ledger.quota())),
            refusal: ledger.refusal(key).map(|refusal| refusal.to_string()),
            ..SourceStatus::default()
        }
    }

    fn register(&self, registry: &mut Registry) {
        let requests = Arc::clone(&self.requests);
        self.requests.ledger.register(registry, move || requests.key_id());
    }
}

impl UploadPages for DataApi {
    fn page<'a>(
        &'a self,
        feed: Feed,
        list: upstream::List,
        page: Option<&'a str>,
        caller: Caller,
    ) -> BoxFuture<'a, Result<Option<Page>, Failure>> {
        Box::pin(async move {
            let list = List::one(feed, list);
            match self.requests.uploads(list, page, Use::Extra(caller.id)).await {
                Ok(page) => Ok(Some(page)),
                Err(ApiError::PlaylistNotFound) => Ok(Some(Page::default())),
                Err(ApiError::PageNotFound) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
    }
}

impl NameSource for DataApi {
    fn resolve<'a>(
        &'a self,
        name: &'a ChannelName,
        caller: Caller,
    ) -> BoxFuture<'a, Option<Result<ResolvedChannel, Failure>>> {
        Box::pin(async move {
            match self.channel(name, Use::Extra(caller.id)).await {
                Err(ApiError::Unsupported) => None,
                resolved => Some(resolved.map_err(Failure::from)),
            }
        })
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let error = match error {
            ApiError::NoSuchChannel => UpstreamError::NoSuchChannel,
            ApiError::PlaylistNotFound | ApiError::PageNotFound | ApiError::Unsupported => {
                UpstreamError::NotFound
            }
            ApiError::OutOfUnits { retry_at } => {
                return Self {
                    error: UpstreamError::Busy,
                    retry_after: retry_at.duration_since(SystemTime::now()).ok(),
                    out_of_budget: true,
                };
            }
            ApiError::Refused(Refusal::NoApi) => UpstreamError::Malformed("it is not the API's".into()),
            ApiError::Refused(_) => UpstreamError::RateLimited(403),
            ApiError::Upstream(error) => error,
        };
        error.into()
    }
}
