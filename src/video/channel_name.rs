//! Parses the names of channels: IDs, handles, legacy and custom names, and addresses of channels and of videos. Pure.
//!
//! [`ChannelName::Id`] needs no lookup; [`Resolver`](crate::resolver::Resolver) looks the others up. The `Display` of a name is its canonical
//! text, which parses to the same name; stores use it as a key.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::{ChannelId, InvalidChannelId, VideoId, is_base64url, steers};

/// The longest text that is parsed, in bytes. Addresses from YouTube's share buttons have less than 200.
pub const MAX_QUERY: usize = 2 << 10;

/// The longest handle or name, in characters. Handles have at most 30.
const MAX_NAME: usize = 100;

/// First segments of the paths of YouTube's own pages, which are not names of channels.
const RESERVED: [&str; 24] = [
    "about", "account", "ads", "c", "channel", "clip", "embed", "feed", "feeds", "gaming", "hashtag", "kids",
    "live", "music", "playlist", "post", "premium", "redirect", "results", "shorts", "signin", "user", "v",
    "watch",
];

/// The name of a channel, in one of YouTube's forms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ChannelName {
    /// A channel's ID, or the ID of a list of its uploads (`UU…`), which ends in the same 22 characters.
    Id(ChannelId),
    /// A handle without its `@`. Its ASCII letters are in lower case, since YouTube ignores case.
    Handle(Box<str>),
    /// A legacy user name: `/user/NAME`.
    User(Box<str>),
    /// A custom name: `/c/NAME`, or just `/NAME`.
    Custom(Box<str>),
    /// A video, which stands for its uploader.
    Video(VideoId),
}

/// The channel that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedChannel {
    /// Its ID.
    pub id: ChannelId,
    /// Its title, one line of at most [`MAX_TEXT`](crate::video::MAX_TEXT) bytes; empty if it is not known.
    pub title: Box<str>,
}

/// Why a text names no channel, and what to give instead. The messages do not contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Blank, or more than [`MAX_QUERY`] bytes.
    #[error(
        "expected a channel ID, a handle (@name), or the address of a channel or a video, of at most 2048 bytes"
    )]
    Length,
    /// An address on another host, or no HTTP address.
    #[error("it is not an address of youtube.com or youtu.be; open the channel there and copy its address")]
    NotYouTube,
    /// An address of YouTube that is neither a channel's nor a video's.
    #[error(
        "it is the address of no channel and no video; copy the channel's address, or give its handle (@name)"
    )]
    NoChannel,
    /// A channel ID with a mistake in it.
    #[error("the channel ID is not valid: {0}")]
    Id(#[from] InvalidChannelId),
    /// A text that begins like a channel ID and is shorter or longer.
    #[error(
        "it looks like a channel ID with {0} characters instead of {len}; copy the ID again, or give a handle with its @",
        len = ChannelId::LEN
    )]
    IdLength(usize),
    /// A video ID with a mistake in it.
    #[error("a video ID has 11 characters of A-Z, a-z, 0-9, - and _; copy the video's address again")]
    Video,
    /// A playlist other than the list of a channel's uploads.
    #[error(
        "it is not the playlist of a channel's uploads, which starts with UU; give the channel's address or handle (@name)"
    )]
    Playlist,
    /// Neither a handle nor a name.
    #[error(
        "a handle or name has 1 to 100 letters, digits, _, - and . (not only dots); check it, or give the channel's address"
    )]
    Name,
}

impl FromStr for ChannelName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_QUERY {
            return Err(InvalidName::Length);
        }
        if text.contains("://") {
            return address(text, true);
        }
        let relative = text.trim_start_matches('/');
        match relative.split(['/', '?', '#']).next() {
            Some(host) if is_youtube(host) => address(&format!("https://{relative}"), true),
            Some(word) if word.len() == text.len() => bare(text),
            _ => address(&format!("https://youtube.com/{relative}"), false),
        }
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Handle(name) => write!(f, "@{name}"),
            Self::User(name) => write!(f, "user/{name}"),
            Self::Custom(name) => write!(f, "c/{name}"),
            Self::Video(id) => write!(f, "youtu.be/{id}"),
        }
    }
}

/// Parses an address. `has_host`: the text contained the host.
fn address(text: &str, has_host: bool) -> Result<ChannelName, InvalidName> {
    let url: Url = text.parse().map_err(|_| InvalidName::NotYouTube)?;
    let is_http = matches!(url.scheme(), "http" | "https");
    let host = url.host_str().filter(|host| is_http && is_youtube(host));
    let host = host.ok_or(InvalidName::NotYouTube)?;
    let segments = url.path().split('/').filter(|segment| !segment.is_empty());
    let path: Vec<String> = segments.map(decoded).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let query = |name| {
        let value = url.query_pairs().find(|(key, _)| key == name);
        value.map_or_else(String::new, |(_, value)| value.into_owned())
    };
    match *path {
        [id, ..] if host.contains("youtu.be") => video(id),
        ["channel", id, ..] => Ok(ChannelName::Id(id.parse()?)),
        ["c", name, ..] => Ok(ChannelName::Custom(checked(name)?)),
        ["user", name, ..] => Ok(ChannelName::User(checked(name)?)),
        ["watch"] => video(&query("v")),
        ["watch" | "shorts" | "live" | "embed" | "v", id, ..] => video(id),
        ["playlist"] => uploads_list(&query("list")),
        ["feeds", "videos.xml"] => match ["channel_id", "user", "playlist_id"].map(query) {
            [id, ..] if !id.is_empty() => Ok(ChannelName::Id(id.parse()?)),
            [_, name, _] if !name.is_empty() => Ok(ChannelName::User(checked(&name)?)),
            [.., list] => uploads_list(&list),
        },
        [handle, ..] if handle.starts_with('@') => bare(handle),
        // Names from before there were /c/ and handles. Without the host, these could be any two words.
        [name] | [name, _] if has_host && !RESERVED.contains(&name) && !name.contains('.') => {
            Ok(ChannelName::Custom(checked(name)?))
        }
        _ => Err(InvalidName::NoChannel),
    }
}

/// Parses a text that is no address: an ID, or a handle with or without `@`.
fn bare(text: &str) -> Result<ChannelName, InvalidName> {
    let text = decoded(text);
    let handle = text.strip_prefix('@');
    match text.parse() {
        Ok(id) => return Ok(ChannelName::Id(id)),
        // It begins like an ID, and has about the length of one: rather an ID with a mistake than a handle.
        Err(InvalidChannelId::Length(length)) if is_nearly_id(&text) => {
            return Err(InvalidName::IdLength(length));
        }
        Err(mistake) if text.len() == ChannelId::LEN && text.starts_with("UC") => return Err(mistake.into()),
        Err(_) if handle.is_some() => {}
        Err(_) => {
            if let Ok(id) = uploads_list(&text) {
                return Ok(id);
            }
        }
    }
    let handle = handle.unwrap_or(&text).to_ascii_lowercase();
    Ok(ChannelName::Handle(checked(&handle)?))
}

/// The channel of a list of uploads: `UU`, for some kinds two more capital letters (`UULF`), and the channel's 22 characters.
fn uploads_list(id: &str) -> Result<ChannelName, InvalidName> {
    let own = id.strip_prefix("UU").ok_or(InvalidName::Playlist)?;
    let kind = own
        .get(..2)
        .filter(|kind| own.len() == ChannelId::LEN && kind.bytes().all(|c| c.is_ascii_uppercase()));
    let id = format!("UC{}", &own[kind.map_or(0, str::len)..]);
    id.parse().map(ChannelName::Id).map_err(|_| InvalidName::Playlist)
}

fn video(id: &str) -> Result<ChannelName, InvalidName> {
    id.parse().map(ChannelName::Video).map_err(|_| InvalidName::Video)
}

/// Checks that `name` may be a handle or a name. Letters may be of any script: beyond ASCII only blanks, control characters and the like are
/// refused. Only dots would be another path.
fn checked(name: &str) -> Result<Box<str>, InvalidName> {
    let is_part = |c: char| match c {
        '\0'..='\x7f' => c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'),
        _ => !c.is_whitespace() && !steers(c) && c != char::REPLACEMENT_CHARACTER,
    };
    let is_name =
        name.chars().all(is_part) && name.chars().any(|c| c != '.') && name.chars().count() <= MAX_NAME;
    is_name.then(|| name.into()).ok_or(InvalidName::Name)
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Whether a text has the characters of a channel ID, and nearly its length. Few handles are that long.
fn is_nearly_id(text: &str) -> bool {
    text.starts_with("UC") && text.len().abs_diff(ChannelId::LEN) <= 3 && text.bytes().all(is_base64url)
}

/// Whether `host`, perhaps with a port, is one of YouTube's, which may begin with `www.`, `m.` or `music.`.
pub(crate) fn is_youtube(host: &str) -> bool {
    let host = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    let site = ["www.", "m.", "music."]
        .iter()
        .find_map(|sub| host.strip_prefix(sub));
    matches!(
        site.unwrap_or(host),
        "youtube.com" | "youtu.be" | "youtube-nocookie.com"
    )
}
