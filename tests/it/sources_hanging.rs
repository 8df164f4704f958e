//! Sources that hang: a caller who can be given the last success is given it in time, however many there are.

use std::{sync::Arc, time::Duration};

use plaque::{
    latest::Latest,
    upstream::{Caller, Fallback, Upstream},
    video::Source,
};
use tokio::{runtime::Handle, time::Instant};

use crate::stores::{Fake, anew, found, settings};

/// The limit of a source that has others behind it.
const FEED: Duration = Duration::from_secs(2);

const MARGIN: Duration = Duration::from_millis(50);

/// A source that answers so many lookups, and then hangs.
fn hangs(after: usize, limit: Duration) -> Arc<Fake> {
    Arc::new(Fake::with(found, after, limit))
}

/// What a caller with this deadline gets of a known channel while all of the sources hang, and when.
async fn answer(others: &[Arc<Fake>], feed: Duration, deadline: Duration) -> Duration {
    let fallbacks = others.iter().map(|fake| Fallback {
        source: Source::Mirror,
        upstream: Arc::clone(fake) as Arc<dyn Upstream>,
    });
    let feed = hangs(1, feed);
    let (fallbacks, runtime) = (fallbacks.collect(), Handle::current());
    let latest = Latest::with_fallbacks(feed, fallbacks, None, settings(), runtime);
    assert!(latest.get(anew()).await.outcome.is_ok());
    let began = Instant::now();
    let caller = || Caller {
        deadline: Some(began + deadline),
        ..Caller::default()
    };
    let reply = latest.get_for(anew(), &caller).await;
    assert_eq!(
        reply.outcome.expect("the last success").channel().title(),
        "lookup 1"
    );
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn all_other_sources_together_are_waited_for_as_long_as_one() {
    for count in 1..=5 {
        let others = [(); 5].map(|()| hangs(0, Duration::from_secs(10)));
        let took = answer(&others[..count], FEED, Duration::from_secs(30)).await;
        let expected = Duration::from_secs(4)..Duration::from_millis(4_100);
        assert!(expected.contains(&took), "{took:?} {count}");
        for (index, other) in others.iter().enumerate() {
            assert_eq!(
                other.lookups(),
                usize::from(index < count),
                "each may have the answer"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_success_is_given_before_the_deadline_of_the_caller() {
    for (limit, deadline) in
        [(2, 5), (2, 3), (2, 1), (60, 5)].map(|pair| (pair.0, Duration::from_secs(pair.1)))
    {
        let others = [(); 2].map(|()| hangs(0, Duration::from_secs(10)));
        let took = answer(&others, Duration::from_secs(limit), deadline).await;
        assert!(took + MARGIN <= deadline, "{took:?} of {deadline:?}");
    }
    // Also without other sources.
    let took = answer(&[], Duration::from_mins(1), Duration::from_secs(5)).await;
    assert_eq!(took + MARGIN, Duration::from_secs(5));
}
