//! What the load generators share: connections and made-up channels.

use std::net::SocketAddr;

use tonic::transport::{Channel, Endpoint, Error};

use crate::proto::latest_video_client::LatestVideoClient;

/// The ID of made-up channel `number`, the same as in tests/blackbox/support.py.
#[must_use]
pub fn made_up_channel(number: u64) -> String {
    format!("UC{number:021}A")
}

/// Opens a connection for one client.
///
/// # Errors
///
/// If the connection fails.
pub async fn connect(address: SocketAddr) -> Result<LatestVideoClient<Channel>, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(LatestVideoClient::new(endpoint.connect().await?))
}
