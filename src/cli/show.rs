//! Prints uploads and failures: for people on a terminal, elsewhere as lines of fields.
//!
//! Texts from the network may contain anything, and are only printed through [`printable`].

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, SystemTime},
};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};
use http::Uri;
use prost::Message;
use prost_types::Timestamp;

use crate::{
    proto::{
        self,
        v1::{Freshness, LookupFailure, LookupResult, Video, VideoKind, lookup_result::Outcome},
    },
    video::{escape, steers},
};

const TITLE: Style = Style::new().bold();
const DETAILS: Style = Style::new().dimmed();
const LINK: Style = AnsiColor::Cyan.on_default();
const STALE: Style = AnsiColor::Yellow.on_default();

/// The longest error that is printed, in bytes: half a screen.
const MAX_ERROR: usize = 2 << 10;

/// As much of a given text as an error repeats, in bytes.
const MAX_GIVEN: usize = 200;

pub(super) fn upload(video: &Video, freshness: Option<Freshness>) -> io::Result<()> {
    if io::stdout().is_terminal() || ColorChoice::global() == ColorChoice::Always {
        let described = describe(video, freshness, SystemTime::now());
        // anstream leaves out colors where NO_COLOR and similar variables say so.
        writeln!(anstream::stdout(), "{described}")
    } else {
        writeln!(io::stdout(), "{}", fields(video))
    }
}

/// Prints a line of plaque's own to standard output.
pub(super) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// Prints a message of `plaque.v1` as protobuf's JSON to standard output, on one line.
pub(super) fn json(name: &str, message: &impl Message) -> io::Result<()> {
    let json = proto::to_json(name, message).ok_or_else(|| io::Error::other("cannot write JSON"))?;
    writeln!(io::stdout(), "{}", escape_json(&json))
}

/// Which channel failed, unless the message begins with that, and [why](reason).
pub(super) fn failure(channel: &str, failure: &LookupFailure) -> String {
    match reason(failure) {
        reason if reason.starts_with(channel) => reason,
        reason => format!("{channel}: {reason}"),
    }
}

/// What failed, why, and when to try again.
pub(super) fn reason(failure: &LookupFailure) -> String {
    let LookupFailure { message, reason, .. } = failure;
    let pause = failure.retry_after.and_then(|pause| pause.try_into().ok());
    let again = pause.map_or_else(String::new, |pause: Duration| {
        // Never too early.
        match pause.as_millis().div_ceil(1000) {
            seconds @ ..120 => format!("; try again in {seconds} s"),
            seconds => format!("; try again in {} min", seconds.div_ceil(60)),
        }
    });
    format!("{message} ({reason}){again}")
}

/// Prints to standard error that the connection was lost and that the client reconnects.
pub(super) fn reconnecting(server: &Uri, why: &LookupFailure) {
    print_error(&format!(
        "lost {server}: {}; reconnecting",
        reason(&LookupFailure {
            retry_after: None,
            ..why.clone()
        })
    ));
}

/// Prints a line to standard error. If that is closed, nothing can be done, and the exit code still tells the outcome.
pub(super) fn print_error(message: &str) {
    let shown = &message[..message.floor_char_boundary(MAX_ERROR)];
    let cut = if shown.len() < message.len() { "…" } else { "" };
    let _ = writeln!(io::stderr(), "{}{cut}", printable(shown));
}

/// A line of an error with such parts, as it is printed.
pub(super) fn given_line(line: &str) -> String {
    escaped(line, MAX_ERROR)
}

/// Whether an error can be printed as it is.
pub(super) fn is_harmless(error: &str) -> bool {
    error.len() <= 2 * MAX_ERROR && !error.contains(|c| c != '\n' && steers(c))
}

/// Prints an error as a line of the log in JSON, in the form of the others.
pub(super) fn json_error(message: &str) {
    let message = escaped(message, 2 * MAX_ERROR);
    let line = serde_json::json!({
        "timestamp": humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
        "level": "ERROR",
        "fields": { "message": message },
        "target": module_path!(),
    });
    let _ = writeln!(io::stderr(), "{line}");
}

/// A part of an argument or of the input, as an error repeats it: its beginning, with escapes for characters that control the terminal.
pub(super) fn given(text: &str) -> String {
    escaped(text, MAX_GIVEN)
}

fn escaped(text: &str, length: usize) -> String {
    let shown = &text[..text.floor_char_boundary(length)];
    let mut harmless = escape(shown).into_owned();
    if shown.len() < text.len() {
        let _ = write!(harmless, "… ({} bytes)", text.len());
    }
    harmless
}

/// Prints the result of a lookup, as JSON or for people: of a failure, with the name by which the channel was asked for.
pub(super) fn result(name: &str, result: &LookupResult, as_json: bool) -> io::Result<()> {
    match &result.outcome {
        _ if as_json => json("LookupResult", result),
        Some(Outcome::Found(found)) => upload(&found.video.clone().unwrap_or_default(), found.freshness),
        Some(Outcome::Failure(why)) => {
            print_error(&failure(name, why));
            Ok(())
        }
        None => Ok(()),
    }
}

/// An upload for people, with colors.
fn describe(video: &Video, freshness: Option<Freshness>, now: SystemTime) -> String {
    let title = match video.title.as_str() {
        "" => "(no title)".into(),
        title => printable(title),
    };
    let kind = match video.kind() {
        VideoKind::Short => "Short",
        VideoKind::Video => "video",
        VideoKind::Unspecified => "upload",
    };
    let channel = printable(&video.channel_title);
    let published = when(video.publish_time, now);
    let views = match video.view_count {
        Some(1) => ", 1 view".into(),
        Some(views) => format!(", {} views", grouped(views)),
        None => String::new(),
    };
    let stale = match freshness {
        Some(Freshness {
            fetch_time,
            stale: true,
            ..
        }) => {
            let fetched = when(fetch_time, now);
            format!("  {STALE}fetched {fetched}: the server has no newer answer yet{STALE:#}\n")
        }
        _ => String::new(),
    };
    let url = printable(&video.url);
    format!(
        "{TITLE}{title}{TITLE:#}\n  {DETAILS}{kind} by {channel}, {published}{views}{DETAILS:#}\n{stale}  {LINK}{url}{LINK:#}"
    )
}

/// A number with its thousands separated, as in 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// An upload for programs: one line of fields separated by tabs. The title comes last because it may be empty. The help of `get`, `list`
/// and `watch` documents the format.
fn fields(video: &Video) -> String {
    let published = match video.publish_time {
        Some(time) => time.to_string(),
        // The `read` of a shell takes two tabs for one.
        None => "-".into(),
    };
    let kind = match video.kind() {
        VideoKind::Short => "short",
        VideoKind::Video => "video",
        VideoKind::Unspecified => "-",
    };
    [
        &video.video_id,
        &video.channel_id,
        &published,
        kind,
        &video.url,
        &video.title,
    ]
    .map(printable)
    .join("\t")
}

/// For example `4 months ago (2026-07-01T14:00:35Z)`. The age is as of now, and the output of `watch` may be read later.
fn when(time: Option<Timestamp>, now: SystemTime) -> String {
    let Some(mut time) = time else {
        return "at an unknown time".into();
    };
    time.nanos = 0;
    let age = SystemTime::try_from(time)
        .ok()
        .and_then(|then| now.duration_since(then).ok());
    match age {
        Some(age) => format!("{} ({time})", timeago::Formatter::new().convert(age)),
        None => time.to_string(),
    }
}

/// One line that cannot control the terminal: without control characters, line separators, and changes of direction that outlast the text.
fn printable(text: &str) -> String {
    text.replace(steers, " ")
}

/// The same JSON without characters that control the terminal: they only occur within strings, where each can be escaped.
fn escape_json(json: &str) -> String {
    let mut harmless = String::with_capacity(json.len());
    for c in json.chars() {
        if steers(c) {
            // Writing to a String does not fail, and all of them are below U+10000.
            let _ = write!(harmless, "\\u{:04x}", u32::from(c));
        } else {
            harmless.push(c);
        }
    }
    harmless
}

#[cfg(test)]
mod tests;
