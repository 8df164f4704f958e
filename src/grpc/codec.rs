//! Answers as they are sent: written from where they are kept. No text is copied twice, and none is allocated.
//!
//! The messages that the build generates would need a `String` for every text. They are what answers are checked against.

use prost::{
    bytes::BufMut,
    encoding::{WireType, encode_varint, encoded_len_varint, key_len},
};
use prost_types::Timestamp;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::convert;
use crate::{
    latest::Answer,
    proto::v1::{
        GetLatestVideoRequest, GetLatestVideoResponse, WatchLatestVideoRequest, WatchLatestVideoResponse,
    },
    video::{Channel, Picture, Video},
};

/// Room for a request or an answer of common length, in bytes; a larger one grows. tonic's default of 8 KiB for each is a size that
/// allocators take their time over.
const BUFFER: usize = 512;

/// The codec of `GetLatestVideo`.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerCodec;

impl Codec for AnswerCodec {
    type Encode = Answer;
    type Decode = GetLatestVideoRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<GetLatestVideoRequest>;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<GetLatestVideoResponse, _>::raw_decoder(buffer_settings())
    }
}

impl Encoder for AnswerCodec {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        encode(&answer, buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffer_settings()
    }
}

/// A watch's events, encoded a few at a time: a stream keeps the buffer of the longest run that it encoded at once, which with tonic's
/// own settings has 32 KiB for as long as the watch goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = WatchLatestVideoResponse;
    type Decode = WatchLatestVideoRequest;
    type Encoder = ProstEncoder<WatchLatestVideoResponse>;
    type Decoder = ProstDecoder<WatchLatestVideoRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffer_settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Self::Encode, Self::Decode>::default().decoder()
    }
}

fn buffer_settings() -> BufferSettings {
    BufferSettings::new(BUFFER, BUFFER)
}

/// Writes `answer` as a `GetLatestVideoResponse`.
pub fn encode(answer: &Answer, buffer: &mut impl BufMut) {
    let response = Response {
        video: Upload::new(answer.channel(), answer.video()),
        freshness: Freshness {
            fetch_time: answer.fetched.into(),
            stale: answer.stale,
        },
    };
    response.write(&mut Written(buffer));
}

/// A message of `latest_video.proto`, with its fields in the order of their numbers.
trait Message {
    fn write(&self, to: &mut impl Sink);

    fn length(&self) -> usize {
        let mut length = Length(0);
        self.write(&mut length);
        length.0
    }
}

struct Response<'a> {
    video: Upload<'a>,
    freshness: Freshness,
}

impl Message for Response<'_> {
    fn write(&self, to: &mut impl Sink) {
        to.message(1, &self.video);
        to.message(2, &self.freshness);
    }
}

struct Upload<'a> {
    channel: &'a Channel,
    video: Video<'a>,
    /// The page's address, and at its end the video's ID.
    url: [&'a str; 2],
    publish_time: Option<Timestamp>,
    update_time: Option<Timestamp>,
    thumbnail: Option<Picture<'a>>,
}

impl<'a> Upload<'a> {
    fn new(channel: &'a Channel, video: Video<'a>) -> Self {
        Self {
            channel,
            video,
            url: video.url(),
            publish_time: video.published().map(Timestamp::from),
            update_time: video.updated().map(Timestamp::from),
            thumbnail: video.picture(),
        }
    }
}

impl Message for Upload<'_> {
    fn write(&self, to: &mut impl Sink) {
        to.text(1, &self.url[1..]);
        to.text(2, &[self.channel.id()]);
        to.text(3, &[self.channel.title()]);
        to.text(4, &[self.video.title()]);
        to.text(5, &self.url);
        to.number(6, convert::video_kind(self.video.kind()) as u64);
        to.optional(7, self.publish_time.as_ref());
        to.optional(8, self.update_time.as_ref());
        to.optional(9, self.thumbnail.as_ref());
        if let Some(views) = self.video.views() {
            to.key(10, WireType::Varint);
            to.varint(views);
        }
    }
}

impl Message for Picture<'_> {
    fn write(&self, to: &mut impl Sink) {
        to.text(1, &self.url);
        to.number(2, self.width.into());
        to.number(3, self.height.into());
    }
}

struct Freshness {
    fetch_time: Timestamp,
    stale: bool,
}

impl Message for Freshness {
    fn write(&self, to: &mut impl Sink) {
        to.message(1, &self.fetch_time);
        to.number(2, self.stale.into());
    }
}

impl Message for Timestamp {
    fn write(&self, to: &mut impl Sink) {
        // Negative ones are sent in 64 bits, too.
        to.number(1, self.seconds.cast_unsigned());
        to.number(2, i64::from(self.nanos).cast_unsigned());
    }
}

/// Where a message is written; or only its length.
trait Sink: Sized {
    fn key(&mut self, field: u32, wire_type: WireType);

    fn varint(&mut self, number: u64);

    fn raw(&mut self, text: &[u8]);

    /// Zero, as everything that is the default of its type, is left out.
    fn number(&mut self, field: u32, number: u64) {
        if number != 0 {
            self.key(field, WireType::Varint);
            self.varint(number);
        }
    }

    fn text(&mut self, field: u32, parts: &[impl AsRef<[u8]>]) {
        let length: usize = parts.iter().map(|part| part.as_ref().len()).sum();
        if length > 0 {
            self.key(field, WireType::LengthDelimited);
            self.varint(length as u64);
            for part in parts {
                self.raw(part.as_ref());
            }
        }
    }

    /// A message of which the length is known already.
    fn measured(&mut self, message: &impl Message, length: usize);

    fn message(&mut self, field: u32, message: &impl Message) {
        let length = message.length();
        self.key(field, WireType::LengthDelimited);
        self.varint(length as u64);
        self.measured(message, length);
    }

    fn optional(&mut self, field: u32, message: Option<&impl Message>) {
        if let Some(message) = message {
            self.message(field, message);
        }
    }
}

struct Written<'a, B>(&'a mut B);

impl<B: BufMut> Sink for Written<'_, B> {
    fn key(&mut self, field: u32, wire_type: WireType) {
        self.varint(u64::from(field << 3 | wire_type as u32));
    }

    fn varint(&mut self, number: u64) {
        match u8::try_from(number) {
            Ok(byte @ ..0x80) => self.0.put_u8(byte),
            _ => encode_varint(number, self.0),
        }
    }

    fn raw(&mut self, text: &[u8]) {
        self.0.put_slice(text);
    }

    fn measured(&mut self, message: &impl Message, _length: usize) {
        message.write(self);
    }
}

struct Length(usize);

impl Sink for Length {
    fn key(&mut self, field: u32, _wire_type: WireType) {
        self.0 += key_len(field);
    }

    fn varint(&mut self, number: u64) {
        self.0 += encoded_len_varint(number);
    }

    fn raw(&mut self, text: &[u8]) {
        self.0 += text.len();
    }

    fn measured(&mut self, _message: &impl Message, length: usize) {
        self.0 += length;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::{option, prelude::*};
    use prost::Message as _;

    use super::*;
    use crate::{
        grpc::json,
        proto,
        video::{Channel, Kind, Thumbnail, Upload as Listed},
    };

    /// Within 292 years before and after 1970, to the nanosecond.
    fn time() -> impl Strategy<Value = SystemTime> {
        any::<i64>().prop_map(|nanos| {
            let apart = Duration::from_nanos(nanos.unsigned_abs());
            match nanos {
                0.. => SystemTime::UNIX_EPOCH + apart,
                _ => SystemTime::UNIX_EPOCH - apart,
            }
        })
    }

    fn thumbnail() -> impl Strategy<Value = Thumbnail> {
        let url = prop_oneof![
            "https://i[0-9]\\.ytimg\\.com/vi/0123456789A/hqdefault\\.jpg",
            ".{0,300}"
        ];
        (url, any::<u32>(), any::<u32>()).prop_map(|(url, width, height)| Thumbnail { url, width, height })
    }

    fn upload() -> impl Strategy<Value = Listed> {
        (
            prop_oneof![Just(Kind::Video), Just(Kind::Short)],
            ".{0,300}",
            option::of(time()),
            option::of(time()),
            option::of(thumbnail()),
            option::of(any::<u64>()),
        )
            .prop_map(|(kind, title, published, updated, thumbnail, views)| Listed {
                id: "0123456789A".parse().expect("a video ID"),
                kind,
                title,
                published,
                updated,
                thumbnail,
                views,
            })
    }

    proptest! {
        #[test]
        fn an_answer_is_written_as_its_message(
            title in ".{0,300}",
            upload in upload(),
            fetched in time(),
            stale: bool,
        ) {
            let id = "UC0123456789abcdefghijkA".parse().expect("a channel ID");
            let answer = Answer::made_up(Channel::new(id, &title, vec![upload]), fetched, stale);
            let mut written = vec![];
            encode(&answer, &mut written);
            let message = convert::response(&answer);
            prop_assert_eq!(written, message.encode_to_vec());
            let json = proto::to_json("GetLatestVideoResponse", &message);
            prop_assert_eq!(json::answer::line(&answer), json.expect("JSON") + "\n");
        }
    }
}
