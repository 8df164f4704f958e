//! Watches: streams that deliver each new upload of their channels once, however many there are and however slowly they are read.
//!
//! A channel is polled as long as it is watched (`polling.rs`): once for all its watches, and not at all after the last one has ended. A
//! watch is one stream over all its channels. It has a [`Cursor`] for each, and reads the newest timeline when its reader is ready, so a
//! slow reader costs the server nothing.

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
    hub::{Hub, Inbox, MAX_CHANNELS, Reservation},
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
    /// The channels, at most 128; repeats count once.
    pub channels: Vec<ChannelId>,
    /// Only uploads of this kind, as far as they appear in the channel's own feed.
    pub kind: Option<Kind>,
    /// Begin with the uploads published after this time, instead of each channel's newest.
    pub published_after: Option<SystemTime>,
    /// Resume earlier watches of these channels. The last token of a channel counts; tokens of other channels are ignored.
    pub resume_tokens: Vec<ResumeToken>,
}

/// An event of a watched channel.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// The channel.
    pub channel: ChannelId,
    /// The event.
    pub event: Event,
    /// Resumes a watch of this channel after this event.
    pub resume_token: ResumeToken,
}

/// What can happen to a watched channel.
#[derive(Clone, Debug)]
pub enum Event {
    /// An upload.
    Upload {
        /// The snapshot of the channel.
        channel: Arc<Channel>,
        /// The index of the upload in the snapshot.
        upload: usize,
        /// Whether it was in the feed when the watch began.
        initial: bool,
    },
    /// Lookups of the channel have begun to fail, or fail for another reason.
    Problem {
        /// The reason.
        error: LookupError,
        /// The time until the next lookup.
        retry_after: Duration,
    },
    /// Lookups of the channel work again.
    Recovered,
    /// The feed has only newer uploads than the watch knew: others may have appeared and left it.
    Missed,
}

impl Event {
    /// The upload, if the event is one.
    #[must_use]
    pub fn video(&self) -> Option<Video<'_>> {
        match self {
            Self::Upload { channel, upload, .. } => channel.upload(*upload),
            Self::Problem { .. } | Self::Recovered | Self::Missed => None,
        }
    }
}

impl Latest {
    /// Watches channels for an anonymous caller: see [`Self::watch_for`].
    ///
    /// # Errors
    ///
    /// If too many channels would be watched.
    pub fn watch(self: &Arc<Self>, query: &WatchQuery) -> Result<Watch, LookupError> {
        self.watch_for(query, &Caller::default())
    }

    /// Watches channels until the stream is dropped or the server shuts down. Callers get fair shares of the polls.
    ///
    /// # Errors
    ///
    /// If too many channels would be watched.
    pub fn watch_for(self: &Arc<Self>, query: &WatchQuery, caller: &Caller) -> Result<Watch, LookupError> {
        let mut channels = query.channels.clone();
        channels.sort_unstable();
        channels.dedup();
        channels.truncate(MAX_CHANNELS);
        let hubs = self.hubs();
        let reservation = hubs
            .reserve(channels.len())
            .map_err(LookupError::TooManyWatched)?;
        let inbox = Arc::<Inbox>::default();
        let after = query.published_after.map(Moment::nearest);
        hubs.polling.add(&channels, caller.id);
        let mut watched = Vec::with_capacity(channels.len());
        watched.extend((0..).zip(channels).map(|(index, channel)| {
            let (hub, is_new) = hubs.get_or_create(channel);
            if is_new {
                self.publish_cached(channel);
            }
            let token = query.resume_tokens.iter().rfind(|token| token.is_of(channel));
            Watched {
                slot: hub.join(&inbox, index),
                cursor: token.map_or_else(|| Cursor::new(after), Cursor::resume),
                hub,
            }
        }));
        self.poll_watched();
        Ok(Watch {
            // Each is read once before any change.
            changed: watched.iter().fold(0, |bits, _| bits << 1 | 1),
            watched: watched.into(),
            inbox,
            kind: query.kind,
            closing: self.closing.clone(),
            closed: None,
            caller: caller.id,
            _reservation: reservation,
        })
    }

    /// Publishes the cached entry of a newly watched channel, so that its watch gets it at once and the next poll is planned from the time
    /// of its lookup.
    fn publish_cached(&self, channel: ChannelId) {
        let feed = channel.into();
        // The cache is not ready only if a writer was cancelled halfway. Then the first poll publishes the entry.
        if let Some(Some(known)) = self.coalescer.get(&feed).now_or_never() {
            self.fetcher.publish(feed, &known);
        }
    }

    /// The number of watched channels.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.hubs().len()
    }
}

/// A stream of the events of some channels. Ends with an error when the server shuts down.
pub struct Watch {
    watched: Box<[Watched]>,
    inbox: Arc<Inbox>,
    /// Channels that may have events, as bits.
    changed: u128,
    kind: Option<Kind>,
    closing: CancellationToken,
    /// Completes when the server shuts down. Created when the stream has to wait for the first time.
    closed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// The caller's ID.
    caller: u64,
    _reservation: Reservation,
}

/// A channel of a watch.
struct Watched {
    /// Kept alive by its watches.
    hub: Arc<Hub>,
    cursor: Cursor,
    /// The subscription of the watch at the hub.
    slot: usize,
}

impl Watch {
    /// The next event, if there is one.
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
            let problem = timeline.problem()?;
            Event::Problem {
                error: problem.error.clone(),
                retry_after: problem.retry_after(clock::now()),
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
        // Before the inbox is read, so that later changes wake this task.
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
    /// Unsubscribes from all channels.
    fn end(&mut self) {
        for watched in &std::mem::take(&mut self.watched) {
            watched.hub.leave(watched.slot);
            watched.hub.remove_from_plan(self.caller);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}
