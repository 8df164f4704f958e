use futures_util::FutureExt as _;

use super::*;

#[test]
fn a_connection_goes_to_the_worker_with_the_fewest_that_is_not_stalled() {
    assert_eq!(
        least_loaded([(false, 3), (false, 2), (false, 4)].into_iter()),
        Some(1)
    );
    assert_eq!(
        least_loaded([(false, 3), (true, 0), (false, 4)].into_iter()),
        Some(0)
    );
    assert_eq!(least_loaded([(true, 3), (true, 2)].into_iter()), Some(1));
    assert_eq!(least_loaded([].into_iter()), None);
}

#[test]
fn a_worker_is_stalled_when_it_takes_nothing_for_long() {
    let (handover, now) = (Handover::new(), Instant::now());
    assert!(!handover.is_stalled(now + STALL_TIMEOUT));
    handover.push(1, now);
    handover.push(2, now + STALL_TIMEOUT);
    assert!(!handover.is_stalled(now + STALL_TIMEOUT / 2));
    assert!(handover.is_stalled(now + STALL_TIMEOUT));
    assert_eq!(handover.next().now_or_never(), Some(Some(1)));
    assert!(!handover.is_stalled(now + STALL_TIMEOUT));
    assert_eq!(handover.take_all().collect::<Vec<_>>(), [2]);
    assert!(handover.is_empty() && handover.is_stalled(now));
    // It asks for more.
    assert_eq!(handover.next().now_or_never(), None);
    assert!(!handover.is_stalled(now));
    handover.close();
    assert_eq!(handover.next().now_or_never(), Some(None));
}
