//! TLS: client certificates, and certificates that change while the server runs.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use plaque::net::tls::{Files, Tls};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    pki::{Authority, Identity},
    program::{assert_refused, plaque, plaque_serve},
    raw::{HELLO, PING},
    support::{CHANNEL, Fake, Server, feed, http_get, youtube},
};

/// A folder with a server's certificates, which is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new(identity: &Identity, client_ca: Option<&Authority>) -> Self {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("plaque-tls-{}-{number}", std::process::id());
        let folder = Self(std::env::temp_dir().join(name));
        fs::create_dir(&folder.0).expect("a new folder");
        folder.put(identity);
        if let Some(authority) = client_ca {
            fs::write(folder.0.join("ca"), authority.pem()).expect("written");
        }
        folder
    }

    fn put(&self, identity: &Identity) {
        fs::write(self.0.join("cert"), &identity.cert).expect("written");
        fs::write(self.0.join("key"), &identity.key).expect("written");
    }

    /// A server that is to use these files.
    fn serve(&self, cert: &str, key: &str) -> Command {
        let mut command = plaque_serve();
        command.arg("--tls-cert").arg(self.0.join(cert));
        command.arg("--tls-key").arg(self.0.join(key));
        command
    }

    fn load(&self) -> Arc<Tls> {
        let client_ca = Some(self.0.join("ca")).filter(|file| file.exists());
        let files = Files {
            cert: self.0.join("cert"),
            key: self.0.join("key"),
            client_ca,
            http1: false,
        };
        Arc::new(Tls::load(files).expect("good files"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn serve(fake: &Fake, tls: &Arc<Tls>) -> Server {
    let config = fake.config();
    let youtube = youtube(&config);
    Server::start_with(config, Arc::new(youtube), Some(Arc::clone(tls)), true).await
}

/// A client that trusts `authority`, shows `identity` if it has one, and asks for `alpn`.
async fn connect(
    address: SocketAddr,
    authority: &Authority,
    identity: Option<&Identity>,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(authority.store());
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.der();
            builder.with_client_auth_cert(chain, key).expect("an identity")
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = "localhost".try_into().expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Whether the server speaks HTTP/2 with this client. In TLS 1.3 a client learns only then that its certificate was refused.
async fn speaks(stream: std::io::Result<TlsStream<TcpStream>>) -> bool {
    match stream {
        Ok(stream) => match greet(stream).await {
            Ok(mut stream) => answers(&mut stream).await,
            Err(_) => false,
        },
        Err(_) => false,
    }
}

/// Sends a ping and reads until its answer.
async fn answers(stream: &mut TlsStream<TcpStream>) -> bool {
    const PONG: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0 plaque!";
    if stream.write_all(PING).await.is_err() {
        return false;
    }
    let mut received = Vec::new();
    while !received.windows(PONG.len()).any(|part| part == PONG) {
        match stream.read_buf(&mut received).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return false,
        }
    }
    true
}

async fn greet(mut stream: TlsStream<TcpStream>) -> std::io::Result<TlsStream<TcpStream>> {
    stream.write_all(HELLO).await?;
    Ok(stream)
}

async fn is_let_in(server: &Server, authority: &Authority, identity: Option<&Identity>) -> bool {
    is_let_in_at(server.address, authority, identity).await
}

async fn is_let_in_at(address: SocketAddr, authority: &Authority, identity: Option<&Identity>) -> bool {
    speaks(connect(address, authority, identity, &["h2"]).await).await
}

#[tokio::test]
async fn a_client_that_speaks_http2_over_tls_is_let_in_and_no_other() {
    let (fake, authority) = (Fake::open(feed).await, Authority::new());
    let folder = Folder::new(&authority.issue("localhost"), None);
    let server = serve(&fake, &folder.load()).await;

    assert!(is_let_in(&server, &authority, None).await);
    let without_alpn = connect(server.address, &authority, None, &[]).await;
    assert!(!speaks(without_alpn).await);
    let http1 = connect(server.address, &authority, None, &["http/1.1"]).await;
    assert!(!speaks(http1).await);
    server.client().get(CHANNEL).await.expect_err("no TLS, no answer");
}

#[tokio::test]
async fn a_client_without_an_acceptable_certificate_is_not_let_in() {
    let fake = Fake::open(feed).await;
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let folder = Folder::new(&authority.issue("localhost"), Some(&clients));
    let server = serve(&fake, &folder.load()).await;

    assert!(!is_let_in(&server, &authority, None).await);
    assert!(!is_let_in(&server, &authority, Some(&others.issue("localhost"))).await);
    assert!(is_let_in(&server, &authority, Some(&clients.issue("localhost"))).await);
}

/// What the port for JSON answers to this client, if it lets it in.
async fn json(
    server: &Server,
    authority: &Authority,
    identity: Option<&Identity>,
    alpn: &[&str],
) -> Option<String> {
    let path =
        format!("GET /v1/channels/{CHANNEL}/latest-video HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let mut stream = connect(server.http, authority, identity, alpn).await.ok()?;
    stream.write_all(path.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // That it ends without a closing alert is no matter: the headers tell the length.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("JSON");
    answer.lines().next().map(Into::into)
}

#[tokio::test]
async fn json_has_the_tls_of_grpc() {
    let (fake, authority) = (Fake::open(feed).await, Authority::new());
    let folder = Folder::new(&authority.issue("localhost"), None);
    let server = serve(&fake, &folder.load()).await;
    for alpn in [&[][..], &["http/1.1"], &["h2", "http/1.1"]] {
        let status = json(&server, &authority, None, alpn).await;
        assert_eq!(status.as_deref(), Some("HTTP/1.1 200 OK"), "{alpn:?}");
    }
    assert_eq!(json(&server, &authority, None, &["h2"]).await, None);
    assert!(is_let_in(&server, &authority, None).await);
}

#[tokio::test]
async fn nothing_is_looked_up_for_a_client_without_a_certificate() {
    let fake = Fake::open(feed).await;
    let (authority, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let folder = Folder::new(&authority.issue("localhost"), Some(&clients));
    let server = serve(&fake, &folder.load()).await;
    let other = others.issue("localhost");
    for stranger in [None, Some(&other)] {
        assert_eq!(json(&server, &authority, stranger, &["http/1.1"]).await, None);
    }
    // Nor by the way of the release before, without a port for JSON.
    let config = fake.config();
    let youtube = Arc::new(youtube(&config));
    let without = Server::start_with(config, youtube, Some(folder.load()), false).await;
    let (status, _) = http_get(without.admin, &format!("/v1/channels/{CHANNEL}/latest-video")).await;
    assert_eq!(status, 404);
    assert_eq!(http_get(without.admin, "/livez").await.0, 200);
    assert_eq!(fake.lookups(CHANNEL), 0);

    let client = clients.issue("localhost");
    let status = json(&server, &authority, Some(&client), &["http/1.1"]).await;
    assert_eq!(status.as_deref(), Some("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn new_certificates_are_for_new_connections_and_old_ones_live_on() {
    let (fake, old, new) = (Fake::open(feed).await, Authority::new(), Authority::new());
    let folder = Folder::new(&old.issue("localhost"), None);
    let tls = folder.load();
    let server = serve(&fake, &tls).await;
    let connection = connect(server.address, &old, None, &["h2"])
        .await
        .expect("let in");
    let mut connection = greet(connection).await.expect("sent");

    folder.put(&new.issue("localhost"));
    assert!(tls.reload().expect("good files"));
    assert!(is_let_in(&server, &new, None).await);
    assert!(!is_let_in(&server, &old, None).await);
    assert!(answers(&mut connection).await);
    assert!(!tls.reload().expect("good files"), "nothing has changed since");
}

/// The clock stands still: it jumps to the next time to look as soon as nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn changed_certificates_are_noticed_without_a_signal() {
    let (fake, old, new) = (Fake::open(feed).await, Authority::new(), Authority::new());
    let folder = Folder::new(&old.issue("localhost"), None);
    let tls = folder.load();
    let server = serve(&fake, &tls).await;
    folder.put(&new.issue("localhost"));
    tokio::select! {
        () = tls.reload_on_change(tokio_stream::pending()) => {}
        () = async { while !is_let_in(&server, &new, None).await {} } => {}
    }
    assert!(!is_let_in(&server, &old, None).await);
}

#[tokio::test]
async fn a_broken_certificate_changes_nothing() {
    let (fake, authority) = (Fake::open(feed).await, Authority::new());
    let (good, other) = (authority.issue("localhost"), authority.issue("localhost"));
    let folder = Folder::new(&good, None);
    let tls = folder.load();
    let server = serve(&fake, &tls).await;

    let mixed = Identity {
        cert: good.cert.clone(),
        key: other.key,
    };
    let garbage = Identity {
        cert: "garbage".into(),
        key: good.key.clone(),
    };
    for broken in [mixed, garbage] {
        folder.put(&broken);
        tls.reload().expect_err("broken");
        assert!(is_let_in(&server, &authority, None).await);
        assert!(!tls.reload().expect("told once"), "not told again");
    }
    fs::remove_file(folder.0.join("key")).expect("it was there");
    let error = tls.reload().expect_err("gone").to_string();
    assert!(error.contains("cannot read") && error.contains("key"), "{error}");
    folder.put(&good);
    assert!(tls.reload().expect("good again"));
}

#[tokio::test]
async fn the_program_reloads_its_certificates_on_a_signal() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = Folder::new(&old.issue("localhost"), None);
    let mut command = folder.serve("cert", "key");
    command.args(["--log", "info"]);
    let mut program = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut said = BufReader::new(program.stdout.take().expect("piped")).lines();
    let mut logged = BufReader::new(program.stderr.take().expect("piped")).lines();
    let first = said.next().expect("a line").expect("UTF-8");
    let address = first
        .strip_suffix(" with TLS")
        .and_then(|line| line.rsplit(' ').next())
        .expect("an address");
    let address = address.parse().expect("an address");
    assert!(is_let_in_at(address, &old, None).await);

    folder.put(&new.issue("localhost"));
    let hangup = Command::new("kill")
        .args(["-HUP", &program.id().to_string()])
        .status();
    assert!(hangup.expect("kill is there").success());
    let reloaded = logged.any(|line| line.is_ok_and(|line| line.contains("TLS certificates reloaded")));
    assert!(reloaded);
    assert!(is_let_in_at(address, &new, None).await);

    program.kill().expect("it runs still");
    program.wait().expect("it has ended");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let folder = Folder::new(&Authority::new().issue("localhost"), None);
    assert_refused(
        folder.serve("nothing", "key"),
        2,
        &["--tls-cert", "nothing", "cannot read"],
    )
    .await;
    assert_refused(folder.serve("key", "key"), 2, &["key", "holds no certificate"]).await;
    assert_refused(folder.serve("cert", "cert"), 2, &["cert", "holds no private key"]).await;
    let mut without_key = plaque();
    without_key.args(["serve", "--tls-cert", "cert"]);
    assert_refused(without_key, 2, &["--tls-key"]).await;
}
