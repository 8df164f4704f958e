//! A minimal HTTP/2 client, whose own cost is negligible: it sends prepared frames, and reads only the headers of the server's frames.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Concurrent calls.
pub const AT_ONCE: u64 = 10;

/// The client preface, SETTINGS with the largest stream window, and a WINDOW_UPDATE to the largest connection window.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff\
    \0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The length of a frame's header.
const HEADER: usize = 9;

/// The headers of the first request, as HPACK literals that enter the dynamic table.
fn first_headers(path: &str) -> Vec<u8> {
    // Indices of the static table: :method POST, :scheme http.
    let mut block = vec![0x83, 0x86];
    // Names of the static table: :path, :authority, content-type.
    for (name, value) in [(4, path), (1, "plaque"), (31, "application/grpc")] {
        block.push(0x40 + name);
        text(&mut block, value);
    }
    block.push(0x40);
    text(&mut block, "te");
    text(&mut block, "trailers");
    block
}

/// The headers of later requests: indices of the dynamic table, which starts at 62 with the newest entry.
const INDEXED_HEADERS: &[u8] = &[0x83, 0x86, 0x80 + 65, 0x80 + 64, 0x80 + 63, 0x80 + 62];

fn text(block: &mut Vec<u8>, text: &str) {
    block.push(u8::try_from(text.len()).expect("a text of less than 127 bytes"));
    block.extend(text.as_bytes());
}

fn frame(frames: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a short frame");
    frames.extend(&length.to_be_bytes()[1..]);
    frames.extend([kind, flags]);
    frames.extend(stream.to_be_bytes());
    frames.extend(payload);
}

/// Calls `path` with `message`, `times` times, and reads the answers. Returns the length of one, including gRPC's prefix of five bytes.
pub async fn call(
    mut pipe: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    message: &[u8],
    times: u64,
) -> usize {
    let length = u32::try_from(message.len()).expect("a short message");
    let data = [&[0], &length.to_be_bytes()[..], message].concat();
    let mut answers = Answers::default();
    pipe.write_all(PREFACE).await.expect("the server reads");
    let (mut headers, mut stream) = (first_headers(path), 1);
    let mut received = 0;
    for _ in 0..times / AT_ONCE {
        let mut frames = vec![];
        for _ in 0..AT_ONCE {
            frame(&mut frames, HEADERS, END_HEADERS, stream, &headers);
            frame(&mut frames, DATA, END_STREAM, stream, &data);
            headers = INDEXED_HEADERS.into();
            stream += 2;
        }
        received = answers.take_bytes();
        let room = u32::try_from(received).expect("less than a window");
        if room > 0 {
            frame(&mut frames, WINDOW_UPDATE, 0, 0, &room.to_be_bytes());
        }
        pipe.write_all(&frames).await.expect("the server reads");
        answers.read(&mut pipe, AT_ONCE).await;
    }
    received / usize::try_from(AT_ONCE).expect("a small number")
}

/// Reads the server's frames.
#[derive(Default)]
struct Answers {
    buffer: Vec<u8>,
    /// The length of DATA frames since the last [`Self::take_bytes`].
    bytes: usize,
}

impl Answers {
    fn take_bytes(&mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }

    /// Reads until `calls` calls have ended.
    async fn read(&mut self, pipe: &mut (impl AsyncRead + Unpin), mut calls: u64) {
        while calls > 0 {
            let read = pipe.read_buf(&mut self.buffer).await.expect("the server answers");
            assert!(read > 0, "the server has closed the connection");
            let mut rest = &self.buffer[..];
            while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
                let [a, b, c, kind, flags, ..] = *header;
                let Some(after) = after.get(u32::from_be_bytes([0, a, b, c]) as usize..) else {
                    break;
                };
                match kind {
                    DATA => self.bytes += rest.len() - after.len() - HEADER,
                    HEADERS if flags & END_STREAM != 0 => calls -= 1,
                    _ => {}
                }
                rest = after;
            }
            let parsed = self.buffer.len() - rest.len();
            self.buffer.drain(..parsed);
        }
        assert!(self.bytes > 0, "the server answers without a message");
    }
}
