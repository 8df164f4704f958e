use futures_util::future::{BoxFuture, join_all, pending};

use super::*;
use crate::captured_log::CapturedLog;

/// A source that never answers.
struct Hanging;

impl NameSource for Hanging {
    fn resolve<'a>(
        &'a self,
        _name: &'a ChannelName,
        _caller: Caller,
    ) -> BoxFuture<'a, Option<Result<ResolvedChannel, Failure>>> {
        Box::pin(pending())
    }
}

#[tokio::test(start_paused = true)]
async fn an_overload_by_names_is_logged_as_one_of_names() {
    let log = CapturedLog::begin();
    let pace = Pace {
        max_queue_wait: Duration::ZERO,
        ..Pace::default()
    };
    let resolver = Resolver::new(vec![Arc::new(Hanging)], None, pace, 100, Handle::current());
    let callers = (0..=CONCURRENCY.get()).map(|number| {
        let name = format!("@name{number}").parse().expect("a name");
        resolver.resolve(name, Caller::default())
    });
    join_all(callers).await;
    let [begin, end] = &log.lines()[..] else {
        panic!("two lines")
    };
    let expected =
        format!("WARN more names of channels are requested than may be looked up ({CONCURRENCY} at a time, ");
    assert!(begin.starts_with(&expected), "{begin}");
    assert!(
        end.starts_with("INFO names of channels are no longer refused refused=1 "),
        "{end}"
    );
}
