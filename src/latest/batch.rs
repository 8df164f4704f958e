//! Batches: several queries at once, with one deadline.

use std::{collections::HashMap, future::poll_fn, pin::pin, task::Poll, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::ReusableBoxFuture;

use super::{Latest, Made, Query, Reply};
use crate::upstream::Caller;

impl Latest {
    /// Answers all `queries`, for nobody in particular: see [`Self::get_all_for`].
    pub async fn get_all(&self, queries: &[Query], within: Duration) -> Vec<Option<Reply>> {
        self.get_all_for(queries, within, &Caller::default).await
    }

    /// Answers all `queries` concurrently; one reply for each, in their order. `None` where there was no answer `within` that time; its
    /// lookup goes on.
    ///
    /// Equal queries are asked once and count as one waiter. All lookups are for the one `caller`.
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
        let mut asked = FuturesUnordered::new();
        let mut spare = None;
        for (index, _) in firsts.iter().enumerate().filter(|(index, first)| index == *first) {
            let ask = async move { (index, self.get_for(queries[index], caller).await) };
            let mut asking = match spare.take() {
                None => ReusableBoxFuture::new(ask),
                Some(mut used) => {
                    ReusableBoxFuture::set(&mut used, ask);
                    used
                }
            };
            // What is known is answered at once, all in one place.
            match poll_fn(|context| Poll::Ready(asking.poll(context))).await {
                Poll::Ready((index, reply)) => {
                    answered[index] = Some(reply);
                    spare = Some(asking);
                }
                Poll::Pending => asked.push(asking),
            }
        }
        let mut over = pin!(tokio::time::sleep(within));
        loop {
            tokio::select! {
                // Replies first: what is known is returned even if no time is left.
                biased;
                reply = asked.next() => match reply {
                    Some((index, reply)) => answered[index] = Some(reply),
                    None => break,
                },
                () = &mut over => break,
            }
        }
        drop(asked);
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
    /// The reply to an equal query of the same batch, which shared the lookup of the first.
    fn repeated(&self) -> Self {
        let mut reply = self.clone();
        if let Made::Forwarded { collapsed, .. } = &mut reply.made {
            *collapsed = true;
        }
        reply
    }
}
