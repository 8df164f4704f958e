//! Codecs that encode answers directly from the cache entry.
//!
//! The generated messages would need a `String` for every text. Tests check that both encode the same bytes.

#[cfg(test)]
mod tests;

use prost::{
    Message as _,
    bytes::BufMut,
    encoding::{WireType, encoded_len_varint},
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
        BatchGetLatestVideosRequest, GetLatestVideoRequest, GetLatestVideoResponse, LookupFailure,
        WatchLatestVideoRequest, WatchLatestVideoResponse,
    },
    video::{Channel, Video},
};

/// The initial capacity of buffers: enough for most requests and answers. tonic's default of 8 KiB is slow to allocate.
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

/// The codec of `BatchGetLatestVideos`.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchCodec;

/// The result for one channel of a batch.
pub(super) struct BatchItem {
    /// As in the request.
    pub(super) channel_id: String,
    pub(super) outcome: Result<Answer, LookupFailure>,
}

impl Codec for BatchCodec {
    type Encode = Vec<BatchItem>;
    type Decode = BatchGetLatestVideosRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<BatchGetLatestVideosRequest>;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<GetLatestVideoResponse, _>::raw_decoder(buffer_settings())
    }
}

impl Encoder for BatchCodec {
    type Item = Vec<BatchItem>;
    type Error = Status;

    fn encode(&mut self, batch: Vec<BatchItem>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        encode_batch(&batch, buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffer_settings()
    }
}

/// The codec of `WatchLatestVideo`, with small buffers: a stream keeps the largest buffer that it has used, which with tonic's defaults
/// is 32 KiB for as long as the watch lasts.
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

/// Encodes `answer` as a `GetLatestVideoResponse`.
pub fn encode(answer: &Answer, buffer: &mut impl BufMut) {
    let mut writer = MessageWriter(Vec::with_capacity(BUFFER));
    writer.response(answer);
    buffer.put_slice(&writer.0);
}

/// Encodes `batch` as a `BatchGetLatestVideosResponse`.
fn encode_batch(batch: &[BatchItem], buffer: &mut impl BufMut) {
    let mut writer = MessageWriter(Vec::with_capacity(BUFFER));
    for BatchItem { channel_id, outcome } in batch {
        writer.message(1, |result| {
            result.text(1, &[channel_id]);
            match outcome {
                Ok(answer) => result.message(2, |found| found.response(answer)),
                Err(failure) => result.message(3, |to| to.0.extend(failure.encode_to_vec())),
            }
        });
        buffer.put_slice(&writer.0);
        writer.0.clear();
    }
}

/// Writes a message of `latest_video.proto`, with the fields in the order of their numbers.
struct MessageWriter(Vec<u8>);

impl MessageWriter {
    fn response(&mut self, answer: &Answer) {
        self.message(1, |video| video.video(answer.channel(), answer.video()));
        self.message(2, |freshness| {
            freshness.time(1, Some(answer.fetched.into()));
            freshness.number(2, answer.stale.into());
            freshness.number(3, convert::source(answer.channel().source()) as u64);
        });
    }

    fn video(&mut self, channel: &Channel, video: Video<'_>) {
        self.text(1, &[video.id().as_str()]);
        self.text(2, &[channel.id().as_str()]);
        self.text(3, &[channel.title()]);
        self.text(4, &[video.title()]);
        self.text(5, &video.url());
        self.number(6, convert::video_kind(video.kind()) as u64);
        self.time(7, convert::timestamp(video.moment()));
        self.time(8, convert::timestamp(video.updated_moment()));
        if let Some(picture) = video.picture() {
            self.message(9, |thumbnail| {
                thumbnail.text(1, &picture.url);
                thumbnail.number(2, picture.width.into());
                thumbnail.number(3, picture.height.into());
            });
        }
        if let Some(views) = video.views() {
            self.key(10, WireType::Varint);
            self.varint(views);
        }
    }

    fn time(&mut self, field: u32, time: Option<Timestamp>) {
        if let Some(time) = time {
            self.message(field, |to| {
                // Negative numbers are encoded in 64 bits as well.
                to.number(1, time.seconds.cast_unsigned());
                to.number(2, i64::from(time.nanos).cast_unsigned());
            });
        }
    }

    /// Writes a nested message. Its length is inserted in front of it afterwards; one byte is reserved, which is enough for most.
    fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        self.key(field, WireType::LengthDelimited);
        let begin = self.0.len();
        self.0.push(0);
        write(self);
        let end = self.0.len();
        let mut length = (end - begin - 1) as u64;
        let more = encoded_len_varint(length) - 1;
        if more > 0 {
            self.0.resize(end + more, 0);
            self.0.copy_within(begin + 1..end, begin + 1 + more);
        }
        for byte in &mut self.0[begin..begin + more] {
            *byte = lowest(length) | 0x80;
            length >>= 7;
        }
        self.0[begin + more] = lowest(length);
    }

    /// Writes a number. Zero is left out, like all default values.
    fn number(&mut self, field: u32, number: u64) {
        if number != 0 {
            self.key(field, WireType::Varint);
            self.varint(number);
        }
    }

    fn text(&mut self, field: u32, parts: &[&str]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > 0 {
            self.key(field, WireType::LengthDelimited);
            self.varint(length as u64);
            for part in parts {
                self.0.extend_from_slice(part.as_bytes());
            }
        }
    }

    fn key(&mut self, field: u32, wire_type: WireType) {
        self.varint(u64::from(field << 3 | wire_type as u32));
    }

    /// Faster than prost's, which appends each byte as a slice.
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(lowest(number) | 0x80);
            number >>= 7;
        }
        self.0.push(lowest(number));
    }
}

fn lowest(number: u64) -> u8 {
    number.to_le_bytes()[0]
}
