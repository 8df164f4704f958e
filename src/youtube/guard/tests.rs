use std::time::Duration;

use tokio::time::advance;

use super::*;

fn channel(number: usize) -> ChannelId {
    format!("UC{number:021}A").parse().expect("a channel ID")
}

fn failure(error: UpstreamError) -> Failure {
    Failure {
        error,
        retry_after: None,
    }
}

fn seconds(failure: &Failure) -> u64 {
    failure.retry_after.expect("a time").as_secs()
}

/// A guard that knows some good channels, from 0 on.
fn guard(good: usize) -> Arc<Guard> {
    let guard = Arc::<Guard>::default();
    for number in 0..good {
        guard
            .admit(channel(number), false)
            .expect("all is well")
            .report(None);
    }
    guard
}

#[tokio::test(start_paused = true)]
async fn while_the_upstream_refuses_us_nobody_asks_and_then_one_asks_for_a_good_channel() {
    let guard = guard(3);
    let too_many = failure(UpstreamError::RateLimited(429));
    guard
        .admit(channel(9), false)
        .expect("all is well")
        .report(Some(&too_many));
    let refused = guard.check().expect_err("refused");
    assert_eq!(
        (refused.error.clone(), seconds(&refused)),
        (too_many.error.clone(), 30)
    );
    assert!(guard.begin_probe().is_none(), "not yet");

    advance(Duration::from_secs(30)).await;
    guard.check().expect("a probe is due");
    guard
        .admit(channel(9), false)
        .map(drop)
        .expect_err("not of a channel that may be made up");
    let probe = guard.begin_probe().expect("it is time");
    assert!(probe.is_probe() && probe.channel() < channel(3));
    assert!(guard.begin_probe().is_none(), "one at a time");
    guard.check().expect_err("others wait for it");
    // It is lost, or its task was torn down: as long again.
    drop(probe);
    assert_eq!(seconds(&guard.check().expect_err("refused")), 30);

    advance(Duration::from_secs(30)).await;
    let probe = guard.admit(channel(1), true).expect("a good channel is a probe");
    assert!(probe.is_probe());
    probe.report(None);
    guard.admit(channel(9), false).map(drop).expect("all is well");
}

#[tokio::test(start_paused = true)]
async fn a_403_is_its_channel_s_until_good_channels_get_it_too() {
    let guard = guard(3);
    let forbidden = failure(UpstreamError::Status(403));
    for _ in 0..5 {
        guard
            .admit(channel(8), false)
            .expect("no reason")
            .report(Some(&forbidden));
        assert!(guard.begin_probe().is_none());
    }
    guard
        .admit(channel(9), false)
        .expect("no reason")
        .report(Some(&forbidden));
    guard.check().expect("a doubt refuses nobody");
    for _ in 0..2 {
        let probe = guard.begin_probe().expect("a good channel is asked");
        assert!(probe.is_probe() && probe.channel() < channel(3));
        probe.report(Some(&forbidden));
    }
    let refused = guard.check().expect_err("so do good ones");
    assert_eq!(refused.error, UpstreamError::RateLimited(403));
}

#[tokio::test(start_paused = true)]
async fn probes_are_chosen_from_a_bounded_number_of_channels_that_are_found() {
    let guard = guard(GOOD_CHANNELS + 100);
    let good = || guard.state.lock().good.clone();
    assert_eq!(good().len(), GOOD_CHANNELS);
    let gone = good()[7];
    let not_found = failure(UpstreamError::NotFound);
    guard
        .admit(gone, true)
        .expect("all is well")
        .report(Some(&not_found));
    assert!(good().len() == GOOD_CHANNELS - 1 && !good().contains(&gone));
}
