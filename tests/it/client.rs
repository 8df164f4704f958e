//! The client commands: TLS, retries, and servers that come and go.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use plaque::{
    origin::{self, Lookup},
    server::Drained,
};
use rustls::{ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::spawn_blocking,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    pki::{Authority, Identity},
    program::{assert_refused, plaque, run},
    support::{CHANNEL, Fake, feed},
};

/// An authority, and a folder for files about it.
struct Filed {
    authority: Authority,
    folder: PathBuf,
}

impl Filed {
    /// `name` is its own, among all tests.
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("a folder");
        Self {
            authority: Authority::named(name),
            folder,
        }
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let file = self.folder.join(name);
        fs::write(&file, content).expect("a file");
        file
    }

    /// Its certificate.
    fn pem_file(&self) -> PathBuf {
        self.file("ca.pem", &self.authority.pem())
    }

    /// The flags that name a client's certificate from it.
    fn identity(&self) -> [String; 2] {
        let Identity { cert, key } = self.authority.issue("a client");
        let (certificate, key) = (self.file("cert.pem", &cert), self.file("key.pem", &key));
        [
            format!("--tls-client-cert={}", certificate.display()),
            format!("--tls-client-key={}", key.display()),
        ]
    }
}

/// TLS with a certificate of `authority` for `name`, which demands of clients one of `clients`.
fn tls(authority: &Filed, name: &str, clients: Option<&Filed>) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("TLS versions");
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let roots = Arc::new(clients.authority.store());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            config.with_client_cert_verifier(verifier.expect("an authority"))
        }
    };
    let (chain, key) = authority.authority.issue(name).der();
    let mut config = config.with_single_cert(chain, key).expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Terminates TLS in front of `server`, and returns the address. Ends with the test's runtime.
async fn terminate(server: SocketAddr, tls: ServerConfig) -> String {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("https://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(stream).await?;
                let mut server = TcpStream::connect(server).await?;
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    address
}

/// `plaque get` or `watch`, on a machine that trusts the authorities in `system`.
fn client(subcommand: &str, server: &str, system: &Path) -> Command {
    let mut command = plaque();
    command.args([subcommand, CHANNEL, "--server", server]);
    command.env("SSL_CERT_FILE", system).env_remove("SSL_CERT_DIR");
    command
}

#[tokio::test]
async fn a_server_with_tls_is_trusted_for_its_authority() {
    let (authority, other) = (Filed::new("tls-known"), Filed::new("tls-other"));
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let address = terminate(server.address, tls(&authority, "127.0.0.1", None)).await;
    let known = format!("--tls-ca={}", authority.pem_file().display());
    let nowhere = authority.folder.join("no such file");

    // The system's authorities are trusted, those that are named are too, and they will do if the system has none.
    for (system, flag) in [
        (&authority.pem_file(), None),
        (&other.pem_file(), Some(&known)),
        (&nowhere, Some(&known)),
    ] {
        let mut command = client("get", &address, system);
        command.args(flag);
        let (code, out, err) = run(command).await;
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(out.ends_with("\tUpload <15> & more\n"), "{out}");
    }

    for subcommand in ["get", "watch"] {
        let command = client(subcommand, &address, &other.pem_file());
        assert_refused(
            command,
            1,
            &["cannot reach", &address, "name its authority with --tls-ca"],
        )
        .await;
        let command = client(subcommand, &address, &nowhere);
        assert_refused(command, 2, &["cannot trust", &address, "--tls-ca"]).await;
    }
}

#[tokio::test]
async fn a_wrong_server_is_reported() {
    let authority = Filed::new("tls-names");
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let address = terminate(server.address, tls(&authority, "plaque.example.org", None)).await;
    let command = client("get", &address, &authority.pem_file());
    assert_refused(command, 1, &["plaque.example.org", "put one of them in --server"]).await;

    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut tls = tls(&authority, "127.0.0.1", None);
        tls.alpn_protocols = protocols;
        let address = terminate(server.address, tls).await;
        let command = client("get", &address, &authority.pem_file());
        assert_refused(command, 1, &[&address, "does not offer HTTP/2"]).await;
    }

    let address = format!("https://{}", server.address);
    let command = client("get", &address, &authority.pem_file());
    assert_refused(command, 1, &[&address, "speaks no TLS there", "http address"]).await;
}

/// A server that closes each connection, after this answer if the client begins with a handshake of TLS. Returns its address for http.
async fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if matches!(stream.read_u8().await, Ok(22)) {
                let _ = stream.write_all(answer).await;
            }
        }
    });
    address
}

#[tokio::test]
async fn a_client_without_tls_is_told_that_the_port_may_expect_it() {
    let authority = Filed::new("tls-missing");
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let address = terminate(server.address, tls(&authority, "127.0.0.1", None)).await;
    let closing = answering(b"").await;
    // As OpenSSL does, this tells no alert to a client that speaks HTTP/2.
    let silent = answering(&[22, 3, 3, 0, 90, 2]).await;
    let echoing = answering(&[22, 3, 1, 0, 200, 1]).await;
    for (address, limit, code, advice) in [
        // It is not tried again until then.
        (
            address.replace("https", "http"),
            "1h",
            1,
            "the server expects TLS: name it with https://",
        ),
        (silent, "1h", 1, "the server expects TLS: name it with https://"),
        // It may be a proxy without a server.
        (echoing, "500ms", 75, "expect TLS? Then name it with https://"),
        (closing, "500ms", 75, "expect TLS? Then name it with https://"),
    ] {
        for arguments in [
            &["get", CHANNEL] as &[_],
            &["get", CHANNEL, "UC0123456789abcdefghijkQ"],
            &["list", CHANNEL],
            &["get", "@someone"],
            &["watch", CHANNEL],
            &["health", "--service="],
        ] {
            let code = if arguments[0] == "health" { 1 } else { code };
            let mut command = plaque();
            command
                .args(arguments)
                .args(["--timeout", limit, "--server", &address]);
            assert_refused(command, code, &[advice]).await;
        }
    }
}

#[tokio::test]
async fn a_server_may_demand_a_certificate_of_its_clients() {
    let (authority, clients) = (Filed::new("mtls-server"), Filed::new("mtls-clients"));
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let address = terminate(server.address, tls(&authority, "127.0.0.1", Some(&clients))).await;

    let mut command = client("get", &address, &authority.pem_file());
    command.args(clients.identity());
    let (code, out, err) = run(command).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.ends_with("\tUpload <15> & more\n"), "{out}");

    for subcommand in ["get", "watch"] {
        let command = client(subcommand, &address, &authority.pem_file());
        assert_refused(command, 1, &["demands a certificate", "--tls-client-cert"]).await;
        let mut command = client(subcommand, &address, &authority.pem_file());
        command.args(authority.identity());
        assert_refused(command, 1, &["refuses us", "--tls-client-cert"]).await;
    }
}

#[tokio::test]
async fn tls_flags_that_do_not_fit_are_named() {
    let authority = Filed::new("tls-flags");
    let ca = authority.pem_file();
    let [certificate, key] = authority.identity();
    let other = authority.authority.issue("another client");
    let other_key = format!(
        "--tls-client-key={}",
        authority.file("other.pem", &other.key).display()
    );
    let garbage = authority.file(
        "garbage",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let empty = authority.file("empty", "");
    let with =
        |file: &Path| ["--tls-ca", "--tls-client-cert"].map(|flag| format!("{flag}={}", file.display()));
    let ([garbage_ca, _], [empty_ca, empty_cert]) = (with(&garbage), with(&empty));
    let [lost_ca, lost_cert] = with(&authority.folder.join("no such file"));

    for (server, flags, parts) in [
        ("https", vec![&certificate], vec!["--tls-client-key"]),
        ("https", vec![&key], vec!["--tls-client-cert"]),
        ("http", vec![&empty_ca], vec!["--tls-ca", "https"]),
        (
            "http",
            vec![&certificate, &key],
            vec!["--tls-client-cert", "https"],
        ),
        (
            "https",
            vec![&lost_ca],
            vec!["--tls-ca: cannot read", "no such file"],
        ),
        (
            "https",
            vec![&empty_ca],
            vec!["--tls-ca: no certificate", "empty"],
        ),
        ("https", vec![&garbage_ca], vec!["--tls-ca: ", "garbage"]),
        (
            "https",
            vec![&lost_cert, &key],
            vec!["--tls-client-cert: cannot read", "no such file"],
        ),
        (
            "https",
            vec![&empty_cert, &key],
            vec!["--tls-client-cert: no certificate", "empty"],
        ),
        (
            "https",
            vec![&certificate, &other_key],
            vec!["--tls-client-key", "other.pem", "do not go together"],
        ),
    ] {
        let mut command = client("get", &format!("{server}://127.0.0.1:1"), &ca);
        command.args(flags);
        assert_refused(command, 2, &parts).await;
    }
}

/// A feed that has two uploads more each time.
fn growing(lookup: &Lookup) -> axum::response::Response {
    let number = u32::try_from(lookup.number).expect("a few");
    let newest = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000) + Duration::from_hours(2) * number;
    let uploads = origin::uploads(newest, 13 + 2 * number);
    origin::feed(&lookup.channel, "A channel", &uploads[..15])
}

/// What a program says, line by line.
fn lines(output: impl io::Read + Send + 'static) -> mpsc::UnboundedReceiver<String> {
    #[expect(clippy::disallowed_methods, reason = "as many as the program prints")]
    let (tell, lines) = mpsc::unbounded_channel();
    // Ends with the program.
    spawn_blocking(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Fails if the test has ended.
            let _ = tell.send(line);
        }
    });
    lines
}

#[tokio::test]
async fn a_watch_outlives_its_server() {
    let fake = Fake::open(growing).await;
    let server = fake.serve().await;
    let (listen, address) = (server.address, format!("http://{}", server.address));
    let mut command = plaque();
    command.args(["watch", CHANNEL, "--json", "--server", &address]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().expect("the program starts");
    let mut out = lines(watch.stdout.take().expect("piped"));
    let mut err = lines(watch.stderr.take().expect("piped"));
    let mut next = async || {
        let line = out.recv().await.expect("it goes on");
        let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        (event["video"]["videoId"].clone(), event["initial"].clone())
    };
    assert_eq!(next().await, ("upload0015A".into(), true.into()));

    // Each server looks the channel up, once, and finds two uploads more.
    assert_eq!(server.stop().ended().await, Drained { cut_off: 0 });
    let server = fake.serve_with(|config| config.listen = listen).await;
    for id in ["upload0016A", "upload0017A"] {
        assert_eq!(next().await, (id.into(), serde_json::Value::Null));
    }

    watch.kill().expect("it runs still");
    watch.wait().expect("it has ended");
    let lost = format!("lost {address}/: the server is shutting down (SHUTTING_DOWN); reconnecting");
    assert_eq!(err.recv().await, Some(lost));
    assert_eq!(
        (out.recv().await, err.recv().await),
        (None, None),
        "and nothing else"
    );
    server.stop().ended().await;
}

#[tokio::test]
async fn a_watch_has_a_hundred_channels_at_most() {
    let fake = Fake::open(feed).await;
    let server = fake.serve().await;
    let mut command = plaque();
    command.args(["watch", "--server", &format!("http://{}", server.address)]);
    command.args((0..101).map(|number| format!("UC{number:021}A")));
    assert_refused(command, 2, &["101 channels", "at most 100"]).await;
}

#[tokio::test]
async fn get_retries_at_a_replacement_of_a_broken_server() {
    let fake = Fake::gated(feed).await;
    let server = fake
        .serve_with(|config| config.drain.timeout = Duration::ZERO)
        .await;
    let (listen, address) = (server.address, format!("http://{}", server.address));
    let mut command = plaque();
    command.args(["get", CHANNEL, "--server", &address]);
    let asked = tokio::spawn(run(command));
    fake.arrival().await;
    assert_eq!(server.stop().ended().await, Drained { cut_off: 1 });

    let server = fake.serve_with(|config| config.listen = listen).await;
    fake.release();
    fake.release();
    let (code, out, err) = asked.await.expect("no panic");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.ends_with("\tUpload <15> & more\n"), "{out}");
    server.stop().ended().await;
}
