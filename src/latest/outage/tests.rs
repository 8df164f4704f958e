use super::*;
use crate::captured_log::CapturedLog;

const SECOND: Duration = Duration::from_secs(1);

fn channel(number: usize) -> ChannelId {
    format!("UC{number:021}A").parse().expect("valid")
}

mod without_a_canary {
    use super::*;

    #[test]
    fn two_known_channels_that_go_missing_are_an_outage_and_one_is_not() {
        let (outage, now) = (Outage::new(false), Instant::now());
        assert!(!outage.under_way(now));
        outage.record_lookup(channel(1), false, now);
        outage.record_lookup(channel(1), false, now);
        assert!(!outage.under_way(now), "one channel, however often");
        outage.record_lookup(channel(2), false, now);
        assert!(outage.under_way(now));
        assert_eq!(outage.is_outage(now), Some(true));
    }

    #[test]
    fn it_is_logged_when_it_begins_and_when_it_ends_and_of_no_lookup() {
        let log = CapturedLog::begin();
        let _span = tracing::info_span!("lookup").entered();
        let (outage, now) = (Outage::new(false), Instant::now());
        for number in 1..=5 {
            outage.record_lookup(channel(number), false, now);
        }
        let [begin] = &log.lines()[..] else {
            panic!("one line")
        };
        assert_eq!(
            begin,
            "WARN feeds of channels that exist answer 404: a channel never seen counts as unavailable, not as missing missing=2 known=2"
        );
        for number in 1..=5 {
            outage.record_lookup(channel(number), true, now + SECOND);
        }
        assert_eq!(
            log.lines(),
            ["INFO feeds of channels that exist are found again not_found=5 lasted=1s"]
        );
    }

    #[test]
    fn it_ends_when_they_are_found_again() {
        let (outage, now) = (Outage::new(false), Instant::now());
        outage.record_lookup(channel(1), false, now);
        outage.record_lookup(channel(2), false, now);
        outage.record_lookup(channel(1), true, now + SECOND);
        assert!(!outage.under_way(now + SECOND));
    }

    #[test]
    fn it_ends_when_the_window_has_passed_without_lookups() {
        let (outage, now) = (Outage::new(false), Instant::now());
        outage.record_lookup(channel(1), false, now);
        outage.record_lookup(channel(2), false, now + WINDOW / 2);
        assert!(outage.under_way(now + WINDOW / 2));
        assert!(outage.under_way(now + WINDOW.checked_sub(SECOND).expect("longer")));
        assert!(!outage.under_way(now + WINDOW));
    }

    #[test]
    fn a_few_that_are_gone_among_many_are_no_outage() {
        let (outage, now) = (Outage::new(false), Instant::now());
        for number in 0..100 {
            outage.record_lookup(channel(number), true, now);
        }
        for number in 0..19 {
            outage.record_lookup(channel(number), false, now);
            assert!(!outage.under_way(now), "{number}");
        }
        outage.record_lookup(channel(19), false, now);
        assert!(outage.under_way(now), "one in five");
    }

    #[test]
    fn two_deleted_channels_of_ten_are_an_outage_for_ten_minutes_at_most() {
        let (outage, start) = (Outage::new(false), Instant::now());
        let mut now = start;
        let mut held_until = None;
        // Each is looked up every two minutes, for an hour.
        for _ in 0..30 {
            for number in 0..10 {
                now += 12 * SECOND;
                outage.record_lookup(channel(number), number > 1, now);
                if outage.under_way(now) {
                    held_until = Some(now - start);
                }
            }
        }
        let held_until = held_until.expect("the first 404s are not clear");
        assert!(held_until < WINDOW + 24 * SECOND, "{held_until:?}");
        // Found again, they are evidence again.
        for found in [true, false] {
            outage.record_lookup(channel(0), found, now);
            outage.record_lookup(channel(1), found, now);
            assert_eq!(outage.under_way(now), !found);
        }
    }

    #[test]
    fn a_spell_in_which_nothing_is_found_does_not_make_channels_gone() {
        let (outage, start) = (Outage::new(false), Instant::now());
        outage.record_lookup(channel(9), true, start);
        let mut now = start;
        for _ in 0..30 {
            now += Duration::from_mins(5);
            for number in 0..5 {
                outage.record_lookup(channel(number), false, now);
            }
            assert!(outage.under_way(now), "{:?}", now - start);
        }
    }
}

mod with_a_canary {
    use super::*;

    /// Those that were found before, and those that answer 404, all at one moment.
    fn after(found: usize, missing: usize) -> (Outage, Instant) {
        let (outage, start) = (Outage::new(true), Instant::now());
        for number in 0..found {
            outage.record_lookup(channel(number), true, start);
        }
        for number in found..found + missing {
            outage.record_lookup(channel(number), false, start + SECOND);
        }
        (outage, start + SECOND)
    }

    #[test]
    fn what_nothing_is_known_of_is_in_doubt() {
        let (outage, now) = after(0, 0);
        assert_eq!((outage.is_outage(now), outage.under_way(now)), (None, false));
        let (outage, now) = after(0, 1);
        assert_eq!(outage.is_outage(now), None, "one known channel of one");
        let (outage, now) = after(5, 1);
        assert_eq!(outage.is_outage(now), None, "deleted, or the first of many");
    }

    #[test]
    fn all_is_well_while_the_last_known_channel_was_found() {
        let (outage, now) = after(1, 0);
        assert_eq!(outage.is_outage(now), Some(false));
        let long = WINDOW.checked_sub(SECOND).expect("longer");
        // It was found a second before.
        assert_eq!(
            outage.is_outage(now + long.checked_sub(SECOND).expect("longer")),
            Some(false)
        );
        assert_eq!(outage.is_outage(now + long), None, "that was too long ago");
        // Found after another was not.
        let (outage, now) = after(5, 1);
        outage.record_lookup(channel(0), true, now + SECOND);
        assert_eq!(outage.is_outage(now + SECOND), Some(false));
    }

    #[test]
    fn half_of_the_known_channels_and_two_at_least_are_an_outage() {
        for (found, missing, expected) in [(0, 2, Some(true)), (2, 2, Some(true)), (3, 2, None), (1, 1, None)]
        {
            let (outage, now) = after(found, missing);
            assert_eq!(
                outage.is_outage(now),
                expected,
                "{found} found, {missing} missing"
            );
            assert_eq!(outage.under_way(now), expected == Some(true));
        }
    }

    #[test]
    fn a_contradiction_is_in_doubt() {
        let (outage, now) = after(0, 4);
        outage.record_lookup(channel(9), true, now + SECOND);
        assert_eq!(outage.is_outage(now + SECOND), None);
        assert!(outage.under_way(now + SECOND), "what held before holds on");
        outage.record_verdict(Verdict::Found, now + SECOND * 2);
        assert!(!outage.under_way(now + SECOND * 2));
    }

    #[test]
    fn a_verdict_holds_for_a_minute() {
        for (verdict, expected) in [
            (Verdict::Failed, Some(true)),
            (Verdict::NotFound, Some(true)),
            (Verdict::Found, Some(false)),
        ] {
            let (outage, now) = after(0, 0);
            outage.record_verdict(verdict, now);
            let last = now + VERDICT_FOR;
            let before = now + VERDICT_FOR.checked_sub(SECOND).expect("longer");
            assert_eq!(outage.is_outage(before), expected, "{verdict:?}");
            // One that was found is a channel that was found.
            let later = (verdict == Verdict::Found).then_some(false);
            assert_eq!(outage.is_outage(last), later, "{verdict:?}");
            // Callers and the metric see an outage until there is other evidence.
            assert_eq!(outage.under_way(last), expected == Some(true), "{verdict:?}");
            assert!(!outage.under_way(now + WINDOW), "{verdict:?}");
        }
    }

    #[test]
    fn a_channel_found_after_the_canary_was_not_ends_the_outage() {
        let (outage, now) = after(1, 0);
        outage.record_verdict(Verdict::NotFound, now);
        assert_eq!(outage.is_outage(now + SECOND), Some(true));
        outage.record_lookup(channel(0), true, now + SECOND * 2);
        assert_eq!(outage.is_outage(now + SECOND * 2), Some(false));
        assert!(!outage.under_way(now + SECOND * 2));
    }

    #[test]
    fn a_channel_that_is_missing_while_the_canary_is_found_is_gone_at_once() {
        let (outage, now) = after(0, 1);
        outage.record_verdict(Verdict::Found, now + SECOND);
        assert_eq!(outage.is_outage(now + SECOND), Some(false));
        // It goes on answering 404, which says nothing about others.
        let later = now + VERDICT_FOR * 2;
        outage.record_lookup(channel(0), false, later);
        assert_eq!(outage.is_outage(later), Some(false));
        // Nor is it one of two.
        outage.record_lookup(channel(1), false, later);
        assert_eq!(outage.is_outage(later), None);
        // Found again, it is evidence again.
        outage.record_lookup(channel(0), true, later + SECOND);
        outage.record_lookup(channel(0), false, later + SECOND * 2);
        assert_eq!(outage.is_outage(later + SECOND * 2), Some(true));
    }

    #[test]
    fn two_deleted_channels_make_no_outage_that_never_ends() {
        // They are all that is known, and go missing together.
        let (outage, start) = after(0, 2);
        let (mut now, mut lookups) = (start, 0);
        while now < start + Duration::from_hours(2) {
            now += Duration::from_mins(1);
            outage.record_lookup(channel(0), false, now);
            outage.record_lookup(channel(1), false, now);
            if outage.is_outage(now).is_none() {
                lookups += 1;
                outage.record_verdict(Verdict::Found, now);
            }
            let is_clear = now < start + WINDOW;
            assert_eq!(outage.under_way(now), is_clear, "{:?}", now - start);
        }
        // What was found says so for ten minutes.
        assert!((10..=12).contains(&lookups), "{lookups}");
    }

    #[test]
    fn an_outage_goes_on_for_as_long_as_the_canary_is_not_found() {
        let (outage, start) = after(0, 3);
        let mut now = start;
        while now < start + Duration::from_hours(2) {
            now += Duration::from_mins(1);
            for number in 0..3 {
                outage.record_lookup(channel(number), false, now);
            }
            if outage.is_outage(now).is_none() {
                outage.record_verdict(Verdict::NotFound, now);
            }
            assert!(outage.under_way(now), "{:?}", now - start);
        }
    }
}

#[test]
fn memory_is_bounded() {
    let (outage, now) = (Outage::new(false), Instant::now());
    let fill = |missing_since| {
        let mut recent = outage.recent.lock();
        recent.lookups.clear();
        for number in 0..REMEMBERED {
            let lookup = Lookup {
                at: now,
                missing_since,
            };
            recent.lookups.insert(channel(number), lookup);
        }
    };
    let remembered = || outage.recent.lock().lookups.len();
    for missing_since in [None, Some(now)] {
        fill(missing_since);
        outage.record_lookup(channel(REMEMBERED + 1), true, now);
        assert_eq!(remembered(), REMEMBERED);
        // What is too old makes room.
        outage.record_lookup(channel(REMEMBERED + 1), true, now + WINDOW);
        assert_eq!(remembered(), 1);
    }
}
