//! How uploads and failures are printed, for people.

use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime},
};

use http::Uri;

use crate::proto::v1::{Freshness, LookupFailure, LookupResult, Video, VideoKind, lookup_result::Outcome};

/// Prints an upload to standard output.
pub(super) fn upload(video: &Video, freshness: Option<Freshness>) -> io::Result<()> {
    let described = describe(video, freshness, SystemTime::now());
    writeln!(io::stdout(), "{described}")
}

/// Prints a failure to standard error.
pub(super) fn failure(channel: &str, failure: &LookupFailure) -> io::Result<()> {
    let message = printable(&failure.message);
    writeln!(io::stderr(), "{channel}: {message} ({})", failure.reason)
}

/// Prints to standard error that a server is lost, and that it is tried again.
pub(super) fn lost(server: &Uri, why: &LookupFailure) -> io::Result<()> {
    let message = printable(&why.message);
    writeln!(
        io::stderr(),
        "lost {server}: {message} ({}); reconnecting",
        why.reason
    )
}

/// Prints what became of a lookup.
pub(super) fn result(result: &LookupResult) -> io::Result<()> {
    match &result.outcome {
        Some(Outcome::Found(found)) => upload(&found.video.clone().unwrap_or_default(), found.freshness),
        Some(Outcome::Failure(why)) => failure(&result.channel_id, why),
        None => Ok(()),
    }
}

fn describe(video: &Video, freshness: Option<Freshness>, now: SystemTime) -> String {
    let title = match video.title.as_str() {
        "" => "(no title)",
        title => title,
    };
    let kind = match video.kind() {
        VideoKind::Short => "Short",
        VideoKind::Video | VideoKind::Unspecified => "video",
    };
    let published = video
        .publish_time
        .and_then(|time| SystemTime::try_from(time).ok())
        .map_or_else(
            || ", published at an unknown time".into(),
            |time| {
                format!(
                    ", published {}{}",
                    humantime::format_rfc3339_seconds(time),
                    ago(time, now)
                )
            },
        );
    let views = video
        .view_count
        .map_or_else(String::new, |views| format!(", {views} views"));
    let fetched = freshness
        .filter(|freshness| freshness.stale)
        .and_then(|freshness| SystemTime::try_from(freshness.fetch_time?).ok())
        .map_or_else(String::new, |time| {
            format!("\n  an old answer: fetched{}", ago(time, now))
        });
    format!(
        "{}\n  {kind} by {}{published}{views}{fetched}\n  {}",
        printable(title),
        printable(&video.channel_title),
        printable(&video.url),
    )
}

/// ` (3days ago)`: the largest unit is enough for a person.
fn ago(time: SystemTime, now: SystemTime) -> String {
    let Ok(age) = now.duration_since(time) else {
        return String::new();
    };
    let age = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    let largest = age.split(' ').next().unwrap_or_default();
    format!(" ({largest} ago)")
}

/// A title may hold anything; what would steer the terminal is left out.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_described_without_steering_the_terminal() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let video = Video {
            title: "Red\u{1b}[31m alert".into(),
            channel_title: "Tide".into(),
            url: "https://www.youtube.com/shorts/aaaaaaaaaaA".into(),
            kind: VideoKind::Short.into(),
            publish_time: Some(at(1_000_000).into()),
            view_count: Some(7),
            ..Video::default()
        };
        let freshness = Freshness {
            fetch_time: Some(at(1_003_600).into()),
            stale: true,
        };
        assert_eq!(
            describe(&video, Some(freshness), at(1_000_000 + 2 * 86_400)),
            "Red[31m alert\n  Short by Tide, published 1970-01-12T13:46:40Z (2days ago), 7 views\n  \
             an old answer: fetched (1day ago)\n  https://www.youtube.com/shorts/aaaaaaaaaaA"
        );
    }
}
