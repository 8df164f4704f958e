//! What another program writes to Redis causes lookups, and nothing else.

use super::*;

/// The lease of [`feed`].
const LEASE_KEY: &str = "plaque:1:{UCsXVk37bltHxD1rDPwtNM8Q/all}:lease";

/// Another channel's ID.
const OTHER: &str = "UC0123456789abcdefghijkA";

/// Whatever is stored: it is not served, the channel can be looked up, and the result is saved.
async fn is_looked_up_again(server: &Server, store: &Redis, what: &str) {
    assert_eq!(loaded(store).await, None, "{what}");
    let held = acquire_lease(store).await;
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
            // The entry may be valid. The result is saved, whatever the number.
            let held = acquire_lease(&store).await;
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
    drop(acquire_lease(&store).await);
    let () = server.command(&["SET", LEASE_KEY, "1", "PX", &(LEASE * 2).as_millis().to_string()]);
    assert!(matches!(store.lease(feed()).await, Lease::HeldElsewhere(_)));
}
