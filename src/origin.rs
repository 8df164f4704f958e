//! A feed server on loopback, for the demo and the tests. A closure makes its responses, and it counts requests.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::Query,
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::get,
};
use parking_lot::Mutex;
use quick_xml::escape::escape;
use reqwest::Url;
use tokio::{net::TcpListener, task::AbortHandle};

use crate::video::ChannelId;

/// The path of feeds on YouTube, and here.
const PATH: &str = "/feeds/videos.xml";

/// A running origin. Dropping it stops it.
pub struct Origin {
    url: Url,
    lookups: Arc<Mutex<HashMap<String, usize>>>,
    /// Owns the listener and every connection.
    server: AbortHandle,
}

/// A request.
pub struct Lookup {
    /// The requested `channel_id` or `playlist_id`.
    pub channel: String,
    /// How often that channel was requested, this time included.
    pub number: usize,
    /// The headers.
    pub headers: HeaderMap,
}

impl Origin {
    /// Starts an origin on a free port that responds with `answer`.
    ///
    /// # Errors
    ///
    /// If no port is free.
    pub async fn start<F, Fut>(answer: F) -> io::Result<Self>
    where
        F: Fn(Lookup) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response> + Send,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut url = Url::parse("http://127.0.0.1").map_err(io::Error::other)?;
        url.set_path(PATH);
        // Fails only for URLs without a host.
        let _ = url.set_port(Some(listener.local_addr()?.port()));

        let lookups = Arc::new(Mutex::new(HashMap::new()));
        let counts = Arc::clone(&lookups);
        let handler = async move |Query(mut query): Query<HashMap<String, String>>, headers| {
            let of = query.remove("channel_id").or_else(|| query.remove("playlist_id"));
            let channel = of.unwrap_or_default();
            let number = {
                let mut counts = counts.lock();
                let count = counts.entry(channel.clone()).or_insert(0);
                *count += 1;
                *count
            };
            answer(Lookup {
                channel,
                number,
                headers,
            })
            .await
        };
        let router = Router::new().route(PATH, get(handler));
        let server = tokio::spawn(async move {
            // Ends only with its task.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            url,
            lookups,
            server: server.abort_handle(),
        })
    }

    /// The address of the feeds, for `--upstream`.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// How often `channel` was requested.
    #[must_use]
    pub fn lookups(&self, channel: ChannelId) -> usize {
        self.lookups_of(channel.as_str())
    }

    /// How often the channel or playlist with this ID was requested.
    #[must_use]
    pub fn lookups_of(&self, id: &str) -> usize {
        self.lookups.lock().get(id).copied().unwrap_or(0)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An upload in a generated feed.
#[derive(Clone, Debug)]
pub struct Upload {
    /// 11 characters.
    pub id: String,
    /// Plain text.
    pub title: String,
    /// Linked as a Short.
    pub short: bool,
    /// To the second.
    pub published: SystemTime,
}

/// A response with a feed in YouTube's shape, with entries in the given order.
#[must_use]
pub fn feed(channel: &str, title: &str, uploads: &[Upload]) -> Response {
    (
        [("content-type", "text/xml; charset=UTF-8")],
        xml(channel, title, uploads),
    )
        .into_response()
}

/// Generates `count` uploads, an hour apart, newest first; every third one is a Short.
#[must_use]
pub fn uploads(newest: SystemTime, count: u32) -> Vec<Upload> {
    (0..count)
        .map(|number| Upload {
            id: format!("upload{:04}A", count - number),
            title: format!("Upload <{}> & more", count - number),
            short: number % 3 == 2,
            published: newest - Duration::from_hours(1) * number,
        })
        .collect()
}

/// A feed in YouTube's shape: its ID lacks the `UC`, and descriptions are empty.
#[must_use]
pub fn xml(channel: &str, title: &str, uploads: &[Upload]) -> String {
    let (bare, title) = (channel.trim_start_matches("UC"), escape(title));
    let author = format!(
        "<author>\n   <name>{title}</name>\n   <uri>https://www.youtube.com/channel/{channel}</uri>\n  </author>"
    );
    let mut xml = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns:media="http://search.yahoo.com/mrss/" xmlns="http://www.w3.org/2005/Atom">
 <link rel="self" href="http://www.youtube.com/feeds/videos.xml?channel_id={channel}"/>
 <id>yt:channel:{bare}</id>
 <yt:channelId>{bare}</yt:channelId>
 <title>{title}</title>
 {author}
 <published>2015-02-01T00:00:00+00:00</published>
"#
    );
    for upload in uploads {
        let (id, title) = (&upload.id, escape(&upload.title));
        let page = if upload.short { "shorts/" } else { "watch?v=" };
        let published = humantime::format_rfc3339_seconds(upload.published);
        // Writing to a String does not fail.
        let _ = writeln!(
            xml,
            r#" <entry>
  <id>yt:video:{id}</id>
  <yt:videoId>{id}</yt:videoId>
  <yt:channelId>{channel}</yt:channelId>
  <title>{title}</title>
  <link rel="alternate" href="https://www.youtube.com/{page}{id}"/>
  {author}
  <published>{published}</published>
  <updated>{published}</updated>
  <media:group>
   <media:title>{title}</media:title>
   <media:content url="https://www.youtube.com/v/{id}?version=3" type="application/x-shockwave-flash" width="640" height="390"/>
   <media:thumbnail url="https://i1.ytimg.com/vi/{id}/hqdefault.jpg" width="480" height="360"/>
   <media:description></media:description>
   <media:community>
    <media:starRating count="10" average="5.00" min="1" max="5"/>
    <media:statistics views="1234"/>
   </media:community>
  </media:group>
 </entry>"#
        );
    }
    xml + "</feed>\n"
}
