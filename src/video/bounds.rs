//! Bounds for data from outside, whether from a feed or from a store. [`Channel::new`](super::Channel::new) applies them, so that no
//! channel exceeds them.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

/// The longest title or name, in bytes. YouTube's have 100 characters.
pub const MAX_TEXT: usize = 1 << 10;

/// The longest URL of a thumbnail, in bytes. YouTube's have less than 200.
const MAX_ADDRESS: usize = 2 << 10;

/// How far ahead of this machine's clock uploads of sources other than the feed may be dated.
const MAX_AHEAD: Duration = Duration::from_hours(1);

/// Whether an upload of another source than the feed does not count because of its date: it would be the newest until then.
pub(crate) fn is_ahead(published: SystemTime, now: SystemTime) -> bool {
    published > now + MAX_AHEAD
}

/// Cuts a title or a name after at most [`MAX_TEXT`] bytes, at the end of a character.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// Whether `text` is a URL that can be passed on to callers: of `https`, without white space and invisible characters.
pub(crate) fn is_address(text: &str) -> bool {
    text.len() <= MAX_ADDRESS
        && text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty())
        && !text.contains(|c: char| c.is_whitespace() || steers(c))
}

/// An error message from outside as one line of at most [`MAX_TEXT`] bytes. Control characters, and others that would break or reverse
/// the line, are replaced.
pub(crate) fn message(text: &str) -> Box<str> {
    let replace = |c: char| {
        if steers(c) { '\u{fffd}' } else { c }
    };
    let text: String = cut(text).chars().map(replace).collect();
    cut(&text).into()
}

/// Whether a character controls the text around it instead of being visible: control characters, line breaks, and marks that change the
/// direction of text.
pub(crate) fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces characters that [`steers`] names by escapes such as `\n`, `\u{1b}` or `\u{202e}`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"a".repeat(MAX_TEXT)).len(), MAX_TEXT);
        assert_eq!(cut(&"a".repeat(MAX_TEXT + 1)).len(), MAX_TEXT);
        // Three bytes each: 1,024 would be in the middle of one.
        assert_eq!(cut(&"€".repeat(MAX_TEXT)), "€".repeat(341));
    }

    #[test]
    fn an_address_is_https_and_visible() {
        for good in [
            "https://i1.ytimg.com/vi/x/hqdefault.jpg",
            "https://[::1]/?a=%20#ü",
        ] {
            assert!(is_address(good), "{good}");
        }
        let long = format!("https://e.example/{}", "x".repeat(MAX_ADDRESS));
        for bad in [
            "",
            "https://",
            "http://e.example/",
            "javascript:alert(1)",
            "HTTPS://e.example/",
            "https://e.example/ b",
            "https://e.example/\r\nset-cookie: a",
            "https://e.example/\0",
            "https://e.example/\u{202e}",
            "https://e.example/\u{a0}",
            &long,
        ] {
            assert!(!is_address(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_message_is_one_short_line() {
        assert_eq!(&*message("reset: ü"), "reset: ü");
        assert_eq!(
            &*message("a\nb\x1b[31m\u{85}\u{2028}\u{202e}"),
            "a\u{fffd}b\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}"
        );
        // The replacement of one byte has three.
        assert!(message(&"\n".repeat(MAX_TEXT)).len() <= MAX_TEXT);
    }
}
