//! The suite of all stores over Redis.

use plaque::store::Store;

use super::{
    stores::{Kind, Shared, every_store, shared_store},
    *,
};

every_store!(InRedis);
shared_store!(InRedis);

/// A server of its own.
struct InRedis(Server);

/// The key of a feed.
fn key(feed: Feed) -> String {
    format!("plaque:1:{{{}/all}}", feed.channel)
}

impl Kind for InRedis {
    fn new() -> Self {
        Self(Server::start(&[]))
    }

    async fn open(&self) -> Arc<dyn Store> {
        let store = soon(Redis::start(Settings {
            // Waiting for its end would take too long.
            lease: stores::LONG,
            ..settings(&self.0.url())
        }));
        Arc::new(store.await)
    }

    async fn corrupt(&self, feed: Feed) {
        let () = self.0.command(&["HSET", &key(feed), "v", "garbage"]);
    }
}

impl Shared for InRedis {
    async fn lose_lease(&self, feed: Feed) {
        let () = self.0.command(&["DEL", &format!("{}:lease", key(feed))]);
    }
}
