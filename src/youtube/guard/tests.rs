use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::captured_log::CapturedLog;

fn channel(number: usize) -> ChannelId {
    format!("UC{number:021}A").parse().expect("a channel ID")
}

fn failure(error: UpstreamError) -> Failure {
    Failure {
        out_of_budget: false,
        error,
        retry_after: None,
    }
}

fn seconds(failure: &Failure) -> u64 {
    failure.retry_after.expect("a time").as_secs()
}

/// A guard that knows some proven channels, numbered from 0.
fn guard(good: usize) -> Arc<Guard> {
    let guard = Arc::new(Guard::new("feeds.example".into()));
    for number in 0..good {
        guard
            .admit(channel(number), false, 0)
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
        .admit(channel(9), false, 0)
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
        .admit(channel(9), false, 0)
        .map(drop)
        .expect_err("not of a channel that may be made up");
    let probe = guard.begin_probe().expect("it is time");
    assert!(probe.is_probe() && probe.channel() < channel(3));
    assert!(guard.begin_probe().is_none(), "one at a time");
    guard.check().expect_err("others wait for it");
    // The probe is lost, or its task was aborted: the same pause again.
    drop(probe);
    assert_eq!(seconds(&guard.check().expect_err("refused")), 30);

    advance(Duration::from_secs(30)).await;
    let refused = guard.admit(channel(1), true, 0).map(drop);
    refused.expect_err("a caller cannot choose what is probed, with a good channel neither");
    guard.begin_probe().expect("it is time").report(None);
    guard.admit(channel(9), false, 0).map(drop).expect("all is well");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_logged_when_it_begins_and_when_it_ends_and_of_no_lookup() {
    let log = CapturedLog::begin();
    let guard = guard(1);
    let span = tracing::info_span!("lookup").entered();
    for _ in 0..3 {
        if let Ok(lookup) = guard.admit(channel(9), false, 0) {
            lookup.report(Some(&failure(UpstreamError::RateLimited(429))));
        }
    }
    assert_eq!(
        log.lines(),
        ["WARN the upstream refuses us: no lookups for a while host=\"feeds.example\" status=429 pause=30s"]
    );
    drop(span);
    advance(Duration::from_secs(30)).await;
    let _span = tracing::info_span!("lookup").entered();
    guard.begin_probe().expect("it is time").report(None);
    assert_eq!(
        log.lines(),
        ["INFO the upstream answers again host=\"feeds.example\" refused=2"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_403_is_its_channel_s_until_good_channels_get_it_too() {
    let guard = guard(3);
    let forbidden = failure(UpstreamError::Status(403));
    for _ in 0..5 {
        guard
            .admit(channel(8), false, 0)
            .expect("no reason")
            .report(Some(&forbidden));
        assert!(guard.begin_probe().is_none());
    }
    guard
        .admit(channel(9), false, 0)
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
async fn a_channel_that_is_not_found_any_more_is_no_probe() {
    let guard = guard(2);
    let not_found = failure(UpstreamError::NotFound);
    for gone in [channel(0), channel(1)] {
        assert!(guard.state.lock().proven_known(channel(2)));
        guard
            .admit(gone, true, 0)
            .expect("all is well")
            .report(Some(&not_found));
    }
    assert!(!guard.state.lock().proven_known(channel(2)));
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_was_found_before_is_the_probe_if_no_other_is_known() {
    let guard = guard(0);
    let too_many = failure(UpstreamError::RateLimited(429));
    let first = guard.admit(channel(9), false, 0).expect("all is well");
    first.report(Some(&too_many));
    advance(Duration::from_secs(30)).await;
    assert!(guard.begin_probe().is_none(), "of what?");
    let probe = guard
        .admit(channel(1), true, 0)
        .expect("it was found in another life");
    assert!(probe.is_probe());
    probe.report(None);
    guard.check().expect("all is well");
}

#[tokio::test(start_paused = true)]
async fn a_caller_with_many_channels_of_its_own_cannot_close_the_upstream_for_others() {
    let forbidden = failure(UpstreamError::Status(403));
    let (owner, bystander) = (1, 2);
    for _ in 0..20 {
        let guard = Arc::<Guard>::default();
        let find = |number: usize, caller| {
            let admission = guard.admit(channel(number), false, caller);
            admission.expect("all is well").report(None);
        };
        find(0, bystander);
        for number in 1..100 {
            find(number, owner);
        }
        // All channels of this owner answer 403 from now on, whoever asks.
        for number in 1..100 {
            let lookup = guard
                .admit(channel(number), true, owner)
                .expect("nobody is refused");
            lookup.report(Some(&forbidden));
            while let Some(probe) = guard.begin_probe() {
                let is_owners = probe.channel() != channel(0);
                probe.report(is_owners.then_some(&forbidden));
            }
            guard.check().expect("the bystander's channel is found");
        }
    }
}
