//! See [`crate::fuzzing`].

use std::time::Instant;

use futures_util::FutureExt as _;

use super::{
    decode,
    subscription::{Event, Subscription},
};
use crate::{
    store::{RemoteUpdate, codec::fuzzing::check_entry},
    upstream::{Feed, fuzzing::feed},
};

/// Fuzzes a message of another replica or, after a zero byte, a reply of `load.lua`: the feed's number, the milliseconds since the entry
/// and the failure were saved, the length of the entry, the entry, the failure.
pub fn redis_message(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, stored)) => load(stored),
        _ => receive(bytes),
    }
}

fn receive(message: &[u8]) {
    let subscription = Subscription::new();
    let mut updates = subscription.updates();
    let fields: Vec<&str> = str::from_utf8(message).unwrap_or("").split(' ').collect();
    let about = fields.get(2).and_then(|name| Feed::from_tag(name));
    let mut waiter = subscription.wait(about.unwrap_or(feed(0)));

    subscription.receive(message);

    let woken = (&mut waiter.message).now_or_never().is_some();
    assert_eq!(
        woken,
        about.is_some(),
        "woken by what is not about its feed, or not by what is"
    );
    let saved = updates.try_recv().ok();
    let expected = about.filter(|_| fields[0] == "saved");
    assert_eq!(saved, expected.map(RemoteUpdate::Saved));
    assert_eq!(updates.try_recv().ok(), None, "more than one");
    if let Some(feed) = about {
        assert_eq!(feed.tag(), fields[2], "two names of one feed");
        let other = Subscription::new();
        let mut updates = subscription.updates();
        subscription.receive(other.message(Event::Saved, feed).as_bytes());
        assert_eq!(updates.try_recv().ok(), Some(RemoteUpdate::Saved(feed)));
    }
}

fn load(stored: &[u8]) {
    let Some(([number, since @ .., long, short], rest)) = stored.split_first_chunk::<11>() else {
        return;
    };
    let [value_since, failure_since] = *since.as_chunks::<4>().0 else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([*long, *short])).min(rest.len());
    let (value, failure) = rest.split_at(length);
    let feed = feed(*number);
    let since = |bytes: [u8; 4]| u64::from(u32::from_be_bytes(bytes)) << 8;
    let stored = (
        value.to_vec(),
        since(value_since),
        failure.to_vec(),
        since(failure_since),
    );
    if let Ok(entry) = decode(&stored, feed) {
        check_entry(&entry, feed, Instant::now());
    }
}
