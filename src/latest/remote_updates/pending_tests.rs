use super::*;
use crate::video::ChannelId;

const LIMITS: Limits = Limits {
    loads: 4,
    other_loads: 2,
    others: 3,
};

fn feed(number: usize) -> Feed {
    let channel: ChannelId = format!("UC{number:021}A").parse().expect("an ID");
    channel.into()
}

fn pending() -> Pending {
    Pending::new(LIMITS)
}

/// Loads everything, one feed after another.
fn drained(pending: &mut Pending) -> Vec<Feed> {
    let mut order = vec![];
    while let Some(feed) = pending.next() {
        order.push(feed);
        pending.loaded(feed);
    }
    order
}

#[test]
fn watched_feeds_come_first_and_each_comes_once() {
    let mut pending = pending();
    for number in [1, 2, 1] {
        pending.add(feed(number), Interest::Cached);
    }
    for number in [5, 6, 5, 6, 6] {
        pending.add(feed(number), Interest::Watched);
    }
    // The feed is watched by now, and stays watched.
    pending.add(feed(2), Interest::Watched);
    pending.add(feed(5), Interest::Cached);
    assert_eq!(drained(&mut pending), [5, 6, 2, 1].map(feed));
    assert_eq!(pending.take_dropped(), 0);
}

#[test]
fn no_watched_feed_is_lost_and_of_the_others_the_oldest_are() {
    let mut pending = pending();
    for number in 0..10 {
        pending.add(feed(number), Interest::Cached);
    }
    for number in 100..1100 {
        pending.add(feed(number), Interest::Watched);
    }
    let order = drained(&mut pending);
    assert_eq!(order.len(), 1003);
    assert_eq!(order[1000..], [7, 8, 9].map(feed));
    assert_eq!((pending.take_dropped(), pending.take_dropped()), (7, 0));
}

#[test]
fn the_number_of_loads_is_bounded_and_others_leave_room_for_watched_feeds() {
    let mut pending = pending();
    for number in 0..3 {
        pending.add(feed(number), Interest::Cached);
    }
    assert_eq!(
        [(); 3].map(|()| pending.next()),
        [Some(feed(0)), Some(feed(1)), None]
    );
    for number in 5..8 {
        pending.add(feed(number), Interest::Watched);
    }
    assert_eq!(
        [(); 3].map(|()| pending.next()),
        [Some(feed(5)), Some(feed(6)), None]
    );
    pending.loaded(feed(0));
    assert_eq!([(); 2].map(|()| pending.next()), [Some(feed(7)), None]);
    pending.loaded(feed(5));
    assert_eq!([(); 2].map(|()| pending.next()), [Some(feed(2)), None]);
}

#[test]
fn a_feed_that_is_saved_during_its_load_is_loaded_again() {
    let mut pending = pending();
    pending.add(feed(1), Interest::Cached);
    assert_eq!(pending.next(), Some(feed(1)));
    for interest in [Interest::Cached, Interest::Watched, Interest::Cached] {
        pending.add(feed(1), interest);
    }
    assert_eq!(pending.next(), None, "not twice at once");
    pending.add(feed(2), Interest::Cached);
    pending.loaded(feed(1));
    assert_eq!(drained(&mut pending), [1, 2].map(feed));
    // What was never begun changes nothing.
    pending.loaded(feed(1));
    assert_eq!(pending.next(), None);
}

#[test]
fn feeds_that_begin_to_be_watched_leave_nothing_behind() {
    let mut pending = Pending::new(Limits {
        others: 1000,
        ..LIMITS
    });
    pending.add(feed(0), Interest::Cached);
    for number in 1..1000 {
        pending.add(feed(number), Interest::Cached);
        pending.add(feed(number), Interest::Watched);
        // It may be back in the other line.
        assert_eq!(pending.next(), Some(feed(number)));
        pending.loaded(feed(number));
    }
    assert!(pending.others.order.len() <= 3, "{}", pending.others.order.len());
    assert_eq!(drained(&mut pending), [feed(0)]);
}

#[test]
fn whatever_happens_each_feed_is_loaded_after_it_was_saved_last() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut pending = pending();
    let (mut saved, mut seen) = ([0_u32; 20], [0_u32; 20]);
    let mut loading: Vec<(usize, u32)> = vec![];
    for step in 0..20_000 {
        if step < 19_000 && random.u8(..3) == 0 {
            let number = random.usize(..20);
            saved[number] += 1;
            pending.add(feed(number), Interest::Watched);
        } else if random.bool() || loading.is_empty() {
            if let Some(next) = pending.next() {
                let number = (0..20).find(|number| feed(*number) == next).expect("one of them");
                assert!(loading.iter().all(|(other, _)| *other != number));
                loading.push((number, saved[number]));
                assert!(loading.len() <= LIMITS.loads);
            }
        } else {
            let (number, version) = loading.swap_remove(random.usize(..loading.len()));
            seen[number] = version;
            pending.loaded(feed(number));
        }
    }
    assert!(loading.is_empty() && pending.next().is_none());
    assert_eq!(seen, saved);
}
