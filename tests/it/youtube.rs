//! The upstream adapter against an HTTP server that misbehaves.

use std::{
    io::Write as _,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    http::HeaderValue,
    response::{IntoResponse as _, Redirect, Response},
};
use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt as _, future::join_all, stream};
use plaque::{
    config::upstream_url,
    origin::{self, Lookup, Origin},
    upstream::{LookupRequest, Purpose, Upstream as _, UpstreamError},
    video::Channel,
    youtube::{Settings, YouTube},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    pki::Authority,
    support::{CHANNEL, Fake, LONG, channel, feed, upstream},
};

async fn look_up(origin: &Origin, limit: Duration) -> Result<Channel, UpstreamError> {
    let settings = Settings {
        time_limit: limit,
        ..upstream(origin)
    };
    let youtube = YouTube::new(settings).expect("an http client");
    let found = youtube
        .look_up(channel(CHANNEL).into(), LookupRequest::of(Purpose::Awaited))
        .await;
    found.map_err(|failure| failure.error)
}

async fn answered(reply: fn(&Lookup) -> Response) -> Result<Channel, UpstreamError> {
    look_up(&Fake::open(reply).await.origin, LONG).await
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}

fn packed(bytes: &[u8]) -> Response {
    ([("content-encoding", "gzip")], gzip(bytes)).into_response()
}

#[tokio::test]
async fn it_sends_a_user_agent_and_accepts_gzip() {
    let seen = answered(|lookup| {
        let header = |name| {
            lookup
                .headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or("")
        };
        assert_eq!(
            header("user-agent"),
            concat!("plaque/", env!("CARGO_PKG_VERSION"))
        );
        assert!(header("accept-encoding").contains("gzip"));
        let link = format!("<link href=\"https://www.youtube.com/channel/{CHANNEL}\"/>");
        let xml = format!("<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>Zipped</title>{link}</feed>");
        packed(xml.as_bytes())
    });
    assert_eq!(seen.await.expect("a feed").title(), "Zipped");
}

#[tokio::test]
async fn it_sends_the_configured_user_agent() {
    let fake = Fake::open(|lookup| {
        assert_eq!(lookup.headers["user-agent"], "tide/2 (+https://tide.example)");
        feed(lookup)
    })
    .await;
    let settings = Settings {
        user_agent: HeaderValue::from_static("tide/2 (+https://tide.example)"),
        ..upstream(&fake.origin)
    };
    let youtube = YouTube::new(settings).expect("an http client");
    let request = LookupRequest::of(Purpose::Awaited);
    youtube
        .look_up(channel(CHANNEL).into(), request)
        .await
        .expect("a feed");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let seen = answered(|lookup| match lookup.number {
        1 => Redirect::temporary(&format!("/feeds/videos.xml?channel_id={CHANNEL}")).into_response(),
        _ => feed(lookup),
    });
    assert_eq!(
        seen.await,
        Err(UpstreamError::Malformed("it is a redirect".into()))
    );
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let seen = answered(|_| {
        let spaces = stream::repeat(Ok::<_, std::convert::Infallible>(Bytes::from_static(
            &[b' '; 8192],
        )));
        Body::from_stream(spaces).into_response()
    });
    assert!(matches!(seen.await, Err(UpstreamError::Malformed(_))));
}

#[tokio::test]
async fn a_body_in_pieces_of_a_byte_is_cut_off_long_before_its_end() {
    let seen = answered(|_| {
        let spaces = stream::repeat(Ok::<_, std::convert::Infallible>(Bytes::from_static(b" ")));
        Body::from_stream(spaces.take(1 << 20)).into_response()
    });
    let why = "it comes in more than 16384 pieces".into();
    assert_eq!(seen.await, Err(UpstreamError::Malformed(why)));
}

#[tokio::test]
async fn a_body_that_swells_when_unpacked_is_cut_off() {
    let seen = answered(|_| packed(&vec![b' '; 64 << 20]));
    assert!(matches!(seen.await, Err(UpstreamError::Malformed(_))));
}

#[tokio::test]
async fn all_members_of_gzip_are_read_and_no_other_coding() {
    let seen = answered(|lookup| {
        let link = format!("<link href=\"https://www.youtube.com/channel/{CHANNEL}\"/>");
        let xml = format!("<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>Of two</title>{link}</feed>");
        assert_eq!(lookup.number, 1);
        let (one, other) = xml.as_bytes().split_at(60);
        let members = [gzip(one), gzip(other)].concat();
        ([("content-encoding", "gzip")], members).into_response()
    });
    assert_eq!(seen.await.expect("a feed").title(), "Of two");
    for (coding, message) in [
        ("br", "compressed by br"),
        ("gzip, gzip", "compressed by gzip, gzip"),
    ] {
        let fake = Fake::open(match coding {
            "br" => |_| ([("content-encoding", "br")], "<feed/>").into_response(),
            _ => |_| ([("content-encoding", "gzip, gzip")], "<feed/>").into_response(),
        })
        .await;
        let seen = look_up(&fake.origin, LONG).await;
        let why = seen.expect_err("it was not asked for").to_string();
        assert!(why.contains(message), "{why}");
        assert_eq!(
            fake.lookups(CHANNEL),
            1,
            "what cannot be read is not asked for again"
        );
    }
}

#[tokio::test]
async fn the_budget_covers_the_body_too() {
    let fake = Fake::open(|_| {
        let first = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(b"<feed"))]);
        Body::from_stream(first.chain(stream::pending())).into_response()
    })
    .await;
    let limit = Duration::from_millis(20);
    assert_eq!(
        look_up(&fake.origin, limit).await,
        Err(UpstreamError::TimedOut(limit))
    );
}

#[tokio::test]
async fn an_unreachable_upstream_is_reported_without_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let url = upstream_url(&format!("http://{address}/feeds?key=secret")).expect("valid");
    let youtube = YouTube::new(Settings::new(url)).expect("an http client");
    let looked_up = youtube
        .look_up(channel(CHANNEL).into(), LookupRequest::of(Purpose::Awaited))
        .await;
    let error = looked_up.expect_err("nothing listens").error;
    let message = error.to_string();
    assert!(matches!(error, UpstreamError::Unreachable(_)), "{message}");
    assert!(message.contains("refused"), "{message}");
    assert!(
        !message.contains("secret") && !message.contains(&address.to_string()),
        "{message}"
    );
}

#[tokio::test]
async fn lookups_at_once_are_limited() {
    let fake = Fake::gated(feed).await;
    let limit = NonZeroUsize::MIN.saturating_add(1);
    let mut settings = upstream(&fake.origin);
    settings.pace.concurrency = limit;
    let youtube = Arc::new(YouTube::new(settings).expect("a client"));
    let ids: Vec<_> = (0..5).map(|n| format!("UC0123456789abcdefghi{n}kA")).collect();
    let lookups = ids.iter().map(|id| {
        let (youtube, id) = (Arc::clone(&youtube), channel(id));
        tokio::spawn(async move {
            youtube
                .look_up(id.into(), LookupRequest::of(Purpose::Awaited))
                .await
        })
    });
    let all = tokio::spawn(join_all(lookups.collect::<Vec<_>>()));
    for answered in 0..5 {
        fake.arrival().await;
        let asked: usize = ids.iter().map(|id| fake.lookups(id)).sum();
        assert!(asked - answered <= 2, "{asked} asked, {answered} answered");
        fake.release();
    }
    for looked_up in all.await.expect("no panic") {
        looked_up.expect("no panic").expect("a feed");
    }
}

#[tokio::test]
async fn a_feed_of_500_uploads_is_cut_to_the_newest_15() {
    let fake = Fake::open(|lookup| {
        let uploads = origin::uploads(SystemTime::UNIX_EPOCH + LONG * 10_000, 500);
        origin::feed(&lookup.channel, "Many <uploads>", &uploads)
    })
    .await;
    let found = look_up(&fake.origin, LONG).await.expect("a feed");
    assert_eq!(found.title(), "Many <uploads>");
    assert_eq!(found.len(), 15);
}

/// An `https` origin that `authority` vouches for.
pub async fn https_origin(authority: &Authority) -> String {
    let acceptor = authority.acceptor("127.0.0.1");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("https://{}/feeds", listener.local_addr().expect("bound"));
    // Ends with its answer, or with the test's runtime.
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            // Fails where the client does not trust it.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.expect("a request");
            let feed = origin::xml(CHANNEL, "Private", &[]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                feed.len()
            );
            let answer = head + &feed;
            stream.write_all(answer.as_bytes()).await.expect("it listens");
            stream.shutdown().await.expect("it listens");
        }
    });
    url
}

#[tokio::test]
async fn a_private_authority_is_trusted_if_it_is_named() {
    let authority = Authority::new();
    let url = https_origin(&authority).await;
    let look_up = async |authorities| {
        let settings = Settings {
            authorities,
            ..Settings::new(upstream_url(&url).expect("valid"))
        };
        let youtube = YouTube::new(settings).expect("the system has certificates");
        let found = youtube
            .look_up(channel(CHANNEL).into(), LookupRequest::of(Purpose::Awaited))
            .await;
        found.map(|channel| channel.title().to_owned())
    };
    let trusted = look_up(Some(authority.pem().into_bytes())).await;
    assert_eq!(trusted, Ok("Private".to_owned()));
    let unknown = look_up(None).await.expect_err("no authority has signed it").error;
    assert!(matches!(unknown, UpstreamError::Unreachable(_)), "{unknown}");
}

#[test]
fn a_file_without_certificates_is_reported() {
    for pem in [
        "",
        "not PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let settings = Settings {
            authorities: Some(pem.into()),
            ..Settings::new(upstream_url("https://127.0.0.1/").expect("valid"))
        };
        let error = YouTube::new(settings).err().map(|error| error.to_string());
        assert!(error.is_some(), "{pem:?}");
    }
}
