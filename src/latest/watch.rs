//! Watching channels: each new upload once, however many watch and however slowly they read.
//!
//! A watched channel is polled as long as somebody watches (`polling.rs`): one poll a channel, none when the last watch has ended. A
//! watch is one stream over all its channels. For each it keeps a [`Cursor`], and it reads the newest timeline when its reader gets to
//! it: a slow reader costs nobody anything.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, Stream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    Latest, LookupError, ResumeToken,
    cursor::{Cursor, Step},
    hub::{Hub, Inbox, MAX_CHANNELS, Reserved},
    timeline::Timeline,
};
use crate::{
    clock,
    upstream::Caller,
    video::{Channel, ChannelId, Kind, Moment, Video},
};

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchQuery {
    /// Which channels, at most 128; repeats count once.
    pub channels: Vec<ChannelId>,
    /// Only uploads of this kind, as far as the channel's own feed shows them.
    pub kind: Option<Kind>,
    /// Begin with what was published after this, and not with each channel's newest.
    pub published_after: Option<SystemTime>,
    /// Go on where earlier watches of these channels were; the last one of a channel counts. Those of other channels are ignored.
    pub resume_tokens: Vec<ResumeToken>,
}

/// Something that happened to a watched channel.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// Which channel.
    pub channel: ChannelId,
    /// What happened.
    pub event: Event,
    /// Where a watch of this channel goes on after this.
    pub resume_token: ResumeToken,
}

/// What happens to watched channels.
#[derive(Clone, Debug)]
pub enum Event {
    /// An upload.
    Upload {
        /// The channel as it was then.
        channel: Arc<Channel>,
        /// The upload's index in it.
        upload: usize,
        /// It was in the feed when the watch began.
        initial: bool,
    },
    /// Its lookups have begun to fail, or fail for another reason.
    Problem {
        /// Why.
        error: LookupError,
        /// When the next one is due.
        retry_after: Duration,
    },
    /// Its lookups work again.
    Recovered,
    /// Its feed shows no upload that was known, but newer ones: others may have come and gone.
    Missed,
}

impl Event {
    /// The upload, if it is one.
    #[must_use]
    pub fn video(&self) -> Option<Video<'_>> {
        match self {
            Self::Upload { channel, upload, .. } => channel.upload(*upload),
            Self::Problem { .. } | Self::Recovered | Self::Missed => None,
        }
    }
}

impl Latest {
    /// Watches channels, for nobody in particular: see [`Self::watch_for`].
    ///
    /// # Errors
    ///
    /// If more channels would be watched than may be.
    pub fn watch(self: &Arc<Self>, query: &WatchQuery) -> Result<Watch, LookupError> {
        self.watch_for(query, &Caller::default())
    }

    /// Watches channels, from now on until the stream is dropped or the server stops. Polls are shared fairly between callers.
    ///
    /// # Errors
    ///
    /// If more channels would be watched than may be.
    pub fn watch_for(self: &Arc<Self>, query: &WatchQuery, caller: &Caller) -> Result<Watch, LookupError> {
        let mut channels = query.channels.clone();
        channels.sort_unstable();
        channels.dedup();
        channels.truncate(MAX_CHANNELS);
        let hubs = &self.source.hubs;
        let reserved = hubs
            .reserve(channels.len())
            .map_err(LookupError::TooManyWatched)?;
        let inbox = Arc::<Inbox>::default();
        let after = query.published_after.map(Moment::nearest);
        hubs.polling.add(&channels, caller.id);
        let mut watched = Vec::with_capacity(channels.len());
        watched.extend((0..).zip(channels).map(|(index, channel)| {
            let (hub, is_new) = hubs.get_or_make(channel);
            if is_new {
                self.publish_what_is_known(channel);
            }
            let token = query.resume_tokens.iter().rfind(|token| token.is_of(channel));
            Watched {
                place: hub.join(&inbox, index),
                cursor: token.map_or_else(|| Cursor::new(after), Cursor::resume),
                hub,
            }
        }));
        self.poll_watched();
        Ok(Watch {
            // Each is looked at once before anything changes.
            changed: watched.iter().fold(0, |bits, _| bits << 1 | 1),
            watched: watched.into(),
            inbox,
            kind: query.kind,
            closing: self.closing.clone(),
            closed: None,
            caller: caller.id,
            _reserved: reserved,
        })
    }

    /// Publishes what the cache has of a channel that begins to be watched. So it is told at once, and the next poll is planned from when
    /// the channel was looked up.
    fn publish_what_is_known(&self, channel: ChannelId) {
        let feed = channel.into();
        // It would have to wait only where a writer was cancelled halfway. Then the first poll publishes it.
        if let Some(Some(known)) = self.coalescer.get(&feed).now_or_never() {
            self.source.publish(feed, &known);
        }
    }

    /// The number of channels that are watched.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.source.hubs.len()
    }
}

/// What happens to the channels of a watch, from when it began. Ends with an error when the server stops.
pub struct Watch {
    watched: Box<[Watched]>,
    inbox: Arc<Inbox>,
    /// Channels that may have something for the reader: a bit for each.
    changed: u128,
    kind: Option<Kind>,
    closing: CancellationToken,
    /// Completes when the server stops. Made when there is nothing to be told for the first time.
    closed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Who watches.
    caller: u64,
    _reserved: Reserved,
}

/// A channel of a watch.
struct Watched {
    /// Kept alive by those who watch it.
    hub: Arc<Hub>,
    cursor: Cursor,
    /// Where the hub has noted the watch.
    place: usize,
}

impl Watch {
    /// The next thing that happened, if anything did.
    fn next_event(&mut self) -> Option<WatchEvent> {
        loop {
            if self.changed == 0 {
                self.changed = self.inbox.take();
            }
            let watched = self.watched.get_mut(self.changed.trailing_zeros() as usize)?;
            let event = watched.next(self.kind);
            if event.is_some() {
                return event;
            }
            self.changed &= self.changed - 1;
        }
    }
}

impl Watched {
    fn next(&mut self, kind: Option<Kind>) -> Option<WatchEvent> {
        let (hub, cursor) = (&self.hub, &mut self.cursor);
        hub.read(|timeline| {
            let step = cursor.next(timeline, kind, Moment::new(Some(SystemTime::now())))?;
            Some(WatchEvent {
                channel: hub.channel,
                event: event(&step, timeline)?,
                resume_token: cursor.token(timeline, hub.channel.as_str().as_bytes()),
            })
        })
    }
}

fn event(step: &Step, timeline: &Timeline) -> Option<Event> {
    Some(match step {
        Step::Upload { index, initial } => Event::Upload {
            channel: Arc::clone(timeline.channel()?),
            upload: *index,
            initial: *initial,
        },
        Step::Problem => {
            let trouble = timeline.trouble()?;
            Event::Problem {
                error: trouble.error.clone(),
                retry_after: trouble.retry_after(clock::now()),
            }
        }
        Step::Recovered => Event::Recovered,
        Step::Missed => Event::Missed,
    })
}

impl Stream for Watch {
    type Item = Result<WatchEvent, LookupError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.watched.is_empty() {
            return Poll::Ready(None);
        }
        if self.closing.is_cancelled() {
            self.end();
            return Poll::Ready(Some(Err(LookupError::ShuttingDown)));
        }
        // Before the look: what changes after it wakes this task.
        self.inbox.waker.register(context.waker());
        if let Some(event) = self.next_event() {
            return Poll::Ready(Some(Ok(event)));
        }
        let closing = self.closing.clone();
        let closed = self
            .closed
            .get_or_insert_with(|| Box::pin(closing.cancelled_owned()));
        match closed.as_mut().poll(context) {
            Poll::Ready(()) => {
                self.end();
                Poll::Ready(Some(Err(LookupError::ShuttingDown)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Watch {
    /// Leaves all channels.
    fn end(&mut self) {
        for watched in &std::mem::take(&mut self.watched) {
            watched.hub.leave(watched.place);
            watched.hub.unplan(self.caller);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}
