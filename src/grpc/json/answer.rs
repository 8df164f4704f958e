//! An answer as canonical protobuf JSON, written from where it is kept: an eighth of what it costs to go through messages and
//! descriptors, against which it is checked.

use std::fmt::{Display, Write as _};

use chrono::{DateTime, SecondsFormat};
use prost_types::Timestamp;

use crate::{grpc::convert, latest::Answer};

/// Room for an answer of common length, in bytes.
const COMMON: usize = 640;

/// A `GetLatestVideoResponse`, on a line of its own.
pub(in crate::grpc) fn line(answer: &Answer) -> String {
    let (channel, video) = (answer.channel(), answer.video());
    let mut json = Json(String::with_capacity(COMMON));
    json.0.push('{');
    json.object("video", |json| {
        json.plain("videoId", &[video.id().as_str()]);
        json.plain("channelId", &[channel.id().as_str()]);
        json.text("channelTitle", &[channel.title()]);
        json.text("title", &[video.title()]);
        json.plain("url", &video.url());
        json.plain("kind", &[convert::video_kind(video.kind()).as_str_name()]);
        json.time("publishTime", convert::timestamp(video.moment()));
        json.time("updateTime", convert::timestamp(video.updated_moment()));
        if let Some(picture) = video.picture() {
            json.object("thumbnail", |json| {
                json.text("url", &picture.url);
                json.number("width", picture.width);
                json.number("height", picture.height);
            });
        }
        if let Some(views) = video.views() {
            // 64 bits are more than a number of JavaScript's has.
            json.field("viewCount", format_args!("\"{views}\""));
        }
    });
    json.object("freshness", |json| {
        json.time("fetchTime", Some(answer.fetched.into()));
        if answer.stale {
            json.field("stale", true);
        }
    });
    json.0 + "}\n"
}

/// What has been written of an object.
struct Json(String);

impl Json {
    fn object(&mut self, name: &str, fields: impl FnOnce(&mut Self)) {
        self.name(name);
        self.0.push('{');
        fields(self);
        self.0.push('}');
    }

    /// Text of which nothing has to be escaped, and which is never empty: most of an answer.
    fn plain(&mut self, name: &str, parts: &[&str]) {
        self.name(name);
        self.0.push('"');
        for part in parts {
            self.0.push_str(part);
        }
        self.0.push('"');
    }

    /// What is empty or zero is left out, as everything that is the default of its type.
    fn text(&mut self, name: &str, parts: &[&str]) {
        if parts.iter().all(|part| part.is_empty()) {
            return;
        }
        self.name(name);
        self.0.push('"');
        for part in parts {
            // All of them, which takes less time than to stop at the first.
            let escape = |byte| byte < b' ' || matches!(byte, b'"' | b'\\');
            if part.bytes().fold(false, |any, byte| any | escape(byte)) {
                let quoted = serde_json::Value::from(*part).to_string();
                self.0.push_str(&quoted[1..quoted.len() - 1]);
            } else {
                self.0.push_str(part);
            }
        }
        self.0.push('"');
    }

    fn number(&mut self, name: &str, number: u32) {
        if number != 0 {
            self.field(name, number);
        }
    }

    fn time(&mut self, name: &str, time: Option<Timestamp>) {
        // Not by prost, which formats each number.
        let time = time.and_then(|time| DateTime::from_timestamp(time.seconds, time.nanos.try_into().ok()?));
        if let Some(time) = time {
            self.plain(name, &[&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)]);
        }
    }

    fn field(&mut self, name: &str, value: impl Display) {
        self.name(name);
        // A string takes whatever comes.
        let _ = write!(self.0, "{value}");
    }

    fn name(&mut self, name: &str) {
        if !self.0.ends_with('{') {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }
}
