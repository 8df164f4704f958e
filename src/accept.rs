//! Accepting connections, also when the process has no file descriptor left.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// Without a file descriptor the next try would fail again at once: wait for one to be closed.
const PAUSE: Duration = Duration::from_millis(50);

/// The next connection, however long it takes until there can be one.
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
