use futures_util::FutureExt as _;

use super::*;

fn feed() -> Feed {
    let channel: crate::video::ChannelId = "UCsXVk37bltHxD1rDPwtNM8Q".parse().expect("an ID");
    channel.into()
}

#[test]
fn waiters_get_the_message_about_their_feed_and_leave_nothing_behind() {
    let (ours, theirs) = (Subscription::new(), Subscription::new());
    for event in [Event::Saved, Event::Released] {
        let (mut one, mut other, left) = (ours.wait(feed()), ours.wait(feed()), ours.wait(feed()));
        drop(left);
        assert_eq!((&mut one.message).now_or_never(), None);
        ours.receive(theirs.message(event, feed()).as_bytes());
        assert_eq!((&mut one.message).now_or_never(), Some(()));
        assert_eq!((&mut other.message).now_or_never(), Some(()));
        let mut late = ours.wait(feed());
        drop((one, other));
        assert_eq!((&mut late.message).now_or_never(), None);
        assert_eq!(ours.awaited_feeds(), 1);
        drop(late);
        assert_eq!(ours.awaited_feeds(), 0);
    }
}

#[test]
fn updates_are_what_others_saved_and_new_connections() {
    let (ours, theirs) = (Subscription::new(), Subscription::new());
    let mut updates = ours.updates();
    for message in [
        "",
        "saved",
        "saved x UC/all",
        "saved x y z",
        "sung x UCsXVk37bltHxD1rDPwtNM8Q/all",
    ] {
        ours.receive(message.as_bytes());
    }
    ours.receive(b"\xff");
    ours.receive(ours.message(Event::Saved, feed()).as_bytes());
    ours.receive(theirs.message(Event::Released, feed()).as_bytes());
    updates.try_recv().expect_err("nothing of others");
    ours.receive(theirs.message(Event::Saved, feed()).as_bytes());
    assert_eq!(updates.try_recv().ok(), Some(RemoteUpdate::Saved(feed())));
    ours.connected();
    assert_eq!(updates.try_recv().ok(), Some(RemoteUpdate::Lost(None)));
}
