//! The first of the GOAWAYs that end an HTTP/2 connection, some time before the last.
//!
//! h2 sends GOAWAY(2^31-1) and a PING together, and once the PING is acknowledged GOAWAY with the last stream that it has seen. That
//! is right for clients that acknowledge a PING after all that they queued before. gRPC's C core (Python, C++, Ruby, PHP) writes
//! acknowledgements first: HEADERS of calls that it had begun follow the acknowledgement. h2 ignores those streams, as it should,
//! but takes the WINDOW_UPDATE that comes with each for one of an idle stream: PROTOCOL_ERROR, which ends the connection and every
//! call on it. grpc-java goes on with calls that it keeps because of `--max-streams`: those that cross the last GOAWAY fail. So peers are
//! told some time before h2 tells them, and have sent by then what they had begun.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// GOAWAY: every stream there could be is still served, and `NO_ERROR`. It may be sent more than once (RFC 9113, 6.8).
const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";

/// Tells the peer of a connection to begin no more streams on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Notice(Arc<AtomicBool>);

impl Notice {
    /// Has it sent when the connection is next polled. A connection that turns out to be HTTP/1.1 sends nothing.
    pub(super) fn give(&self) {
        self.0.store(true, Relaxed);
    }
}

/// A connection's bytes, and its [`Notice`] between two frames.
#[derive(Debug)]
pub(super) struct Noticing<S> {
    stream: S,
    notice: Notice,
    /// What is left to send of the notice.
    left: &'static [u8],
    /// Whether this is HTTP/2, once something was written.
    http2: Option<bool>,
}

impl<S: AsyncWrite + Unpin> Noticing<S> {
    pub(super) fn new(stream: S, notice: Notice) -> Self {
        Self {
            stream,
            notice,
            left: GOAWAY,
            http2: None,
        }
    }

    /// Notes what is written first: HTTP/2 begins with SETTINGS, of fewer than 2^16 bytes, and HTTP/1.1 with its name.
    fn note(&mut self, bytes: &[u8]) {
        if let (None, Some(first)) = (self.http2, bytes.first()) {
            self.http2 = Some(*first == 0);
        }
    }

    /// Ends a notice of which a part is sent: nothing may come in between.
    fn poll_end_notice(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.left.len() == GOAWAY.len() {
            return Poll::Ready(Ok(()));
        }
        self.poll_notice(context)
    }

    fn poll_notice(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.left.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, self.left))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.left = &self.left[sent..];
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noticing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noticing<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_end_notice(context))?;
        self.note(bytes);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// The first write is none of these.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_end_notice(context))?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// h2 flushes when it has written whole frames, and each time that it is polled.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.notice.0.load(Relaxed) && self.http2 == Some(true) {
            ready!(self.poll_notice(context))?;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_end_notice(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
