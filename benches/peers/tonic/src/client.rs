//! A client's side: connections of their own, and made-up channels.

use std::net::SocketAddr;

use tonic::transport::{Channel, Endpoint, Error};

use crate::proto::latest_video_client::LatestVideoClient;

/// The ID of the `number`th made-up channel, as tests/blackbox/support.py makes it.
#[must_use]
pub fn made_up_channel(number: u64) -> String {
    format!("UC{number:021}A")
}

/// A client with a connection of its own.
///
/// # Errors
///
/// If nothing listens there.
pub async fn connect(address: SocketAddr) -> Result<LatestVideoClient<Channel>, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(LatestVideoClient::new(endpoint.connect().await?))
}
