//! When a call that failed is worth another try, and how long to wait for it.

use std::{error::Error, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt as _;

use super::tls;
use crate::{cause::innermost, grpc::PUSHBACK};

/// Between the tries of a call that somebody waits for. Jitter adds as much again at most.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(SHORTEST)
    .with_max_delay(Duration::from_secs(2))
    .without_max_times()
    .with_jitter();

/// The shortest pause, even if a server asks for none: whatever is wrong with it, we do not come a thousand times a second.
const SHORTEST: Duration = Duration::from_millis(100);

/// Makes a call until it succeeds, or fails for good, or `limit` is over for all its tries together. Each gets the time that is
/// left.
pub(in crate::cli) async fn within<T>(
    limit: Duration,
    call: impl AsyncFn(Duration) -> Result<T, Status>,
) -> Result<T, Status> {
    let deadline = Instant::now() + limit;
    let mut pauses = PAUSES.build();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // tonic's own limit does not count the time in which it connects anew.
        let failed = match timeout_at(deadline, call(left)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => status,
            Err(_elapsed) => return Err(too_late(limit)),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match pause(&failed, &mut pauses, may_pass) {
            Some(pause) if pause < left => sleep(pause).await,
            _ => return Err(failed),
        }
    }
}

/// What a call ends with that has had no answer within `limit`.
pub(in crate::cli) fn too_late(limit: Duration) -> Status {
    let limit = humantime::format_duration(limit);
    Status::deadline_exceeded(format!("no answer within {limit}"))
}

/// Whether a failure may be over the next time; `asked`: the server says when that would be.
fn may_pass(code: Code, asked: bool) -> bool {
    match code {
        Code::Unavailable => true,
        Code::ResourceExhausted => asked,
        _ => false,
    }
}

/// How long to wait before another try, if `may_pass` says that one may succeed: as long as the server asks for, or the next of
/// `pauses`.
pub(in crate::cli) fn pause(
    status: &Status,
    pauses: &mut impl Iterator<Item = Duration>,
    may_pass: fn(Code, bool) -> bool,
) -> Option<Duration> {
    let code = match lost(status) {
        Some(cause) if cause.is::<tls::Refused>() => return None,
        Some(_) => Code::Unavailable,
        None => status.code(),
    };
    let asked = pushback(status).ok()?;
    let pause = may_pass(code, asked.is_some()).then(|| asked.or_else(|| pauses.next()))?;
    pause.map(|pause| pause.max(SHORTEST))
}

/// The server wants no other try.
struct Never;

/// How long the server asks us to wait, if it says so.
fn pushback(status: &Status) -> Result<Option<Duration>, Never> {
    let Some(value) = status.metadata().get(PUSHBACK) else {
        let details = status.get_error_details();
        return Ok(details.retry_info().and_then(|info| info.retry_delay));
    };
    // Whatever is no number from 0 means never: gRFC A6.
    let milliseconds = value.to_str().ok().and_then(|text| text.parse().ok());
    milliseconds.map(Duration::from_millis).map(Some).ok_or(Never)
}

/// What a connection died of, or why there is none, if that is what a status tells of.
///
/// tonic makes a status of every error of its own, with codes that vary. Those that a server sends have no source.
pub(in crate::cli) fn lost(status: &Status) -> Option<&(dyn Error + 'static)> {
    let cause = innermost(status.source()?);
    (!cause.is::<TimeoutExpired>()).then_some(cause)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending, io};

    use tonic::metadata::MetadataValue;
    use tonic_types::ErrorDetails;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(15);

    /// What a call came to that fails as `failures` say and then succeeds: its outcome, the time it took, and the time that
    /// each try had.
    async fn tried(failures: Vec<Status>) -> (Result<(), Code>, Duration, Vec<Duration>) {
        let (script, left) = (RefCell::new(failures.into_iter()), RefCell::new(Vec::new()));
        let began = Instant::now();
        let outcome = within(LIMIT, async |time| {
            left.borrow_mut().push(time);
            script.borrow_mut().next().map_or(Ok(()), Err)
        });
        let outcome = outcome.await.map_err(|status| status.code());
        (outcome, began.elapsed(), left.into_inner())
    }

    fn pushed_back(code: Code, by: &str) -> Status {
        let mut status = Status::new(code, "");
        let value = MetadataValue::try_from(by).expect("ASCII");
        status.metadata_mut().insert(PUSHBACK, value);
        status
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_fails_for_a_moment_is_tried_again_ever_later() {
        let (outcome, took, left) = tried(vec![
            Status::unavailable(""),
            // As tonic tells of a connection that breaks.
            Status::from_error(Box::new(io::Error::from(io::ErrorKind::BrokenPipe))),
            Status::unavailable(""),
        ])
        .await;
        assert_eq!(outcome, Ok(()));
        let least = Duration::from_millis(100 + 200 + 400);
        assert!(
            (least..least * 2 + Duration::from_millis(3)).contains(&took),
            "{took:?}"
        );
        assert_eq!(left.len(), 4);
        assert_eq!(left[0], LIMIT);
        assert_eq!(left[3] + took, LIMIT, "all tries share the time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_says_when_to_come_again() {
        let pause = Duration::from_millis(1500);
        let details = ErrorDetails::with_retry_info(Some(pause));
        for code in [Code::Unavailable, Code::ResourceExhausted] {
            for status in [
                pushed_back(code, "1500"),
                Status::with_error_details(code, "", details.clone()),
            ] {
                let (outcome, took, _) = tried(vec![status]).await;
                assert_eq!((outcome, took), (Ok(()), pause));
            }
        }
        let (outcome, took, _) = tried(vec![pushed_back(Code::Unavailable, "0")]).await;
        assert_eq!((outcome, took), (Ok(()), SHORTEST));
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_try_would_not_mend_is_told_at_once() {
        let refused = tls::Refused {
            cause: String::new(),
            advice: "",
        };
        for status in [
            Status::from_error(Box::new(refused)),
            Status::resource_exhausted(""),
            Status::deadline_exceeded(""),
            Status::invalid_argument(""),
            Status::internal(""),
            pushed_back(Code::InvalidArgument, "10"),
            pushed_back(Code::Unavailable, "-1"),
            pushed_back(Code::Unavailable, "soon"),
            // Later than there is time for.
            pushed_back(Code::Unavailable, "15000"),
        ] {
            let code = status.code();
            let (outcome, took, left) = tried(vec![status]).await;
            assert_eq!((outcome, took, left.len()), (Err(code), Duration::ZERO, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_tries_end_in_time() {
        let (outcome, took, left) = tried(vec![Status::unavailable(""); 1000]).await;
        assert_eq!(outcome, Err(Code::Unavailable));
        assert!(took < LIMIT && left.len() > 5, "{left:?}");

        let began = Instant::now();
        let outcome: Result<(), _> = within(LIMIT, async |_| pending().await).await;
        let status = outcome.expect_err("too late");
        assert_eq!(
            (status.code(), status.message()),
            (Code::DeadlineExceeded, "no answer within 15s")
        );
        assert_eq!(began.elapsed(), LIMIT);
    }
}
