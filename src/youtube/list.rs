//! What one request asks for: a channel's own feed, or a list of its uploads of one kind.

use reqwest::Url;

use crate::{
    upstream::{self, Feed},
    video::Kind,
};

/// The prefixes of the IDs of YouTube's lists, which end with the channel's 22 characters.
const VIDEOS: &str = "UULF";
pub(super) const STREAMS: &str = "UULV";
const SHORTS: &str = "UUSH";

/// `{channel_id}` in the path of an address.
const CHANNEL_PLACE: &str = "%7Bchannel_id%7D";

/// A feed, or a part of one.
#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) feed: Feed,
    /// The prefix of the list. `None`: the channel's own feed.
    pub(super) prefix: Option<&'static str>,
}

impl List {
    /// The only list of `feed`; of videos the one without streams.
    pub(super) fn of(feed: Feed) -> Self {
        let prefix = feed.kind.map(|kind| match kind {
            Kind::Video => VIDEOS,
            Kind::Short => SHORTS,
        });
        Self { feed, prefix }
    }

    /// The list of a channel's streams, which are videos too.
    pub(super) fn streams(feed: Feed) -> Self {
        let prefix = Some(STREAMS);
        Self { feed, prefix }
    }

    /// One of the lists of `feed`.
    pub(super) fn one(feed: Feed, list: upstream::List) -> Self {
        match list {
            upstream::List::Own => Self::of(feed),
            upstream::List::Streams => Self::streams(feed),
        }
    }

    /// Its address at `feeds`: the place of the channel's ID is filled in, or the query appended. `None`: a mirror with such a place has only
    /// the feeds of channels.
    pub(super) fn url(self, feeds: &Url) -> Option<Url> {
        if let Some((before, after)) = feeds.as_str().split_once(CHANNEL_PLACE) {
            let channel = self.prefix.is_none().then_some(self.feed.channel)?;
            return format!("{before}{channel}{after}").parse().ok();
        }
        let mut url = feeds.clone();
        self.append_query(&mut url);
        Some(url)
    }

    fn append_query(self, url: &mut Url) {
        let channel = self.feed.channel;
        let (name, id) = match self.prefix {
            None => ("channel_id", channel.to_string()),
            Some(prefix) => ("playlist_id", format!("{prefix}{}", channel.unprefixed())),
        };
        url.query_pairs_mut().append_pair(name, &id);
    }

    /// The address without credentials and keys.
    pub(super) fn redacted_url(self, feeds: &Url) -> Url {
        let mut url = feeds.clone();
        url.set_query(None);
        // Fails only for URLs without a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        self.url(&url).unwrap_or(url)
    }
}
