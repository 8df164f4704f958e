mod world;

use std::fs;

use futures_util::future::join_all;

use self::world::{World, channel};
use super::{answer::tests::ID, *};

fn uploads(channel: &Channel) -> Vec<(String, Kind)> {
    channel
        .uploads()
        .map(|upload| (upload.id().to_string(), upload.kind()))
        .collect()
}

const A: &str = "aaaaaaaaaaa";
const B: &str = "bbbbbbbbbbb";
const C: &str = "ccccccccccc";

#[tokio::test]
async fn a_channel_never_seen_is_asked_about_first() {
    let world = World::new().await;
    world.lists([("UU", &[B, A]), ("UUSH", &[B])]);
    let found = world.look_up(None, false, None).await.expect("found");
    assert_eq!((found.id(), found.title()), (channel(), "A channel"));
    assert_eq!(
        uploads(&found),
        [(A.into(), Kind::Video), (B.into(), Kind::Short)]
    );
    let own = &ID[2..];
    let expected = [
        format!("channels id={ID}"),
        format!("playlistItems playlistId=UU{own}"),
        format!("playlistItems playlistId=UUSH{own}"),
    ];
    assert_eq!(world.asked(), expected);
    assert_eq!(world.api.status().units, Some((9_997, 10_000)));
}

#[tokio::test]
async fn kinds_that_are_known_cost_nothing() {
    let world = World::new().await;
    world.lists([("UU", &[A, B]), ("UUSH", &[B])]);
    let known = world.look_up(None, true, None).await.expect("found");
    assert_eq!(world.asked().len(), 2);
    let again = world.look_up(None, true, Some(&known)).await.expect("found");
    assert_eq!(again, known);
    assert_eq!(world.asked().len(), 1, "nothing new");

    let known = known.only(Kind::Short);
    let again = world.look_up(None, true, Some(&known)).await.expect("found");
    assert_eq!(
        uploads(&again),
        [(A.into(), Kind::Video), (B.into(), Kind::Short)]
    );
    assert_eq!(world.asked().len(), 2, "one is new");
}

#[tokio::test]
async fn videos_are_those_of_two_lists() {
    let world = World::new().await;
    for (lists, expected) in [
        ([("UULF", &[C, A][..]), ("UULV", &[B][..])], vec![A, B, C]),
        ([("UULF", &[A]), ("UU", &[A, B])], vec![A]),
        ([("UULV", &[B]), ("UU", &[A, B])], vec![B]),
    ] {
        world.lists(lists);
        let found = world.look_up(Some(Kind::Video), true, None).await.expect("found");
        let expected: Vec<_> = expected
            .into_iter()
            .map(|id| (id.to_owned(), Kind::Video))
            .collect();
        assert_eq!((uploads(&found), found.title()), (expected, "A channel"));
    }
    world.lists([("UUSH", &[C])]);
    let found = world.look_up(Some(Kind::Short), true, None).await.expect("found");
    assert_eq!(uploads(&found), [(C.into(), Kind::Short)]);
}

#[tokio::test]
async fn a_channel_without_uploads_is_told_from_none() {
    let world = World::new().await;
    for found_before in [false, true] {
        let found = world.look_up(None, found_before, None).await.expect("it exists");
        assert!(found.is_empty() && found.title() == "A channel");
    }
    world.asked();
    let other = "UCsXVk37bltHxD1rDPwtNM8Q".parse::<ChannelId>().expect("an ID");
    for (found_before, units) in [(false, 1), (true, 2)] {
        let request = LookupRequest {
            found_before,
            ..LookupRequest::of(Purpose::Awaited)
        };
        let found = world.api.newest(other.into(), request).await;
        assert_eq!(found, Err(ApiError::NoSuchChannel));
        assert_eq!(world.asked().len(), units);
    }
}

#[tokio::test]
async fn two_hundred_ids_that_were_made_up_cost_four_units() {
    let world = World::new().await;
    let lookups = (0..200).map(|number| {
        let channel: ChannelId = format!("UC{number:021}A").parse().expect("an ID");
        world
            .api
            .newest(channel.into(), LookupRequest::of(Purpose::Awaited))
    });
    let found = join_all(lookups).await;
    assert!(found.iter().all(|found| *found == Err(ApiError::NoSuchChannel)));
    assert_eq!(world.asked().len(), 4);
}

#[tokio::test]
async fn names_are_resolved() {
    let world = World::new().await;
    let resolve = async |name: &str| {
        world
            .api
            .channel(&name.parse().expect("a name"), Use::Extra(0))
            .await
    };
    for name in ["@tests", "user/Tests", "youtu.be/aaaaaaaaaaa", ID] {
        let found = resolve(name).await.expect(name);
        assert_eq!((found.id, &*found.title), (channel(), "A channel"));
    }
    let id = format!("channels id={ID}");
    assert_eq!(
        world.asked(),
        [
            "channels forHandle=@tests",
            "channels forUsername=Tests",
            "videos id=aaaaaaaaaaa",
            &id
        ]
    );
    for name in [
        "@nobody",
        "user/nobody",
        "youtu.be/bbbbbbbbbbb",
        "UCsXVk37bltHxD1rDPwtNM8Q",
    ] {
        assert_eq!(resolve(name).await, Err(ApiError::NoSuchChannel), "{name}");
    }
    assert_eq!(resolve("c/Tests").await, Err(ApiError::Unsupported));
}

#[tokio::test]
async fn older_uploads_come_in_pages() {
    let world = World::new().await;
    world.lists([("UU", &[A, B, C])]);
    let feed = Feed::from(channel());
    let mut seen = vec![];
    let mut next = None;
    for _ in 0..2 {
        let page = world
            .api
            .page(feed, upstream::List::Own, next.as_deref(), Caller::default())
            .await
            .expect("an answer")
            .expect("a page");
        seen.extend(page.uploads.iter().map(|upload| upload.id.to_string()));
        next = page.next;
    }
    assert_eq!((seen, next), (vec![A.into(), B.into(), C.into()], None));
}

#[tokio::test]
async fn a_bad_key_is_not_sent_again_until_its_file_changes() {
    let world = World::new().await;
    world.lists([("UUSH", &[A])]);
    world.state.lock().refusal = Some((400, "keyInvalid"));
    for _ in 0..3 {
        let error = world
            .look_up(Some(Kind::Short), true, None)
            .await
            .expect_err("refused");
        assert_eq!(error, Refusal::KeyInvalid.into());
        assert!(!format!("{error} {error:?}").contains("first-key"));
    }
    assert_eq!(world.asked().len(), 1, "once");
    fs::write(&world.key_file, "second-key").expect("written");
    assert!(world.look_up(Some(Kind::Short), true, None).await.is_ok());
}

#[tokio::test]
async fn another_key_counts_as_soon_as_it_is_in_its_file() {
    for (status, reason, left) in [(403, "quotaExceeded", 0), (400, "keyInvalid", 9_999)] {
        let world = World::new().await;
        world.state.lock().refusal = Some((status, reason));
        let request = LookupRequest::of(Purpose::Awaited);
        let (mut registry, is_left) = (Registry::default(), |registry: &_, left| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).expect("in memory");
            text.contains(&format!("youtube_api_units_left {left}\n"))
        });
        world.api.register(&mut registry);
        let failure = world.api.look_up(channel().into(), request.clone()).await;
        assert!(
            failure.expect_err("refused").out_of_budget,
            "callers need not wait for the feed's backoff"
        );
        assert!(!world.api.has_budget(&request));
        assert!(is_left(&registry, left), "{reason}");
        assert!(world.api.status().refusal.is_some(), "{reason}");
        fs::write(&world.key_file, "second-key").expect("written");
        assert!(is_left(&registry, 10_000), "{reason}");
        let status = world.api.status();
        assert_eq!((status.units, status.refusal), (Some((10_000, 10_000)), None));
        assert!(world.api.has_budget(&request));
    }
}

#[tokio::test]
async fn while_google_refuses_nobody_waits_for_a_request() {
    for (status, reason, refusal) in [
        (403, "quotaExceeded", Refusal::QuotaExceeded),
        (400, "keyInvalid", Refusal::KeyInvalid),
        (404, "notFound", Refusal::NoApi),
    ] {
        let world = World::new().await;
        world.state.lock().refusal = Some((status, reason));
        assert_eq!(world.look_up(None, false, None).await, Err(refusal.into()));
        let again = world.look_up(None, false, None).now_or_never();
        assert_eq!(again, Some(Err(refusal.into())), "at once");
        assert_eq!(world.asked().len(), 1);
    }
}

#[tokio::test]
async fn other_errors_close_nothing() {
    let world = World::new().await;
    world.lists([("UUSH", &[A])]);
    world.state.lock().refusal = Some((503, "backendError"));
    let error = world
        .look_up(Some(Kind::Short), true, None)
        .await
        .expect_err("an error");
    assert_eq!(error, UpstreamError::Status(503).into());
    world.state.lock().refusal = Some((403, "rateLimitExceeded"));
    let error = world
        .look_up(Some(Kind::Short), true, None)
        .await
        .expect_err("refused");
    assert_eq!(error, Refusal::RateLimited.into());
    world.state.lock().refusal = None;
    world.asked();
    let error = world
        .look_up(Some(Kind::Short), true, None)
        .await
        .expect_err("for a minute");
    assert_eq!(error, Refusal::RateLimited.into());
    assert!(world.asked().is_empty());
}

#[tokio::test]
async fn a_silent_api_is_left_in_time() {
    let world = World::new().await;
    world.state.lock().is_silent = true;
    let silent = Requests {
        client: world.api.requests.client.clone(),
        api: world.api.requests.api.clone(),
        user_agent: world.api.requests.user_agent.clone(),
        key: Mutex::new(KeyFile::open(world.key_file.clone()).expect("a key")),
        ledger: world.api.ledger().clone(),
        time_limit: Duration::from_millis(20),
    };
    let error = silent
        .channels("id", ID, Use::Lookup(Purpose::Awaited))
        .await
        .expect_err("silence");
    assert_eq!(error, UpstreamError::TimedOut(silent.time_limit).into());
}

/// A redirect would take the key to another server.
#[tokio::test]
async fn the_api_leads_the_key_nowhere() {
    let (world, other) = (World::new().await, World::new().await);
    other.lists([("UUSH", &[A])]);
    world.state.lock().redirect = Some(other.api.requests.api.clone());
    let error = world
        .look_up(Some(Kind::Short), true, None)
        .await
        .expect_err("no answer");
    assert_eq!(error, UpstreamError::Status(307).into());
    assert!(other.asked().is_empty());
}

#[tokio::test]
async fn a_caller_without_units_keeps_nobody_from_theirs() {
    let world = World::new().await;
    let of = |id, number: u32| {
        let channel: ChannelId = format!("UC{number:021}A").parse().expect("an ID");
        let caller = Caller {
            id,
            ..Caller::default()
        };
        let request = LookupRequest {
            caller,
            ..LookupRequest::of(Purpose::Awaited)
        };
        world.api.newest(channel.into(), request)
    };
    let now = SystemTime::now();
    while world
        .api
        .ledger()
        .spend(
            Use::Unknown(Purpose::Awaited, 1),
            now,
            world.api.requests.key_id(),
        )
        .await
        .is_ok()
    {}
    let at_once = of(1, 0).now_or_never().expect("at once");
    assert!(matches!(at_once, Err(ApiError::OutOfUnits { .. })));
    // Its last unit was spent while the channel waited for others.
    let waiting = world.api.batch.find(channel(), Use::Unknown(Purpose::Awaited, 1));
    let (abuser, modest) = tokio::join!(waiting, of(2, 2));
    assert_eq!(modest, Err(ApiError::NoSuchChannel), "it is asked");
    assert!(abuser.is_ok(), "by the same request");
    assert_eq!(world.asked().len(), 1);
}
