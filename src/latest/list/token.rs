//! Page tokens: of which list a page is, after which uploads it begins, and where in the source these are. Pure.

use std::{fmt::Write as _, str::Split};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{
    latest::Query,
    upstream::Feed,
    video::{Moment, VideoId},
};

/// The most IDs of each kind in a [`Place`]. An entry has 15 uploads; entries that change while they are listed may add others.
const MAX_OTHERS: usize = 64;

/// How far a list has come, by publication: whatever appears, vanishes or moves meanwhile, nothing is listed twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// What was published later is done: listed, or newer than the list.
    published: Moment,
    /// What was published at that time is done up to this ID; `None`: nothing.
    up_to: Option<VideoId>,
    /// What else of that time is done: entries have uploads of one second in the feed's order.
    others: Vec<VideoId>,
    /// What is done of those without a date.
    undated: Vec<VideoId>,
}

/// Where in one of the source's lists there is more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// From its first page on.
    First,
    /// From the page of this name on.
    Page(String),
    /// It has no more.
    End,
}

/// Where the next page of a feed begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken {
    pub(super) feed: Feed,
    pub(super) place: Place,
    /// For each of the source's lists; `None`: the entry may have more.
    pub(super) positions: Option<Vec<Position>>,
}

/// A text is not the token of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPageToken;

impl Place {
    /// Before the newest upload.
    pub(super) fn first() -> Self {
        Self {
            published: Moment::from_nanos(i64::MAX),
            up_to: None,
            others: vec![],
            undated: vec![],
        }
    }

    /// Whether this upload comes after the place.
    pub(super) fn precedes(&self, id: VideoId, published: Moment) -> bool {
        let is_done = match self.published.cmp(&published) {
            _ if !published.is_some() => self.undated.contains(&id),
            std::cmp::Ordering::Equal => {
                self.up_to.is_some_and(|up_to| id <= up_to) || self.others.contains(&id)
            }
            order => order.is_lt(),
        };
        !is_done
    }

    /// Moves behind an upload of the entry.
    pub(super) fn pass(&mut self, id: VideoId, published: Moment) {
        let done = if published.is_some() {
            self.move_to(published);
            &mut self.others
        } else {
            &mut self.undated
        };
        done.push(id);
        if done.len() > MAX_OTHERS {
            done.remove(0);
        }
    }

    /// Moves behind a dated upload, and all of the same time whose IDs are less.
    pub(super) fn pass_up_to(&mut self, id: VideoId, published: Moment) {
        self.move_to(published);
        self.up_to = Some(id);
        self.others.retain(|other| *other > id);
    }

    fn move_to(&mut self, published: Moment) {
        if published != self.published {
            self.published = published;
            self.up_to = None;
            self.others.clear();
        }
    }
}

impl PageToken {
    /// The token as text.
    #[must_use]
    pub fn encode(&self) -> String {
        let Place {
            published,
            up_to,
            others,
            undated,
        } = &self.place;
        let ids = |ids: &[VideoId]| ids.iter().map(VideoId::as_str).collect::<Vec<_>>().join(",");
        let mut text = format!(
            "{} {} {} {} {}",
            self.feed.tag(),
            published.to_nanos(),
            ids(up_to.as_slice()),
            ids(others),
            ids(undated)
        );
        for position in self.positions.iter().flatten() {
            // Writing to a string does not fail.
            let _ = match position {
                Position::First => write!(text, " first"),
                Position::Page(name) => write!(text, " page={name}"),
                Position::End => write!(text, " end"),
            };
        }
        BASE64_URL_SAFE_NO_PAD.encode(text)
    }

    /// Whether it is of a list of these uploads.
    #[must_use]
    pub fn is_of(&self, query: &Query) -> bool {
        self.feed == query.feed()
    }

    /// Parses a token.
    ///
    /// # Errors
    ///
    /// If the text is not one.
    pub fn decode(text: &str) -> Result<Self, InvalidPageToken> {
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        parse(decoded.as_deref().unwrap_or_default().split(' ')).ok_or(InvalidPageToken)
    }
}

fn parse(mut parts: Split<'_, char>) -> Option<PageToken> {
    let feed = Feed::from_tag(parts.next()?)?;
    let place = Place {
        published: Moment::from_nanos(parts.next()?.parse().ok()?),
        up_to: ids(parts.next()?)?.pop(),
        others: ids(parts.next()?)?,
        undated: ids(parts.next()?)?,
    };
    let position = |part: &str| match part {
        "first" => Some(Position::First),
        "end" => Some(Position::End),
        _ => Some(Position::Page(part.strip_prefix("page=")?.to_owned())),
    };
    let positions: Vec<_> = parts.map(position).collect::<Option<_>>()?;
    let is_of_entry = positions.is_empty();
    (is_of_entry || positions.len() == feed.lists().len()).then_some(PageToken {
        feed,
        place,
        positions: (!is_of_entry).then_some(positions),
    })
}

fn ids(text: &str) -> Option<Vec<VideoId>> {
    if text.is_empty() {
        return Some(vec![]);
    }
    let ids: Vec<VideoId> = text.split(',').map(|id| id.parse().ok()).collect::<Option<_>>()?;
    (ids.len() <= MAX_OTHERS).then_some(ids)
}
