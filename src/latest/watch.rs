//! Watching channels: each new upload once, however many watch and however slowly they read.
//!
//! A watched channel has a *hub*. It hears of every lookup of the channel, whoever asked for it, and polls it itself as long as
//! somebody watches: one poll a channel, none when the last watcher has left. A hub numbers uploads in the order in which they
//! appear and publishes its *timeline* through a `tokio::sync::watch` channel, which holds the newest one and nothing else. A
//! watcher keeps the number of the last upload it was told of. So a slow reader costs nobody anything: when it comes back, it
//! sees the newest timeline and all uploads in it that it has missed.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use futures_util::{Stream, stream};
use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use super::{Known, Latest, LookupError, Query, source::Source};
use crate::{
    upstream::UpstreamError,
    video::{Channel, ChannelId, Kind, Video, VideoId},
};

/// Polls vary by a tenth either way, so that channels that are watched from one moment do not all ask at one moment.
const JITTER: f64 = 0.1;

/// The IDs that a hub remembers as seen: the feed's 15, and enough more that one which vanishes and comes back is known.
const REMEMBERED: usize = 64;

/// The entries of a full feed. One with fewer shows all uploads of the channel.
const FULL_FEED: usize = 15;

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchQuery {
    /// Which channels; repeats count once.
    pub channels: Vec<ChannelId>,
    /// Only uploads of this kind.
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
        /// Into `channel.uploads`.
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
    pub fn video(&self) -> Option<&Video> {
        match self {
            Self::Upload { channel, upload, .. } => channel.uploads.get(*upload),
            Self::Problem { .. } => None,
        }
    }
}

/// A watch in progress. Dropping it ends it.
pub type Watch = Pin<Box<dyn Stream<Item = Result<Event, LookupError>> + Send>>;

/// The hubs of all channels that are watched.
#[derive(Default)]
pub(super) struct Hubs {
    /// Held for a lookup or an insertion, never across an `await`. A hub is owned by its watchers, and removes itself.
    hubs: Mutex<HashMap<ChannelId, Weak<Hub>>>,
}

impl Hubs {
    /// Hears of a lookup that has ended.
    pub(super) fn hear(&self, channel: ChannelId, known: &Known) {
        let hub = self.hubs.lock().get(&channel).and_then(Weak::upgrade);
        if let Some(hub) = hub {
            hub.hear(known);
        }
    }

    /// The number of channels that are watched.
    fn len(&self) -> usize {
        self.hubs.lock().len()
    }
}

/// One watched channel.
struct Hub {
    channel: ChannelId,
    timeline: watch::Sender<Timeline>,
    hubs: Arc<Hubs>,
    /// Polls the channel. Ended by the hub's drop.
    poll: Mutex<Option<AbortHandle>>,
}

impl Hub {
    fn hear(&self, known: &Known) {
        self.timeline.send_if_modified(|timeline| timeline.hear(known));
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(poll) = self.poll.get_mut().take() {
            poll.abort();
        }
        let mut hubs = self.hubs.hubs.lock();
        // Under its name there may be a newer hub by now, whose watchers came after this one's last had left.
        let is_mine = |weak: &Weak<Self>| std::ptr::eq(weak.as_ptr(), self);
        if hubs.get(&self.channel).is_some_and(is_mine) {
            hubs.remove(&self.channel);
        }
    }
}

/// What has happened to a channel, as far as its feed still shows it.
#[derive(Clone, Default)]
struct Timeline {
    /// The newest good answer.
    channel: Option<Arc<Channel>>,
    /// The number of each upload in it.
    numbers: Arc<[u64]>,
    /// The number of the newest thing that has happened.
    newest: u64,
    /// Uploads that are known, with their numbers; the longest known go first.
    seen: VecDeque<(VideoId, u64)>,
    trouble: Option<Trouble>,
    /// When the last lookup ended that it knows of.
    heard: Option<Instant>,
}

/// A channel's lookups fail.
#[derive(Clone)]
struct Trouble {
    number: u64,
    error: UpstreamError,
    retry_at: Instant,
}

impl Timeline {
    /// Takes in what a lookup has brought, unless it knows of a later one. Says whether anything has happened.
    fn hear(&mut self, known: &Known) -> bool {
        if self.heard.is_some() && known.last_attempt() <= self.heard {
            return false;
        }
        self.heard = known.last_attempt();
        let before = self.newest;
        if let Some(good) = &known.good {
            self.see(&good.value);
        }
        match &known.failed {
            Some(failed) if self.trouble.is_none() => {
                self.newest += 1;
                self.trouble = Some(Trouble {
                    number: self.newest,
                    error: failed.error.clone(),
                    retry_at: failed.retry_at,
                });
            }
            Some(_) => {}
            None => self.trouble = None,
        }
        self.newest != before
    }

    fn see(&mut self, channel: &Arc<Channel>) {
        if self.channel.as_ref().is_some_and(|old| Arc::ptr_eq(old, channel)) {
            return;
        }
        let oldest = self.oldest_in_reach();
        let mut numbers = vec![0; channel.uploads.len()];
        // From the oldest to the newest, so that the numbers have the order of publication.
        for (upload, number) in channel.uploads.iter().zip(&mut numbers).rev() {
            *number = match self.seen.iter().find(|(id, _)| *id == upload.id) {
                Some((_, number)) => *number,
                // It was in the channel all along, and shows now because a newer one was deleted.
                None if upload.published.is_some() && upload.published < oldest => 0,
                None => {
                    self.newest += 1;
                    self.seen.push_back((upload.id, self.newest));
                    self.newest
                }
            };
        }
        while self.seen.len() > REMEMBERED {
            self.seen.pop_front();
        }
        self.numbers = numbers.into();
        self.channel = Some(Arc::clone(channel));
    }

    /// Whatever was published before this has been in the channel before, whether it was seen or not. `None`: the feed showed all.
    fn oldest_in_reach(&self) -> Option<SystemTime> {
        let uploads = &self.channel.as_ref()?.uploads;
        (uploads.len() >= FULL_FEED)
            .then(|| uploads.iter().filter_map(|upload| upload.published).min())
            .flatten()
    }
}

impl Latest {
    /// Watches channels, from now on until the stream is dropped or the server stops.
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
        let hub = self.hub(channel);
        let watcher = Watcher {
            timeline: hub.timeline.subscribe(),
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
        self.hubs().len()
    }

    /// The hub of a channel, which polls from the moment it is made.
    fn hub(self: &Arc<Self>, channel: ChannelId) -> Arc<Hub> {
        let mut hubs = self.hubs().hubs.lock();
        if let Some(hub) = hubs.get(&channel).and_then(Weak::upgrade) {
            return hub;
        }
        let hub = Arc::new(Hub {
            channel,
            timeline: watch::Sender::default(),
            hubs: Arc::clone(self.hubs()),
            poll: Mutex::default(),
        });
        hubs.insert(channel, Arc::downgrade(&hub));
        drop(hubs);
        // Owns nothing that keeps the hub or the service alive. Ended by the hub's drop.
        let poll = self.runtime.spawn(poll(
            Arc::downgrade(self),
            Arc::downgrade(&hub),
            channel,
            self.watch_every,
        ));
        *hub.poll.lock() = Some(poll.abort_handle());
        hub
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
        // A lookup tells the hub by itself; what was known already is told here.
        latest.get(query).await;
        let known = latest.coalescer.known(&channel).await;
        drop(latest);
        if let (Some(known), Some(hub)) = (known, hub.upgrade()) {
            hub.hear(&known);
        }
        max_age = Some(every / 2);
        let chance = fastrand::f64();
        tokio::time::sleep(every.mul_f64(1.0 + JITTER * (2.0 * chance - 1.0))).await;
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
        if let Some(trouble) = &timeline.trouble
            && trouble.number > self.told
        {
            let now = Instant::now();
            let channel = self.hub.channel;
            self.waiting.push_back(Event::Problem {
                channel,
                error: self.source.refusal(trouble.error.clone(), channel, now),
                retry_after: trouble.retry_at.saturating_duration_since(now),
            });
        }
        if let Some(channel) = &timeline.channel {
            let begin = self.begin.take();
            let initial = begin.is_some();
            let uploads = channel.uploads.iter().enumerate().zip(&*timeline.numbers).rev();
            let told = self.told;
            let wanted = uploads.filter(|((index, upload), number)| {
                self.kind.is_none_or(|kind| upload.kind == kind)
                    && match &begin {
                        None => **number > told,
                        Some(Begin(Some(after))) => upload.published.is_some_and(|at| at > *after),
                        Some(Begin(None)) => channel.latest(self.kind) == Some(*index),
                    }
            });
            self.waiting.extend(wanted.map(|((upload, _), _)| Event::Upload {
                channel: Arc::clone(channel),
                upload,
                initial,
            }));
        }
        self.told = timeline.newest;
    }
}
