//! Batches: several queries with one deadline.

use std::{collections::HashMap, future::poll_fn, pin::pin, task::Poll, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::ReusableBoxFuture;

use super::{CacheStatus, Latest, Query, Reply};
use crate::upstream::Caller;

impl Latest {
    /// Answers all `queries` for an anonymous caller: see [`Self::get_all_for`].
    pub async fn get_all(&self, queries: &[Query], within: Duration) -> Vec<Option<Reply>> {
        self.get_all_for(queries, within, &Caller::default).await
    }

    /// Answers all `queries` concurrently and returns their replies in order. `None` stands for a query that was not answered `within` the
    /// time; its flight goes on.
    ///
    /// Equal queries are run once and count as one waiter. All flights are for the one `caller`.
    pub async fn get_all_for(
        &self,
        queries: &[Query],
        within: Duration,
        caller: &(impl Fn() -> Caller + Sync),
    ) -> Vec<Option<Reply>> {
        let mut first = HashMap::with_capacity(queries.len());
        let firsts: Vec<_> = queries
            .iter()
            .enumerate()
            .map(|(index, query)| *first.entry(*query).or_insert(index))
            .collect();
        let mut answered: Vec<Option<Reply>> = queries.iter().map(|_| None).collect();
        let mut waiting = FuturesUnordered::new();
        let mut spare = None;
        for (index, _) in firsts.iter().enumerate().filter(|(index, first)| index == *first) {
            let run = async move { (index, self.get_for(queries[index], caller).await) };
            let mut running = match spare.take() {
                None => ReusableBoxFuture::new(run),
                Some(mut used) => {
                    ReusableBoxFuture::set(&mut used, run);
                    used
                }
            };
            // Hits are answered at once, and their futures share one allocation.
            match poll_fn(|context| Poll::Ready(running.poll(context))).await {
                Poll::Ready((index, reply)) => {
                    answered[index] = Some(reply);
                    spare = Some(running);
                }
                Poll::Pending => waiting.push(running),
            }
        }
        let mut over = pin!(tokio::time::sleep(within));
        loop {
            tokio::select! {
                // Replies first: those that are there are returned even if no time is left.
                biased;
                reply = waiting.next() => match reply {
                    Some((index, reply)) => answered[index] = Some(reply),
                    None => break,
                },
                () = &mut over => break,
            }
        }
        drop(waiting);
        for (index, first) in firsts
            .into_iter()
            .enumerate()
            .filter(|(index, first)| index != first)
        {
            answered[index] = answered[first].as_ref().map(Reply::repeated);
        }
        answered
    }
}

impl Reply {
    /// The reply to an equal query of the same batch, which shared the flight of the first.
    fn repeated(&self) -> Self {
        let mut reply = self.clone();
        if let CacheStatus::Forwarded { collapsed, .. } = &mut reply.cache_status {
            *collapsed = true;
        }
        reply
    }
}
