//! A channel as it is kept: built once, never changed, and small, since the cache holds as many as memory allows.
//!
//! Fifteen [`Upload`]s are thirty allocations, and half of their text is addresses that differ by an ID. In a [`Channel`] they are
//! two allocations: one string with all titles, and a [`Record`] of fixed size for each upload. Callers see [`Video`]s, which
//! borrow from both.

mod record;

use std::{cmp::Reverse, collections::HashSet, fmt, ops::Range, time::SystemTime};

use self::record::{Moment, OddThumbnail, Record, Still};
use super::{ChannelId, Kind, Thumbnail, Upload, VideoId};

/// As many uploads of a channel are kept, the newest: as many as its feed shows. From another upstream there could be any number,
/// and the memory of an entry, and of a watcher that has fallen behind, would have no bound.
pub const MAX_UPLOADS: usize = 15;

/// A channel and its newest uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    id: ChannelId,
    /// Where its title, the first of the texts, ends.
    title_end: u32,
    /// The channel's title, the videos' titles in the order of `uploads`, the addresses in `odd_thumbnails`: nothing between them.
    texts: Box<str>,
    uploads: Box<[Record]>,
    odd_thumbnails: Box<[OddThumbnail]>,
}

impl Channel {
    /// The channel `id` with these uploads.
    ///
    /// They are sorted: newest first; those without a date come last. The first [`MAX_UPLOADS`] are kept, each once. A time more than 292 years from 1970 counts as none.
    ///
    /// # Panics
    ///
    /// If the texts have 4 GiB or more. A feed has at most a two-thousandth of that.
    #[must_use]
    pub fn new(id: ChannelId, title: &str, mut uploads: Vec<Upload>) -> Self {
        // Stable, so that entries of one moment keep the feed's order; `NONE` is less than any time and comes last.
        uploads.sort_by_key(|upload| Reverse(Moment::new(upload.published)));
        let mut kept = HashSet::with_capacity(MAX_UPLOADS);
        uploads.retain(|upload| kept.len() < MAX_UPLOADS && kept.insert(upload.id));

        let length: usize = uploads.iter().map(|upload| upload.title.len()).sum();
        let mut texts = String::with_capacity(title.len() + length);
        let mut append = |text: &str| {
            texts.push_str(text);
            number(texts.len())
        };
        let mut odd = vec![];
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
                    Still::usual(thumbnail, upload.id).unwrap_or_else(|| {
                        odd.push(thumbnail);
                        Still::Odd(number(odd.len() - 1).to_le_bytes())
                    })
                }),
            })
            .collect();
        let mut end = append("");
        let odd_thumbnails = odd
            .into_iter()
            .map(|thumbnail| {
                let start = end;
                end = append(&thumbnail.url);
                OddThumbnail {
                    url: start..end,
                    width: thumbnail.width,
                    height: thumbnail.height,
                }
            })
            .collect();
        Self {
            id,
            title_end,
            texts: texts.into(),
            uploads: records,
            odd_thumbnails,
        }
    }

    /// Which channel.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.id
    }

    /// Its name, as the channel wrote it.
    #[must_use]
    pub fn title(&self) -> &str {
        self.text(0..self.title_end)
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

    /// Where among the uploads the newest one is, of `kind` if one is given.
    #[must_use]
    pub fn latest(&self, kind: Option<Kind>) -> Option<usize> {
        self.uploads
            .iter()
            .position(|upload| kind.is_none_or(|kind| upload.kind == kind))
    }

    /// The bytes of memory that this channel occupies: itself, and what the allocator takes for what it owns.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + allocated(self.texts.len())
            + allocated(size_of_val(&*self.uploads))
            + allocated(size_of_val(&*self.odd_thumbnails))
    }

    fn text(&self, range: Range<u32>) -> &str {
        &self.texts[range.start as usize..range.end as usize]
    }
}

/// One upload of a [`Channel`].
#[derive(Clone, Copy)]
pub struct Video<'a> {
    channel: &'a Channel,
    /// Less than the number of uploads.
    index: usize,
}

impl<'a> Video<'a> {
    /// Which video.
    #[must_use]
    pub fn id(&self) -> VideoId {
        self.record().id
    }

    /// Short or not.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.record().kind
    }

    /// As the channel wrote it; may be empty.
    #[must_use]
    pub fn title(&self) -> &'a str {
        let start = match self.index.checked_sub(1) {
            Some(before) => self.channel.uploads[before].title_end,
            None => self.channel.title_end,
        };
        self.channel.text(start..self.record().title_end)
    }

    /// The video's page.
    #[must_use]
    pub fn url(&self) -> String {
        match self.kind() {
            Kind::Video => format!("https://www.youtube.com/watch?v={}", self.id()),
            Kind::Short => format!("https://www.youtube.com/shorts/{}", self.id()),
        }
    }

    /// When it was published; for a scheduled stream, when it was announced.
    #[must_use]
    pub fn published(&self) -> Option<SystemTime> {
        self.record().published.time()
    }

    /// When its entry was last changed.
    #[must_use]
    pub fn updated(&self) -> Option<SystemTime> {
        self.record().updated.time()
    }

    /// A still picture. Its address is put together here, at the cost of an allocation.
    #[must_use]
    pub fn thumbnail(&self) -> Option<Thumbnail> {
        Some(match self.record().thumbnail? {
            Still::Usual { host, width, height } => Thumbnail {
                url: Still::url(host, self.id()),
                width: width.into(),
                height: height.into(),
            },
            Still::Odd(index) => {
                let odd = &self.channel.odd_thumbnails[u32::from_le_bytes(index) as usize];
                Thumbnail {
                    url: self.channel.text(odd.url.clone()).to_owned(),
                    width: odd.width,
                    height: odd.height,
                }
            }
        })
    }

    /// Views when the feed was made.
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
    u32::try_from(length).expect("a channel with less than 4 GiB of texts")
}

/// What the allocator takes for `bytes` of heap memory: glibc's malloc on 64 bits puts 8 bytes in front, and rounds up to 16, at
/// least 32.
///
/// What it rounds a mapping of its own to (from 128 KiB on), and what it cannot use again between others, is not known here.
/// Allocators with size classes waste up to a quarter.
fn allocated(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        _ => (bytes + 8).next_multiple_of(16).max(32),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id() -> ChannelId {
        "UC0123456789abcdefghijkA".parse().expect("valid")
    }

    /// An upload that has everything; of two, the one with the greater `number` is newer.
    fn upload(number: u32) -> Upload {
        let id = format!("upload{number:04}A");
        Upload {
            title: format!("Upload {number}"),
            kind: if number.is_multiple_of(3) {
                Kind::Short
            } else {
                Kind::Video
            },
            published: Some(time(1_700_000_000_000_000_000 + i64::from(number))),
            updated: Some(time(1_800_000_000_000_000_000 - i64::from(number))),
            thumbnail: Some(thumbnail(
                &format!("https://i3.ytimg.com/vi/{id}/hqdefault.jpg"),
                480,
                360,
            )),
            views: Some(number.into()),
            id: id.parse().expect("valid"),
        }
    }

    fn time(nanos: i64) -> SystemTime {
        let apart = Duration::from_nanos(nanos.unsigned_abs());
        match nanos {
            0.. => SystemTime::UNIX_EPOCH + apart,
            _ => SystemTime::UNIX_EPOCH - apart,
        }
    }

    fn thumbnail(url: &str, width: u32, height: u32) -> Thumbnail {
        Thumbnail {
            url: url.into(),
            width,
            height,
        }
    }

    /// Puts `uploads`, which are in order, in a channel and takes them out again.
    #[track_caller]
    fn round_trip(title: &str, uploads: &[Upload]) -> Channel {
        let channel = Channel::new(id(), title, uploads.to_owned());
        assert_eq!((channel.id(), channel.title()), (id(), title));
        assert_eq!(channel.len(), uploads.len());
        assert_eq!(channel.is_empty(), uploads.is_empty());
        assert_eq!(channel.uploads().map(Upload::from).collect::<Vec<_>>(), uploads);
        assert!(channel.upload(uploads.len()).is_none());
        channel
    }

    #[test]
    fn what_goes_in_comes_out() {
        for title in ["", "Tide & Time", "größte 日本 🌊"] {
            for count in [0, 1, 15] {
                round_trip(title, &(0..count).rev().map(upload).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn nothing_is_lost_of_what_is_out_of_the_ordinary() {
        let ordinary = upload(0);
        let usual = ordinary.thumbnail.clone().expect("it has everything").url;
        let titled = |title: &str| Upload {
            title: title.into(),
            ..ordinary.clone()
        };
        let counted = |views| Upload {
            views: Some(views),
            ..ordinary.clone()
        };
        let pictured = |url: &str, width, height| Upload {
            thumbnail: Some(thumbnail(url, width, height)),
            ..ordinary.clone()
        };
        let changed = |nanos| Upload {
            updated: Some(time(nanos)),
            ..ordinary.clone()
        };
        let bare = Upload {
            published: None,
            updated: None,
            thumbnail: None,
            views: None,
            ..titled("")
        };
        let hard = vec![
            titled(""),
            titled("größte 日本 🌊"),
            titled(&"🌊".repeat(100_000)),
            counted(0),
            counted(u64::MAX),
            pictured("", 0, 0),
            pictured("https://i", 0, 0),
            pictured(&usual, 0, u32::from(u16::MAX)),
            pictured(&usual, 480, 65_536),
            pictured(&usual, u32::MAX, 360),
            pictured(&usual.replace("https", "http"), 480, 360),
            pictured(&usual.replace("i3", "i"), 480, 360),
            pictured(&usual.replace("i3", "i10"), 480, 360),
            pictured(&usual.replace("i3", "iß"), 480, 360),
            pictured(&usual.replace("upload0000A", "upload0001A"), 480, 360),
            pictured(&format!("{usual}?v=1"), 480, 360),
            pictured("https://example.com/größte/日本.jpg", 1, 2),
            changed(0),
            changed(-1),
            changed(1_626_709_245_613_264_165), // of a notification
            changed(-1_000_000_000_000_000_001),
            changed(i64::MAX),
            changed(-i64::MAX),
            ordinary.clone(),
            bare,
        ];
        for upload in &hard {
            round_trip("Alone", std::slice::from_ref(upload));
        }
        for together in hard.chunks(MAX_UPLOADS) {
            let named = together.iter().zip(1..).map(|(hard, number)| Upload {
                id: upload(number).id,
                ..hard.clone()
            });
            round_trip("Together", &named.collect::<Vec<_>>());
        }
    }

    #[test]
    fn uploads_are_sorted_and_those_without_a_valid_date_come_last() {
        let at = |number, published| Upload {
            published,
            ..upload(number)
        };
        let too_late = time(i64::MAX) + Duration::from_nanos(1);
        let too_early = time(-i64::MAX) - Duration::from_nanos(1);
        let channel = Channel::new(
            id(),
            "",
            vec![
                at(1, None),
                at(2, Some(time(-1))),
                at(3, Some(time(5))),
                at(4, Some(too_late)),
                at(5, Some(time(6))),
                at(6, Some(time(5))),
                at(7, Some(too_early)),
            ],
        );
        let order: Vec<_> = channel
            .uploads()
            .map(|video| (video.title(), video.published()))
            .collect();
        let expected = [
            ("Upload 5", Some(time(6))),
            ("Upload 3", Some(time(5))),
            ("Upload 6", Some(time(5))),
            ("Upload 2", Some(time(-1))),
            ("Upload 1", None),
            ("Upload 4", None),
            ("Upload 7", None),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn the_newest_15_are_kept_each_once() {
        let mut uploads: Vec<_> = (0..500).map(upload).collect();
        uploads.extend((0..500).map(upload));
        let channel = Channel::new(id(), "", uploads.clone());
        uploads.truncate(500);
        uploads.sort_by_key(|upload| Reverse(upload.published));
        let newest: Vec<_> = uploads[..MAX_UPLOADS].iter().map(|upload| upload.id).collect();
        let kept: Vec<_> = channel.uploads().map(|video| video.id()).collect();
        assert_eq!(kept, newest);
    }

    #[test]
    fn uploads_of_one_moment_keep_their_order() {
        // More than the 20 that every sort of the standard library keeps in order.
        let mixed = (0..100).map(|number| Upload {
            published: Some(time(i64::from(number % 10 == 1))),
            ..upload(number)
        });
        let channel = Channel::new(id(), "", mixed.collect());
        let order: Vec<_> = channel.uploads().filter_map(|video| video.views()).collect();
        let expected: Vec<_> = (1..100).step_by(10).chain([0, 2, 3, 4, 5]).collect();
        assert_eq!(order, expected);
    }

    #[test]
    fn the_latest_is_the_first_of_its_kind() {
        let channel = round_trip("", &[upload(5), upload(4), upload(3), upload(0)]);
        assert_eq!(channel.latest(None), Some(0));
        assert_eq!(channel.latest(Some(Kind::Short)), Some(2));
        assert_eq!(round_trip("", &[upload(1)]).latest(Some(Kind::Short)), None);
        assert_eq!(round_trip("", &[]).latest(None), None);
    }

    #[test]
    fn a_video_has_the_address_of_its_page() {
        let channel = round_trip("", &[upload(1), upload(0)]);
        let pages: Vec<_> = channel.uploads().map(|video| video.url()).collect();
        assert_eq!(
            pages,
            [
                "https://www.youtube.com/watch?v=upload0001A",
                "https://www.youtube.com/shorts/upload0000A"
            ]
        );
    }

    #[test]
    fn an_upload_takes_48_bytes_and_its_title() {
        assert_eq!(size_of::<Record>(), 48);
        let of_titles = |length: usize| {
            let titled = |number| Upload {
                title: "x".repeat(length),
                ..upload(number)
            };
            round_trip("", &(0..15).rev().map(titled).collect::<Vec<_>>()).weight()
        };
        // 15 × 48 = 720 and 15 × 55 = 825, each with what malloc adds.
        assert_eq!(of_titles(0), size_of::<Channel>() + 736);
        assert_eq!(of_titles(55), size_of::<Channel>() + 736 + 848);
        assert_eq!(round_trip("", &[]).weight(), size_of::<Channel>());
    }
}
