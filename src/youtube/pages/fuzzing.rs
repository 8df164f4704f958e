//! See [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "it is how they find something")]

use super::page::{self, Page};
use crate::video::{MAX_TEXT, steers};

/// A channel's page, after a byte that says how much of it has come (in 256ths).
pub fn channel_page(bytes: &[u8]) {
    let Some((share, html)) = bytes.split_first() else {
        return;
    };
    let whole = page::read(html, true);
    if let Some(Page::Channel(channel)) = &whole {
        assert!(!channel.title.contains(steers) && channel.title.len() <= MAX_TEXT);
        // Addresses may have line breaks in them, which count as nothing, and encoded characters.
        let packed: Vec<u8> = html
            .iter()
            .copied()
            .filter(|byte| !b"\t\n\r".contains(byte))
            .collect();
        let mut windows = packed.windows(22);
        assert!(
            windows.any(|window| window == channel.id.unprefixed().as_bytes())
                || html.contains(&b'&')
                || html.contains(&b'%'),
            "{} was made up",
            channel.id
        );
    }
    // What is certain before the end stays.
    let come = &html[..html.len() * usize::from(*share) / 256];
    if let Some(early) = page::read(come, false) {
        assert_eq!(Some(early), whole);
    }
}
