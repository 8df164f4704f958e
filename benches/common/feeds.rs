//! Synthetic channels, with as many uploads as YouTube's feeds and titles as long as recorded ones.

use std::time::{Duration, SystemTime};

use plaque::{
    origin::{self, Upload},
    video::{Channel, ChannelId},
    youtube::feed,
};

/// The number of uploads in YouTube's feeds.
pub const UPLOADS: u32 = 15;

/// The words of titles. Most letters have one byte, some two, three or four.
const WORDS: [&str; 8] = ["the", "größte", "of", "tide", "日本", "🌊", "measured", "again"];

/// The ID of made-up channel `number`.
pub fn id(number: u32) -> ChannelId {
    format!("UC{number:021}A").parse().expect("a channel ID")
}

/// Makes up the feed of that channel, and parses it.
pub fn channel(number: u32) -> Channel {
    let id = id(number);
    feed::parse(xml(number, id).as_bytes(), id).expect("a feed")
}

fn xml(number: u32, id: ChannelId) -> String {
    let uploads: Vec<_> = (0..UPLOADS)
        .map(|upload| Upload {
            id: format!("{number:08}{upload:02}A"),
            // Lengths from 15 to 95 bytes, in no order; the average, 55, is that of the longest recorded titles.
            title: title(number, 15 + (number % 81 * UPLOADS + upload) as usize * 37 % 81),
            short: upload.is_multiple_of(3),
            published: SystemTime::UNIX_EPOCH + Duration::from_hours(450_000)
                - Duration::from_hours(1) * upload,
        })
        .collect();
    origin::xml(id.as_str(), &title(number, 18), &uploads)
}

/// A title of `length` bytes, at least 10.
fn title(number: u32, length: usize) -> String {
    let mut title = number.to_string();
    for word in WORDS.iter().cycle() {
        if title.len() + 1 + word.len() > length {
            break;
        }
        title.push(' ');
        title.push_str(word);
    }
    let rest = length - title.len();
    title + &"!".repeat(rest)
}
