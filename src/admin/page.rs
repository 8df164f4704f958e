//! The status page: one document with its style and its script in it.

use axum::{
    http::header,
    response::{Html, IntoResponse},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost::bytes::Bytes;
use ring::digest::{SHA256, digest};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(
    include_str!("look.js"),
    include_str!("page.js"),
    include_str!("ask.js")
);

/// The page and its content security policy: it may run its own style and script, identified by their hashes, and send requests to this
/// port. From elsewhere it may load pictures of YouTube's uploads, which it does if its reader wants them, and nothing else.
pub(super) fn response() -> impl IntoResponse + Clone {
    let page = include_str!("page.html")
        .replace("{style}", STYLE)
        .replace("{script}", SCRIPT);
    let hash = |text: &str| BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data: https://i.ytimg.com; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    (
        [(header::CONTENT_SECURITY_POLICY, policy)],
        Html(Bytes::from(page)),
    )
}
