//! Finds out whose page some HTML is. Pure.
//!
//! A page contains IDs of many channels: recommended ones in scripts and links, and any that somebody wrote into a description. Only the
//! canonical link and the link to the feed count, which are in the head.

use html5gum::{StartTag, Token, Tokenizer, emitters::default::DefaultEmitter};
use reqwest::Url;

use crate::{
    video,
    video::{ChannelName, ResolvedChannel},
};

/// The English title of a page that asks for consent, in case its form has an unknown address.
const CONSENT_TITLE: &str = "Before you continue";

/// What a page is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Page {
    Channel(ResolvedChannel),
    /// A page that asks for consent to cookies, in place of the channel's.
    Consent,
}

/// Parses `html`, the first part of a page. `None` if it does not say what the page is, or not yet.
///
/// A longer part has the same result. If there is an ID but no title yet, the result is `None` until the head ends or the page `is_complete`.
pub(super) fn read(html: &[u8], is_complete: bool) -> Option<Page> {
    let mut emitter = DefaultEmitter::default();
    // In scripts, styles and titles, `<` begins no tag.
    emitter.naively_switch_states(true);
    let (mut id, mut title, mut text, mut is_over) = (None, None, None, false);
    for Ok(token) in Tokenizer::new_with_emitter(html, emitter) {
        match token {
            Token::StartTag(tag) => match tag.name.as_slice() {
                b"form"
                    if attribute(&tag, "action")
                        .parse()
                        .is_ok_and(|url| is_consent(&url)) =>
                {
                    return Some(Page::Consent);
                }
                b"link" if !is_over && is_own(&tag) => {
                    // A canonical link may have a handle.
                    if let (None, Ok(ChannelName::Id(linked))) = (id, attribute(&tag, "href").parse()) {
                        id = Some(linked);
                    }
                }
                b"title" if !is_over => text = Some(String::new()),
                b"body" => is_over = true,
                _ => {}
            },
            Token::String(part) => {
                if let Some(text) = &mut text {
                    text.push_str(&String::from_utf8_lossy(&part));
                }
            }
            Token::EndTag(tag) => {
                title = title.or(text.take());
                is_over |= tag.name.as_slice() == b"head";
            }
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
        if id.is_some() && (is_over || title.is_some()) {
            break;
        }
    }
    let is_certain = is_complete || is_over || title.is_some();
    let title = title.unwrap_or_default();
    let title = title.trim().trim_end_matches(" - YouTube");
    match id {
        Some(id) if is_certain => Some(Page::Channel(ResolvedChannel {
            id,
            title: video::message(title),
        })),
        None if is_complete && title.starts_with(CONSENT_TITLE) => Some(Page::Consent),
        _ => None,
    }
}

/// Whether an address is that of a page that asks for consent.
pub(super) fn is_consent(url: &Url) -> bool {
    url.host_str().is_some_and(|host| host.starts_with("consent."))
}

/// Whether it is the canonical link, or the link to the feed.
fn is_own(link: &StartTag<()>) -> bool {
    let is = |name, value| {
        attribute(link, name)
            .split_ascii_whitespace()
            .any(|word| word.eq_ignore_ascii_case(value))
    };
    is("rel", "canonical") || (is("rel", "alternate") && is("type", "application/rss+xml"))
}

/// The value of an attribute; empty if there is none.
fn attribute(tag: &StartTag<()>, name: &str) -> String {
    let value = tag.attributes.get(name.as_bytes());
    value.map_or_else(String::new, |value| String::from_utf8_lossy(value).into_owned())
}
