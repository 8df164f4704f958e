use futures_util::FutureExt as _;

use super::*;

const GRACE: Duration = Duration::from_millis(50);

fn is_shed(slot: &ConnectionSlot) -> bool {
    slot.shed().now_or_never().is_some()
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

/// A slot whose connection is attended to.
fn taken(slots: &Arc<ConnectionSlots>) -> Option<ConnectionSlot> {
    let slot = slots.take().now_or_never()?;
    slot.begin();
    Some(slot)
}

fn take(slots: &Arc<ConnectionSlots>) -> ConnectionSlot {
    taken(slots).expect("a slot")
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_gets_the_slot_of_the_one_that_was_idle_longest() {
    let slots = ConnectionSlots::new(3, GRACE);
    let all = [take(&slots), take(&slots), take(&slots)];
    pass(GRACE).await;
    // The first has answered a request since, and the second is at one.
    drop(all[0].busy());
    let busy = all[1].busy();
    let more = take(&slots);
    assert_eq!(
        [&all[0], &all[1], &all[2], &more].map(is_shed),
        [false, false, true, false]
    );
    let further = take(&slots);
    assert_eq!(
        [&all[0], &all[1], &more, &further].map(is_shed),
        [true, false, false, false]
    );
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn connections_that_were_shed_and_have_not_ended_are_bounded() {
    let slots = ConnectionSlots::new(2, GRACE);
    let mut all = vec![];
    for _ in 0..4 {
        all.push(take(&slots));
        pass(GRACE).await;
    }
    assert_eq!(all.iter().filter(|slot| is_shed(slot)).count(), 2);
    let mut more = Box::pin(slots.take());
    assert!(more.as_mut().now_or_never().is_none());
    drop(all.remove(0));
    assert!(more.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_has_time_to_send_its_request() {
    let slots = ConnectionSlots::new(1, GRACE);
    let first = slots.take().await;
    // Its time begins with its first turn.
    pass(GRACE * 10).await;
    assert!(slots.take().now_or_never().is_none());
    first.begin();
    let mut more = Box::pin(slots.take());
    assert!(more.as_mut().now_or_never().is_none() && !is_shed(&first));
    pass(GRACE * 49 / 50).await;
    assert!(more.as_mut().now_or_never().is_none() && !is_shed(&first));
    pass(GRACE / 50).await;
    assert!(more.as_mut().now_or_never().is_some() && is_shed(&first));
}

#[tokio::test(start_paused = true)]
async fn a_first_request_is_not_interrupted() {
    let slots = ConnectionSlots::new(1, GRACE);
    let first = take(&slots);
    let busy = first.busy();
    pass(GRACE * 100).await;
    let mut more = Box::pin(slots.take());
    assert!(more.as_mut().now_or_never().is_none() && !is_shed(&first));
    drop(busy);
    assert!(more.as_mut().now_or_never().is_some() && is_shed(&first));
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_pause_do_not_keep_others_out() {
    let slots = ConnectionSlots::new(2, GRACE);
    let all = [take(&slots), take(&slots)];
    drop(all[1].busy());
    let busy = [all[0].busy(), all[1].busy()];
    pass(GRACE).await;
    assert!(taken(&slots).is_some());
    assert_eq!([&all[0], &all[1]].map(is_shed), [false, true]);
    drop(busy);
}
