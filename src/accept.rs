//! Accepts connections, and retries when the process has no file descriptor left.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// The pause between retries: without a free file descriptor the next one would fail at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits for the next connection. Errors are logged once and retried.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return stream,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept connections; trying again until it works");
                }
                failing = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
