//! Compares the policy with a reference implementation: the decision table of the design, in whole seconds.

use std::time::SystemTime;

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};

use super::*;
use crate::cache_entry::HitCount;

/// The same cases in every run; failures are not persisted.
fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(3),
        ..Config::default()
    }
}

const YEAR: u32 = 365 * 24 * 60 * 60;

/// Far from the ends of what an `Instant` can hold.
const NOW: i64 = 10 * YEAR as i64;

/// A cache entry and a query. Moments are in seconds before now; negative ones are in the future.
#[derive(Clone, Debug)]
struct Case {
    success: Option<i64>,
    /// When, and in how many seconds from now the next lookup is allowed.
    failure: Option<(i64, i64)>,
    max_age: Option<u32>,
    arrived: i64,
    fresh_for: u32,
    stale_while_revalidate: u32,
    stale_if_error: u32,
    can_ask_others: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Answer,
    AnswerAndRevalidate,
    Fallback,
    Failure,
    Fetch(MissReason),
}

/// Is there an entry? a success? was it looked up after the caller arrived? is its age at most `max_age`? is a lookup not allowed yet? is
/// the success usable if a lookup fails? while it is revalidated? fresh? can other sources be asked?
const TABLE: [(&str, Wanted); 15] = [
    ("n--------", Wanted::Fetch(MissReason::NotCached)),
    ("yn--y---n", Wanted::Failure),
    ("yn--y---y", Wanted::Fetch(MissReason::Stale)),
    ("yn--n----", Wanted::Fetch(MissReason::Stale)),
    ("yyy------", Wanted::Answer),
    ("yyny-----", Wanted::Answer),
    ("yynnyy--n", Wanted::Fallback),
    ("yynnyyy-y", Wanted::Fallback),
    ("yynnyn--n", Wanted::Failure),
    ("yynny-nyy", Wanted::Fetch(MissReason::Requested)),
    ("yynny-nny", Wanted::Fetch(MissReason::Stale)),
    ("yynnn-yn-", Wanted::AnswerAndRevalidate),
    ("yynnn-yy-", Wanted::AnswerAndRevalidate),
    ("yynnn-ny-", Wanted::Fetch(MissReason::Requested)),
    ("yynnn-nn-", Wanted::Fetch(MissReason::Stale)),
];

impl Case {
    fn wanted(&self) -> Wanted {
        let age = self.success.map_or(i64::MAX, |ago| ago.max(0));
        let (fresh, early) = (i64::from(self.fresh_for), i64::from(self.stale_while_revalidate));
        let facts = [
            self.success.is_some() || self.failure.is_some(),
            self.success.is_some(),
            self.success.is_some_and(|ago| ago <= self.arrived),
            age <= self.max_age.map_or(fresh, i64::from),
            self.failure
                .is_some_and(|(ago, retry_in)| retry_in > 0 || ago <= self.arrived),
            age <= i64::from(self.stale_if_error).max(fresh + early),
            self.max_age.is_none() && age <= fresh + early,
            age <= fresh,
            self.can_ask_others,
        ];
        let fits = |row: &str| {
            row.chars()
                .zip(facts)
                .all(|(cell, fact)| cell == '-' || (cell == 'y') == fact)
        };
        let rows: Vec<_> = TABLE.iter().filter(|(row, _)| fits(row)).collect();
        let [(_, wanted)] = rows[..] else {
            panic!("{facts:?} is in {rows:?}");
        };
        *wanted
    }

    fn policy(&self) -> Policy {
        Policy {
            fresh_for: secs(self.fresh_for),
            stale_while_revalidate: secs(self.stale_while_revalidate),
            stale_if_error: secs(self.stale_if_error),
            negative_for: Duration::ZERO,
            min_refetch: Duration::ZERO,
        }
    }

    fn known(&self, epoch: Instant) -> Option<FeedEntry> {
        let success = self.success.map(|ago| Success {
            value: Arc::new(Channel::new(
                "UC0123456789abcdefghijkA".parse().expect("valid"),
                "",
                vec![],
            )),
            at: moment(epoch, -ago),
            time: SystemTime::UNIX_EPOCH,
            unlisted_since: None,
        });
        let failure = self.failure.map(|(ago, retry_in)| Failure {
            out_of_budget: false,
            error: UpstreamError::NotFound,
            at: moment(epoch, -ago),
            retry_at: moment(epoch, retry_in),
            streak: 1,
        });
        (success.is_some() || failure.is_some()).then_some(FeedEntry {
            success,
            failure,
            hits: HitCount::default(),
        })
    }
}

fn secs(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// `from_now` seconds from now.
fn moment(epoch: Instant, from_now: i64) -> Instant {
    epoch + Duration::from_secs((NOW + from_now).try_into().expect("within ten years"))
}

/// Mostly small values, which often hit the edges of a rule.
fn duration() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..12_u32, 1 => 0..=YEAR]
}

fn ago() -> impl Strategy<Value = i64> {
    prop_oneof![1 => -2..0_i64, 8 => 0..30_i64, 1 => 0..=i64::from(YEAR)]
}

fn case() -> impl Strategy<Value = Case> {
    let known = (
        prop::option::of(ago()),
        prop::option::of((ago(), -10..10_i64)),
        prop::option::of(duration()),
        0..30_i64,
    );
    let policy = (duration(), duration(), duration());
    (known, policy, any::<bool>()).prop_map(|(known, policy, can_ask_others)| Case {
        success: known.0,
        failure: known.1,
        max_age: known.2,
        arrived: known.3,
        fresh_for: policy.0,
        stale_while_revalidate: policy.1,
        stale_if_error: policy.2,
        can_ask_others,
    })
}

fn error() -> impl Strategy<Value = UpstreamError> {
    prop_oneof![
        Just(UpstreamError::NotFound),
        Just(UpstreamError::Outage),
        Just(UpstreamError::RateLimited(429)),
        Just(UpstreamError::Status(500)),
        Just(UpstreamError::Unreachable("reset".into())),
        Just(UpstreamError::TimedOut(Duration::from_secs(10))),
        Just(UpstreamError::Malformed("html".into())),
    ]
}

/// Any value, small ones more often.
fn streak() -> impl Strategy<Value = u32> {
    prop_oneof![0..20_u32, any::<u32>(), Just(u32::MAX)]
}

/// From 0 to 1, inclusive.
fn chance() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(1.0), 0.0..1.0]
}

/// `first`, doubled with each failure after the first, up to `longest`. In milliseconds.
fn doubled(first: u128, longest: u128, streak: u32) -> u128 {
    (1..streak.min(60))
        .fold(first, |pause, _| pause * 2)
        .min(longest.max(first))
}

/// Keeps nothing for longer than `negative_for`.
fn policy(negative_for: Duration) -> Policy {
    Policy {
        fresh_for: Duration::ZERO,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        negative_for,
        min_refetch: Duration::ZERO,
    }
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn the_policy_does_what_the_table_says(case in case()) {
        let epoch = Instant::now();
        let (known, arrived_at, now) = (case.known(epoch), moment(epoch, -case.arrived), moment(epoch, 0));
        let policy = case.policy();
        let decision = match policy.decide(known.as_ref(), case.max_age.map(secs), arrived_at, now, case.can_ask_others) {
            Ok(FromCache::Answer { revalidate: false, .. }) => Wanted::Answer,
            Ok(FromCache::Answer { revalidate: true, .. }) => Wanted::AnswerAndRevalidate,
            Ok(FromCache::Fallback(..)) => Wanted::Fallback,
            Ok(FromCache::Failure(_)) => Wanted::Failure,
            Err(reason) => Wanted::Fetch(reason),
        };
        prop_assert_eq!(decision, case.wanted());

        if let Some(success) = known.as_ref().and_then(|known| known.success.as_ref()) {
            let age = case.success.map_or(0, |ago| ago.max(0));
            prop_assert_eq!(policy.ttl(success, now), i64::from(case.fresh_for) - age);
        }
        let (fresh, early) = (policy.fresh_for, policy.stale_while_revalidate);
        prop_assert!(policy.keep_for() >= policy.stale_if_error.max(fresh + early));
    }

    #[test]
    fn a_failure_pauses_for_5_seconds_doubling_to_5_minutes(
        error in error(), streak in streak(), chance in chance(), negative_for in duration(),
    ) {
        let policy = policy(secs(negative_for));
        let pause = policy.pause(&error, true, streak, chance);
        let around = doubled(5_000, 300_000, streak);
        prop_assert!((around * 8 / 10..=around * 12 / 10).contains(&pause.as_millis()), "{:?}", pause);
        prop_assert!(pause <= policy.pause(&error, true, streak.saturating_add(1), chance));
        if chance < 1.0 {
            prop_assert!(pause < policy.pause(&error, true, streak, 1.0), "no jitter");
        }
        // Whether the channel was ever found matters only for a 404.
        if error != UpstreamError::NotFound {
            prop_assert_eq!(pause, policy.pause(&error, false, streak, chance));
        }
    }

    #[test]
    fn a_channel_never_seen_stays_unknown_for_twice_as_long_each_time_to_15_minutes(
        negative_for in duration(), streak in streak(), chance in chance(),
    ) {
        let policy = policy(secs(negative_for));
        let pause = policy.pause(&UpstreamError::NotFound, false, streak, chance);
        prop_assert_eq!(pause.as_millis(), doubled(u128::from(negative_for) * 1000, 900_000, streak));
        prop_assert!(policy.keep_for() >= pause, "forgotten before it ends");
    }
}

#[test]
fn a_feed_that_lags_is_looked_up_as_often_as_its_answer_is_fresh() {
    for (fresh_for, longest) in [(1, 5), (60, 60), (3600, 300)] {
        let policy = Policy {
            fresh_for: secs(fresh_for),
            ..policy(secs(60))
        };
        let pause = |chance| policy.pause(&UpstreamError::SuspectSnapshot, true, 20, chance);
        let (shortest, longest) = (secs(longest) * 8 / 10, secs(longest) * 12 / 10);
        assert_eq!((pause(0.0), pause(1.0)), (shortest, longest), "{fresh_for}");
    }
}

#[test]
fn a_404_is_the_first_one_however_many_other_failures_came_before() {
    let other = UpstreamError::TimedOut(Duration::from_secs(10));
    let after = |error: &UpstreamError, streak, next: &UpstreamError| {
        let now = Instant::now();
        let failure = Failure {
            out_of_budget: false,
            error: error.clone(),
            at: now,
            retry_at: now,
            streak,
        };
        Policy::streak(Some(&failure), next)
    };
    assert_eq!(Policy::streak(None, &other), 1);
    assert_eq!(after(&other, 6, &UpstreamError::Status(500)), 7);
    assert_eq!(after(&other, 6, &UpstreamError::NotFound), 1);
    assert_eq!(after(&UpstreamError::NotFound, 6, &UpstreamError::NotFound), 7);
    assert_eq!(after(&UpstreamError::NotFound, 6, &other), 1);
    // The streak continues when an outage begins or ends.
    assert_eq!(after(&UpstreamError::NotFound, 6, &UpstreamError::Outage), 7);
    assert_eq!(after(&UpstreamError::Outage, 6, &UpstreamError::NotFound), 7);
    assert_eq!(after(&other, 6, &UpstreamError::Outage), 7);
    assert_eq!(after(&other, u32::MAX, &other), u32::MAX);
    // One is confirmed at once. There are more if the feed lags.
    let suspect = UpstreamError::SuspectSnapshot;
    assert_eq!(after(&other, 6, &suspect), 1);
    assert_eq!(after(&suspect, 6, &suspect), 7);
    assert_eq!(after(&suspect, 6, &other), 1);
}

#[test]
fn an_answer_of_an_unknown_age_is_looked_up_before_it_is_given_and_given_if_that_fails() {
    let [minute, hour, day] = [60, 3600, 24 * 3600].map(secs);
    let unknown_in = |stale_if_error| {
        let policy = Policy {
            fresh_for: minute,
            stale_while_revalidate: minute * 10,
            stale_if_error,
            negative_for: minute,
            min_refetch: Duration::ZERO,
        };
        (policy, policy.unknown_age())
    };
    let decide = |policy: Policy, age: Duration, has_failed: bool| {
        let now = Instant::now() + day * 30;
        let at = now.checked_sub(age).expect("a moment");
        let known = FeedEntry {
            success: Some(Success {
                value: Arc::new(Channel::new(
                    "UC0123456789abcdefghijkA".parse().expect("an ID"),
                    "",
                    vec![],
                )),
                at,
                time: SystemTime::UNIX_EPOCH,
                unlisted_since: None,
            }),
            failure: has_failed.then_some(Failure {
                out_of_budget: false,
                error: UpstreamError::Status(503),
                at: now,
                retry_at: now + minute,
                streak: 1,
            }),
            hits: HitCount::default(),
        };
        match policy.decide(Some(&known), None, now, now, false) {
            Err(MissReason::Stale) => "looked up",
            Ok(FromCache::Fallback(..)) => "given",
            Ok(FromCache::Failure(_)) => "refused",
            other => panic!("{other:?}"),
        }
    };
    for (stale_if_error, of_use_for) in [(day * 7, day), (hour, secs(3600 - 661))] {
        let (policy, age) = unknown_in(stale_if_error);
        assert_eq!(decide(policy, age, false), "looked up");
        assert_eq!(decide(policy, age, true), "given");
        assert_eq!(decide(policy, age + of_use_for, true), "given");
        assert_eq!(decide(policy, age + of_use_for + secs(1), true), "refused");
    }
    let (policy, age) = unknown_in(minute);
    assert_eq!(decide(policy, age, false), "looked up");
    assert_eq!(
        decide(policy, age, true),
        "refused",
        "nothing is given that is as old"
    );
}
