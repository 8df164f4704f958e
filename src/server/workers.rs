//! The serving threads.

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
    handover::{Handover, PATIENCE, choose},
    load::Load,
};

/// All serving threads. They end when this is dropped, without waiting for calls in progress; see [`Workers::drain`].
pub(super) struct Workers {
    all: Vec<Worker>,
    load: Arc<Load>,
    draining: CancellationToken,
    /// Tells the workers to end, whatever their connections do.
    ending: CancellationToken,
    /// Told when a connection is handed over. [`Workers::relieve`] waits for it.
    handed_over: Notify,
}

struct Worker {
    handover: Arc<Handover<Arriving>>,
    /// Counts the worker's connections, those on their way to it too.
    connections: TaskTracker,
    /// Told when the thread has ended.
    ended: oneshot::Receiver<()>,
}

/// A connection on its way to a worker.
struct Arriving {
    stream: TcpStream,
    admitted: Admitted,
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
                let handover = Arc::new(Handover::new());
                let connections = context.connections.clone();
                let work = work(Arc::clone(&handover), context, ending.clone());
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
            load,
            draining,
            ending,
            handed_over: Notify::new(),
        })
    }

    /// Gives a connection to the worker that has the fewest.
    pub(super) fn serve(&self, stream: TcpStream, admitted: Admitted) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.hand_over(stream, admitted, Instant::now());
        self.handed_over.notify_one();
        Ok(())
    }

    fn hand_over(&self, stream: TcpStream, admitted: Admitted, now: Instant) {
        let loads = self.all.iter();
        let loads = loads.map(|worker| (worker.handover.is_held_up(now), worker.connections.len()));
        let Some(worker) = choose(loads).and_then(|index| self.all.get(index)) else {
            return;
        };
        let arriving = Arriving {
            stream,
            admitted,
            token: worker.connections.token(),
        };
        worker.handover.push(arriving, now);
    }

    /// Gives the connections that a worker does not take to others, for ever: its thread may be busy with something else.
    pub(super) async fn relieve(&self) {
        loop {
            self.handed_over.notified().await;
            while self.all.iter().any(|worker| !worker.handover.is_empty()) {
                tokio::time::sleep(PATIENCE).await;
                self.relieve_once(Instant::now());
            }
        }
    }

    fn relieve_once(&self, now: Instant) {
        let (held_up, well): (Vec<_>, Vec<_>) = self
            .all
            .iter()
            .partition(|worker| worker.handover.is_held_up(now));
        if well.is_empty() {
            return;
        }
        for worker in held_up {
            let mut moved = 0;
            for Arriving { stream, admitted, .. } in worker.handover.take_back() {
                self.hand_over(stream, admitted, now);
                moved += 1;
            }
            if moved > 0 {
                tracing::warn!(
                    connections = moved,
                    "a serving thread is held up; others take its new connections"
                );
            }
        }
    }

    /// Lets every connection finish its calls, for at most `limit`. Returns how many calls were cut off.
    pub(super) async fn drain(mut self, limit: Duration) -> usize {
        self.draining.cancel();
        let close = |worker: Worker| {
            worker.handover.close();
            worker.ended
        };
        let ended: Vec<_> = self.all.drain(..).map(close).collect();
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

/// Runs `work` on a thread of its own, and sends what it returns when that has ended.
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
        // Nobody may wait for it.
        let _ = end.send(result);
    })?;
    Ok(ended)
}

/// One worker's life.
async fn work(handover: Arc<Handover<Arriving>>, context: Context, ending: CancellationToken) {
    let connections = context.connections.clone();
    let all_served = async {
        while let Some(Arriving {
            stream,
            admitted,
            token,
        }) = handover.next().await
        {
            let context = context.clone();
            // Owns one connection. Ended by its peer, by its limits, by the drain, or with the runtime.
            connections.spawn(async move { context.serve(stream, admitted).await });
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
