//! What is taken over of what others say of a channel, the same for a feed and for a store. [`Channel::new`](super::Channel::new) goes
//! by it, so that there is no channel beyond these bounds, wherever it came from.

/// The longest title or name, in bytes. YouTube's have 100 characters.
pub const MAX_TEXT: usize = 1 << 10;

/// The longest address of a thumbnail, in bytes. YouTube's have less than 200.
const MAX_ADDRESS: usize = 2 << 10;

/// As much of a title or a name as is kept: the characters that are whole within [`MAX_TEXT`].
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// Whether a caller may be told to load this: an `https` address without blanks and characters that are not shown.
pub(super) fn is_address(text: &str) -> bool {
    text.len() <= MAX_ADDRESS
        && text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty())
        && !text.contains(|c: char| c.is_whitespace() || steers(c))
}

/// What somebody says went wrong, as one line of at most [`MAX_TEXT`]: control characters, and others that would break or turn a
/// line, are replaced.
pub(crate) fn message(text: &str) -> Box<str> {
    let tame = |c: char| {
        if steers(c) { '\u{fffd}' } else { c }
    };
    let text: String = cut(text).chars().map(tame).collect();
    cut(&text).into()
}

/// Whether a character does something to the line that it is in, instead of being shown.
pub(crate) fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
        // What replaces a byte has three.
        assert!(message(&"\n".repeat(MAX_TEXT)).len() <= MAX_TEXT);
    }
}
