//! The serving threads.

use std::{io, net::TcpStream, num::NonZeroUsize, thread, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{connection::Context, load::Counted};

/// Connections on their way to a worker. A worker takes them within microseconds; if it does not, accepting waits.
const HANDOVER: usize = 64;

/// All serving threads. They end when this is dropped, without waiting for calls in progress; see [`Workers::drain`].
pub(super) struct Workers {
    all: Vec<Worker>,
    context: Context,
    /// Tells the workers to end, whatever their connections do.
    ending: CancellationToken,
}

struct Worker {
    handover: mpsc::Sender<Arriving>,
    /// Counts the worker's connections, those on their way to it too.
    connections: TaskTracker,
    /// Closed when the thread has ended.
    ended: oneshot::Receiver<()>,
}

/// A connection on its way to a worker.
struct Arriving {
    stream: TcpStream,
    counted: Counted,
    token: TaskTrackerToken,
}

impl Workers {
    /// Starts `count` threads that serve connections.
    pub(super) fn start(count: NonZeroUsize, context: &Context) -> io::Result<Self> {
        let ending = CancellationToken::new();
        let all = (0..count.get())
            .map(|number| {
                let (handover, arriving) = mpsc::channel(HANDOVER);
                let (end, ended) = oneshot::channel();
                let connections = TaskTracker::new();
                let work = work(arriving, context.clone(), connections.clone(), ending.clone());
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                thread::Builder::new()
                    .name(format!("serve-{number}"))
                    .spawn(move || {
                        runtime.block_on(work);
                        drop(runtime);
                        drop(end);
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
            context: context.clone(),
            ending,
        })
    }

    /// Gives a connection to the worker that has the fewest.
    pub(super) async fn serve(&self, stream: TcpStream, counted: Counted) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let Some(worker) = self.all.iter().min_by_key(|w| w.connections.len()) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let arriving = Arriving {
            stream,
            counted,
            token: worker.connections.token(),
        };
        let handed_over = worker.handover.send(arriving).await;
        handed_over.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Lets every connection finish its calls, for at most `limit`. Returns how many calls were cut off.
    pub(super) async fn drain(mut self, limit: Duration) -> usize {
        self.context.draining.cancel();
        // Dropping the handovers tells the workers that nothing more arrives.
        let ended: Vec<_> = self.all.drain(..).map(|worker| worker.ended).collect();
        let all_ended = async {
            for worker in ended {
                // It is only ever closed.
                let _ = worker.await;
            }
        };
        tokio::pin!(all_ended);
        if tokio::time::timeout(limit, &mut all_ended).await.is_ok() {
            return 0;
        }
        let cut_off = self.context.load.calls();
        self.ending.cancel();
        all_ended.await;
        cut_off
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

/// One worker's life.
async fn work(
    mut arriving: mpsc::Receiver<Arriving>,
    context: Context,
    connections: TaskTracker,
    ending: CancellationToken,
) {
    let all_served = async {
        while let Some(Arriving {
            stream,
            counted,
            token,
        }) = arriving.recv().await
        {
            let context = context.clone();
            // Owns one connection. Ended by its peer, by its limits, by the drain, or with the runtime.
            connections.spawn(async move { context.serve(stream, counted).await });
            drop(token);
        }
        connections.close();
        connections.wait().await;
    };
    tokio::select! {
        () = all_served => {}
        () = ending.cancelled() => {}
    }
}
