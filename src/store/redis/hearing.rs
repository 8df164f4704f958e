//! What others say: who waits for it, and who wants all of it.

use std::{
    collections::{HashMap, hash_map},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{
    Notify,
    broadcast::{self, Receiver},
    futures::OwnedNotified,
};

use super::scripts::{tag, tagged};
use crate::upstream::Feed;

/// As many feeds can be waited for at once. Who comes then hears nothing, and asks when the lease may be over.
const MAX_WAITED_FOR: usize = 1 << 16;

/// As much news waits for who is slow to hear it; older is dropped. It names feeds only: what is known of one is read when its turn
/// comes.
const MAX_NEWS: usize = 1 << 12;

/// What a message says became of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// There is an answer.
    Saved,
    /// It was given up.
    Released,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Released => "released",
        }
    }
}

/// Spreads messages within this process. Called by the task that reads the connection: it never waits.
pub(super) struct Hearing {
    /// Who we are, among all who use the store.
    pub(super) instance: String,
    /// Held for a look-up or a change, never while anything is awaited.
    waiting: Mutex<HashMap<Feed, Arc<Waited>>>,
    news: broadcast::Sender<Feed>,
}

#[derive(Default)]
struct Waited {
    told: Arc<Notify>,
    /// How many do. Changed under the lock of the map.
    by: Mutex<usize>,
}

impl Hearing {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            // 122 random bits would be a UUID; 128 are as good.
            instance: format!("{:032x}", fastrand::u128(..)),
            waiting: Mutex::default(),
            news: broadcast::channel(MAX_NEWS).0,
        })
    }

    /// What is said of `feed` from us.
    pub(super) fn message(&self, event: Event, feed: Feed) -> String {
        format!("{} {} {}", event.name(), self.instance, tag(feed))
    }

    /// Takes in what was said. What nobody of us says means nothing.
    pub(super) fn hear(&self, message: &[u8]) {
        let Some(mut words) = str::from_utf8(message).ok().map(|text| text.split(' ')) else {
            return;
        };
        let (Some(event), Some(instance), Some(feed)) =
            (words.next(), words.next(), words.next().and_then(tagged))
        else {
            return;
        };
        if event == Event::Saved.name() && instance != self.instance {
            // Fails if nobody wants news.
            let _ = self.news.send(feed);
        }
        if let Some(waited) = self.waiting.lock().remove(&feed) {
            waited.told.notify_waiters();
        }
    }

    /// What others find, from now on.
    pub(super) fn news(&self) -> Receiver<Feed> {
        self.news.subscribe()
    }

    /// Waits, from now on, for the next message about `feed`.
    pub(super) fn wait(self: &Arc<Self>, feed: Feed) -> Waiter {
        let mut waiting = self.waiting.lock();
        let full = waiting.len() >= MAX_WAITED_FOR;
        let waited = match waiting.entry(feed) {
            hash_map::Entry::Occupied(entry) => Arc::clone(entry.get()),
            hash_map::Entry::Vacant(_) if full => Arc::default(),
            hash_map::Entry::Vacant(entry) => Arc::clone(entry.insert(Arc::default())),
        };
        *waited.by.lock() += 1;
        Waiter {
            told: Box::pin(Arc::clone(&waited.told).notified_owned()),
            feed,
            waited,
            hearing: Arc::clone(self),
        }
    }

    #[cfg(test)]
    fn waited_for(&self) -> usize {
        self.waiting.lock().len()
    }
}

/// Waits for a message about a feed.
pub(super) struct Waiter {
    /// Ends with that message.
    pub(super) told: std::pin::Pin<Box<OwnedNotified>>,
    feed: Feed,
    waited: Arc<Waited>,
    hearing: Arc<Hearing>,
}

impl Drop for Waiter {
    /// The last one leaves nothing behind.
    fn drop(&mut self) {
        let mut waiting = self.hearing.waiting.lock();
        let mut by = self.waited.by.lock();
        *by -= 1;
        if *by == 0
            && let hash_map::Entry::Occupied(entry) = waiting.entry(self.feed)
            && Arc::ptr_eq(entry.get(), &self.waited)
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn feed() -> Feed {
        let channel: crate::video::ChannelId = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("an ID");
        channel.into()
    }

    #[test]
    fn whoever_waits_hears_of_their_feed_and_leaves_nothing_behind() {
        let (ours, theirs) = (Hearing::new(), Hearing::new());
        for event in [Event::Saved, Event::Released] {
            let (mut one, mut other, left) = (ours.wait(feed()), ours.wait(feed()), ours.wait(feed()));
            drop(left);
            assert_eq!((&mut one.told).now_or_never(), None);
            ours.hear(theirs.message(event, feed()).as_bytes());
            assert_eq!((&mut one.told).now_or_never(), Some(()));
            assert_eq!((&mut other.told).now_or_never(), Some(()));
            let mut late = ours.wait(feed());
            drop((one, other));
            assert_eq!((&mut late.told).now_or_never(), None);
            assert_eq!(ours.waited_for(), 1);
            drop(late);
            assert_eq!(ours.waited_for(), 0);
        }
    }

    #[test]
    fn news_is_what_others_saved() {
        let (ours, theirs) = (Hearing::new(), Hearing::new());
        let mut news = ours.news();
        for message in [
            "",
            "saved",
            "saved x UC/all",
            "saved x y z",
            "sung x UCsXVk37bltHxD1rDPwtNM8Q/all",
        ] {
            ours.hear(message.as_bytes());
        }
        ours.hear(b"\xff");
        ours.hear(ours.message(Event::Saved, feed()).as_bytes());
        ours.hear(theirs.message(Event::Released, feed()).as_bytes());
        news.try_recv().expect_err("nothing of others");
        ours.hear(theirs.message(Event::Saved, feed()).as_bytes());
        assert_eq!(news.try_recv().ok(), Some(feed()));
    }
}
