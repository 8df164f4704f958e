use proptest::prelude::*;

use super::*;

/// Numbers at and near the limits.
fn seconds() -> impl Strategy<Value = i64> {
    let ends = [
        i64::MIN,
        -1,
        0,
        i64::MAX,
        YEARS_1_TO_9999.start,
        YEARS_1_TO_9999.end,
    ];
    let near = (proptest::sample::select(ends.to_vec()), -2..3_i64);
    prop_oneof![any::<i64>(), near.prop_map(|(end, off)| end.saturating_add(off))]
}

fn nanos() -> impl Strategy<Value = i32> {
    let ends = [i32::MIN, -1, 0, 999_999_999, 1_000_000_000, i32::MAX];
    prop_oneof![
        any::<i32>(),
        0..1_000_000_000,
        proptest::sample::select(ends.to_vec())
    ]
}

proptest! {
    #[test]
    fn any_max_age_is_taken_as_it_is_or_refused(seconds in seconds(), nanos in nanos()) {
        let valid = seconds >= 0 && (0..1_000_000_000).contains(&nanos);
        match max_age(prost_types::Duration { seconds, nanos }) {
            Ok(age) => prop_assert!(
                valid && i128::from(age.as_secs()) == seconds.into() && i128::from(age.subsec_nanos()) == nanos.into()
            ),
            Err(error) => prop_assert!(!valid && matches!(error, RequestError::InvalidMaxAge)),
        }
    }

    #[test]
    fn any_published_after_is_taken_as_it_is_or_refused(seconds in seconds(), nanos in nanos()) {
        let valid = YEARS_1_TO_9999.contains(&seconds) && (0..1_000_000_000).contains(&nanos);
        let given = prost_types::Timestamp { seconds, nanos };
        match published_after(given) {
            Ok(time) => prop_assert!(valid && prost_types::Timestamp::from(time) == given),
            Err(error) => prop_assert!(!valid && matches!(error, RequestError::InvalidPublishedAfter)),
        }
    }
}
