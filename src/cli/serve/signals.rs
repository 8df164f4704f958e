//! Signals of `plaque serve`: SIGTERM and Ctrl-C start the drain, SIGHUP reloads certificates.

use std::{io, process, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_stream::StreamExt as _;
#[cfg(unix)]
use tokio_stream::wrappers::SignalStream;

use crate::net::tls::Tls;

/// A second signal within this time after the first is the same one: timeout(1) and others send it to the process, and then to its group.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// Completes at the first SIGTERM or Ctrl-C. The next one, after [`SAME_SIGNAL`], ends the process at once.
pub(super) fn shutdown() -> io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::new()?;
    Ok(async move {
        let name = signals.next().await;
        tracing::info!("{name}: stopping");
        tokio::spawn(async move {
            let ignored = async {
                loop {
                    signals.next().await;
                }
            };
            let _: Result<(), _> = timeout(SAME_SIGNAL, ignored).await;
            let name = signals.next().await;
            tracing::warn!("{name} again: ending at once");
            #[expect(clippy::disallowed_methods, reason = "a second signal asks for no drain")]
            process::exit(1);
        });
    })
}

/// Spawns the task that reloads certificates when their files change and on SIGHUP. Without certificates it only handles SIGHUP, whose
/// default action would end the process.
pub(super) fn reload_certificates(tls: Option<Arc<Tls>>) -> io::Result<()> {
    #[cfg(unix)]
    let mut hangups = {
        use tokio::signal::unix::{SignalKind, signal};
        SignalStream::new(signal(SignalKind::hangup())?)
    };
    #[cfg(not(unix))]
    let mut hangups = tokio_stream::pending();
    // Owns a reference to the certificates. Ends with the runtime.
    tokio::spawn(async move {
        match tls {
            Some(tls) => tls.reload_on_change(hangups).await,
            None => {
                while hangups.next().await.is_some() {
                    tracing::info!("SIGHUP: there are no certificates to read again");
                }
            }
        }
    });
    Ok(())
}

/// SIGTERM and Ctrl-C, which no longer end the process by themselves.
#[cfg(unix)]
pub(in crate::cli) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(in crate::cli) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    pub(in crate::cli) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
        }
    }
}

#[cfg(not(unix))]
pub(in crate::cli) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(in crate::cli) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// The name of the next one.
    pub(in crate::cli) async fn next(&mut self) -> &'static str {
        // If there is no handler, the system ends the process by itself.
        let _ = tokio::signal::ctrl_c().await;
        "Ctrl-C"
    }
}
