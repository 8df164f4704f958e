use fastrand::Rng;

use super::*;

const REFUSED: Report = asks_for(None);

const FORBIDS: Report = Report::Forbidden {
    retry_after: None,
    proven_known: true,
};

const UNPROVEN: Standing = Standing::Unproven { proven_known: true };

const fn asks_for(retry_after: Option<Duration>) -> Report {
    Report::Refused {
        status: TOO_MANY_REQUESTS,
        retry_after,
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// For how long the breaker refuses from `now` on.
fn refuses(breaker: &Breaker<u32>, now: Instant) -> Option<Duration> {
    breaker.check(now).err().map(|refused| refused.retry_after)
}

#[test]
fn it_refuses_for_30_seconds_doubling_to_an_hour_with_one_probe_after_each() {
    let (mut breaker, mut now) = (Breaker::default(), Instant::now());
    let mut role = breaker.admit(1, UNPROVEN, now).expect("closed");
    assert_eq!(role, Role::Ordinary);
    for pause in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
        let change = breaker.report(1, role, REFUSED, now);
        let pause = seconds(pause);
        let status = TOO_MANY_REQUESTS;
        assert_eq!(
            change,
            (role == Role::Ordinary).then_some(Change::Opened { status, pause })
        );
        assert_eq!(refuses(&breaker, now), Some(pause));
        assert!(!breaker.probe_is_due(now));
        now += pause;
        assert!(breaker.probe_is_due(now));
        role = breaker
            .admit(1, Standing::Proven, now)
            .expect("the pause is over");
        assert_eq!(role, Role::Probe);
        let other = breaker
            .admit(2, Standing::Proven, now)
            .expect_err("one at a time");
        assert_eq!((other.status, other.retry_after), (429, PROBE_DURATION));
    }
    assert_eq!(
        breaker.report(1, role, Report::Success, now),
        Some(Change::Closed)
    );
    assert_eq!(breaker.admit(1, UNPROVEN, now), Ok(Role::Ordinary));
    // The pauses begin again.
    breaker.report(1, Role::Ordinary, REFUSED, now);
    assert_eq!(refuses(&breaker, now), Some(seconds(30)));
}

#[test]
fn a_retry_after_is_taken_at_its_word_up_to_an_hour_and_doubles_too() {
    for (asked, told) in [
        (3, [3, 6, 12]),
        (0, [1, 2, 4]),
        (1000, [1000, 2000, 3600]),
        (9999, [3600; 3]),
    ] {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        let mut role = Role::Ordinary;
        for pause in told {
            breaker.report(1, role, asks_for(Some(seconds(asked))), now);
            assert_eq!(refuses(&breaker, now), Some(seconds(pause)), "{asked}");
            now += seconds(pause);
            role = breaker
                .admit(1, Standing::Proven, now)
                .expect("the pause is over");
        }
    }
}

#[test]
fn lookups_that_were_under_way_when_it_opened_count_once() {
    let (mut breaker, now) = (Breaker::default(), Instant::now());
    for late in 0..10 {
        let report = breaker.report(late, Role::Ordinary, REFUSED, now + seconds(late.into()));
        assert_eq!(report.is_some(), late == 0);
    }
    for late in [Report::Success, Report::Answered, Report::Silent] {
        assert_eq!(breaker.report(1, Role::Ordinary, late, now + seconds(10)), None);
    }
    assert_eq!(refuses(&breaker, now + seconds(10)), Some(seconds(20)));
    // One of them may ask for longer.
    breaker.report(1, Role::Ordinary, asks_for(Some(seconds(100))), now + seconds(10));
    assert_eq!(refuses(&breaker, now + seconds(10)), Some(seconds(100)));
    let now = now + seconds(110);
    let probe = breaker
        .admit(1, Standing::Proven, now)
        .expect("the pause is over");
    breaker.report(1, Role::Ordinary, REFUSED, now);
    breaker.report(1, probe, REFUSED, now);
    assert_eq!(refuses(&breaker, now), Some(seconds(60)), "the second refusal");
}

#[test]
fn one_channel_s_403_is_that_channel_s() {
    let (mut breaker, now) = (Breaker::default(), Instant::now());
    for _ in 0..100 {
        assert_eq!(breaker.report(1, Role::Ordinary, FORBIDS, now), None);
        assert_eq!(breaker.check(now), Ok(()));
    }
    // Two with a success in between count as the channels' own.
    breaker.report(3, Role::Ordinary, Report::Success, now);
    breaker.report(2, Role::Ordinary, FORBIDS, now);
    assert!(!breaker.probe_is_due(now));
    // A 404 is not a success.
    breaker.report(4, Role::Ordinary, Report::Answered, now);
    breaker.report(1, Role::Ordinary, FORBIDS, now);
    assert!(breaker.probe_is_due(now));
}

#[test]
fn two_channels_403_are_believed_if_a_good_channel_gets_it_too() {
    for (answer, change) in [
        (REFUSED, Some(seconds(30))),
        (Report::Success, None),
        (Report::Answered, None),
    ] {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.report(1, Role::Ordinary, FORBIDS, now);
        breaker.report(2, Role::Ordinary, FORBIDS, now);
        assert_eq!(breaker.admit(1, Standing::Proven, now), Ok(Role::Ordinary));
        assert_eq!(breaker.admit(5, UNPROVEN, now), Ok(Role::Ordinary));
        assert_eq!(breaker.admit(3, Standing::Proven, now), Ok(Role::Probe));
        assert_eq!(breaker.admit(4, Standing::Proven, now), Ok(Role::Ordinary));
        // Further ones change nothing meanwhile.
        assert_eq!(breaker.report(5, Role::Ordinary, FORBIDS, now), None);
        let opened = breaker.report(3, Role::Probe, answer, now);
        assert_eq!(opened.is_some(), change.is_some(), "{answer:?}");
        assert_eq!(refuses(&breaker, now), change, "{answer:?}");
        assert!(!breaker.probe_is_due(now));
    }
}

#[test]
fn two_channels_403_are_believed_where_no_good_channel_is_known() {
    let (mut breaker, now) = (Breaker::default(), Instant::now());
    let alone = Report::Forbidden {
        retry_after: None,
        proven_known: false,
    };
    assert_eq!(breaker.report(1, Role::Ordinary, alone, now), None);
    assert_eq!(breaker.report(1, Role::Ordinary, alone, now), None);
    let (status, pause) = (403, seconds(30));
    assert_eq!(
        breaker.report(2, Role::Ordinary, alone, now),
        Some(Change::Opened { status, pause })
    );
}

#[test]
fn a_channel_that_was_never_found_is_no_probe_unless_no_good_one_is_known() {
    let (mut breaker, mut now) = (Breaker::default(), Instant::now());
    breaker.report(1, Role::Ordinary, REFUSED, now);
    now += seconds(30);
    let refused = breaker.admit(1, UNPROVEN, now).expect_err("no probe");
    assert_eq!(refused.retry_after, PROBE_DURATION);
    assert!(breaker.probe_is_due(now), "still");
    let unproven = Standing::Unproven { proven_known: false };
    assert_eq!(breaker.admit(1, unproven, now), Ok(Role::Probe));
}

#[test]
fn a_403_of_the_probed_channel_alone_proves_nothing() {
    let (mut breaker, mut now) = (Breaker::default(), Instant::now());
    breaker.report(1, Role::Ordinary, REFUSED, now);
    now += seconds(30);
    assert_eq!(breaker.admit(7, Standing::Proven, now), Ok(Role::Probe));
    breaker.report(7, Role::Probe, FORBIDS, now);
    // Another channel is probed at once.
    assert!(breaker.probe_is_due(now));
    assert!(breaker.excluded().contains(&Some(7)));
    assert!(breaker.admit(7, Standing::Proven, now).is_err());
    assert_eq!(breaker.admit(8, Standing::Proven, now), Ok(Role::Probe));
    assert_eq!(breaker.report(8, Role::Probe, FORBIDS, now), None);
    assert_eq!(
        refuses(&breaker, now),
        Some(seconds(60)),
        "two in a row are a refusal"
    );
    now += seconds(60);
    assert_eq!(breaker.admit(7, Standing::Proven, now), Ok(Role::Probe));
    breaker.report(7, Role::Probe, FORBIDS, now);
    assert_eq!(breaker.admit(9, Standing::Proven, now), Ok(Role::Probe));
    assert_eq!(
        breaker.report(9, Role::Probe, Report::Success, now),
        Some(Change::Closed)
    );
}

#[test]
fn an_answer_that_is_no_success_ends_the_pause_but_not_the_doubling() {
    let (mut breaker, mut now) = (Breaker::default(), Instant::now());
    for pause in [30, 60, 120] {
        breaker.report(1, Role::Ordinary, REFUSED, now);
        assert_eq!(refuses(&breaker, now), Some(seconds(pause)));
        now += seconds(pause);
        assert_eq!(breaker.admit(1, Standing::Proven, now), Ok(Role::Probe));
        assert_eq!(
            breaker.report(1, Role::Probe, Report::Answered, now),
            Some(Change::Closed)
        );
    }
    breaker.report(1, Role::Ordinary, Report::Success, now);
    breaker.report(1, Role::Ordinary, REFUSED, now);
    assert_eq!(refuses(&breaker, now), Some(seconds(30)));
}

#[test]
fn a_probe_without_an_answer_is_made_again_after_the_same_pause() {
    let (mut breaker, mut now) = (Breaker::default(), Instant::now());
    breaker.report(1, Role::Ordinary, REFUSED, now);
    for _ in 0..3 {
        now += seconds(30);
        assert_eq!(breaker.admit(1, Standing::Proven, now), Ok(Role::Probe));
        assert_eq!(breaker.report(1, Role::Probe, Report::Silent, now), None);
        assert_eq!(refuses(&breaker, now), Some(seconds(30)));
    }
    // In a doubt it is repeated at once.
    let mut breaker = Breaker::default();
    breaker.report(1, Role::Ordinary, FORBIDS, now);
    breaker.report(2, Role::Ordinary, FORBIDS, now);
    assert_eq!(breaker.admit(3, Standing::Proven, now), Ok(Role::Probe));
    breaker.report(3, Role::Probe, Report::Silent, now);
    assert!(breaker.probe_is_due(now));
}

#[test]
fn a_doubt_ends_when_a_second_good_channel_has_told() {
    for (answer, opens) in [(FORBIDS, true), (Report::Success, false)] {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.report(1, Role::Ordinary, FORBIDS, now);
        breaker.report(2, Role::Ordinary, FORBIDS, now);
        assert_eq!(breaker.admit(3, Standing::Proven, now), Ok(Role::Probe));
        assert_eq!(breaker.report(3, Role::Probe, FORBIDS, now), None);
        assert!(breaker.probe_is_due(now), "another one");
        assert_eq!(
            breaker.admit(3, Standing::Proven, now),
            Ok(Role::Ordinary),
            "not the same"
        );
        assert_eq!(breaker.admit(4, Standing::Proven, now), Ok(Role::Probe));
        assert_eq!(breaker.report(4, Role::Probe, answer, now).is_some(), opens);
        assert_eq!(refuses(&breaker, now).is_some(), opens);
    }
}

#[test]
fn the_only_good_channel_s_403_is_believed() {
    let (mut breaker, mut now) = (Breaker::default(), Instant::now());
    breaker.report(1, Role::Ordinary, REFUSED, now);
    let alone = Report::Forbidden {
        retry_after: None,
        proven_known: false,
    };
    for pause in [30, 60, 120] {
        assert_eq!(refuses(&breaker, now), Some(seconds(pause)));
        now += seconds(pause);
        assert_eq!(
            breaker.admit(1, Standing::Proven, now),
            Ok(Role::Probe),
            "it may be asked again"
        );
        breaker.report(1, Role::Probe, alone, now);
    }
}

/// An abuser owns forbidden channels, some of which were found before, and asks for them ten times as often as all others ask for anything.
/// The source does not refuse the address. No other caller may be refused for longer than a probe takes.
#[test]
fn forbidden_channels_of_one_owner_close_nothing() {
    let mut rng = Rng::with_seed(9);
    let (mut breaker, start) = (Breaker::default(), Instant::now());
    let (owned, good) = (0..3_u32, 0..100_u32);
    let mut probes = 0;
    for millis in 0..100_000 {
        let now = start + Duration::from_millis(millis);
        let pick = if breaker.probe_is_due(now) {
            rng.u32(good.clone())
        } else if rng.u32(0..11) > 0 {
            rng.u32(owned.clone())
        } else {
            rng.u32(good.clone())
        };
        let role = breaker.admit(pick, Standing::Proven, now).expect("never closed");
        probes += u32::from(role == Role::Probe);
        let report = if owned.contains(&pick) {
            FORBIDS
        } else {
            Report::Success
        };
        assert_eq!(breaker.report(pick, role, report, now), None, "at {millis} ms");
    }
    assert!(probes > 1000, "it was in doubt {probes} times");
}
