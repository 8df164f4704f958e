//! See [`crate::fuzzing`].

#![expect(clippy::missing_panics_doc, reason = "it is how they find something")]

use super::{ChannelName, InvalidName, MAX_NAME, MAX_QUERY};
use crate::video::steers;

/// What somebody gives for a channel.
pub fn channel_name(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    match text.parse::<ChannelName>() {
        Ok(name) => check(text, &name),
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(steers), "{message:?} is not one line");
            assert!(message.len() < 256, "{message}");
            let length = text.trim().len();
            assert_eq!(error == InvalidName::Length, length == 0 || length > MAX_QUERY);
        }
    }
}

fn check(text: &str, name: &ChannelName) {
    assert!(text.trim().len() <= MAX_QUERY);
    let canonical = name.to_string();
    assert_eq!(
        canonical.parse().as_ref(),
        Ok(name),
        "{canonical:?} is another name"
    );
    if let ChannelName::Handle(part) | ChannelName::User(part) | ChannelName::Custom(part) = name {
        assert!(!part.is_empty() && part.chars().count() <= MAX_NAME);
        assert!(
            !part.contains(['/', '?', '#', '%', '&', '@', ' ', '\\']) && !part.contains(steers),
            "{part:?}"
        );
        assert!(!part.chars().all(|c| c == '.'), "it leads elsewhere");
    }
    // Nothing was made up: an ID's characters are in the text, encoded or not.
    if let ChannelName::Id(id) = name
        && !text.contains('%')
    {
        let packed: String = text.split(['\t', '\n', '\r']).collect();
        assert!(packed.contains(id.unprefixed()), "{id} is not in {text:?}");
    }
}
