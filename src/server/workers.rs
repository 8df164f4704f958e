//! The serving threads.

use std::{io, net::TcpStream, sync::Arc, thread, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{
    connection::Context,
    load::{Counted, Load},
};

/// Connections on their way to a worker. A worker takes them within microseconds; if it does not, accepting waits.
const HANDOVER: usize = 64;

/// All serving threads. They end when this is dropped, without waiting for calls in progress; see [`Workers::drain`].
pub(super) struct Workers {
    all: Vec<Worker>,
    load: Arc<Load>,
    draining: CancellationToken,
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
    /// Starts a thread for each of `contexts`, with which it serves connections.
    pub(super) fn start(
        contexts: Vec<Context>,
        load: Arc<Load>,
        draining: CancellationToken,
    ) -> io::Result<Self> {
        let ending = CancellationToken::new();
        let all = (0..)
            .zip(contexts)
            .map(|(number, context): (usize, _)| {
                let (handover, arriving) = mpsc::channel(HANDOVER);
                let (end, ended) = oneshot::channel();
                let connections = context.connections.clone();
                let served = connections.clone();
                let work = work(arriving, context, ending.clone());
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .on_thread_park(move || let_others_go_first(&served))
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
            load,
            draining,
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
        self.draining.cancel();
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
        let cut_off = self.load.calls();
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

/// Before a worker sleeps, whoever else is ready may have its core: on a busy machine more has arrived by then, and it need not sleep.
/// With 10 connections of 1 call each a call takes 0.88 of the CPU time, and there are 1.2 times as many. With one connection
/// there is nobody else's call to wait for.
fn let_others_go_first(connections: &TaskTracker) {
    if connections.len() > 1 {
        thread::yield_now();
    }
}

/// One worker's life.
async fn work(mut arriving: mpsc::Receiver<Arriving>, context: Context, ending: CancellationToken) {
    let connections = context.connections.clone();
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
