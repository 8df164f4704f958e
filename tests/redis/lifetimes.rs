//! Lifetimes of keys, read from the server.

use super::*;

const MINUTE: Duration = Duration::from_mins(1);
const WEEK: Duration = Duration::from_hours(7 * 24);

/// More than a busy machine takes between a command and the check of its effect.
const SLACK: Duration = Duration::from_secs(5);

/// The remaining lifetime of [`feed`]'s hash. `None`: there is none.
fn lives(server: &Server) -> Option<Duration> {
    match server.command::<i64>(&["PTTL", KEY]) {
        -2 => None,
        -1 => panic!("it does not expire"),
        left => Some(Duration::from_millis(left.unsigned_abs())),
    }
}

fn assert_lives(server: &Server, expected: Duration) {
    let lives = lives(server).expect("it is there");
    assert!(
        lives <= expected && lives + SLACK > expected,
        "it lives for {lives:?} and not {expected:?}"
    );
}

/// Lets time pass at the server, and nowhere else.
fn pass(server: &Server, time: Duration) {
    let left = lives(server).expect("it is there").checked_sub(time);
    let left = left.expect("it is there then").as_millis().to_string();
    let () = server.command(&["PEXPIRE", KEY, &left]);
}

async fn gone(server: &Server) {
    soon(async {
        while lives(server).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn age(store: &Redis) -> Duration {
    let known = store.load(feed()).await.expect("something");
    known.success.expect("a success").age(clock::now())
}

#[tokio::test]
async fn a_lease_that_nothing_came_of_leaves_nothing_behind() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    let held = acquire_lease(&store).await;
    // While it is renewed, its token is remembered.
    let began = Instant::now();
    while began.elapsed() < LEASE * 3 {
        let lives = lives(&server).expect("it is there");
        assert!(lives > LEASE / 2 && lives <= LEASE * 2, "{lives:?}");
        tokio::task::yield_now().await;
    }
    drop(held);
    gone(&server).await;
    assert!(began.elapsed() < LEASE * 3 + LEASE * 2 + SLACK);
}

#[tokio::test]
async fn a_failure_is_kept_for_twice_its_pause_and_for_15_minutes_at_most() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    for error in [
        UpstreamError::NotFound,
        UpstreamError::Outage,
        UpstreamError::Unreachable("reset".into()),
    ] {
        for (pause, lifetime) in [(30, 60), (300, 600), (900, 900), (7200, 900)] {
            let () = server.command(&["FLUSHALL"]);
            let known = failed(error.clone(), SECOND * pause);
            let held = acquire_lease(&store).await;
            assert!(store.save(feed(), &known, Lease::Acquired(held)).await);
            assert_lives(&server, SECOND * lifetime);
            let loaded = store.load(feed()).await.expect("it").failure.expect("a failure");
            assert_eq!((&loaded.error, loaded.streak), (&error, 1));
        }
    }
}

#[tokio::test]
async fn a_failure_that_is_about_to_expire_keeps_its_age_when_a_lease_is_given() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    store
        .save(
            feed(),
            &failed(UpstreamError::NotFound, MINUTE),
            Lease::Uncoordinated,
        )
        .await;
    // Half of a lease is left of its two minutes.
    let () = server.command(&["PEXPIRE", KEY, &(LEASE / 2).as_millis().to_string()]);
    let held = acquire_lease(&store).await;
    let lives = lives(&server).expect("it is there");
    assert!(lives > LEASE, "the token is forgotten after {lives:?}");
    let known = store
        .load(feed())
        .await
        .expect("something")
        .failure
        .expect("a failure");
    let age = clock::now() - known.at;
    assert!(age + LEASE > MINUTE * 2 && age < MINUTE * 2 + SLACK, "{age:?}");
    drop(held);
    gone(&server).await;
}

#[tokio::test]
async fn a_good_answer_is_kept_for_a_week_from_its_last_save_and_its_age_stays_right() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    store
        .save(feed(), &found("here", Duration::ZERO), Lease::Uncoordinated)
        .await;
    assert_lives(&server, WEEK);
    pass(&server, MINUTE * 60);
    // Neither a lease nor its renewal changes that.
    let held = acquire_lease(&store).await;
    let end = held_elsewhere(&store).await;
    timeout(LEASE, end).await.expect_err("still held");
    assert_lives(&server, WEEK.saturating_sub(MINUTE * 60));
    let age = age(&store).await;
    assert!(age >= MINUTE * 60 && age < MINUTE * 60 + SLACK, "{age:?}");
    // A later failure is saved beside it.
    let mut known = store.load(feed()).await.expect("something");
    known.failure = failed(UpstreamError::Status(503), SECOND).failure;
    assert!(store.save(feed(), &known, Lease::Acquired(held)).await);
    assert_lives(&server, WEEK);
}

#[tokio::test]
async fn a_failure_of_a_replica_that_did_not_know_the_answer_does_not_shorten_its_life() {
    let server = Server::start(&[]);
    let (one, other) = (store(&server.url()).await, store(&server.url()).await);
    one.save(feed(), &found("here", Duration::ZERO), Lease::Uncoordinated)
        .await;
    pass(&server, MINUTE);
    let held = acquire_lease(&other).await;
    let end = held_elsewhere(&one).await;
    let unknown = failed(UpstreamError::NotFound, SECOND);
    assert!(other.save(feed(), &unknown, Lease::Acquired(held)).await);
    // No one waits for it any longer.
    soon(end).await;
    assert_lives(&server, WEEK.saturating_sub(MINUTE));
    pass(&server, SECOND * 30);
    let known = one.load(feed()).await.expect("something");
    assert_eq!(title(&known), "here");
    let failure = known.failure.expect("the failure is beside it");
    let age = |at| clock::now() - at;
    let ages = [age(known.success.expect("a success").at), age(failure.at)];
    for (age, expected) in ages.into_iter().zip([90, 30]) {
        assert!(
            age >= SECOND * expected && age < SECOND * expected + SLACK,
            "{ages:?}"
        );
    }
    // The next save has both.
    one.save(feed(), &found("newer", Duration::ZERO), Lease::Uncoordinated)
        .await;
    let known = other.load(feed()).await.expect("something");
    assert_eq!((title(&known), known.failure.is_some()), ("newer", false));
    drop(acquire_lease(&one).await);
    // A success replaces a failure, and has its own lifetime.
    let () = server.command(&["FLUSHALL"]);
    assert!(other.save(feed(), &unknown, Lease::Uncoordinated).await);
    assert!(
        one.save(feed(), &found("new", Duration::ZERO), Lease::Uncoordinated)
            .await
    );
    assert_lives(&server, WEEK);
    assert_eq!(loaded(&other).await.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_late_holder_replaces_nothing_newer_after_all_of_the_feed_has_expired() {
    let server = Server::start(&[]);
    let (one, other) = (store(&server.url()).await, store(&server.url()).await);
    let late = acquire_lease(&one).await;
    // It is frozen: its lease and its token expire.
    let () = server.command(&["DEL", KEY, &format!("{KEY}:lease")]);
    // Tokens are in milliseconds.
    let now = || server.command::<(u64, u64)>(&["TIME"]);
    while let (seconds, micros) = now()
        && seconds * 1000 + micros / 1000 <= late.token
    {}
    let held = acquire_lease(&other).await;
    assert!(held.token > late.token, "a time is greater than an earlier one");
    let saved = other
        .save(
            feed(),
            &failed(UpstreamError::NotFound, MINUTE),
            Lease::Acquired(held),
        )
        .await;
    assert!(saved);
    let kept = one
        .save(feed(), &found("late", MINUTE), Lease::Acquired(late))
        .await;
    assert!(!kept, "a failure that is newer was replaced");
    assert_eq!(
        other
            .load(feed())
            .await
            .expect("it")
            .failure
            .expect("a failure")
            .error,
        UpstreamError::NotFound
    );
}
