//! Access control: TLS, passwords, users with few permissions.

use std::{env, fs, path::PathBuf};

use futures_util::StreamExt as _;
use plaque::video::{ChannelName, ResolvedChannel};

use super::{
    pki::Authority,
    server::free_port,
    trouble::{TROUBLE, goes_on_alone, in_trouble, is_back, line, log, logged},
    *,
};

/// A server with TLS on another port, and its files.
struct Secured {
    server: Server,
    port: u16,
    folder: PathBuf,
}

impl Secured {
    /// Its certificate is for localhost, by this authority.
    fn start(authority: &Authority) -> Self {
        let port = free_port();
        let folder = env::temp_dir().join(format!("plaque-test-redis-tls-{}-{port}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let identity = authority.issue("localhost");
        let file = |name: &str, content: &str| {
            let path = folder.join(name);
            fs::write(&path, content).expect("written");
            path.display().to_string()
        };
        let (cert, key, ca) = (
            file("cert.pem", &identity.cert),
            file("key.pem", &identity.key),
            file("ca.pem", &authority.pem()),
        );
        let server = Server::start(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            "no",
        ]);
        Self { server, port, folder }
    }

    fn settings(&self, authority: &Authority) -> Settings {
        Settings {
            authorities: Some(authority.pem().into()),
            ..settings(&format!("rediss://localhost:{}", self.port))
        }
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Starts a store that cannot connect. Returns the reason in the log.
async fn refused(settings: Settings) -> String {
    log();
    let before = logged(TROUBLE);
    let store = soon(Redis::start(settings)).await;
    goes_on_alone(&store).await;
    assert_eq!(logged(TROUBLE), before + 1);
    line(TROUBLE)
}

#[tokio::test]
async fn over_tls_all_is_as_without() {
    let authority = Authority::new();
    let secured = Secured::start(&authority);
    let (one, other) = (
        soon(Redis::start(secured.settings(&authority))).await,
        soon(Redis::start(secured.settings(&authority))).await,
    );
    let mut updates = other.remote_updates();
    let held = acquire_lease(&one).await;
    let end = held_elsewhere(&other).await;
    one.save(feed(), &found("here", Duration::ZERO), Lease::Acquired(held))
        .await;
    soon(end).await;
    assert_eq!(soon(updates.next()).await, Some(RemoteUpdate::Saved(feed())));
    assert_eq!(loaded(&other).await.as_deref(), Some("here"));
}

#[tokio::test]
async fn who_is_not_vouched_for_is_not_believed() {
    let authority = Authority::new();
    let secured = Secured::start(&authority);
    let said = refused(secured.settings(&Authority::named("Somebody else"))).await;
    assert!(said.contains("UnknownIssuer"), "{said}");
    // The system's authorities do not include the test's.
    let mut settings = secured.settings(&authority);
    settings.authorities = None;
    refused(settings).await;
    // Its certificate is for its name.
    let mut settings = secured.settings(&authority);
    settings.address = format!("rediss://127.0.0.1:{}", secured.port)
        .parse()
        .expect("an address");
    let said = refused(settings).await;
    assert!(said.contains("not valid for name"), "{said}");
    // TLS to the plain port, and plain text to the TLS port.
    let mut settings = secured.settings(&authority);
    settings.address = format!("rediss://localhost:{}", secured.server.port)
        .parse()
        .expect("an address");
    refused(settings).await;
    refused(self::settings(&format!("redis://localhost:{}", secured.port))).await;
}

#[tokio::test]
async fn a_password_lets_in_and_is_not_told() {
    let server = Server::start(&["--requirepass", "hunter2@/:"]);
    let host = format!("127.0.0.1:{}", server.port);
    let store = store(&format!("redis://:hunter2%40%2F%3A@{host}")).await;
    store
        .save(feed(), &found("here", Duration::ZERO), Lease::Uncoordinated)
        .await;
    assert_eq!(loaded(&store).await.as_deref(), Some("here"));
    for wrong in ["", ":wronghunter@", "nobody:wronghunter@"] {
        let said = refused(settings(&format!("redis://{wrong}{host}"))).await;
        assert!(said.contains(&host) && !said.contains("wronghunter"), "{said}");
    }
}

#[tokio::test]
async fn a_user_needs_few_rights_and_may_lose_them() {
    const RIGHTS: &str = "~plaque:* &plaque:* -@all +subscribe +publish +evalsha +eval +type +hmget +hget +hset +get +set +del +pttl \
                          +pexpire +time";
    log();
    let server = Server::start(&[]);
    let allow = |rights: &str| {
        let mut words = vec!["ACL", "SETUSER", "me", "on", ">hunter2"];
        words.extend(rights.split_ascii_whitespace());
        let () = server.command(&words);
    };
    allow(RIGHTS);
    let store = store(&format!("redis://me:hunter2@127.0.0.1:{}", server.port)).await;
    let other = self::store(&server.url()).await;
    let mut updates = other.remote_updates();
    is_back(&store).await;
    assert_eq!(soon(updates.next()).await, Some(RemoteUpdate::Saved(feed())));
    assert_eq!(store.add_units(1, 7, 2).await, Some(2));
    assert_eq!(other.add_units(1, 7, 3).await, Some(5));
    let name: ChannelName = "@name".parse().expect("a name");
    let channel = ResolvedChannel {
        id: feed().channel,
        title: "A title".into(),
    };
    store.save_name(&name, &channel).await;
    assert_eq!(other.load_name(&name).await.map(|(kept, _)| kept), Some(channel));
    assert_eq!(logged(TROUBLE), 0);
    allow("-@all");
    in_trouble(&store).await;
    goes_on_alone(&store).await;
    allow(RIGHTS);
    is_back(&store).await;
    assert_eq!(logged(TROUBLE), 1);
}
