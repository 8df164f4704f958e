//! Accepts connections, serves them, and stops.
//!
//! Not tonic's own server: its shutdown has no time limit, its deadlines answer the wrong code, and it runs on one runtime. Here
//! an acceptor hands connections to workers, each a current-thread runtime on a thread of its own, so that a call is served on
//! the core that read it. Lookups run on the runtime that calls [`run`]: no serving thread ever parses a feed.

mod workers;

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, runtime::Handle};
use tonic_health::ServingStatus;

use self::workers::Workers;
use crate::{
    config::Config,
    grpc::{self, Deadlines},
    latest::Latest,
    proto::v1::latest_video_server::SERVICE_NAME,
    upstream::Upstream,
};

/// Accepting fails when the process has no file descriptor left, and would fail again at once: wait for one to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The system gave no thread or no event loop.
    #[error("cannot start a serving thread: {0}")]
    Worker(#[from] io::Error),
    /// The descriptors that the build made are broken.
    #[error("cannot describe the service for reflection: {0}")]
    Descriptors(#[from] tonic_reflection::server::Error),
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// The connections that were still busy when the time for that was over.
    pub cut_off: usize,
}

/// Serves on `listener` until `shutdown`, then lets the calls in progress end, for at most `config.drain_timeout`.
///
/// Lookups go to `upstream`, on the runtime that this is called from.
///
/// # Errors
///
/// If the server cannot be started. Once it serves, it goes on.
pub async fn run(
    listener: TcpListener,
    config: &Config,
    upstream: Arc<dyn Upstream>,
    shutdown: impl Future<Output = ()>,
) -> Result<Drained, ServerError> {
    let latest = Arc::new(Latest::new(upstream, config.latest, Handle::current()));
    let (routes, health) = grpc::routes(Arc::clone(&latest)).await?;
    let mut workers = Workers::start(config.workers, &Deadlines::new(routes, config.max_deadline))?;

    tokio::select! {
        () = accept(&listener, &mut workers) => {}
        () = shutdown => {}
    }
    tracing::info!(connections = workers.connections(), "draining");
    for service in ["", SERVICE_NAME] {
        health
            .set_service_status(service, ServingStatus::NotServing)
            .await;
    }
    drop(listener);
    latest.close();
    let cut_off = workers.drain(config.drain_timeout).await;
    Ok(Drained { cut_off })
}

/// Hands connections to workers, until all workers are gone.
async fn accept(listener: &TcpListener, workers: &mut Workers) {
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                if let Err(error) = workers.serve(stream).await {
                    tracing::warn!(%error, "a connection could not be handed over");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
