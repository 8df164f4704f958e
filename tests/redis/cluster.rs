//! A cluster of three nodes.

use futures_util::StreamExt as _;

use super::{
    server::{cluster, cluster_url},
    trouble::{goes_on_alone, is_back},
    *,
};

/// Other feeds, on all nodes.
fn feeds() -> impl Iterator<Item = Feed> {
    (b'A'..=b'Z').map(|letter| {
        let channel: ChannelId = format!("UC{}A", char::from(letter).to_string().repeat(21))
            .parse()
            .expect("an ID");
        channel.into()
    })
}

#[tokio::test]
async fn replicas_share_all_nodes() {
    let nodes = cluster();
    let (one, other) = (
        store(&cluster_url(&nodes)).await,
        store(&cluster_url(&nodes)).await,
    );
    let mut updates = other.remote_updates();
    for feed in feeds() {
        let lease = one.lease(feed).await;
        assert!(matches!(lease, Lease::Acquired(_)));
        let Lease::HeldElsewhere(end) = other.lease(feed).await else {
            panic!("another has it");
        };
        one.save(feed, &found_of(feed, "here", Duration::ZERO), lease)
            .await;
        soon(end).await;
        let known = other.load(feed).await.expect("something");
        assert_eq!(title(&known), "here");
        assert_eq!(soon(updates.next()).await, Some(RemoteUpdate::Saved(feed)));
    }
    for node in &nodes {
        let keys: usize = node.command(&["DBSIZE"]);
        assert!(keys > 0);
    }
}

#[tokio::test]
async fn a_cluster_that_loses_a_node() {
    let mut nodes = cluster();
    let store = store(&cluster_url(&nodes)).await;
    store
        .save(feed(), &found("before", Duration::ZERO), Lease::Uncoordinated)
        .await;
    let mut has = nodes
        .iter_mut()
        .filter(|node| node.command::<usize>(&["DBSIZE"]) > 0);
    let node = has.find(|node| {
        node.command::<Vec<String>>(&["KEYS", "*"])
            .contains(&KEY.to_owned())
    });
    let node = node.expect("it is somewhere");
    node.kill();
    let began = Instant::now();
    let _ = store.load(feed()).await;
    assert!(began.elapsed() < BUDGET * 2, "{:?}", began.elapsed());
    goes_on_alone(&store).await;
    node.restart();
    // A probe of another node may have come too early.
    let again = async {
        while loaded(&store).await.as_deref() != Some("again") {
            store.up().await;
            let known = found("again", Duration::ZERO);
            store.save(feed(), &known, Lease::Uncoordinated).await;
        }
    };
    soon(again).await;
    is_back(&store).await;
}
