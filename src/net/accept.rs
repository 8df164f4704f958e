//! Accepts connections, and retries when the process is out of file descriptors.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// The pause before a retry, so that a file descriptor can be closed in the meantime.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts the next connection. Retries until that succeeds.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => return stream,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept connections; retrying until it works");
                }
                failing = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
