//! Watching channels: each new upload once, however many watch and however slowly they read.
//!
//! A watched channel is polled as long as somebody watches: one poll a channel, none when the last watcher has left. A watcher
//! keeps the number of the last thing it was told of. So a slow reader costs nobody anything: when it comes back, it sees the
//! newest timeline and all uploads in it that it has missed.

use std::{
    collections::{HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Latest, LookupError, Query,
    hub::{Hub, Timeline},
    jittered,
    source::Source,
};
use crate::{
    upstream::Urgency,
    video::{Channel, ChannelId, Kind, Video},
};

/// Polls vary by a tenth either way, so that channels that are watched from one moment do not all ask at one moment.
const JITTER: f64 = 0.1;

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchQuery {
    /// Which channels; repeats count once.
    pub channels: Vec<ChannelId>,
    /// Only uploads of this kind, as far as the channel's own feed shows them.
    pub kind: Option<Kind>,
    /// Begin with what was published after this, and not with each channel's newest.
    pub published_after: Option<SystemTime>,
}

/// Something that happened to a watched channel.
#[derive(Clone, Debug)]
pub enum Event {
    /// An upload.
    Upload {
        /// The channel as it was then.
        channel: Arc<Channel>,
        /// The upload's index in it.
        upload: usize,
        /// It was there when the watch began.
        initial: bool,
    },
    /// Its lookups have begun to fail.
    Problem {
        /// Which channel.
        channel: ChannelId,
        /// Why the first of them failed.
        error: LookupError,
        /// When the next one is due.
        retry_after: Duration,
    },
}

impl Event {
    /// The upload, if it is one.
    #[must_use]
    pub fn video(&self) -> Option<Video<'_>> {
        match self {
            Self::Upload { channel, upload, .. } => channel.upload(*upload),
            Self::Problem { .. } => None,
        }
    }
}

/// A watch in progress. Dropping it ends it.
pub type Watch = Pin<Box<dyn Stream<Item = Result<Event, LookupError>> + Send>>;

impl Latest {
    /// Watches channels, from now on until the stream is dropped or the server stops.
    #[must_use]
    pub fn watch(self: &Arc<Self>, query: &WatchQuery) -> Watch {
        let mut channels = HashSet::new();
        let watches = query
            .channels
            .iter()
            .filter(|channel| channels.insert(**channel))
            .map(|channel| Box::pin(self.watch_one(*channel, query)));
        Box::pin(stream::select_all(watches))
    }

    fn watch_one(
        self: &Arc<Self>,
        channel: ChannelId,
        query: &WatchQuery,
    ) -> impl Stream<Item = Result<Event, LookupError>> + Send + use<> {
        let latest = Arc::downgrade(self);
        let hub = self.source.hubs.hub(channel, |hub| {
            // Owns nothing that keeps the hub or the service alive. Ended by the hub's drop.
            let polling = self.runtime.spawn(poll(latest, hub, channel, self.watch_every));
            polling.abort_handle()
        });
        let watcher = Watcher {
            timeline: hub.subscribe(),
            hub,
            source: Arc::clone(&self.source),
            kind: query.kind,
            begin: Some(Begin(query.published_after)),
            told: 0,
            waiting: VecDeque::new(),
            closing: self.closing.clone(),
        };
        stream::unfold(Some(watcher), async |watcher| {
            let mut watcher = watcher?;
            let event = watcher.next().await;
            let goes_on = event.is_ok();
            Some((event, goes_on.then_some(watcher)))
        })
    }

    /// The number of channels that are watched.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.source.hubs.len()
    }
}

/// Looks `channel` up again and again, unless somebody else has just done so.
async fn poll(latest: Weak<Latest>, hub: Weak<Hub>, channel: ChannelId, every: Duration) {
    let mut max_age = None;
    loop {
        let Some(latest) = latest.upgrade() else {
            return;
        };
        let query = Query {
            channel,
            kind: None,
            max_age,
        };
        latest.source.hubs.polled();
        // A lookup tells the hub by itself; what was known already is told here.
        latest.answer(query, channel.into(), Urgency::Background).await;
        let known = latest.coalescer.known(&channel.into()).await;
        drop(latest);
        if let (Some(known), Some(hub)) = (known, hub.upgrade()) {
            hub.hear(&known);
        }
        max_age = Some(every / 2);
        let chance = fastrand::f64();
        tokio::time::sleep(jittered(every, JITTER, chance)).await;
    }
}

/// One watcher of one channel.
struct Watcher {
    timeline: watch::Receiver<Timeline>,
    /// Keeps the hub alive.
    hub: Arc<Hub>,
    source: Arc<Source>,
    kind: Option<Kind>,
    /// Until the first good answer.
    begin: Option<Begin>,
    /// The number of the last thing it was told of.
    told: u64,
    /// What it is about to be told: at most a feed's uploads.
    waiting: VecDeque<Event>,
    closing: CancellationToken,
}

/// With what a watch begins: what was published after a time, or the newest upload.
struct Begin(Option<SystemTime>);

impl Watcher {
    /// The next thing that happens.
    async fn next(&mut self) -> Result<Event, LookupError> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(event);
            }
            self.catch_up();
            if !self.waiting.is_empty() {
                continue;
            }
            tokio::select! {
                // Its sender is in the hub, which this watcher keeps alive.
                changed = self.timeline.changed() => changed.map_err(|_| LookupError::ShuttingDown)?,
                () = self.closing.cancelled() => return Err(LookupError::ShuttingDown),
            }
        }
    }

    /// Takes in all that has happened since it was last told of anything.
    fn catch_up(&mut self) {
        let timeline = self.timeline.borrow_and_update().clone();
        let trouble = timeline
            .trouble
            .as_ref()
            .filter(|trouble| trouble.number > self.told);
        let problem = trouble.map(|trouble| {
            let now = Instant::now();
            let channel = self.hub.channel;
            Event::Problem {
                channel,
                error: self.source.refusal(trouble.error.clone(), channel.into(), now),
                retry_after: trouble.retry_at.saturating_duration_since(now),
            }
        });
        // A watch begins with the uploads, whatever has happened since.
        let begins = self.begin.is_some() && timeline.channel.is_some();
        let (first, last) = if begins { (None, problem) } else { (problem, None) };
        self.waiting.extend(first);
        if let Some(channel) = &timeline.channel {
            let begin = self.begin.take();
            let initial = begin.is_some();
            let uploads = channel.uploads().enumerate().zip(&*timeline.numbers).rev();
            let told = self.told;
            let wanted = uploads.filter(|((index, upload), number)| {
                self.kind.is_none_or(|kind| upload.kind() == kind)
                    && match &begin {
                        None => **number > told,
                        Some(Begin(Some(after))) => upload.published().is_some_and(|at| at > *after),
                        Some(Begin(None)) => channel.latest(self.kind) == Some(*index),
                    }
            });
            self.waiting.extend(wanted.map(|((upload, _), _)| Event::Upload {
                channel: Arc::clone(channel),
                upload,
                initial,
            }));
        }
        self.waiting.extend(last);
        self.told = timeline.newest;
    }
}
