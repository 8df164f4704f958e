use futures_util::FutureExt as _;

use super::*;

const GRACE: Duration = Duration::from_millis(50);

fn is_shed(place: &Place) -> bool {
    place.shed().now_or_never().is_some()
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

/// A place whose connection is attended to.
fn taken(places: &Arc<Places>) -> Option<Place> {
    let place = places.take().now_or_never()?;
    place.begin();
    Some(place)
}

fn take(places: &Arc<Places>) -> Place {
    taken(places).expect("a place")
}

#[tokio::test(start_paused = true)]
async fn one_more_gets_the_place_of_the_one_that_was_idle_longest() {
    let places = Places::new(3, GRACE);
    let all = [take(&places), take(&places), take(&places)];
    pass(GRACE).await;
    // The first has answered a request since, and the second is at one.
    drop(all[0].busy());
    let busy = all[1].busy();
    let more = take(&places);
    assert_eq!(
        [&all[0], &all[1], &all[2], &more].map(is_shed),
        [false, false, true, false]
    );
    let further = take(&places);
    assert_eq!(
        [&all[0], &all[1], &more, &further].map(is_shed),
        [true, false, false, false]
    );
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn those_that_were_shed_and_have_not_ended_are_bounded() {
    let places = Places::new(2, GRACE);
    let mut all = vec![];
    for _ in 0..4 {
        all.push(take(&places));
        pass(GRACE).await;
    }
    assert_eq!(all.iter().filter(|place| is_shed(place)).count(), 2);
    let mut more = Box::pin(places.take());
    assert!(more.as_mut().now_or_never().is_none());
    drop(all.remove(0));
    assert!(more.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_has_time_to_send_its_request() {
    let places = Places::new(1, GRACE);
    let first = places.take().await;
    // Its time begins with its first turn.
    pass(GRACE * 10).await;
    assert!(places.take().now_or_never().is_none());
    first.begin();
    let mut more = Box::pin(places.take());
    assert!(more.as_mut().now_or_never().is_none() && !is_shed(&first));
    pass(GRACE * 49 / 50).await;
    assert!(more.as_mut().now_or_never().is_none() && !is_shed(&first));
    pass(GRACE / 50).await;
    assert!(more.as_mut().now_or_never().is_some() && is_shed(&first));
}

#[tokio::test(start_paused = true)]
async fn a_first_request_is_not_interrupted() {
    let places = Places::new(1, GRACE);
    let first = take(&places);
    let busy = first.busy();
    pass(GRACE * 100).await;
    let mut more = Box::pin(places.take());
    assert!(more.as_mut().now_or_never().is_none() && !is_shed(&first));
    drop(busy);
    assert!(more.as_mut().now_or_never().is_some() && is_shed(&first));
}

#[tokio::test(start_paused = true)]
async fn one_request_after_the_other_keeps_nobody_out() {
    let places = Places::new(2, GRACE);
    let all = [take(&places), take(&places)];
    drop(all[1].busy());
    let busy = [all[0].busy(), all[1].busy()];
    pass(GRACE).await;
    assert!(taken(&places).is_some());
    assert_eq!([&all[0], &all[1]].map(is_shed), [false, true]);
    drop(busy);
}
