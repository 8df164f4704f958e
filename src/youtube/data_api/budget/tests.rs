use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_hours(1);
const AWAITED: Use = Use::Lookup(Purpose::Awaited);
const KEY: KeyId = KeyId {
    generation: 0,
    fingerprint: 0,
};
/// The key that comes after as many others.
fn key(number: u16) -> KeyId {
    KeyId {
        generation: number.into(),
        fingerprint: number,
    }
}
const POLL: Use = Use::Lookup(Purpose::Poll);

fn unknown(caller: u64) -> Use {
    Use::Unknown(Purpose::Awaited, caller)
}

fn unknown_poll(caller: u64) -> Use {
    Use::Unknown(Purpose::Poll, caller)
}

fn at(text: &str) -> SystemTime {
    humantime::parse_rfc3339(text).expect("a time")
}

/// A midnight in winter.
fn midnight() -> SystemTime {
    at("2026-11-26T08:00:00Z")
}

#[test]
fn a_day_begins_at_midnight_in_california() {
    for (now, day) in [
        ("2026-11-26T07:59:59Z", "2026-11-25"),
        ("2026-11-26T08:00:00Z", "2026-11-26"),
        ("2026-07-01T06:59:59Z", "2026-06-30"),
        ("2026-07-01T07:00:00Z", "2026-07-01"),
        // The days on which clocks change, at 2 o'clock, and those after them.
        ("2026-03-08T07:59:59Z", "2026-03-07"),
        ("2026-03-08T08:00:00Z", "2026-03-08"),
        ("2026-03-09T06:59:59Z", "2026-03-08"),
        ("2026-03-09T07:00:00Z", "2026-03-09"),
        ("2026-11-01T06:59:59Z", "2026-10-31"),
        ("2026-11-01T07:00:00Z", "2026-11-01"),
        ("2026-11-02T07:59:59Z", "2026-11-01"),
        ("2026-11-02T08:00:00Z", "2026-11-02"),
    ] {
        assert_eq!(Day::of(at(now)).to_string(), day, "{now}");
    }
    let length = |now| {
        Day::of(at(now))
            .end()
            .duration_since(Day::of(at(now)).start())
            .expect("later")
    };
    assert_eq!(length("2026-03-08T12:00:00Z"), HOUR * 23);
    assert_eq!(length("2026-11-01T12:00:00Z"), HOUR * 25);
    assert_eq!(length("2026-11-26T12:00:00Z"), HOUR * 24);
}

/// Spends for as long as there are units, and says how many there were.
fn drain(budget: &mut Budget, spend_for: Use, now: SystemTime) -> usize {
    (0..20_000)
        .take_while(|_| budget.try_spend(spend_for, now, KEY).is_ok())
        .count()
}

#[test]
fn callers_get_half_of_a_day_at_once_and_polls_what_is_due() {
    let mut budget = Budget::new(10_000, midnight());
    assert_eq!(drain(&mut budget, POLL, midnight()), 0);
    assert_eq!(drain(&mut budget, POLL, midnight() + HOUR * 12), 5000);
    assert_eq!(
        drain(&mut budget, Use::Lookup(Purpose::Refresh), midnight() + HOUR * 12),
        0
    );
    assert_eq!(drain(&mut budget, AWAITED, midnight() + HOUR * 12), 2500);
    // Then, those who wait go on at half the pace, and polls stop.
    assert_eq!(drain(&mut budget, POLL, midnight() + HOUR * 13), 0);
    let hour = drain(&mut budget, AWAITED, midnight() + HOUR * 13);
    assert!((208..=209).contains(&hour), "{hour}");
}

#[test]
fn who_gets_none_is_told_when() {
    for spend_for in [AWAITED, POLL, unknown(1), unknown_poll(1), Use::Extra(1)] {
        let (mut budget, mut now) = (Budget::new(100, midnight()), midnight());
        drain(&mut budget, spend_for, now);
        for _ in 0..40 {
            let Err(ApiError::OutOfUnits { retry_at }) = budget.try_spend(spend_for, now, KEY) else {
                panic!("there is one");
            };
            assert!(retry_at > now, "later");
            let before = retry_at - Duration::from_millis(2);
            assert!(
                budget.try_spend(spend_for, before, KEY).is_err(),
                "sooner than said"
            );
            now = retry_at;
            assert_eq!(budget.try_spend(spend_for, now, KEY), Ok(()), "{spend_for:?}");
            // At a reset there are more.
            drain(&mut budget, spend_for, now);
        }
    }
    // Not even one a day.
    let mut none = Budget::new(0, midnight());
    let denied = none.try_spend(AWAITED, midnight(), KEY);
    let retry_at = midnight() + HOUR * 24 + Duration::from_millis(1);
    assert_eq!(denied, Err(ApiError::OutOfUnits { retry_at }));
}

#[test]
fn a_used_up_quota_closes_until_the_reset() {
    let noon = midnight() + HOUR * 12;
    let mut budget = Budget::new(100, midnight());
    assert_eq!(budget.try_spend(AWAITED, noon, KEY), Ok(()));
    assert_eq!(budget.close(Refusal::QuotaExceeded, noon, KEY), 99, "for all");
    assert_eq!(budget.left(), 0);
    let refused = Err(Refusal::QuotaExceeded.into());
    assert_eq!(
        budget.try_spend(AWAITED, noon + HOUR * 12 - Duration::from_secs(1), KEY),
        refused
    );
    assert_eq!(budget.try_spend(AWAITED, noon + HOUR * 12, KEY), Ok(()));
}

#[test]
fn another_key_has_units_of_its_own() {
    let (noon, caller) = (midnight() + HOUR * 12, Use::Unknown(Purpose::Awaited, 1));
    let mut budget = Budget::new(100, midnight());
    for _ in 0..10 {
        assert_eq!(budget.try_spend(caller, noon, KEY), Ok(()));
    }
    // With some of the last key's left, and with none.
    for generation in 1..=2 {
        let (last, new) = (key(generation - 1), key(generation));
        assert_eq!(budget.is_left(caller, noon, new), Ok(()));
        assert_eq!((budget.left(), budget.reopens_at()), (100, None));
        assert_eq!(
            budget.close(Refusal::QuotaExceeded, noon, last),
            0,
            "of the last key"
        );
        budget.learn(budget.day(), last, 100);
        assert_eq!(budget.left(), 100, "of the last key");
        assert_eq!(budget.try_spend(AWAITED, noon, new), Ok(()));
        budget.learn(budget.day(), new, 21);
        assert_eq!((budget.check(), budget.left()), (Ok(()), 79));
        assert_eq!(budget.close(Refusal::QuotaExceeded, noon, new), 79);
    }
    let back = KeyId { generation: 3, ..KEY };
    budget.advance(noon, back);
    assert_eq!(budget.left(), 90, "the first key again");
    budget.advance(noon + HOUR * 12, back);
    assert_eq!(budget.left(), 100);
}

#[test]
fn soon_after_a_reset_it_is_tried_again() {
    let mut budget = Budget::new(100, midnight());
    let now = midnight() + Duration::from_mins(1);
    assert_eq!(budget.close(Refusal::QuotaExceeded, now, KEY), 0);
    assert_eq!((budget.left(), budget.reopens_at()), (0, Some(now + EARLY_PAUSE)));
    assert!(
        budget
            .try_spend(AWAITED, now + EARLY_PAUSE - Duration::from_secs(1), KEY)
            .is_err()
    );
    budget.advance(now + EARLY_PAUSE, KEY);
    assert_eq!((budget.left(), budget.reopens_at()), (100, None));
    assert_eq!(budget.try_spend(AWAITED, now + EARLY_PAUSE, KEY), Ok(()));
}

#[test]
fn a_bad_key_closes_until_there_is_another() {
    let now = midnight();
    let mut budget = Budget::new(100, now);
    budget.close(Refusal::KeyInvalid, now, key(3));
    let days_later = now + HOUR * 240;
    assert_eq!(
        budget.try_spend(AWAITED, days_later, key(3)),
        Err(Refusal::KeyInvalid.into())
    );
    assert_eq!(budget.try_spend(AWAITED, days_later, key(4)), Ok(()));

    budget.close(Refusal::NotConfigured, days_later, key(4));
    assert!(budget.try_spend(AWAITED, days_later + HOUR / 2, key(4)).is_err());
    assert_eq!(
        budget.try_spend(AWAITED, days_later + HOUR, key(4)),
        Ok(()),
        "it may have been enabled"
    );
    budget.close(Refusal::NotConfigured, days_later + HOUR, key(4));
    assert_eq!(budget.try_spend(AWAITED, days_later + HOUR, key(5)), Ok(()));
}

#[test]
fn a_clock_that_is_set_back_brings_no_units_back() {
    let mut budget = Budget::new(100, midnight());
    budget.try_spend(AWAITED, midnight() + HOUR, KEY).expect("a unit");
    budget.try_spend(AWAITED, midnight() - HOUR, KEY).expect("a unit");
    assert_eq!(budget.left(), 98);
    assert_eq!(budget.day(), Day::of(midnight()));
}

/// A day and a half with polls at every chance, and a burst of callers in each hour, on three replicas which learn of the sum when they spend;
/// one of them starts anew in the middle of a day.
#[test]
fn replicas_keep_within_a_day_and_callers_are_always_served() {
    const QUOTA: u64 = 1000;
    let start = midnight() + HOUR * 7;
    let mut sums: HashMap<Day, u64> = HashMap::new();
    let mut replicas = [0, 1, 2].map(|_| Budget::new(QUOTA, start));
    let (mut served, mut refused, mut polls) = (0, 0, HashMap::<Day, u64>::new());
    for minute in 0..36 * 60 {
        let now = start + Duration::from_mins(minute);
        let day = Day::of(now);
        if minute == 5 * 60 {
            replicas[1] = Budget::new(QUOTA, now);
            replicas[1].learn(day, KEY, sums[&day]);
        }
        for (number, replica) in (0..).zip(&mut replicas) {
            let mut try_spend = |spend_for| {
                let spent = replica.try_spend(spend_for, now, KEY).is_ok();
                if spent {
                    let sum = sums.entry(day).or_default();
                    *sum += 1;
                    replica.learn(day, KEY, *sum);
                }
                spent
            };
            if minute % 60 == number {
                for _ in 0..5 {
                    if try_spend(AWAITED) {
                        served += 1;
                    } else {
                        refused += 1;
                    }
                }
            }
            if try_spend(POLL) {
                *polls.entry(day).or_default() += 1;
            }
        }
    }
    assert!(
        sums.values().all(|sum| *sum <= QUOTA + 2),
        "one for each other replica may be on its way: {sums:?}"
    );
    assert_eq!(
        (served, refused),
        (36 * 15, 0),
        "15 callers an hour are less than half of the pace"
    );
    let whole_day = Day::of(start + HOUR * 20);
    assert!(
        sums[&whole_day] > QUOTA / 2 && polls[&whole_day] > 300,
        "what is left is for polls: {polls:?}"
    );
}

/// What callers get of a day in which lookups spend nothing: an abuser that asks all the time, and modest ones.
fn day_with_abusers(of: impl Fn(u64) -> Use, abusers: u64, per_minute: f64) -> (Vec<u64>, u64, u64) {
    let mut budget = Budget::new(10_000, midnight());
    let (mut abused, mut served, mut refused, mut due) = (vec![0; 0], 0, 0, 0.0);
    abused.resize(usize::try_from(abusers).expect("some"), 0);
    for minute in 0..24 * 60 {
        let now = midnight() + Duration::from_mins(minute);
        due += per_minute;
        while due >= 1.0 {
            due -= 1.0;
            for (abuser, got) in (100..).zip(&mut abused) {
                *got += u64::from(budget.try_spend(of(abuser), now, KEY).is_ok());
            }
        }
        // Two modest ones, each every half hour.
        if minute % 15 == 14 {
            match budget.try_spend(of(minute % 2), now, KEY) {
                Ok(()) => served += 1,
                Err(_) => refused += 1,
            }
        }
    }
    (abused, served, refused)
}

#[test]
fn an_abuser_takes_no_modest_callers_units_and_not_most_of_a_day() {
    // What the bucket gets in a minute.
    let pace = 10_000.0 * EXTRA_SHARE / (24.0 * 60.0);
    for load in [0.5, 1.0, 2.0, 10.0] {
        for abusers in [1, 3] {
            let (abused, served, refused) = day_with_abusers(Use::Extra, abusers, pace * load);
            assert_eq!((served, refused), (96, 0), "{abusers} at {load}");
            let all: u64 = abused.iter().sum();
            assert!(all <= 3000 - 96, "{all}: lookups keep seven tenths");
            assert!(abused.iter().all(|got| *got <= 1000), "{abused:?}");
            if load <= 0.5 {
                assert!(all >= 700, "who asks for little gets it: {all}");
            }
        }
    }
    // Channels that were made up: half at once, and half of what comes.
    for load in [0.5, 1.0, 2.0, 10.0] {
        let pace = 5_000.0 / (24.0 * 60.0);
        let (abused, served, refused) = day_with_abusers(unknown, 1, pace * load);
        assert_eq!((served, refused), (96, 0), "at {load}");
        assert!(abused[0] <= 5000, "{abused:?}");
    }
    let mut budget = Budget::new(10_000, midnight());
    assert_eq!(drain(&mut budget, unknown(1), midnight()), 2500);
    assert_eq!(drain(&mut budget, unknown(2), midnight()), 1250);
    assert_eq!(drain(&mut budget, Use::Extra(1), midnight()), 500);
    assert_eq!(drain(&mut budget, Use::Extra(2), midnight()), 250);
    let (one, other) = (unknown(1), unknown(3));
    let likeliest = |uses: &[Use]| budget.likeliest(uses.iter().copied(), midnight());
    assert_eq!(likeliest(&[one, other, POLL]), Some(other), "who has used less");
    assert_eq!(likeliest(&[POLL, AWAITED, one]), Some(AWAITED));
    // A new day is new for all.
    let tomorrow = midnight() + HOUR * 24;
    assert_eq!(drain(&mut budget, unknown(1), tomorrow), 2500);
    assert_eq!(drain(&mut budget, Use::Extra(1), tomorrow), 500);
}

/// At noon, half of a day's units are ahead of the pace.
#[test]
fn watches_of_made_up_channels_leave_units_for_other_watches() {
    let now = midnight() + HOUR * 12;
    let mut budget = Budget::new(1000, midnight());
    assert_eq!(
        drain(&mut budget, unknown_poll(1), now),
        250,
        "half of what is ahead"
    );
    assert_eq!(drain(&mut budget, unknown_poll(2), now), 125);
    assert_eq!(drain(&mut budget, POLL, now), 125, "all the rest");
    assert_eq!(drain(&mut budget, AWAITED, now), 250);
    // From then on, known channels get all that the pace brings.
    let later = now + HOUR * 6;
    assert_eq!(drain(&mut budget, unknown_poll(1), later), 0);
    assert_eq!(
        drain(&mut budget, POLL, later),
        0,
        "until the callers' part is made up for"
    );
    assert!(budget.is_left(POLL, later, KEY).is_err() && budget.is_left(AWAITED, later, KEY).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked and whenever: no more than the quota; and what callers are due is never spent for polls.
    #[test]
    fn no_day_costs_more_than_the_quota(
        quota in 0_u64..300,
        steps in prop::collection::vec((0_u64..7200, 0_usize..8, 1_u64..40), 0..80),
    ) {
        let (mut budget, mut now) = (Budget::new(quota, midnight()), midnight());
        let mut spent: HashMap<Day, u64> = HashMap::new();
        let mut extra = 0.0;
        for (pause, number, times) in steps {
            now += Duration::from_secs(pause);
            let refresh = Use::Lookup(Purpose::Refresh);
            let uses = [AWAITED, refresh, POLL, unknown(1), unknown(2), Use::Extra(1), Use::Extra(2), unknown_poll(3)];
            let spend_for = uses[number];
            for _ in 0..times {
                if budget.try_spend(spend_for, now, KEY).is_ok() {
                    *spent.entry(Day::of(now)).or_default() += 1;
                    let due = units(quota) * Day::of(now).left(now);
                    let share = if matches!(number, 1 | 2 | 7) { 1.0 } else { AWAITED_SHARE };
                    prop_assert!(units(budget.left()) + 1.0 > due * share);
                    extra += f64::from(u8::from(matches!(spend_for, Use::Extra(_))));
                }
            }
        }
        prop_assert!(spent.values().all(|spent| *spent <= quota));
        let days = now.duration_since(midnight()).unwrap_or_default().div_duration_f64(HOUR * 24);
        prop_assert!(extra <= (units(quota) * EXTRA_BURST).max(1.0) + units(quota) * EXTRA_SHARE * days + 1e-6);
    }
}
