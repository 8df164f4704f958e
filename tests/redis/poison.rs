//! What somebody else writes to Redis makes plaque look up again, and no more.

use super::*;

/// The lease of [`feed`].
const LEASE_KEY: &str = "plaque:1:{UCsXVk37bltHxD1rDPwtNM8Q/all}:lease";

/// A channel's entry as plaque writes it, of another channel.
const OTHER: &str = "UC0123456789abcdefghijkA";

/// Whatever is there: it is not given, somebody may look the channel up, and what is found is kept.
async fn is_looked_up_again(server: &Server, store: &Redis, what: &str) {
    assert_eq!(loaded(store).await, None, "{what}");
    let held = ours(store).await;
    assert!(
        store
            .save(feed(), &found("anew", Duration::ZERO), Lease::Acquired(held))
            .await,
        "{what}"
    );
    assert_eq!(loaded(store).await.as_deref(), Some("anew"), "{what}");
    let () = server.command(&["DEL", KEY, LEASE_KEY]);
}

#[tokio::test]
async fn numbers_that_are_none_are_not_reckoned_with() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    for field in ["k", "n", "f", "a"] {
        for number in [
            "nan",
            "-nan",
            "inf",
            "-inf",
            "1e300",
            "-1",
            "9007199254740991",
            "text",
            "",
        ] {
            let what = format!("{field} = {number}");
            store
                .save(feed(), &found("before", Duration::ZERO), Lease::Uncoordinated)
                .await;
            let () = server.command(&["HSET", KEY, field, number]);
            if field == "k" && number != "9007199254740991" {
                is_looked_up_again(&server, &store, &what).await;
                continue;
            }
            // The value may be as good as before. What is found is kept, whatever the number.
            let held = ours(&store).await;
            assert!(
                store
                    .save(feed(), &found("anew", Duration::ZERO), Lease::Acquired(held))
                    .await,
                "{what}"
            );
            assert_eq!(loaded(&store).await.as_deref(), Some("anew"), "{what}");
            let () = server.command(&["DEL", KEY, LEASE_KEY]);
        }
    }
}

#[tokio::test]
async fn another_channel_s_entry_is_not_served() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    let other: ChannelId = OTHER.parse().expect("an ID");
    let channel = Channel::new(other, "another's", vec![]);
    let known = CacheEntry::succeeded(Arc::new(channel), clock::now(), SystemTime::now());
    store.save(other.into(), &known, Lease::Uncoordinated).await;
    let () = server.command(&["COPY", &KEY.replace(feed().channel.as_str(), OTHER), KEY]);
    is_looked_up_again(&server, &store, "another's").await;
}

#[tokio::test]
async fn an_entry_that_is_too_long_stays_where_it_is() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    let long = "x".repeat(100_000);
    for field in ["v", "e"] {
        store
            .save(feed(), &found("before", Duration::ZERO), Lease::Uncoordinated)
            .await;
        let () = server.command(&["HSET", KEY, field, &long]);
        is_looked_up_again(&server, &store, field).await;
    }
}

#[tokio::test]
async fn a_lease_that_lasts_longer_than_any_of_ours_is_none() {
    let server = Server::start(&[]);
    let store = store(&server.url()).await;
    let () = server.command(&["SET", LEASE_KEY, "1", "PX", "100000000"]);
    drop(ours(&store).await);
    let () = server.command(&["SET", LEASE_KEY, "1", "PX", &(LEASE * 2).as_millis().to_string()]);
    assert!(matches!(store.lease(feed()).await, Lease::HeldElsewhere(_)));
}
