//! The serving threads: each worker has a current-thread runtime, a queue of new connections, and the connections it serves.

use std::{
    io,
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::{
    connection::{Admitted, Context},
    handover::{Handover, STALL_TIMEOUT, least_loaded},
    metrics::ServerMetrics,
};

/// All serving threads. They stop when this is dropped, without waiting for calls in progress; see [`Workers::drain`].
pub(super) struct Workers {
    all: Vec<Worker>,
    metrics: Arc<ServerMetrics>,
    draining: CancellationToken,
    /// Stops the workers, whatever their connections do.
    ending: CancellationToken,
    /// Notified for each new connection. [`Workers::rebalance`] waits for it.
    handed_over: Notify,
}

struct Worker {
    handover: Arc<Handover<PendingConnection>>,
    /// Counts the worker's connections, including those in its queue.
    connections: TaskTracker,
    /// Receives when the thread has ended.
    ended: oneshot::Receiver<()>,
}

/// A connection in a worker's queue.
struct PendingConnection {
    stream: TcpStream,
    admitted: Admitted,
    token: TaskTrackerToken,
}

impl Workers {
    pub(super) fn start(
        contexts: Vec<Context>,
        metrics: Arc<ServerMetrics>,
        draining: CancellationToken,
    ) -> io::Result<Self> {
        let ending = CancellationToken::new();
        let all = (0..)
            .zip(contexts)
            .map(|(number, context): (usize, _)| {
                let handover = Arc::new(Handover::new());
                let connections = context.connections.clone();
                let work = run_worker(Arc::clone(&handover), context, ending.clone());
                let ended = spawn_thread(format!("serve-{number}"), work)?;
                Ok(Worker {
                    handover,
                    connections,
                    ended,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            all,
            metrics,
            draining,
            ending,
            handed_over: Notify::new(),
        })
    }

    /// Passes a connection to the worker that has the fewest.
    pub(super) fn assign(&self, stream: TcpStream, admitted: Admitted) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.hand_over(stream, admitted, Instant::now());
        self.handed_over.notify_one();
        Ok(())
    }

    fn hand_over(&self, stream: TcpStream, admitted: Admitted, now: Instant) {
        let loads = self.all.iter();
        let loads = loads.map(|worker| (worker.handover.is_stalled(now), worker.connections.len()));
        let Some(worker) = least_loaded(loads).and_then(|index| self.all.get(index)) else {
            return;
        };
        let pending = PendingConnection {
            stream,
            admitted,
            token: worker.connections.token(),
        };
        worker.handover.push(pending, now);
    }

    /// Moves connections from the queues of stalled workers to others. Never returns.
    pub(super) async fn rebalance(&self) {
        loop {
            self.handed_over.notified().await;
            while self.all.iter().any(|worker| !worker.handover.is_empty()) {
                tokio::time::sleep(STALL_TIMEOUT).await;
                self.rebalance_once(Instant::now());
            }
        }
    }

    fn rebalance_once(&self, now: Instant) {
        let (stalled, healthy): (Vec<_>, Vec<_>) = self
            .all
            .iter()
            .partition(|worker| worker.handover.is_stalled(now));
        if healthy.is_empty() {
            return;
        }
        for worker in stalled {
            let mut moved = 0;
            for PendingConnection { stream, admitted, .. } in worker.handover.take_all() {
                self.hand_over(stream, admitted, now);
                moved += 1;
            }
            if moved > 0 {
                tracing::warn!(
                    connections = moved,
                    "a serving thread is stalled; its new connections were moved to others"
                );
            }
        }
    }

    /// Lets every connection finish its calls, for at most `limit`. Returns the number of calls cut off.
    pub(super) async fn drain(mut self, limit: Duration) -> usize {
        self.draining.cancel();
        let close = |worker: Worker| {
            worker.handover.close();
            worker.ended
        };
        let ended: Vec<_> = self.all.drain(..).map(close).collect();
        let all_ended = async {
            for worker in ended {
                // The sender may be dropped without a value; either way the thread has ended.
                let _ = worker.await;
            }
        };
        tokio::pin!(all_ended);
        if tokio::time::timeout(limit, &mut all_ended).await.is_ok() {
            return 0;
        }
        let cut_off = self.metrics.calls();
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

/// Runs `work` on a current-thread runtime in a new thread. The receiver gets its result when the runtime is gone.
pub(super) fn spawn_thread<T: Send + 'static>(
    name: String,
    work: impl Future<Output = T> + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name(name).spawn(move || {
        let result = runtime.block_on(work);
        drop(runtime);
        // The receiver may be gone.
        let _ = end.send(result);
    })?;
    Ok(ended)
}

/// Serves the connections of one worker until its queue is closed and they have ended.
async fn run_worker(handover: Arc<Handover<PendingConnection>>, context: Context, ending: CancellationToken) {
    let connections = context.connections.clone();
    let all_served = async {
        while let Some(PendingConnection {
            stream,
            admitted,
            token,
        }) = handover.next().await
        {
            let context = context.clone();
            // Owns one connection. Ended by its peer, its limits, the drain, or the end of the runtime.
            connections.spawn(async move { context.run(stream, admitted).await });
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
