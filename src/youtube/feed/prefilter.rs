//! The pass before feed-rs: copies what plaque needs of a feed into a document of a known shape.

use std::str;

use quick_xml::{
    Reader,
    escape::{partial_escape, resolve_predefined_entity},
    events::{BytesStart, Event},
};

use super::FeedError;

/// YouTube's feeds have 15 entries. Those of other upstreams may have more.
const MAX_ENTRIES: usize = 1000;

/// An entry has one link, a feed two, a pushed feed three.
const MAX_LINKS: usize = 16;

/// Longer tags are left out if their attributes count. YouTube's longest, with a thumbnail's address, has less than 200 bytes.
const MAX_TAG: usize = 2048;

/// A feed reduced to what plaque needs.
#[derive(Debug, Default)]
pub(super) struct Prefiltered {
    /// Each element appears at most once in its parent, except entries and a few links. Instead of an entry's title it has the index in
    /// `titles`, since feed-rs would trim the title.
    pub(super) xml: String,
    pub(super) feed_title: String,
    pub(super) titles: Vec<String>,
}

/// An element that counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    Feed,
    FeedTitle,
    Entry,
    EntryTitle,
    Id,
    Published,
    Updated,
    Link,
    Author,
    Name,
    Uri,
    Group,
    Thumbnail,
    Community,
    Statistics,
}

impl Element {
    /// The element `name` within `parent` (`None`: at the root), if it counts there.
    fn of(name: &str, parent: Option<Self>) -> Option<Self> {
        use Element::{
            Author, Community, Entry, EntryTitle, Feed, FeedTitle, Group, Id, Link, Name, Published,
            Statistics, Thumbnail, Updated, Uri,
        };
        Some(match (parent, name) {
            (None, "feed") => Feed,
            (Some(Feed), "title") => FeedTitle,
            (Some(Feed), "entry") => Entry,
            (Some(Feed | Entry), "author") => Author,
            (Some(Feed | Entry), "link") => Link,
            (Some(Entry), "id") => Id,
            (Some(Entry), "title") => EntryTitle,
            (Some(Entry), "published") => Published,
            (Some(Entry), "updated") => Updated,
            (Some(Entry), "media:group") => Group,
            (Some(Author), "name") => Name,
            (Some(Author), "uri") => Uri,
            // Mirrors write them in either.
            (Some(Entry | Group), "media:thumbnail") => Thumbnail,
            (Some(Entry | Group), "media:community") => Community,
            (Some(Community), "media:statistics") => Statistics,
            _ => return None,
        })
    }

    /// How often it may appear in one parent.
    fn at_most(self) -> usize {
        match self {
            Self::Entry => MAX_ENTRIES,
            Self::Link => MAX_LINKS,
            _ => 1,
        }
    }

    fn has_attributes(self) -> bool {
        matches!(self, Self::Link | Self::Thumbnail | Self::Statistics)
    }

    fn has_text(self) -> bool {
        matches!(
            self,
            Self::Id | Self::Published | Self::Updated | Self::Name | Self::Uri
        )
    }
}

/// An open element, and how many of each child it had so far.
struct Open {
    element: Element,
    children: [usize; Element::Statistics as usize + 1],
}

/// Reduces a feed.
///
/// # Errors
///
/// If it is not well-formed, not UTF-8, truncated, or not a feed.
pub(super) fn prefilter(xml: &[u8]) -> Result<Prefiltered, FeedError> {
    let xml = str::from_utf8(xml.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(xml))
        .map_err(|error| quick_xml::Error::Encoding(error.into()))?;
    let mut reader = Reader::from_str(xml);
    let mut prefilter = Prefiltered {
        xml: String::with_capacity(xml.len() / 2),
        ..Prefiltered::default()
    };
    let mut open: Vec<Open> = vec![];
    loop {
        match reader.read_event()? {
            Event::Start(tag) => match prefilter.accept(&tag, open.last_mut()) {
                Some(element) => {
                    prefilter.start(element, &tag);
                    open.push(Open {
                        element,
                        children: [0; _],
                    });
                }
                // Skips its content without recursion.
                None => _ = reader.read_to_end(tag.name())?,
            },
            Event::Empty(tag) => {
                if let Some(element) = prefilter.accept(&tag, open.last_mut()) {
                    prefilter.start(element, &tag);
                    prefilter.end(element, tag.name().as_ref());
                }
            }
            Event::End(tag) => {
                if let Some(Open { element, .. }) = open.pop() {
                    prefilter.end(element, tag.name().as_ref());
                }
            }
            Event::Text(text) => prefilter.text(open.last(), &text),
            Event::CData(text) => prefilter.text(open.last(), &text),
            Event::GeneralRef(reference) => {
                if let Some(character) = reference.resolve_char_ref().ok().flatten() {
                    prefilter.text(open.last(), character.encode_utf8(&mut [0; 4]));
                } else if let Some(text) = resolve_predefined_entity(&reference) {
                    prefilter.text(open.last(), text);
                } else {
                    prefilter.text(open.last(), &format!("&{};", &*reference));
                }
            }
            Event::Eof if !open.is_empty() => return Err(FeedError::CutOff),
            Event::Eof if prefilter.xml.is_empty() => return Err(FeedError::NotAFeed),
            Event::Eof => return Ok(prefilter),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
}

impl Prefiltered {
    /// The element that this tag opens, if it counts.
    fn accept(&self, tag: &BytesStart<'_>, parent: Option<&mut Open>) -> Option<Element> {
        let element = Element::of(tag.name().as_ref(), parent.as_ref().map(|open| open.element))?;
        let Some(parent) = parent else {
            // A document has one root.
            return self.xml.is_empty().then_some(element);
        };
        let number = &mut parent.children[element as usize];
        *number += 1;
        let fits = tag.len() <= MAX_TAG || !element.has_attributes();
        (fits && *number <= element.at_most()).then_some(element)
    }

    fn start(&mut self, element: Element, tag: &BytesStart<'_>) {
        match element {
            // The namespaces are fixed, whatever the feed declares.
            Element::Feed => self.xml.push_str(
                r#"<feed xmlns="http://www.w3.org/2005/Atom" xmlns:media="http://search.yahoo.com/mrss/">"#,
            ),
            Element::FeedTitle | Element::Group => {}
            // feed-rs ignores authors that have neither a name nor an email address.
            Element::Author => self.xml.push_str("<author><email>?</email>"),
            // Without a content, feed-rs ignores thumbnails and statistics.
            Element::Entry => self
                .xml
                .push_str(r#"<entry><media:content url="https://www.youtube.com/"/>"#),
            _ => {
                let name = tag.name();
                let tag: &str = if element.has_attributes() {
                    tag
                } else {
                    name.as_ref()
                };
                self.xml.extend(["<", tag, ">"]);
            }
        }
        if element == Element::Entry {
            self.titles.push(String::new());
        }
        if element == Element::EntryTitle {
            self.xml.push_str(&(self.titles.len() - 1).to_string());
        }
    }

    fn end(&mut self, element: Element, name: &str) {
        if !matches!(element, Element::FeedTitle | Element::Group) {
            self.xml.extend(["</", name, ">"]);
        }
    }

    fn text(&mut self, within: Option<&Open>, text: &str) {
        match within.map(|open| open.element) {
            Some(Element::FeedTitle) => self.feed_title.push_str(text),
            Some(Element::EntryTitle) => {
                if let Some(title) = self.titles.last_mut() {
                    title.push_str(text);
                }
            }
            Some(element) if element.has_text() => self.xml.push_str(&partial_escape(text)),
            _ => {}
        }
    }
}
