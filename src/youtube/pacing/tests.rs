use futures_util::{FutureExt as _, future::join_all};

use super::*;

fn count(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("not zero")
}

fn pacer(adjust: impl FnOnce(&mut Pace)) -> Pacer {
    let mut pace = Pace::default();
    adjust(&mut pace);
    Pacer::new(pace)
}

async fn turn(pacer: &Pacer) -> Turn<'_> {
    pacer.turn(Urgency::Awaited).await.expect("a turn")
}

fn refusal(turn: Result<Turn<'_>, Failure>) -> Failure {
    turn.err().expect("no turn")
}

#[tokio::test]
async fn lookups_that_nobody_waits_for_give_way_to_those_that_somebody_does() {
    let pacer = pacer(|pace| pace.concurrency = count(1));
    let first = turn(&pacer).await;
    let mut refreshes = [(); 2].map(|()| Box::pin(pacer.turn(Urgency::Background)));
    for refresh in &mut refreshes {
        assert!(refresh.now_or_never().is_none());
    }
    let mut callers = [(); 3].map(|()| Box::pin(pacer.turn(Urgency::Awaited)));
    for caller in &mut callers {
        assert!(caller.now_or_never().is_none());
    }
    drop(first);
    // One refresh was in line before they came; it has been the only one.
    let mut begun = refreshes[0]
        .as_mut()
        .now_or_never()
        .map(|turn| turn.expect("a turn"));
    assert!(begun.is_some());
    drop(begun.take());
    assert!(refreshes[1].as_mut().now_or_never().is_none(), "somebody waits");
    let mut late = Box::pin(pacer.turn(Urgency::Awaited));
    assert!(late.as_mut().now_or_never().is_none());
    for caller in callers.into_iter().chain([late]) {
        assert!(refreshes[1].as_mut().now_or_never().is_none(), "somebody waits");
        drop(caller.await.expect("a turn"));
    }
    assert!(refreshes[1].as_mut().now_or_never().is_some(), "nobody waits");
}

#[tokio::test]
async fn one_lookup_too_many_in_the_queue_is_told_at_once() {
    let pacer = pacer(|pace| (pace.concurrency, pace.queue) = (count(1), count(2)));
    let first = turn(&pacer).await;
    let mut second = Box::pin(pacer.turn(Urgency::Awaited));
    let mut third = Box::pin(pacer.turn(Urgency::Background));
    assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
    for urgency in [Urgency::Awaited, Urgency::Background] {
        assert_eq!(refusal(pacer.turn(urgency).await), busy());
    }
    // Whoever leaves the queue leaves a place.
    drop(third);
    let mut fourth = Box::pin(pacer.turn(Urgency::Awaited));
    assert!(fourth.as_mut().now_or_never().is_none());
    drop(first);
    drop(second.await.expect("a turn"));
    drop(fourth.await.expect("a turn"));
}

#[tokio::test(start_paused = true)]
async fn a_second_s_worth_begins_at_once_and_the_rest_at_the_rate() {
    let pacer = pacer(|pace| pace.rate = Some(10.0));
    let start = Instant::now();
    let turns = join_all((0..25).map(|_| async {
        drop(turn(&pacer).await);
        start.elapsed().as_millis() / 10
    }));
    let begun = turns.await;
    assert_eq!(begun[..10], [0; 10]);
    let afterwards: Vec<_> = (1..=15).map(|late| late * 10).collect();
    assert_eq!(begun[10..], afterwards);
}

#[tokio::test(start_paused = true)]
async fn lookups_that_give_up_before_their_time_cost_the_others_nothing() {
    let pacer = pacer(|pace| pace.rate = Some(0.1));
    drop(turn(&pacer).await);
    let start = Instant::now();
    let impatient = join_all((0..30).map(|_| {
        let patience = Duration::from_secs(5);
        tokio::time::timeout(patience, pacer.turn(Urgency::Awaited))
    }));
    assert!(impatient.await.iter().all(Result::is_err));
    drop(turn(&pacer).await);
    assert_eq!(start.elapsed().as_millis() / 10, 1000, "10 s after the first");
}

#[tokio::test(start_paused = true)]
async fn while_the_upstream_refuses_us_nobody_asks_and_then_one() {
    let pacer = pacer(|_| {});
    let under_way = turn(&pacer).await;
    let failure = turn(&pacer).await.refused(429, None);
    assert_eq!(failure.error, UpstreamError::RateLimited(429));
    assert_eq!(failure.retry_after, Some(Duration::from_secs(30)));

    tokio::time::advance(Duration::from_secs(10)).await;
    let left = refusal(pacer.turn(Urgency::Awaited).await).retry_after;
    assert_eq!(left, Some(Duration::from_secs(20)));
    // One that was under way is answered: that says nothing new.
    drop(under_way);

    tokio::time::advance(Duration::from_secs(20)).await;
    let probe = turn(&pacer).await;
    let other = refusal(pacer.turn(Urgency::Awaited).await);
    assert_eq!(other.error, UpstreamError::RateLimited(429), "one at a time");
    // It is lost, or its task was torn down.
    drop(probe);
    let left = refusal(pacer.turn(Urgency::Awaited).await).retry_after;
    assert_eq!(left, Some(Duration::from_secs(30)));

    tokio::time::advance(Duration::from_secs(30)).await;
    let mut probe = turn(&pacer).await;
    assert!(!probe.again().await, "a probe is not repeated");
    probe.answered();
    drop(probe);
    drop((turn(&pacer).await, turn(&pacer).await));
}

#[tokio::test(start_paused = true)]
async fn those_in_the_queue_when_it_opens_do_not_ask_either() {
    let pacer = pacer(|pace| pace.concurrency = count(1));
    let first = turn(&pacer).await;
    let mut second = Box::pin(pacer.turn(Urgency::Awaited));
    assert!(second.as_mut().now_or_never().is_none());
    first.refused(403, Some(Duration::from_secs(100)));
    let failure = refusal(second.await);
    assert_eq!(failure.error, UpstreamError::RateLimited(403));
    assert_eq!(failure.retry_after, Some(Duration::from_secs(100)));
}
