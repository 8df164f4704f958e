use std::{collections::HashMap as Map, fs, io::Write as _, path::PathBuf};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Uri},
    response::{IntoResponse as _, Response},
};
use flate2::{Compression, write::GzEncoder};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    super::{requests::KEY_HEADER, *},
    ID,
};
use crate::youtube::{Settings, client};

/// An API with one channel, of which each list has what is said here, and what was asked of it.
pub(super) struct World {
    pub(super) api: DataApi,
    pub(super) key_file: PathBuf,
    pub(super) state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(super) struct State {
    /// By prefix: the videos of a list, newest first.
    pub(super) lists: Map<&'static str, Vec<&'static str>>,
    /// Methods and their queries.
    pub(super) asked: Vec<(String, Map<String, String>)>,
    /// What is answered instead.
    pub(super) refusal: Option<(u16, &'static str)>,
    pub(super) is_silent: bool,
    /// An API to which all requests are redirected.
    pub(super) redirect: Option<Url>,
}

impl World {
    pub(super) async fn new() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let api: Url = format!("http://{}/youtube/v3/", listener.local_addr().expect("bound"))
            .parse()
            .expect("a URL");
        let answering = Arc::clone(&state);
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap| async move {
            answering.lock().answer(&uri, &headers)
        });
        tokio::spawn(async move { axum::serve(listener, router).await });

        let folder = std::env::temp_dir();
        let key_file = folder.join(format!(
            "plaque-api-{}-{}",
            std::process::id(),
            api.port().expect("a port")
        ));
        fs::write(&key_file, "first-key\n").expect("written");
        let settings = Settings::new(api.clone());
        let api = DataApi::new(
            client::client(&settings).expect("a client"),
            api,
            &settings.user_agent,
            KeyFile::open(key_file.clone()).expect("a key"),
            Ledger::new(10_000, None, SystemTime::now()),
            Duration::from_secs(10),
        );
        Self { api, key_file, state }
    }

    pub(super) fn lists<const N: usize>(&self, lists: [(&'static str, &[&'static str]); N]) {
        self.state.lock().lists = lists.map(|(prefix, videos)| (prefix, videos.to_vec())).into();
    }

    /// The methods that were asked since the last time, with what they were asked for.
    pub(super) fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut self.state.lock().asked);
        let about = |query: &Map<String, String>| {
            let names = ["playlistId", "id", "forHandle", "forUsername"];
            names
                .iter()
                .find_map(|name| query.get(*name).map(|value| format!("{name}={value}")))
        };
        asked
            .iter()
            .map(|(method, query)| format!("{method} {}", about(query).unwrap_or_default()))
            .collect()
    }

    pub(super) async fn look_up(
        &self,
        kind: Option<Kind>,
        found_before: bool,
        known: Option<&Channel>,
    ) -> Result<Channel, ApiError> {
        let channel = channel();
        let request = LookupRequest {
            found_before,
            known: known.cloned().map(Arc::new),
            ..LookupRequest::of(Purpose::Awaited)
        };
        self.api.newest(Feed { channel, kind }, request).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.key_file);
    }
}

impl State {
    fn answer(&mut self, uri: &Uri, headers: &HeaderMap) -> Response {
        if self.is_silent {
            return Body::from_stream(futures_util::stream::pending::<Result<&str, std::io::Error>>())
                .into_response();
        }
        if let Some(to) = &self.redirect {
            let to = uri.to_string().replacen("/youtube/v3/", to.as_str(), 1);
            return (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response();
        }
        let url: Url = format!("http://api{uri}").parse().expect("a URL");
        let method = url
            .path()
            .strip_prefix("/youtube/v3/")
            .expect("the API's path")
            .to_owned();
        let query: Map<String, String> = url.query_pairs().into_owned().collect();
        assert!(!uri.to_string().contains("key"), "{uri}");
        assert!(query.contains_key("fields"), "all of it is asked for");
        assert!(!headers.contains_key("traceparent"), "it leaves the machine");
        let agent = headers[header::USER_AGENT].to_str().expect("ASCII");
        assert!(
            agent.starts_with("plaque/") && agent.ends_with(" (gzip)"),
            "{agent}"
        );
        let key = headers[KEY_HEADER].to_str().expect("ASCII").to_owned();
        self.asked.push((method.clone(), query.clone()));
        let refuse = |status: u16, reason: &str| {
            let body = json!({"error": {"code": status, "errors": [{"reason": reason}]}});
            (StatusCode::from_u16(status).expect("a status"), body.to_string()).into_response()
        };
        match self.refusal {
            // Of the first key only.
            Some((status, "keyInvalid")) if key == "first-key" => return refuse(status, "keyInvalid"),
            Some((status, reason)) if reason != "keyInvalid" => return refuse(status, reason),
            _ => {}
        }
        let exists = |channel: &str| json!({"id": channel, "snippet": {"title": "A channel"}});
        let mut answer = match method.as_str() {
            "playlistItems" => match self.items(&query) {
                Some(answer) => answer,
                None => return refuse(404, "playlistNotFound"),
            },
            "channels"
                if query.get("forHandle").is_some_and(|handle| handle == "@tests")
                    || query.get("forUsername").is_some_and(|name| name == "Tests")
                    || query
                        .get("id")
                        .is_some_and(|ids| ids.split(',').any(|id| id == ID)) =>
            {
                json!({"items": [exists(ID)]})
            }
            "videos" if query["id"] == "aaaaaaaaaaa" => {
                json!({"items": [{"snippet": {"channelId": ID, "channelTitle": "A channel"}}]})
            }
            _ => json!({"pageInfo": {"totalResults": 0}}),
        };
        let kind = method.trim_end_matches('s');
        answer["kind"] = json!(format!("youtube#{kind}ListResponse"));
        let mut encoder = GzEncoder::new(vec![], Compression::fast());
        encoder
            .write_all(answer.to_string().as_bytes())
            .expect("in memory");
        (
            [(header::CONTENT_ENCODING, "gzip")],
            encoder.finish().expect("in memory"),
        )
            .into_response()
    }

    fn items(&self, query: &Map<String, String>) -> Option<Value> {
        let prefix = query["playlistId"].strip_suffix(&ID[2..])?;
        let most: usize = query["maxResults"].parse().expect("a number");
        let size = most.min(2);
        let first: usize = query
            .get("pageToken")
            .map_or(0, |token| token.parse().expect("ours"));
        let videos = self.lists.get(prefix)?;
        let items = videos
            .iter()
            .enumerate()
            .skip(first)
            .take(size)
            .map(|(at, video)| {
                // What has a later letter is older.
                let published = format!("2026-01-{:02}T00:00:00Z", 27 - (video.as_bytes()[0] - b'a'));
                json!({"snippet": {"title": format!("{at}"), "channelTitle": "A channel"},
                "contentDetails": {"videoId": video, "videoPublishedAt": published}})
            });
        let next = (first + size < videos.len()).then(|| (first + size).to_string());
        Some(json!({"items": items.collect::<Vec<_>>(), "nextPageToken": next}))
    }
}

pub(super) fn channel() -> ChannelId {
    ID.parse().expect("an ID")
}
