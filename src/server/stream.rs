//! A connection's bytes: counted as they come, and gathered as they go.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;

pin_project! {
    /// A stream that notes what is read, and that takes no vectored writes before the first write.
    ///
    /// h2 asks when it begins: to a stream that takes them it writes every DATA frame of 256 bytes or more by itself; to one that does
    /// not, it copies the frames of up to 1 KiB into its buffer and writes that once. A call of many on one connection costs 0.6 of
    /// the CPU time. A longer frame, for which it asks again, then leaves in one write with what is in the buffer.
    pub(super) struct Stream<S> {
        #[pin]
        inner: S,
        activity: Arc<Activity>,
        written: bool,
    }
}

impl<S> Stream<S> {
    pub(super) fn new(inner: S, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            activity,
            written: false,
        }
    }
}

impl<S: AsyncRead> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buffer.filled().len();
        let read = this.inner.poll_read(context, buffer);
        this.activity.heard(buffer.filled().len() - before);
        read
    }
}

impl<S: AsyncWrite> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        *this.written = true;
        this.inner.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().inner.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.written && self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(context)
    }
}
