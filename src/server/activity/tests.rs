use std::num::NonZeroUsize;

use super::*;

fn limits(calls: usize) -> grpc::Limits {
    grpc::Limits {
        at_once: NonZeroUsize::new(calls).expect("at least one"),
        ..grpc::Limits::default()
    }
}

fn connection(metrics: &Arc<ServerMetrics>) -> Arc<Activity> {
    Activity::new(Arc::clone(metrics), Arc::default(), false)
}

/// Starts `wanted` health watches, and returns those that were admitted.
fn watches(connection: &Activity, wanted: usize) -> Vec<CallClass> {
    let admitted = (0..wanted).map(|_| connection.start_call(Method::HealthWatch, limits(1)));
    let (admitted, rejected): (Vec<_>, Vec<_>) = admitted.partition(Result::is_ok);
    let rejection = Err(CallError::TooManyHealthWatches(FURTHER_HEALTH_WATCHES));
    assert!(rejected.iter().all(|rejected| *rejected == rejection));
    admitted.into_iter().flatten().collect()
}

#[test]
fn health_watches_are_bounded_and_every_connection_gets_its_first() {
    for wanted in [1, 2, 4, 20].map(|times| FURTHER_HEALTH_WATCHES / 2 * times) {
        let metrics = Arc::new(ServerMetrics::default());
        let greedy: Vec<_> = (0..5).map(|_| connection(&metrics)).collect();
        let admitted: Vec<_> = greedy.iter().map(|one| watches(one, wanted / 5)).collect();
        let all: usize = admitted.iter().map(Vec::len).sum();
        assert!(all <= FURTHER_HEALTH_WATCHES + greedy.len(), "{all} of {wanted}");
        if wanted <= FURTHER_HEALTH_WATCHES / 2 {
            assert_eq!(all, wanted);
        } else {
            assert!(all > FURTHER_HEALTH_WATCHES / 2, "{all} of {wanted}");
        }
        // Some are left for connections that come later.
        let late = connection(&metrics);
        assert!(watches(&late, 3).len() > 1, "{wanted}");
        for (connection, admitted) in greedy.iter().zip(admitted) {
            for admitted in admitted {
                connection.end_call(admitted);
            }
        }
        let alone = connection(&metrics);
        assert!(watches(&alone, FURTHER_HEALTH_WATCHES).len() >= FURTHER_HEALTH_WATCHES / 2 - 1);
    }
}

#[test]
fn a_first_watch_is_admitted_when_all_further_ones_are_in_use() {
    let metrics = Arc::new(ServerMetrics::default());
    let all: Vec<_> = (0..2 * FURTHER_HEALTH_WATCHES)
        .map(|_| connection(&metrics))
        .collect();
    let admitted: usize = all.iter().map(|one| watches(one, 2).len()).sum();
    assert_eq!(admitted, all.len() + FURTHER_HEALTH_WATCHES);
    assert_eq!(watches(&connection(&metrics), 2), [CallClass::HealthWatch]);
}

#[test]
fn an_overloaded_server_answers_a_bounded_number_of_health_checks() {
    let metrics = Arc::new(ServerMetrics::default());
    let connection = connection(&metrics);
    let call = connection.start_call(Method::GetLatestVideo, limits(1));
    let rejection = Err(CallError::TooManyCalls(1));
    assert_eq!(
        connection.start_call(Method::GetLatestVideo, limits(1)),
        rejection
    );
    let mut checks = vec![];
    for _ in 0..HEALTH_CALLS {
        checks.push(connection.start_call(Method::HealthCheck, limits(1)));
    }
    assert!(checks.iter().all(Result::is_ok), "{checks:?}");
    assert_eq!(connection.start_call(Method::HealthCheck, limits(1)), rejection);
    assert_eq!(metrics.calls(), 1 + HEALTH_CALLS);
    for admitted in checks.into_iter().chain([call]).flatten() {
        connection.end_call(admitted);
    }
    assert_eq!(metrics.calls(), 0);
    assert!(connection.start_call(Method::HealthCheck, limits(1)).is_ok());
}

#[test]
fn a_probe_connection_accepts_only_health_checks() {
    let metrics = Arc::new(ServerMetrics::default());
    let connection = Activity::new(Arc::clone(&metrics), Arc::default(), true);
    assert!(connection.start_call(Method::HealthCheck, limits(1)).is_ok());
    for method in [Method::GetLatestVideo, Method::HealthWatch, Method::Reflection] {
        assert_eq!(
            connection.start_call(method, limits(9)),
            Err(CallError::TooManyConnections)
        );
    }
    assert_eq!(metrics.calls(), 1);
}
