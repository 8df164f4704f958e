//! Sends an early GOAWAY on an HTTP/2 connection, some time before h2 sends its own.
//!
//! h2 sends GOAWAY(2^31-1) and a PING together, and once the PING is acknowledged GOAWAY with the last stream that it has seen. That
//! is right for clients that acknowledge a PING after everything they queued before it. gRPC's C core (Python, C++, Ruby, PHP) writes
//! acknowledgements first, before the HEADERS of calls that have already started. h2 ignores those streams, as it should, but treats the
//! WINDOW_UPDATE that comes with each as one of an idle stream: a PROTOCOL_ERROR, which ends the connection and every call on it.
//! grpc-java continues to send calls that were queued because of `--max-streams`, and those that cross the last GOAWAY fail. After an early
//! GOAWAY, peers have sent everything by the time h2 sends its own.

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

/// A frame with `NO_ERROR` and the highest stream ID, so every stream is still served. It may be repeated (RFC 9113, 6.8).
const GOAWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";

/// Requests a GOAWAY frame on a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct GoAway(Arc<AtomicBool>);

impl GoAway {
    /// Sends the frame with the next flush. Does nothing on an HTTP/1.1 connection.
    pub(super) fn send(&self) {
        self.0.store(true, Relaxed);
    }
}

/// A stream that writes the requested GOAWAY between two frames.
#[derive(Debug)]
pub(super) struct GoAwayStream<S> {
    stream: S,
    goaway: GoAway,
    /// The unsent part of the frame.
    unsent: &'static [u8],
    /// Whether this is HTTP/2. `None` before the first write.
    http2: Option<bool>,
}

impl<S: AsyncWrite + Unpin> GoAwayStream<S> {
    pub(super) fn new(stream: S, goaway: GoAway) -> Self {
        Self {
            stream,
            goaway,
            unsent: GOAWAY,
            http2: None,
        }
    }

    /// Detects the protocol by the first byte written: HTTP/2 starts with SETTINGS of fewer than 2^16 bytes, HTTP/1.1 with its name.
    fn detect_protocol(&mut self, bytes: &[u8]) {
        if let (None, Some(first)) = (self.http2, bytes.first()) {
            self.http2 = Some(*first == 0);
        }
    }

    /// Completes a frame that was sent in part, since nothing may be written in between.
    fn poll_finish_goaway(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.len() == GOAWAY.len() {
            return Poll::Ready(Ok(()));
        }
        self.poll_goaway(context)
    }

    fn poll_goaway(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent = &self.unsent[sent..];
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GoAwayStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GoAwayStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_finish_goaway(context))?;
        self.detect_protocol(bytes);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// Never the first write, so the protocol is known.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_finish_goaway(context))?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// h2 flushes after writing whole frames, and each time it is polled.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.goaway.0.load(Relaxed) && self.http2 == Some(true) {
            ready!(self.poll_goaway(context))?;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_finish_goaway(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
