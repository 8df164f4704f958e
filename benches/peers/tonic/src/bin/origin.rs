//! A fast origin, where any channel has a feed of 15 uploads. The one in Python would take ten minutes for a million lookups.

use std::{collections::HashMap, error::Error, fmt::Write as _, net::SocketAddr};

use axum::{Router, extract::Query, routing::get};
use clap::Parser as _;
use peers::block_on;
use tokio::net::TcpListener;

/// The number of uploads in YouTube's feeds.
const UPLOADS: usize = 15;

/// Placeholder for the channel's ID without its UC.
const CHANNEL: &str = "{channel}";

#[derive(clap::Parser)]
struct Command {
    /// Address for HTTP/1.1; port 0 is any free port
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

fn main() -> Result<(), Box<dyn Error>> {
    let command = Command::parse();
    block_on(async {
        let feed = feed();
        let answer = async move |Query(query): Query<HashMap<String, String>>| {
            let channel = query.get("channel_id").map_or("", String::as_str);
            feed.replace(CHANNEL, channel.trim_start_matches("UC"))
        };
        let listener = TcpListener::bind(command.listen).await?;
        println!("origin on http://{}/feeds/videos.xml", listener.local_addr()?);
        Ok(axum::serve(listener, Router::new().route("/feeds/videos.xml", get(answer))).await?)
    })?
}

/// A feed with the elements that plaque reads, and titles of average length (55 bytes).
fn feed() -> String {
    let mut feed = format!(
        r#"<feed xmlns:yt="http://www.youtube.com/xml/schemas/2015" xmlns:media="http://search.yahoo.com/mrss/"
 xmlns="http://www.w3.org/2005/Atom">
<link rel="self" href="http://www.youtube.com/feeds/videos.xml?channel_id=UC{CHANNEL}"/>
<title>One of a million</title>
"#
    );
    for number in (1..=UPLOADS).rev() {
        // Writing to a `String` cannot fail.
        let _ = writeln!(
            feed,
            r#"<entry><id>yt:video:upload{number:04}A</id>
<title>Upload {number:02} of a channel that is one among a million others</title>
<link rel="alternate" href="https://www.youtube.com/watch?v=upload{number:04}A"/>
<author><name>One of a million</name><uri>https://www.youtube.com/channel/UC{CHANNEL}</uri></author>
<published>2026-11-{number:02}T12:00:00+00:00</published><updated>2026-11-{number:02}T12:00:00+00:00</updated>
<media:group><media:thumbnail url="https://i1.ytimg.com/vi/upload{number:04}A/hqdefault.jpg" width="480" height="360"/>
<media:community><media:statistics views="{number}"/></media:community></media:group></entry>"#
        );
    }
    feed + "</feed>\n"
}
