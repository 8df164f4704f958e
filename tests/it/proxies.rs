//! Connections to the upstream: proxies of each kind, and protocols.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use plaque::{
    config::upstream_url,
    origin,
    upstream::{LookupRequest, Purpose, Upstream as _, UpstreamError},
    youtube::{IpVersion, Settings, YouTube},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, lookup_host},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    pki::Authority,
    program::{assert_refused, plaque, run},
    support::{CHANNEL, Fake, LONG, channel, feed},
    traces::Program,
    youtube::https_origin,
};

const USER: &str = "ann";
const PASSWORD: &str = "open sesame";
const SECRETS: [&str; 3] = [PASSWORD, "open%20sesame", "YW5uOm9wZW4gc2VzYW1l"];

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A proxy that requires a password: HTTP (plain and CONNECT) or SOCKS5, depending on the first byte.
struct Proxy {
    address: SocketAddr,
    /// Where it was asked to connect to, as it was asked.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        // Ends with the test's runtime.
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (seen, tls) = (Arc::clone(&seen), tls.clone());
                tokio::spawn(async move {
                    let stream: Box<dyn Stream> = match tls {
                        Some(tls) => Box::new(tls.accept(stream).await?),
                        None => Box::new(stream),
                    };
                    serve(stream, &seen).await
                });
            }
        });
        Self { address, asked }
    }

    /// What it was asked since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }

    fn url(&self, scheme: &str, password: &str) -> String {
        format!(
            "{scheme}://{USER}:{}@{}",
            password.replace(' ', "%20"),
            self.address
        )
    }
}

async fn serve(mut stream: Box<dyn Stream>, seen: &Mutex<Vec<String>>) -> io::Result<()> {
    let note = |asked: String| seen.lock().push(asked);
    let first = stream.read_u8().await?;
    if first == 5 {
        return serve_socks(stream, note).await;
    }
    let mut head = vec![first];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).expect("ASCII");
    let (line, headers) = head.split_once("\r\n").expect("a line");
    let mut words = line.split(' ');
    let (method, target) = (words.next().expect("a method"), words.next().expect("a target"));
    note(format!("{method} {target}"));
    let credentials = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let proof = format!("proxy-authorization: basic {credentials}").to_lowercase();
    if !headers.to_lowercase().contains(&proof) {
        return stream
            .write_all(b"HTTP/1.1 407 Who are you?\r\ncontent-length: 0\r\n\r\n")
            .await;
    }
    let host = target.trim_start_matches("http://").split('/').next();
    let mut server = TcpStream::connect(host.expect("a host")).await?;
    if method == "CONNECT" {
        stream.write_all(b"HTTP/1.1 200 Here you are\r\n\r\n").await?;
    } else {
        server.write_all(head.as_bytes()).await?;
    }
    copy_bidirectional(&mut stream, &mut server).await.map(drop)
}

/// RFC 1928 and 1929, after the version.
async fn serve_socks(mut stream: Box<dyn Stream>, note: impl Fn(String)) -> io::Result<()> {
    read_text(&mut stream).await?; // methods
    stream.write_all(&[5, 2]).await?;
    stream.read_u8().await?;
    let user = read_text(&mut stream).await?;
    let password = read_text(&mut stream).await?;
    let is_right = (user.as_str(), password.as_str()) == (USER, PASSWORD);
    stream.write_all(&[1, u8::from(!is_right)]).await?;
    if !is_right {
        return Ok(());
    }
    let mut command = [0; 4];
    stream.read_exact(&mut command).await?;
    let host = match command[3] {
        1 => Ipv4Addr::from(stream.read_u32().await?).to_string(),
        3 => read_text(&mut stream).await?,
        _ => format!("[{}]", Ipv6Addr::from(stream.read_u128().await?)),
    };
    let target = format!("{host}:{}", stream.read_u16().await?);
    note(target.clone());
    let mut server = TcpStream::connect(target).await?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    copy_bidirectional(&mut stream, &mut server).await.map(drop)
}

async fn read_text(stream: &mut Box<dyn Stream>) -> io::Result<String> {
    let length = stream.read_u8().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn look_up(settings: Settings) -> Result<String, UpstreamError> {
    let youtube = YouTube::new(settings).expect("an http client");
    let found = youtube
        .look_up(channel(CHANNEL).into(), LookupRequest::of(Purpose::Awaited))
        .await;
    found
        .map(|channel| channel.title().to_owned())
        .map_err(|failure| failure.error)
}

fn settings(upstream: &str, proxy: &str, authority: &Authority) -> Settings {
    Settings {
        time_limit: LONG,
        authorities: Some(authority.pem().into_bytes()),
        proxy: Some(proxy.parse().expect("a proxy")),
        ..Settings::new(upstream_url(upstream).expect("valid"))
    }
}

#[tokio::test]
async fn feeds_are_looked_up_through_a_proxy_of_each_kind() {
    let authority = Authority::new();
    let fake = Fake::open(feed).await;
    let plain = fake.origin.url().to_string().replace("127.0.0.1", "localhost");
    let secure = https_origin(&authority).await;
    let authority_of = |url: &str| {
        let url = upstream_url(url).expect("valid");
        let port = url.port().expect("it has one");
        (format!("localhost:{port}"), format!("127.0.0.1:{port}"))
    };
    let (plain_name, plain_address) = authority_of(&plain);
    let (_, secure_address) = authority_of(&secure);
    let absolute = format!("GET {plain}?channel_id={CHANNEL}");
    let tunnel = format!("CONNECT {secure_address}");
    for (scheme, of_plain, of_secure) in [
        ("http", absolute.as_str(), tunnel.as_str()),
        ("https", &absolute, &tunnel),
        // Names are resolved here,
        ("socks5", &plain_address, &secure_address),
        // or there.
        ("socks5h", &plain_name, &secure_address),
    ] {
        let tls = (scheme == "https").then(|| authority.acceptor("127.0.0.1"));
        let proxy = Proxy::start(tls).await;
        let url = proxy.url(scheme, PASSWORD);

        let found = look_up(settings(&plain, &url, &authority)).await;
        assert_eq!(found.as_deref(), Ok("A channel"), "{scheme}");
        assert_eq!(proxy.asked(), [of_plain], "{scheme}");

        let found = look_up(settings(&secure, &url, &authority)).await;
        assert_eq!(found.as_deref(), Ok("Private"), "{scheme}");
        assert_eq!(proxy.asked(), [of_secure], "{scheme}");
    }
}

#[tokio::test]
async fn what_a_proxy_refuses_fails_without_a_word_of_the_password() {
    let authority = Authority::new();
    let fake = Fake::open(feed).await;
    let secure = https_origin(&authority).await;
    for (scheme, upstream) in [
        ("http", fake.origin.url().as_str()),
        ("http", &secure),
        ("socks5", &secure),
    ] {
        let proxy = Proxy::start(None).await;
        let url = proxy.url(scheme, "wrong password");
        let error = look_up(settings(upstream, &url, &authority)).await;
        let error = error.expect_err("refused");
        let is_expected = matches!(error, UpstreamError::Status(407) | UpstreamError::Unreachable(_));
        assert!(is_expected, "{scheme}, {upstream}: {error:?}");
        let text = format!("{error} {error:?}");
        let address = proxy.address.to_string();
        for secret in ["wrong", USER, &address, "d3Jvbmcg"] {
            assert!(!text.contains(secret), "{scheme}, {upstream}: {text}");
        }
    }
    assert_eq!(fake.lookups(CHANNEL), 0);
}

/// A server of one feed, on a port of both protocols, if this machine has both.
async fn on_both(title: [&'static str; 2]) -> Option<u16> {
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.ok()?;
    let port = v6.local_addr().expect("bound").port();
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    for (listener, title) in [v4, v6].into_iter().zip(title) {
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await.expect("a request");
                let feed = origin::xml(CHANNEL, title, &[]);
                let length = feed.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{feed}");
                stream.write_all(answer.as_bytes()).await.expect("it listens");
            }
        });
    }
    Some(port)
}

#[tokio::test]
async fn only_the_protocol_that_is_wanted_is_used() {
    let Some(port) = on_both(["four", "six"]).await else {
        return; // a machine without IPv6
    };
    let names: Vec<SocketAddr> = lookup_host(("localhost", port))
        .await
        .expect("a known name")
        .collect();
    let [has_v4, has_v6] = [SocketAddr::is_ipv4, SocketAddr::is_ipv6].map(|is| names.iter().any(is));
    let look_up_at = async |host: &str, ip_version| {
        let upstream = upstream_url(&format!("http://{host}:{port}/feeds")).expect("valid");
        look_up(Settings {
            ip_version,
            ..Settings::new(upstream)
        })
        .await
        .ok()
    };
    for (version, host, title, is_there) in [
        (IpVersion::V4, "localhost", "four", has_v4),
        (IpVersion::V6, "localhost", "six", has_v6),
        (IpVersion::V4, "127.0.0.1", "four", true),
        (IpVersion::V6, "[::1]", "six", true),
        (IpVersion::V4, "[::1]", "", false),
        (IpVersion::V6, "127.0.0.1", "", false),
        (IpVersion::Any, "127.0.0.1", "four", true),
        (IpVersion::Any, "[::1]", "six", true),
    ] {
        let found = look_up_at(host, version).await;
        let expected = is_there.then_some(title);
        assert_eq!(found.as_deref(), expected, "{version:?} {host}");
    }
}

#[tokio::test]
async fn proxies_that_the_environment_names_are_not_used() {
    let fake = Fake::open(feed).await;
    let proxy = Proxy::start(None).await;
    let program = Program::start(&fake, |command| {
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            let url = proxy.url("http", PASSWORD);
            command.env(name, &url).env(name.to_uppercase(), &url);
        }
    })
    .await;
    program.client().get(CHANNEL).await.expect("an answer");
    program.stop().await;
    assert_eq!(proxy.asked(), Vec::<String>::new());
    assert_eq!(fake.lookups(CHANNEL), 1);
}

#[tokio::test]
async fn the_password_of_a_proxy_is_in_no_log_and_no_help() {
    let fake = Fake::open(feed).await;
    let proxy = Proxy::start(None).await;
    for url in [proxy.url("http", PASSWORD), proxy.url("socks5", PASSWORD)] {
        let program = Program::start(&fake, |command| {
            command
                .args(["--log", "trace", "--min-refetch", "0s"])
                .env("PLAQUE_UPSTREAM_PROXY", &url);
        })
        .await;
        program.client().get(CHANNEL).await.expect("an answer");
        let log = program.stop().await;
        assert_eq!(proxy.asked().len(), 1);

        let mut help = plaque();
        help.args(["serve", "--help"]).env("PLAQUE_UPSTREAM_PROXY", &url);
        let (code, help, _) = run(help).await;
        assert!(
            code == Some(0) && help.contains("PLAQUE_UPSTREAM_PROXY"),
            "{help}"
        );
        for secret in SECRETS {
            assert!(!log.contains(secret) && !help.contains(secret), "{secret}");
        }
    }
}

#[tokio::test]
async fn a_bad_proxy_is_refused_at_the_start_without_its_password() {
    for bad in [
        "ftp://ann:sesame@proxy.example",
        "ann:sesame@proxy.example:3128",
        "http://ann:sesame@proxy.example:port",
        "http://ann:sesame@proxy.example/path",
    ] {
        let by_flag = {
            let mut command = plaque();
            command.args(["serve", &format!("--upstream-proxy={bad}")]);
            command
        };
        let by_variable = {
            let mut command = plaque();
            command.arg("serve").env("PLAQUE_UPSTREAM_PROXY", bad);
            command
        };
        for mut command in [by_flag, by_variable] {
            // The password is in the command itself, which a failed assertion would show.
            let output = command.output().expect("the program starts");
            let stderr = String::from_utf8(output.stderr).expect("UTF-8");
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(
                stderr.contains("--upstream-proxy") && stderr.contains("socks5"),
                "{stderr}"
            );
            assert!(!stderr.contains("sesame"), "{stderr}");
        }
    }
}

#[tokio::test]
async fn an_address_that_cannot_be_reached_by_the_protocol_is_refused_at_the_start() {
    for (flags, parts) in [
        (
            &["--upstream=http://127.0.0.1/feeds", "--upstream-ip=6"][..],
            ["--upstream is at 127.0.0.1", "expected any"],
        ),
        (
            &["--upstream-proxy=http://ann:sesame@[::1]:3128", "--upstream-ip=4"],
            ["--upstream-proxy is at [::1]", "expected any"],
        ),
    ] {
        let mut command = plaque();
        command.arg("serve").args(flags);
        assert_refused(command, 2, &parts).await;
    }
}
