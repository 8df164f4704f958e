use futures_util::FutureExt as _;

use super::*;

const GRACE: Duration = Duration::from_millis(50);

fn is_evicted(slot: &ConnectionSlot) -> bool {
    slot.evicted().now_or_never().is_some()
}

async fn advance(time: Duration) {
    tokio::time::advance(time).await;
}

/// A slot whose grace period has started.
fn try_acquire(slots: &Arc<ConnectionSlots>) -> Option<ConnectionSlot> {
    let slot = slots.acquire().now_or_never()?;
    slot.start();
    Some(slot)
}

fn acquire(slots: &Arc<ConnectionSlots>) -> ConnectionSlot {
    try_acquire(slots).expect("a slot")
}

#[tokio::test(start_paused = true)]
async fn the_connection_that_was_idle_longest_is_evicted() {
    let slots = ConnectionSlots::new(3, GRACE);
    let all = [acquire(&slots), acquire(&slots), acquire(&slots)];
    advance(GRACE).await;
    // The first has answered a request since, and the second is answering one.
    drop(all[0].start_request());
    let request = all[1].start_request();
    let more = acquire(&slots);
    assert_eq!(
        [&all[0], &all[1], &all[2], &more].map(is_evicted),
        [false, false, true, false]
    );
    let further = acquire(&slots);
    assert_eq!(
        [&all[0], &all[1], &more, &further].map(is_evicted),
        [true, false, false, false]
    );
    drop(request);
}

#[tokio::test(start_paused = true)]
async fn evicted_connections_that_have_not_ended_are_bounded() {
    let slots = ConnectionSlots::new(2, GRACE);
    let mut all = vec![];
    for _ in 0..4 {
        all.push(acquire(&slots));
        advance(GRACE).await;
    }
    assert_eq!(all.iter().filter(|slot| is_evicted(slot)).count(), 2);
    let mut more = Box::pin(slots.acquire());
    assert!(more.as_mut().now_or_never().is_none());
    drop(all.remove(0));
    assert!(more.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_has_time_to_send_its_request() {
    let slots = ConnectionSlots::new(1, GRACE);
    let first = slots.acquire().await;
    // The grace period starts with the first poll.
    advance(GRACE * 10).await;
    assert!(slots.acquire().now_or_never().is_none());
    first.start();
    let mut more = Box::pin(slots.acquire());
    assert!(more.as_mut().now_or_never().is_none() && !is_evicted(&first));
    advance(GRACE * 49 / 50).await;
    assert!(more.as_mut().now_or_never().is_none() && !is_evicted(&first));
    advance(GRACE / 50).await;
    assert!(more.as_mut().now_or_never().is_some() && is_evicted(&first));
}

#[tokio::test(start_paused = true)]
async fn a_first_request_is_not_interrupted() {
    let slots = ConnectionSlots::new(1, GRACE);
    let first = acquire(&slots);
    let request = first.start_request();
    advance(GRACE * 100).await;
    let mut more = Box::pin(slots.acquire());
    assert!(more.as_mut().now_or_never().is_none() && !is_evicted(&first));
    drop(request);
    assert!(more.as_mut().now_or_never().is_some() && is_evicted(&first));
}

#[tokio::test(start_paused = true)]
async fn requests_back_to_back_keep_nobody_out() {
    let slots = ConnectionSlots::new(2, GRACE);
    let all = [acquire(&slots), acquire(&slots)];
    drop(all[1].start_request());
    let request = [all[0].start_request(), all[1].start_request()];
    advance(GRACE).await;
    assert!(try_acquire(&slots).is_some());
    assert_eq!([&all[0], &all[1]].map(is_evicted), [false, true]);
    drop(request);
}
