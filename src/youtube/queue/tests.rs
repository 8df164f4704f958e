use futures_util::{FutureExt as _, future::join_all};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::time::advance;
use tracing::Instrument as _;

use super::*;
use crate::{captured_log::CapturedLog, upstream::Caller};

const NOBODY: Duration = Duration::ZERO;

fn count(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("not zero")
}

fn queue(adjust: impl FnOnce(&mut Pace)) -> Arc<Queue> {
    let mut pace = Pace::default();
    adjust(&mut pace);
    Queue::new(&pace, crate::youtube::OVERLOAD)
}

/// A different feed for each number.
fn feed(number: u64) -> Feed {
    let id = format!("UC{number:021}A");
    id.parse::<crate::video::ChannelId>().expect("an ID").into()
}

/// A request of this caller.
fn request(caller: u64) -> LookupRequest {
    LookupRequest {
        caller: Caller {
            id: caller,
            ..Caller::default()
        },
        ..LookupRequest::of(Purpose::Awaited)
    }
}

/// Waits for a permit, and completes at once. Returns the wait, in centiseconds.
async fn look_up(queue: &Arc<Queue>, caller: u64) -> Result<u128, Failure> {
    let begun = now();
    let mut permit = queue.permit(feed(caller), request(caller)).await?;
    permit.begin();
    permit.complete();
    Ok((now() - begun).as_millis() / 10)
}

#[tokio::test(start_paused = true)]
async fn a_second_s_worth_begins_at_once_and_the_rest_at_the_rate() {
    let queue = queue(|pace| pace.rate = Some(10.0));
    let waits = join_all((0..25).map(|caller| look_up(&queue, caller))).await;
    let mut waits: Vec<_> = waits.into_iter().map(|wait| wait.expect("a turn")).collect();
    waits.sort_unstable();
    let expected: Vec<_> = [0; 10]
        .into_iter()
        .chain((1..=15).map(|turn| turn * 10))
        .collect();
    assert_eq!(waits, expected);
    assert!(queue.state.lock().timer.is_none(), "nothing is left to wait for");
}

#[tokio::test(start_paused = true)]
async fn at_twice_the_rate_turns_go_on_and_the_rest_is_told_at_once_when_to_come_again() {
    let queue = queue(|pace| pace.rate = Some(20.0));
    let callers = (0..800).map(|caller| {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(25) * u32::try_from(caller).expect("few")).await;
            let came = now();
            match look_up(&queue, caller).await {
                Ok(_wait) => (now(), None),
                Err(failure) => {
                    assert_eq!((now() - came, failure.error), (NOBODY, UpstreamError::Busy));
                    let pause = failure.retry_after.expect("a time");
                    tokio::time::sleep(pause).await;
                    let again = look_up(&queue, caller).await;
                    (now(), Some(again.is_ok()))
                }
            }
        })
    });
    let begun = now();
    let ended = join_all(callers).await;
    let ended: Vec<_> = ended.into_iter().map(|ended| ended.expect("no panic")).collect();
    for second in 1..20 {
        let from = begun + Duration::from_secs(second);
        let answered = ended.iter().filter(|(at, second_try)| {
            *second_try != Some(false) && *at >= from && *at < from + Duration::from_secs(1)
        });
        assert!(answered.count() >= 19, "in second {second}");
    }
    let returned: Vec<_> = ended.iter().filter_map(|(_, second_try)| *second_try).collect();
    let got_in = returned.iter().filter(|got_in| **got_in).count();
    assert!(returned.len() > 200, "{}", returned.len());
    assert!(
        got_in * 10 >= returned.len() * 9,
        "{got_in} of {}",
        returned.len()
    );
    // The overload is over at once.
    advance(Duration::from_secs(1)).await;
    assert_eq!(look_up(&queue, 1000).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_much_does_not_keep_others_waiting() {
    let queue = queue(|pace| pace.rate = Some(20.0));
    let (mut waiting, mut refused) = (Vec::new(), 0);
    for _ in 0..1000 {
        let mut lookup = Box::pin(look_up(&queue, 1));
        match lookup.as_mut().now_or_never() {
            None => waiting.push(lookup),
            Some(Err(_)) => refused += 1,
            Some(Ok(_)) => {}
        }
    }
    assert!(
        refused > 800 && waiting.len() > 50,
        "{refused}, {}",
        waiting.len()
    );
    let (modest, greedy) = tokio::join!(look_up(&queue, 2), join_all(waiting));
    // Two turns, although the queue is full.
    assert!(modest.expect("a turn") <= 10);
    assert!(greedy.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn lookups_that_give_up_before_their_time_cost_the_others_nothing() {
    let queue = queue(|pace| {
        pace.rate = Some(0.1);
        pace.max_queue_wait = Duration::from_hours(1);
    });
    look_up(&queue, 0).await.expect("a turn");
    let start = now();
    let impatient = join_all((0..30).map(|caller| {
        let patience = Duration::from_secs(5);
        tokio::time::timeout(patience, queue.permit(feed(caller), request(caller)).map(drop))
    }));
    assert!(impatient.await.iter().all(Result::is_err));
    assert_eq!(queue.state.lock().dispatcher.queued(), 0);
    look_up(&queue, 0).await.expect("a turn");
    assert_eq!((now() - start).as_millis() / 10, 1000, "10 s after the first");
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_is_of_no_use_any_more_gets_no_turn() {
    let queue = queue(|pace| pace.rate = Some(1.0));
    look_up(&queue, 0).await.expect("a turn");
    let mut impatient = request(1);
    impatient.caller.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(900));
    let refused = queue
        .permit(feed(7), impatient.clone())
        .await
        .expect_err("its turn comes after 1 s");
    assert_eq!(refused.error, UpstreamError::Busy);
    impatient.caller.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(1900));
    queue.permit(feed(7), impatient).await.expect("a turn");
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_was_not_used_is_free_for_the_next() {
    let queue = queue(|pace| (pace.rate, pace.concurrency) = (Some(1.0), count(1)));
    let unused = queue.permit(feed(0), request(0)).await.expect("a turn");
    let mut second = Box::pin(queue.permit(feed(1), request(1)));
    assert!(second.as_mut().now_or_never().is_none());
    let start = now();
    drop(unused);
    let mut used = second.await.expect("a turn");
    assert_eq!(now() - start, NOBODY);
    // A retry takes one more token, which is not there; the slot of an aborted lookup is free again.
    used.begin();
    assert!(!used.try_retry());
    drop(used);
    assert_eq!(look_up(&queue, 2).await, Ok(100));
}

#[tokio::test(start_paused = true)]
async fn whoever_joins_a_queued_lookup_keeps_it_in_line_and_in_their_class() {
    let queue = queue(|pace| pace.rate = Some(1.0));
    look_up(&queue, 0).await.expect("a turn");
    let mut refresh = Box::pin(queue.permit(feed(1), LookupRequest::of(Purpose::Refresh)));
    assert!(refresh.as_mut().now_or_never().is_none());
    queue.joined(feed(2), &request(7));
    queue.joined(feed(1), &request(7));
    let counted = |class| queue.state.lock().dispatcher.counters(class);
    assert_eq!(
        (counted(Class::Refresh).queued, counted(Class::Refresh).moved),
        (0, 1)
    );
    assert_eq!(counted(Class::AwaitedUnknown).queued, 1);
    refresh.await.expect("a turn");
    assert!(queue.state.lock().tickets.is_empty());
}

#[tokio::test(start_paused = true)]
async fn everybody_in_line_is_told_of_a_refusal() {
    let queue = queue(|pace| pace.rate = Some(1.0));
    look_up(&queue, 0).await.expect("a turn");
    let mut waiting = Box::pin(queue.permit(feed(1), request(1)));
    assert!(waiting.as_mut().now_or_never().is_none());
    let refusal = Failure {
        out_of_budget: false,
        error: UpstreamError::RateLimited(429),
        retry_after: Some(Duration::from_secs(30)),
    };
    queue.drain(&refusal);
    assert_eq!(waiting.await.err(), Some(refusal));
}

#[tokio::test(start_paused = true)]
async fn one_lookup_too_many_in_the_queue_is_told_at_once() {
    let queue = queue(|pace| (pace.concurrency, pace.queue) = (count(1), count(2)));
    let mut first = queue.permit(feed(0), request(0)).await.expect("a turn");
    first.begin();
    let mut waiting: Vec<_> = (1..=2).map(|caller| Box::pin(look_up(&queue, caller))).collect();
    for lookup in &mut waiting {
        assert!(lookup.now_or_never().is_none());
    }
    let refused = look_up(&queue, 3).await.expect_err("the queue is full");
    assert_eq!(refused.error, UpstreamError::Busy);
    // A lookup that leaves the queue frees its place for a caller who retries when it was told to.
    drop(waiting.pop());
    advance(refused.retry_after.expect("a time")).await;
    let mut third = Box::pin(look_up(&queue, 3));
    assert!(third.as_mut().now_or_never().is_none());
    drop(first);
    for lookup in waiting.into_iter().chain([third]) {
        lookup.await.expect("a turn");
    }
}

#[tokio::test(start_paused = true)]
async fn an_overload_is_logged_when_it_begins_and_when_it_ends_and_of_no_lookup() {
    let log = CapturedLog::begin();
    let queue = queue(|pace| {
        pace.rate = Some(1.0);
        pace.max_queue_wait = Duration::from_secs(2);
    });
    let lookups = (0..20).map(|caller| {
        let span = tracing::info_span!("lookup", caller);
        look_up(&queue, caller).instrument(span)
    });
    let refused = join_all(lookups).await.into_iter().filter(Result::is_err).count();
    assert!(refused > 10, "{refused}");
    let [begin] = &log.lines()[..] else {
        panic!("one line")
    };
    assert!(
        begin.starts_with("WARN more lookups are requested than may go out"),
        "{begin}"
    );
    tokio::time::sleep(QUIET_PERIOD * 2).await;
    let [end] = &log.lines()[..] else {
        panic!("one line")
    };
    assert_eq!(
        end,
        &format!("INFO lookups are no longer refused refused={refused} lasted=0ns")
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_counted_for_the_class_and_what_waited_with_its_wait() {
    let queue = queue(|pace| pace.rate = Some(1.0));
    let mut registry = Registry::default();
    queue.register(&mut registry);
    let metrics = || {
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        text
    };
    let expect = |text: &str, lines: &[&str]| {
        for line in lines {
            assert!(text.contains(&format!("\n{line}\n")), "{line}: {text}");
        }
    };
    let mut first = queue.permit(feed(1), request(1)).await.expect("a token");
    first.begin();
    let mut others = [2, 3].map(|caller| Box::pin(queue.permit(feed(caller), request(caller))));
    for other in &mut others {
        assert!(other.now_or_never().is_none(), "no token");
    }
    expect(
        &metrics(),
        &[
            "upstream_queue_callers{class=\"awaited_unknown\"} 2",
            "upstream_queue_callers{class=\"poll\"} 0",
            "upstream_rate_limit 1.0",
            "upstream_sent_total{class=\"awaited_unknown\"} 1",
            "upstream_queue_wait_seconds_count{class=\"awaited_unknown\"} 1",
            "upstream_queue_wait_seconds_count{class=\"refresh\"} 0",
        ],
    );
    let [second, third] = others;
    let mut second = second.await.expect("a token a second");
    second.begin();
    // A permit without a request returns its token.
    drop(third.await.expect("a token a second"));
    advance(Duration::from_secs(1)).await;
    assert!(second.try_retry(), "a token");
    expect(
        &metrics(),
        &[
            "upstream_queue_callers{class=\"awaited_unknown\"} 0",
            "upstream_sent_total{class=\"awaited_unknown\"} 3",
            "upstream_queue_wait_seconds_count{class=\"awaited_unknown\"} 3",
            "upstream_queue_wait_seconds_bucket{le=\"0.5\",class=\"awaited_unknown\"} 1",
            "upstream_queue_wait_seconds_bucket{le=\"5.0\",class=\"awaited_unknown\"} 3",
        ],
    );
}
