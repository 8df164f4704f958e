use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use proptest::prelude::*;
use tokio::net::TcpListener;

use super::*;
use crate::youtube::{Settings, client};

const ID: &str = "UCsXVk37bltHxD1rDPwtNM8Q";
const OTHER: &str = "UC_x5XG1OV2P6uZZ5FSM9Ttw";

/// The head of a channel's page, in the order in which YouTube has it: scripts with other channels' IDs, title, links.
fn html() -> String {
    format!(
        r#"<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">
        <!-- <link rel="canonical" href="https://www.youtube.com/channel/{OTHER}"> -->
        <script nonce="x">var a = {{"channelId":"{OTHER}","html":'<link rel="canonical" href="https://www.youtube.com/channel/{OTHER}">'}}; 1</2;</script>
        <style>a > b {{}}</style>
        <link rel="stylesheet" href="https://www.youtube.com/channel/{OTHER}"><link rel="alternate" media="handheld" href="https://m.youtube.com/channel/{OTHER}">
        <title>Kurzgesagt – In a &#39;Nutshell&#39; &amp; more - YouTube</title>
        <LINK href='https://www.youtube.com/channel/{ID}' data-x REL=Canonical>
        <link rel="alternate" type="application/rss+xml" title="RSS" href="https://www.youtube.com/feeds/videos.xml?channel_id={ID}">
        <meta property="og:title" content="Another title"></head><body><a href="/channel/{OTHER}">x</a></body></html>"#
    )
}

#[expect(clippy::unnecessary_wraps, reason = "as it is read")]
fn channel(title: &str) -> Option<Page> {
    let id = ID.parse().expect("an ID");
    Some(Page::Channel(ResolvedChannel {
        id,
        title: title.into(),
    }))
}

#[test]
fn the_channel_is_that_of_the_canonical_link() {
    assert_eq!(
        page::read(html().as_bytes(), true),
        channel("Kurzgesagt – In a 'Nutshell' & more")
    );
    assert_eq!(
        page::read(html().as_bytes(), false),
        channel("Kurzgesagt – In a 'Nutshell' & more")
    );
}

#[test]
fn the_channel_is_that_of_the_feed_link_where_the_canonical_one_has_a_handle() {
    let html = html().replace(
        &format!("https://www.youtube.com/channel/{ID}'"),
        "https://www.youtube.com/@kurzgesagt'",
    );
    assert_eq!(
        page::read(html.as_bytes(), false),
        channel("Kurzgesagt – In a 'Nutshell' & more")
    );
}

#[test]
fn a_title_may_come_late_or_never() {
    let link = format!("<head><link rel=canonical href=https://www.youtube.com/channel/{ID}>");
    let read = |rest: &str, is_complete| page::read(format!("{link}{rest}").as_bytes(), is_complete);
    assert_eq!(read("", false), None, "it may come");
    assert_eq!(read("<title>A - YouTu", false), None);
    assert_eq!(read("", true), channel(""));
    assert_eq!(read("</head>", false), channel(""));
    assert_eq!(read("<body>", false), channel(""));
    assert_eq!(read("<title>A - YouTube</title>", false), channel("A"));
    assert_eq!(
        read("<title>a\u{202e}\nb</title>", false),
        channel("a\u{fffd}\u{fffd}b"),
        "one line"
    );
}

#[test]
fn links_in_the_body_are_not_the_pages_own() {
    let html = format!(r#"<head></head><link rel="canonical" href="https://www.youtube.com/channel/{ID}">"#);
    assert_eq!(page::read(html.as_bytes(), true), None);
    assert_eq!(page::read(b"\xff<title>404 Not Found</title>", true), None);
    assert_eq!(page::read(b"", true), None);
}

#[test]
fn a_page_that_asks_for_consent_is_recognized() {
    for html in [
        r#"<title>Avant d'acceder</title><body><form action="https://consent.youtube.com/save" method="POST">"#,
        "<!doctype html><title>Before you continue to YouTube</title>",
    ] {
        assert_eq!(page::read(html.as_bytes(), true), Some(Page::Consent), "{html}");
    }
    let html = html().replace("Kurzgesagt – In", "Before you continue");
    assert!(
        matches!(page::read(html.as_bytes(), true), Some(Page::Channel(_))),
        "a channel of that name"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// However much has come, the answer is none or that of the whole page.
    #[test]
    fn a_beginning_says_what_the_whole_page_says(
        pieces in prop::collection::vec(prop_oneof![
            Just(html()),
            "<(/?(head|title|body|script|form)|link rel=canonical|meta property=og:title|!--)[^>]{0,30}>?",
            Just(format!("<link rel=canonical href=/channel/{ID}>")),
            "\\PC{0,8}",
        ], 0..6),
        share: u8,
    ) {
        let mut input = vec![share];
        input.extend(pieces.concat().bytes());
        fuzzing::channel_page(&input);
    }
}

type Answer = fn(&Uri, &HeaderMap) -> Response;

async fn serve(answer: Answer) -> (Pages, Url) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base: Url = format!("http://{}", listener.local_addr().expect("bound"))
        .parse()
        .expect("a URL");
    let router =
        Router::new().fallback(move |uri: Uri, headers: HeaderMap| async move { answer(&uri, &headers) });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = client::client(&Settings::new(base.clone())).expect("a client");
    (Pages::new(client, base.clone(), Duration::from_secs(10)), base)
}

#[test]
fn errors_name_youtube_and_no_other_host() {
    let host = |base: &str| {
        let base: Url = base.parse().expect("a URL");
        let client = client::client(&Settings::new(base.clone())).expect("a client");
        let pages = Pages::new(client, base, Duration::from_secs(10));
        pages.host().map(str::to_owned)
    };
    assert_eq!(host("http://www.youtube.com").as_deref(), Some("www.youtube.com"));
    assert_eq!(host("http://pages.internal"), None);
}

async fn resolve(answer: Answer, name: &str) -> Result<ResolvedChannel, UpstreamError> {
    let (pages, _) = serve(answer).await;
    let name = name.parse().expect("a name");
    pages.resolve(&name).await.map_err(|failure| failure.error)
}

fn redirect(to: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, to.to_owned())]).into_response()
}

#[tokio::test]
async fn a_name_is_asked_of_its_page_with_the_cookie() {
    let answer: Answer = |uri, headers| {
        let is_asked = headers
            .get(header::COOKIE)
            .is_some_and(|cookie| cookie == "SOCS=CAI");
        match uri.path() {
            "/@kurzgesagt" | "/@%E3%81%82" | "/c/nut" | "/user/Nut" | "/channel/UCsXVk37bltHxD1rDPwtNM8Q"
                if is_asked =>
            {
                html().into_response()
            }
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    };
    for name in ["@kurzgesagt", "@あ", "c/nut", "user/Nut", ID] {
        let found = resolve(answer, name).await.expect(name);
        assert_eq!(found.id.as_str(), ID);
    }
    assert_eq!(resolve(answer, "@nobody").await, Err(UpstreamError::NotFound));
}

#[tokio::test]
async fn a_page_is_not_packed() {
    let answer: Answer = |uri, headers| {
        assert_eq!(headers[header::ACCEPT_ENCODING], "identity");
        let coding = if uri.path() == "/@packed" {
            "gzip"
        } else {
            "identity"
        };
        ([(header::CONTENT_ENCODING, coding)], html()).into_response()
    };
    assert_eq!(
        resolve(answer, "@kurzgesagt").await.expect("found").id.as_str(),
        ID
    );
    let error = resolve(answer, "@packed").await.expect_err("packed");
    assert!(error.to_string().contains("compressed"), "{error}");
}

#[tokio::test]
async fn a_videos_uploader_is_asked_of_oembed() {
    let answer: Answer = |uri, _| match (uri.path(), uri.query()) {
        ("/oembed", Some("format=json&url=https%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3DUZ4n1n13crI")) => {
            r#"{"title":"x","author_name":"Kurzgesagt","author_url":"https://www.youtube.com/@kurzgesagt"}"#
                .into_response()
        }
        ("/oembed", Some(query)) if query.contains("bad") => StatusCode::BAD_REQUEST.into_response(),
        ("/oembed", Some(query)) if query.contains("loop") => {
            r#"{"author_url":"https://youtu.be/UZ4n1n13crI"}"#.into_response()
        }
        ("/@kurzgesagt", None) => html().into_response(),
        _ => StatusCode::UNAUTHORIZED.into_response(),
    };
    assert_eq!(
        resolve(answer, "youtu.be/UZ4n1n13crI")
            .await
            .expect("found")
            .id
            .as_str(),
        ID
    );
    assert_eq!(
        resolve(answer, "youtu.be/baddddddddd").await,
        Err(UpstreamError::NotFound)
    );
    assert_eq!(
        resolve(answer, "youtu.be/aaaaaaaaaaa").await,
        Err(UpstreamError::Status(401))
    );
    assert!(matches!(
        resolve(answer, "youtu.be/looppppppp_").await,
        Err(UpstreamError::Malformed(_))
    ));
}

#[tokio::test]
async fn redirects_are_followed_to_pages_of_the_same_server() {
    let answer: Answer = |uri, _| match uri.path() {
        "/c/nut" => redirect("/@kurzgesagt"),
        "/@kurzgesagt" => html().into_response(),
        "/@loop" => redirect("/@loop"),
        "/@consent" => redirect("https://consent.youtube.com/m?continue=x"),
        "/@sorry" => redirect("https://www.google.com/sorry/index"),
        "/@away" => redirect("http://127.0.0.1:1/@kurzgesagt"),
        "/@nowhere" => StatusCode::SEE_OTHER.into_response(),
        "/@many" => StatusCode::TOO_MANY_REQUESTS.into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    assert_eq!(resolve(answer, "c/nut").await.expect("found").id.as_str(), ID);
    for (name, expected) in [
        ("@loop", "too often"),
        ("@consent", "consent"),
        ("@sorry", "429"),
        ("@away", "redirect"),
        ("@nowhere", "redirect"),
        ("@many", "429"),
        ("@broken", "500"),
    ] {
        let error = resolve(answer, name).await.expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

/// How many pieces of an endless page were taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

#[tokio::test]
async fn no_more_of_a_page_is_read_than_needed() {
    let endless: Answer = |uri, _| {
        let first = if uri.path() == "/@kurzgesagt" {
            html()
        } else {
            String::new()
        };
        let pieces = stream::iter(std::iter::once(first).chain(std::iter::repeat_with(|| {
            TAKEN.fetch_add(1, Ordering::Relaxed);
            format!("<p>{OTHER}{}", " ".repeat(16 << 10))
        })));
        let pieces = futures_util::StreamExt::map(pieces, Ok::<_, Infallible>);
        Body::from_stream(pieces).into_response()
    };
    assert_eq!(
        resolve(endless, "@kurzgesagt").await.expect("found").id.as_str(),
        ID
    );
    let needed = TAKEN.swap(0, Ordering::Relaxed);
    // What the sockets between hold counts, too: some megabytes.
    assert!(needed < 1000, "{needed} pieces");

    let error = resolve(endless, "@nobody").await.expect_err("no channel");
    assert!(error.to_string().contains("names no channel"), "{error}");
    assert!(TAKEN.load(Ordering::Relaxed) < 1000);
}

#[tokio::test]
async fn a_silent_server_is_left_in_time() {
    let (mut pages, _) =
        serve(|_, _| Body::from_stream(stream::pending::<Result<&str, Infallible>>()).into_response()).await;
    pages.time_limit = Duration::from_millis(20);
    let error = pages
        .resolve(&"@a".parse().expect("a name"))
        .await
        .expect_err("silence")
        .error;
    assert_eq!(error, UpstreamError::TimedOut(pages.time_limit));
}

#[tokio::test]
async fn no_page_is_loaded_while_they_refuse_this_address() {
    static LOADED: AtomicUsize = AtomicUsize::new(0);
    let (pages, _base) = serve(|_uri, _headers| {
        LOADED.fetch_add(1, Ordering::SeqCst);
        StatusCode::TOO_MANY_REQUESTS.into_response()
    })
    .await;
    for number in 0..10 {
        let name = format!("@name{number}").parse().expect("a name");
        let resolved = NameSource::resolve(&pages, &name, Caller::default()).await;
        let failure = resolved.expect("a page may know").expect_err("refused");
        assert_eq!(failure.error, UpstreamError::RateLimited(429));
        let pause = failure.retry_after.expect("the first gets it, too");
        assert!(pause > Duration::from_secs(20), "{pause:?}");
    }
    assert_eq!(LOADED.load(Ordering::SeqCst), 1);
}
