//! The serving threads.

use std::{convert::Infallible, io, num::NonZeroUsize, thread, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tonic::body::Body;
use tower::Service;

/// Connections on their way to a worker. A worker takes them within microseconds; if it does not, accepting waits.
const HANDOVER: usize = 64;

/// What a worker serves: HTTP requests in, gRPC responses out.
pub(super) trait Serve:
    Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<S> Serve for S where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// All serving threads. They end when this is dropped, without waiting for calls in progress; see [`Workers::drain`].
pub(super) struct Workers {
    all: Vec<Worker>,
    /// Tells every connection to finish what it has, and to take nothing more.
    draining: CancellationToken,
    /// Tells the workers to end, whatever their connections do.
    ending: CancellationToken,
}

struct Worker {
    handover: mpsc::Sender<(std::net::TcpStream, TaskTrackerToken)>,
    /// Counts the worker's connections, those on their way to it too.
    connections: TaskTracker,
    /// Sent when the thread ends: the connections that it cut off.
    ended: oneshot::Receiver<usize>,
}

impl Workers {
    /// Starts `count` threads that serve `service`.
    pub(super) fn start(count: NonZeroUsize, service: &impl Serve) -> io::Result<Self> {
        let (draining, ending) = (CancellationToken::new(), CancellationToken::new());
        let all = (0..count.get())
            .map(|number| {
                let (handover, arriving) = mpsc::channel(HANDOVER);
                let (report, ended) = oneshot::channel();
                let connections = TaskTracker::new();
                let (service, tracker) = (service.clone(), connections.clone());
                let (draining, ending) = (draining.clone(), ending.clone());
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                thread::Builder::new()
                    .name(format!("serve-{number}"))
                    .spawn(move || {
                        let work = work(arriving, service, tracker, draining, ending);
                        let cut_off = runtime.block_on(work);
                        drop(runtime);
                        // Fails if nobody waits for the thread's end.
                        let _ = report.send(cut_off);
                    })?;
                Ok(Worker {
                    handover,
                    connections,
                    ended,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            all,
            draining,
            ending,
        })
    }

    /// The number of open connections.
    pub(super) fn connections(&self) -> usize {
        self.all.iter().map(|w| w.connections.len()).sum()
    }

    /// Gives a connection to the worker that has the fewest.
    pub(super) async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // Off this runtime's event loop; the worker puts it on its own.
        let stream = stream.into_std()?;
        let Some(worker) = self.all.iter().min_by_key(|w| w.connections.len()) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let token = worker.connections.token();
        worker
            .handover
            .send((stream, token))
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Lets every connection finish its calls, for at most `limit`. Returns how many were cut off.
    pub(super) async fn drain(mut self, limit: Duration) -> usize {
        self.draining.cancel();
        let mut ended = Vec::new();
        for worker in self.all.drain(..) {
            // Dropping the handover tells the worker that nothing more arrives.
            ended.push(worker.ended);
        }
        let ending = self.ending.clone();
        let all_ended = async move {
            let mut cut_off = 0;
            for worker in ended {
                // An error means that the thread panicked: its connections are gone.
                cut_off += worker.await.unwrap_or(0);
            }
            cut_off
        };
        tokio::pin!(all_ended);
        if let Ok(cut_off) = tokio::time::timeout(limit, &mut all_ended).await {
            return cut_off;
        }
        ending.cancel();
        all_ended.await
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

/// One worker's life. Returns how many connections were open when it was told to end.
async fn work(
    mut arriving: mpsc::Receiver<(std::net::TcpStream, TaskTrackerToken)>,
    service: impl Serve,
    connections: TaskTracker,
    draining: CancellationToken,
    ending: CancellationToken,
) -> usize {
    let all_served = async {
        while let Some((stream, token)) = arriving.recv().await {
            // Owns one connection. Ended by its peer, by the drain, or with the runtime.
            connections.spawn(serve(stream, service.clone(), draining.clone()));
            drop(token);
        }
        connections.close();
        connections.wait().await;
    };
    tokio::select! {
        () = all_served => 0,
        () = ending.cancelled() => connections.len(),
    }
}

async fn serve(stream: std::net::TcpStream, service: impl Serve, draining: CancellationToken) {
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "a connection could not be taken over");
            return;
        }
    };
    // hyper's own limits (200 streams, 16 KiB of headers, 1024 resets by mistake) hold: nothing here lifts them.
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}
