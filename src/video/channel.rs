//! The cached form of a channel: immutable and compact, since the cache holds as many as memory allows.
//!
//! Fifteen [`Upload`]s are thirty allocations, and half of their text is URLs that differ only by an ID. A [`Channel`] has two
//! allocations: one string with all titles, and a [`Record`] of fixed size for each upload. A [`Video`] is a view that borrows from both.

mod record;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::HashSet, fmt, ops::Range, time::SystemTime};

use self::record::{OtherThumbnail, Record, StoredThumbnail};
use super::{ChannelId, Kind, Moment, Thumbnail, Upload, VideoId, bounds};

/// How many of a channel's newest uploads are kept: as many as its feed lists. Another upstream could list any number, which would make
/// the memory of an entry and of a slow watch unbounded.
pub const MAX_UPLOADS: usize = 15;

/// Where a snapshot of a channel comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// The channel's feed.
    #[default]
    Feed,
    /// A mirror of the feed.
    Mirror,
    /// The YouTube Data API.
    DataApi,
}

impl Source {
    /// The name in metrics and in `cache-status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Mirror => "mirror",
            Self::DataApi => "data-api",
        }
    }
}

/// A channel and its newest uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    id: ChannelId,
    /// The end of its title, the first of the texts.
    title_end: u32,
    /// Whether its feed had [`MAX_UPLOADS`] entries or more.
    full: bool,
    source: Source,
    /// The channel's title, the titles of `uploads`, and the URLs of `other_thumbnails`, without separators.
    texts: Box<str>,
    uploads: Box<[Record]>,
    other_thumbnails: Box<[OtherThumbnail]>,
}

impl Channel {
    /// Builds the channel `id` with these uploads.
    ///
    /// Uploads are sorted: newest first; those without a date come last. The first [`MAX_UPLOADS`] are kept, without repeats. A time more
    /// than 292 years from 1970 is dropped. Titles are cut after [`MAX_TEXT`](super::MAX_TEXT) bytes, at the end of a character. A
    /// thumbnail is dropped unless its URL is of `https` and has only visible characters. If the feed had more entries than there are
    /// uploads, see [`Self::with_entries`].
    #[must_use]
    pub fn new(id: ChannelId, title: &str, mut uploads: Vec<Upload>) -> Self {
        // Stable, so that uploads of the same time keep the feed's order. `NONE` is less than any time and comes last.
        uploads.sort_by_key(|upload| Reverse(Moment::new(upload.published)));
        let mut kept = HashSet::with_capacity(MAX_UPLOADS);
        uploads.retain(|upload| kept.len() < MAX_UPLOADS && kept.insert(upload.id));
        let full = uploads.len() >= MAX_UPLOADS;
        let title = bounds::cut(title);
        for upload in &mut uploads {
            let length = bounds::cut(&upload.title).len();
            upload.title.truncate(length);
            upload
                .thumbnail
                .take_if(|thumbnail| !bounds::is_address(&thumbnail.url));
        }

        let length: usize = uploads.iter().map(|upload| upload.title.len()).sum();
        let mut texts = String::with_capacity(title.len() + length);
        let mut append = |text: &str| {
            texts.push_str(text);
            number(texts.len())
        };
        let mut others = vec![];
        let title_end = append(title);
        let records = uploads
            .iter()
            .map(|upload| Record {
                id: upload.id,
                kind: upload.kind,
                title_end: append(&upload.title),
                published: Moment::new(upload.published),
                updated: Moment::new(upload.updated),
                views: upload.views.map(u64::to_le_bytes),
                thumbnail: upload.thumbnail.as_ref().map(|thumbnail| {
                    StoredThumbnail::compact(thumbnail, upload.id).unwrap_or_else(|| {
                        others.push(thumbnail);
                        StoredThumbnail::Other(number(others.len() - 1).to_le_bytes())
                    })
                }),
            })
            .collect();
        let mut end = append("");
        let other_thumbnails = others
            .into_iter()
            .map(|thumbnail| {
                let start = end;
                end = append(&thumbnail.url);
                OtherThumbnail {
                    url: start..end,
                    width: thumbnail.width,
                    height: thumbnail.height,
                }
            })
            .collect();
        Self {
            id,
            title_end,
            full,
            source: Source::Feed,
            texts: texts.into(),
            uploads: records,
            other_thumbnails,
        }
    }

    /// Sets the number of entries of the feed. Entries of other channels (collaborations) are not uploads of this one, but take up places
    /// in the feed.
    #[must_use]
    pub fn with_entries(mut self, entries: usize) -> Self {
        self.full |= entries >= MAX_UPLOADS;
        self
    }

    /// Sets where the snapshot comes from; the feed by default.
    #[must_use]
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// Makes Shorts of those uploads that are Shorts in `known`.
    #[must_use]
    pub fn with_shorts_of(mut self, known: &Self) -> Self {
        let shorts = known.uploads.iter().filter(|upload| upload.kind == Kind::Short);
        let shorts: HashSet<VideoId> = shorts.map(|upload| upload.id).collect();
        for upload in self
            .uploads
            .iter_mut()
            .filter(|upload| shorts.contains(&upload.id))
        {
            upload.kind = Kind::Short;
        }
        self
    }

    /// The channel with only its uploads of `kind`.
    #[must_use]
    pub fn only(&self, kind: Kind) -> Self {
        let uploads = self.uploads().filter(|upload| upload.kind() == kind);
        Self::new(self.id, self.title(), uploads.map(Upload::from).collect()).with_source(self.source)
    }

    /// Merges two feeds of one channel: the newest uploads of both.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        // The title of an empty feed may not be that of the channel.
        let title = if self.is_empty() { other } else { self }.title();
        let uploads = self.uploads().chain(other.uploads()).map(Upload::from);
        let mut merged = Self::new(self.id, title, uploads.collect());
        // Either feed may omit older uploads.
        merged.full |= self.full || other.full;
        merged.with_source(self.source)
    }

    /// The channel's ID.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.id
    }

    /// The channel's name.
    #[must_use]
    pub fn title(&self) -> &str {
        self.text(0..self.title_end)
    }

    /// Where the snapshot comes from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// The number of uploads.
    #[must_use]
    pub fn len(&self) -> usize {
        self.uploads.len()
    }

    /// Whether there are no uploads.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uploads.is_empty()
    }

    /// Whether the feed had at least [`MAX_UPLOADS`] entries, those of other channels included: older uploads may be missing.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The upload at `index`: 0 is the newest.
    #[must_use]
    pub fn upload(&self, index: usize) -> Option<Video<'_>> {
        (index < self.len()).then_some(Video { channel: self, index })
    }

    /// All uploads: newest first; those without a date come last.
    #[must_use]
    pub fn uploads(&self) -> impl DoubleEndedIterator<Item = Video<'_>> + ExactSizeIterator {
        (0..self.len()).map(|index| Video { channel: self, index })
    }

    /// The index of the newest upload, of `kind` if one is given.
    #[must_use]
    pub fn latest(&self, kind: Option<Kind>) -> Option<usize> {
        self.uploads
            .iter()
            .position(|upload| kind.is_none_or(|kind| upload.kind == kind))
    }

    /// The bytes of memory that this channel takes: its own size, and that of its allocations.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + allocated(self.texts.len())
            + allocated(size_of_val(&*self.uploads))
            + allocated(size_of_val(&*self.other_thumbnails))
    }

    fn text(&self, range: Range<u32>) -> &str {
        &self.texts[range.start as usize..range.end as usize]
    }
}

/// A thumbnail as a view of the cached form.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// The URL, in parts.
    pub url: [&'a str; 5],
    /// The width in pixels; 0 if unknown.
    pub width: u32,
    /// The height in pixels; 0 if unknown.
    pub height: u32,
}

/// One upload of a [`Channel`], as a view.
#[derive(Clone, Copy)]
pub struct Video<'a> {
    channel: &'a Channel,
    /// Less than the number of uploads.
    index: usize,
}

impl<'a> Video<'a> {
    /// The ID of the video.
    #[must_use]
    pub fn id(&self) -> VideoId {
        self.record().id
    }

    /// Video or Short.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.record().kind
    }

    /// The title as written by the channel; may be empty.
    #[must_use]
    pub fn title(&self) -> &'a str {
        let start = match self.index.checked_sub(1) {
            Some(before) => self.channel.uploads[before].title_end,
            None => self.channel.title_end,
        };
        self.channel.text(start..self.record().title_end)
    }

    /// The URL of the video's page, in parts.
    #[must_use]
    pub fn url(&self) -> [&'a str; 2] {
        let page = match self.kind() {
            Kind::Video => "https://www.youtube.com/watch?v=",
            Kind::Short => "https://www.youtube.com/shorts/",
        };
        [page, self.record().id.as_str()]
    }

    /// When it was published; for a scheduled stream, when it was announced.
    #[must_use]
    pub fn published(&self) -> Option<SystemTime> {
        self.record().published.time()
    }

    /// [`Self::published`] as a [`Moment`].
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.record().published
    }

    /// When its entry was last changed.
    #[must_use]
    pub fn updated(&self) -> Option<SystemTime> {
        self.record().updated.time()
    }

    /// [`Self::updated`] as a [`Moment`].
    #[must_use]
    pub fn updated_moment(&self) -> Moment {
        self.record().updated
    }

    /// The thumbnail, without an allocation.
    #[must_use]
    pub fn picture(&self) -> Option<Picture<'a>> {
        let record = self.record();
        Some(match record.thumbnail? {
            StoredThumbnail::Default { host, width, height } => Picture {
                url: StoredThumbnail::url(host, &record.id),
                width: width.into(),
                height: height.into(),
            },
            StoredThumbnail::Other(index) => {
                let other = &self.channel.other_thumbnails[u32::from_le_bytes(index) as usize];
                Picture {
                    url: [self.channel.text(other.url.clone()), "", "", "", ""],
                    width: other.width,
                    height: other.height,
                }
            }
        })
    }

    /// The thumbnail with its URL as one string, which takes an allocation.
    #[must_use]
    pub fn thumbnail(&self) -> Option<Thumbnail> {
        self.picture().map(|Picture { url, width, height }| Thumbnail {
            url: url.concat(),
            width,
            height,
        })
    }

    /// The view count when the feed was generated.
    #[must_use]
    pub fn views(&self) -> Option<u64> {
        self.record().views.map(u64::from_le_bytes)
    }

    fn record(&self) -> &'a Record {
        &self.channel.uploads[self.index]
    }
}

impl From<Video<'_>> for Upload {
    fn from(video: Video<'_>) -> Self {
        Self {
            id: video.id(),
            kind: video.kind(),
            title: video.title().to_owned(),
            published: video.published(),
            updated: video.updated(),
            thumbnail: video.thumbnail(),
            views: video.views(),
        }
    }
}

impl fmt::Debug for Video<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Upload::from(*self).fmt(f)
    }
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("the texts of 16 titles and 15 addresses")
}

/// The heap memory that an allocation of `bytes` takes: mimalloc rounds up to 16 bytes, and above 64 bytes to one of four sizes per
/// doubling (80, 96, 112, 128, 160, …).
fn allocated(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=64 => bytes.next_multiple_of(16),
        _ => bytes.next_multiple_of(1 << ((bytes - 1).ilog2() - 2)),
    }
}
