use std::{iter, ops::Range};

use futures_util::{FutureExt as _, future::join_all};
use tokio::{sync::Semaphore, time::Instant};

use super::*;
use crate::upstream::Purpose;

type Request = (Vec<ChannelId>, HashSet<Use>);

const AWAITED: Use = Use::Lookup(Purpose::Awaited);
const POLL: Use = Use::Lookup(Purpose::Poll);

/// A batch whose requests are noted, and wait for permits.
struct World {
    batch: Batch,
    requests: Arc<Mutex<Vec<Request>>>,
    gate: Arc<Semaphore>,
}

/// IDs with an even number exist.
fn channel(number: usize) -> ChannelId {
    format!("UC{number:021}A").parse().expect("an ID")
}

fn exists(id: ChannelId) -> bool {
    id.as_str().as_bytes()[ChannelId::LEN - 2].is_multiple_of(2)
}

fn resolved(id: ChannelId) -> ResolvedChannel {
    let title = id.to_string().into();
    ResolvedChannel { id, title }
}

impl World {
    fn new() -> Self {
        let requests = Arc::new(Mutex::new(vec![]));
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let (noted, open) = (Arc::clone(&requests), Arc::clone(&gate));
        let batch = Batch::new(move |ids, uses| {
            noted.lock().push((ids.clone(), uses));
            let open = Arc::clone(&open);
            async move {
                let _permit = open.acquire().await.expect("open");
                Ok(ids.into_iter().filter(|id| exists(*id)).map(resolved).collect())
            }
            .boxed()
        });
        Self {
            batch,
            requests,
            gate,
        }
    }

    /// Asks for channels, at once.
    async fn ask(&self, numbers: Range<usize>) -> Vec<Result<ResolvedChannel, ApiError>> {
        join_all(numbers.map(|number| self.batch.find(channel(number), AWAITED))).await
    }

    fn sizes(&self) -> Vec<usize> {
        self.requests.lock().iter().map(|(ids, _)| ids.len()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_questions_are_four_requests() {
    let (world, began) = (World::new(), Instant::now());
    let answers = world.ask(0..200).await;
    for (number, answer) in answers.into_iter().enumerate() {
        let id = channel(number);
        assert_eq!(
            answer,
            exists(id).then(|| resolved(id)).ok_or(ApiError::NoSuchChannel),
            "each its own"
        );
    }
    assert_eq!(world.sizes(), [50, 50, 50, 50]);
    assert_eq!(began.elapsed(), Duration::ZERO, "full batches do not wait");
    assert!(world.batch.open.lock().waiters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_full_goes_out_after_the_window() {
    let (world, began) = (World::new(), Instant::now());
    assert_eq!(world.ask(0..7).await.len(), 7);
    assert!(
        (WINDOW..WINDOW * 2).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(world.ask(0..1).await, [Ok(resolved(channel(0)))]);
    assert_eq!(world.sizes(), [7, 1]);
}

/// The timer of a batch that was full before must not send the next one early.
#[tokio::test(start_paused = true)]
async fn each_batch_has_a_window_of_its_own() {
    let world = World::new();
    let first = world.ask(0..50);
    let later = async {
        tokio::time::sleep(WINDOW.mul_f32(0.8)).await;
        world.ask(50..52).await;
    };
    let last = async {
        tokio::time::sleep(WINDOW.mul_f32(1.2)).await;
        world.ask(52..53).await;
    };
    tokio::join!(first, later, last);
    assert_eq!(world.sizes(), [50, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_one_before_but_not_for_long() {
    let (world, began) = (Arc::new(World::new()), Instant::now());
    world.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut lookups = tokio::task::JoinSet::new();
    for number in 0..8 {
        let world = Arc::clone(&world);
        lookups.spawn(async move { world.ask(number..number + 1).await });
        tokio::time::sleep(WINDOW).await;
    }
    assert_eq!(world.sizes(), [1], "the others wait for it");
    while world.sizes().len() < 2 {
        tokio::time::sleep(WINDOW).await;
    }
    assert!(began.elapsed() < 2 * (WINDOW + PATIENCE), "{:?}", began.elapsed());
    world.gate.add_permits(Semaphore::MAX_PERMITS);
    assert_eq!(lookups.join_all().await.len(), 8);
    assert_eq!(world.sizes(), [1, 7]);
}

/// As fast as the feed answers 404 for them at the default rate of lookups, 20 a second.
#[tokio::test(start_paused = true)]
async fn made_up_channels_that_come_one_by_one_are_asked_about_together() {
    let world = Arc::new(World::new());
    let mut lookups = tokio::task::JoinSet::new();
    for number in 0..200 {
        let world = Arc::clone(&world);
        lookups.spawn(async move { world.ask(2 * number + 1..2 * number + 2).await });
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lookups.join_all().await;
    let sizes = world.sizes();
    assert!(sizes.len() <= 10, "{sizes:?}");

    // One that exists is not kept waiting after those that exist.
    tokio::time::sleep(PATIENCE).await;
    for number in [2, 4, 6] {
        let began = Instant::now();
        world.ask(number..number + 1).await;
        assert!(began.elapsed() < 2 * WINDOW, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_exist_keeps_the_next_waiting_for_less_than_a_second() {
    let world = World::new();
    for number in [1, 3, 2] {
        let began = Instant::now();
        world.ask(number..number + 1).await;
        let most = WINDOW + PAUSE_PER_CHANNEL;
        assert!(began.elapsed() <= most, "{:?}", began.elapsed());
    }
    assert_eq!(world.sizes(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_asked_about_once_for_all() {
    let world = World::new();
    let same = iter::repeat_with(|| world.batch.find(channel(2), POLL)).take(60);
    let answers = join_all(same).await;
    assert!(answers.iter().all(|answer| *answer == Ok(resolved(channel(2)))));
    assert_eq!(
        *world.requests.lock(),
        [(vec![channel(2)], HashSet::from([POLL]))]
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_says_what_all_its_channels_are_wanted_for() {
    let world = World::new();
    let (poll, awaited) = (
        world.batch.find(channel(0), POLL),
        world.batch.find(channel(1), AWAITED),
    );
    let _ = tokio::join!(poll, awaited);
    let _ = world.batch.find(channel(0), POLL).await;
    let requests = world.requests.lock();
    let uses: Vec<&HashSet<Use>> = requests.iter().map(|(_, uses)| uses).collect();
    assert_eq!(uses, [&HashSet::from([POLL, AWAITED]), &HashSet::from([POLL])]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_ends_nothing_for_others() {
    let world = World::new();
    world.gate.forget_permits(Semaphore::MAX_PERMITS);
    // The first, whose question began the batch.
    let first = world.batch.clone();
    let first = tokio::spawn(async move { first.find(channel(0), AWAITED).await });
    let second = world.batch.clone();
    let second = tokio::spawn(async move { second.find(channel(2), AWAITED).await });
    while world.requests.lock().is_empty() {
        tokio::time::sleep(WINDOW).await;
    }
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    world.gate.add_permits(1);
    assert_eq!(second.await.expect("no panic"), Ok(resolved(channel(2))));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_not_asked() {
    let world = World::new();
    let left = world.batch.find(channel(0), AWAITED);
    assert!(tokio::time::timeout(WINDOW / 2, left).await.is_err());
    assert_eq!(world.ask(2..3).await.len(), 1);
    assert_eq!(world.requests.lock()[0].0, [channel(2)]);
    let left = world.batch.find(channel(0), AWAITED);
    assert!(tokio::time::timeout(WINDOW / 2, left).await.is_err());
    tokio::time::sleep(WINDOW * 2).await;
    assert_eq!(world.sizes(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_reaches_all_and_the_next_batch_is_new() {
    let failing = Batch::new(|_, _| async { Err(ApiError::PlaylistNotFound) }.boxed());
    let answers = join_all((0..3).map(|number| failing.find(channel(number), POLL))).await;
    assert!(
        answers
            .iter()
            .all(|answer| *answer == Err(ApiError::PlaylistNotFound))
    );
    let panicking = Batch::new(|_, _| async { panic!("a bug") }.boxed());
    for _ in 0..2 {
        assert_eq!(
            panicking.find(channel(0), POLL).await,
            Err(UpstreamError::Panicked.into())
        );
    }
}
