//! Reads and decompresses the body of a response, within a bound.

use std::{borrow::Cow, io::Read as _};

use flate2::read::MultiGzDecoder;
use reqwest::{Response, header};

use super::client;
use crate::{upstream::UpstreamError, video};

/// The longest body, both compressed and decompressed. The largest feed seen has 80 kB; 500 such entries would have 2.6 MB, but a feed has
/// 15.
const MAX_BODY: usize = 2 << 20;

/// The most chunks of a body. Each costs about 1.5 µs, whatever its length; real servers send kilobytes at a time.
const MAX_CHUNKS: usize = 16 << 10;

pub(super) async fn read(mut response: Response) -> Result<Vec<u8>, UpstreamError> {
    let is_gzipped = is_gzipped(&response)?;
    let (mut body, mut pieces) = (Vec::new(), 0);
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| client::unreachable(&error))?
    {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(too_long());
        }
        pieces += 1;
        if pieces > MAX_CHUNKS {
            return Err(malformed(&format!("it comes in more than {MAX_CHUNKS} pieces")));
        }
        body.extend_from_slice(&chunk);
    }
    if is_gzipped { decompress(&body) } else { Ok(body) }
}

/// Whether the body is compressed with gzip, the only encoding that was asked for.
pub(super) fn is_gzipped(response: &Response) -> Result<bool, UpstreamError> {
    let mut codings = response.headers().get_all(header::CONTENT_ENCODING).iter();
    let coding = match (codings.next(), codings.next()) {
        (None, _) => return Ok(false),
        (Some(coding), None) => String::from_utf8_lossy(coding.as_bytes()),
        (Some(_), Some(_)) => Cow::Borrowed("more than one coding"),
    };
    match coding.trim().to_ascii_lowercase().as_str() {
        "gzip" | "x-gzip" => Ok(true),
        "identity" | "" => Ok(false),
        other => Err(malformed(&format!(
            "it is compressed by {other}, which was not asked for"
        ))),
    }
}

/// Decompresses all members of a gzip file (RFC 1952, section 2.2). Anything else, also after them, is an error.
fn decompress(compressed: &[u8]) -> Result<Vec<u8>, UpstreamError> {
    let mut body = Vec::new();
    // One byte more than the limit shows that it is exceeded.
    let mut decompressed = MultiGzDecoder::new(compressed).take(MAX_BODY as u64 + 1);
    decompressed
        .read_to_end(&mut body)
        .map_err(|error| malformed(&format!("it cannot be decompressed: {error}")))?;
    if body.len() > MAX_BODY {
        return Err(too_long());
    }
    Ok(body)
}

fn too_long() -> UpstreamError {
    malformed(&format!("it is longer than {MAX_BODY} bytes"))
}

fn malformed(why: &str) -> UpstreamError {
    UpstreamError::Malformed(video::message(why))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn why(compressed: &[u8]) -> String {
        decompress(compressed).expect_err("unreadable").to_string()
    }

    #[test]
    fn all_members_are_read() {
        let members = [gzip(b"<fe"), gzip(b""), gzip(b"ed/>")].concat();
        assert_eq!(decompress(&members), Ok(b"<feed/>".to_vec()));
    }

    #[test]
    fn what_is_no_member_makes_it_unreadable() {
        let whole = gzip(b"<feed/>");
        for compressed in [
            b"<feed/>".to_vec(),
            whole[..whole.len() - 1].to_vec(),
            [&whole[..], b"rubbish after the end"].concat(),
        ] {
            assert!(
                why(&compressed).contains("cannot be decompressed"),
                "{compressed:?}"
            );
        }
    }

    #[test]
    fn as_much_is_unpacked_as_may_be() {
        assert_eq!(decompress(&gzip(&vec![b' '; MAX_BODY])), Ok(vec![b' '; MAX_BODY]));
        for compressed in [
            gzip(&vec![b' '; MAX_BODY + 1]),
            [gzip(&vec![b' '; MAX_BODY]), gzip(b" ")].concat(),
            gzip(&vec![b' '; 64 * MAX_BODY]),
        ] {
            assert!(why(&compressed).contains("longer than"));
        }
    }
}
