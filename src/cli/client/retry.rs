//! When to retry a failed call, and after which pause.

use std::{error::Error, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt as _;

use super::tls;
use crate::{cause::innermost, grpc::PUSHBACK, proto::v1::LookupFailure};

/// The pauses between attempts. Jitter adds up to as much again.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(MIN_PAUSE)
    .with_max_delay(Duration::from_secs(2))
    .without_max_times()
    .with_jitter();

/// The shortest pause, even if a server asks for none, to protect a server that fails.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Makes a call, with retries, until it succeeds, fails permanently, or `limit` has passed since `began`. Each attempt gets the remaining
/// time. `Err(None)`: the first attempt had no answer within that.
pub(in crate::cli) async fn with_retries<T>(
    began: Instant,
    limit: Duration,
    mut call: impl AsyncFnMut(Duration) -> Result<T, Status>,
) -> Result<T, Option<Status>> {
    let deadline = began + limit;
    let mut pauses = PAUSES.build();
    let mut before = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // tonic's own limit does not include the time to reconnect.
        let failed = match timeout_at(deadline, call(left)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) if !is_late(&status) => status,
            // It would hide why the attempt before failed. tonic's own limit may be over before this one.
            Ok(Err(_)) | Err(_) => return Err(before),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match pause(&failed, &mut pauses, is_transient) {
            Some(pause) if pause < left => sleep(pause).await,
            _ => return Err(Some(failed)),
        }
        before = Some(failed);
    }
}

fn is_late(status: &Status) -> bool {
    status
        .source()
        .is_some_and(|source| innermost(source).is::<TimeoutExpired>())
}

/// Whether the failure of one channel of a batch may be temporary.
pub(in crate::cli) fn is_transient_failure(failure: &LookupFailure) -> bool {
    is_transient(failure.code.into(), failure.retry_after.is_some())
}

/// Whether a failure may be temporary; `asked`: the server says when to retry.
fn is_transient(code: Code, asked: bool) -> bool {
    match code {
        Code::Unavailable => true,
        Code::ResourceExhausted => asked,
        _ => false,
    }
}

/// The pause before a retry: what the server asks for, or the next of `pauses`. `None` if `is_transient` says that a retry would not help.
pub(in crate::cli) fn pause(
    status: &Status,
    pauses: &mut impl Iterator<Item = Duration>,
    is_transient: fn(Code, bool) -> bool,
) -> Option<Duration> {
    let code = match connection_error(status) {
        Some(cause) if cause.is::<tls::Refused>() => return None,
        Some(_) => Code::Unavailable,
        None => status.code(),
    };
    let asked = pushback(status).ok()?;
    let pause = is_transient(code, asked.is_some()).then(|| asked.or_else(|| pauses.next()))?;
    pause.map(|pause| pause.max(MIN_PAUSE))
}

/// The server forbids retries.
struct RetryForbidden;

/// The pause that the server asks for.
fn pushback(status: &Status) -> Result<Option<Duration>, RetryForbidden> {
    let Some(value) = status.metadata().get(PUSHBACK) else {
        let details = status.get_error_details();
        return Ok(details.retry_info().and_then(|info| info.retry_delay));
    };
    // Anything but a number from 0 means never (gRFC A6).
    let milliseconds = value.to_str().ok().and_then(|text| text.parse().ok());
    milliseconds
        .map(Duration::from_millis)
        .map(Some)
        .ok_or(RetryForbidden)
}

/// The error of a connection, if that caused the status.
///
/// tonic turns each of its own errors into a status, with varying codes. A status sent by a server has no source.
pub(in crate::cli) fn connection_error(status: &Status) -> Option<&(dyn Error + 'static)> {
    let cause = innermost(status.source()?);
    (!cause.is::<TimeoutExpired>()).then_some(cause)
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        future::pending,
        io,
    };

    use tonic::metadata::MetadataValue;
    use tonic_types::ErrorDetails;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(15);

    /// Makes a call that fails with `failures` and then succeeds. Returns its outcome, its duration, and the time limit of each attempt.
    async fn tried(failures: Vec<Status>) -> (Result<(), Option<Code>>, Duration, Vec<Duration>) {
        let (script, left) = (RefCell::new(failures.into_iter()), RefCell::new(Vec::new()));
        let began = Instant::now();
        let outcome = with_retries(began, LIMIT, async |time| {
            left.borrow_mut().push(time);
            script.borrow_mut().next().map_or(Ok(()), Err)
        });
        let outcome = outcome.await.map_err(|failed| failed.map(|status| status.code()));
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
            // As tonic reports a broken connection.
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
        assert_eq!((outcome, took), (Ok(()), MIN_PAUSE));
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
            // Later than the time limit.
            pushed_back(Code::Unavailable, "15000"),
        ] {
            let code = status.code();
            let (outcome, took, left) = tried(vec![status]).await;
            assert_eq!((outcome, took, left.len()), (Err(Some(code)), Duration::ZERO, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_tries_end_in_time() {
        let (outcome, took, left) = tried(vec![Status::unavailable(""); 1000]).await;
        assert_eq!(outcome, Err(Some(Code::Unavailable)));
        assert!(took < LIMIT && left.len() > 5, "{left:?}");

        let began = Instant::now();
        let outcome: Result<(), _> = with_retries(began, LIMIT, async |_| pending().await).await;
        assert!(outcome.expect_err("too late").is_none());
        assert_eq!(began.elapsed(), LIMIT);

        // A later attempt that gets no answer does not hide why the first one failed.
        let first = Cell::new(true);
        let outcome: Result<(), _> = with_retries(Instant::now(), LIMIT, async |_| {
            if first.take() {
                return Err(Status::unavailable("first"));
            }
            pending().await
        })
        .await;
        let failed = outcome.expect_err("too late").expect("an attempt failed");
        assert_eq!(failed.message(), "first");
    }
}
