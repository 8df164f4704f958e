//! Many callers on one channel, and their outcomes.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use tokio::task::JoinSet;
use tonic::{
    Request, Response,
    transport::{Channel, Endpoint},
};

use crate::{
    cli::client::failure,
    proto::v1::{GetLatestVideoRequest, GetLatestVideoResponse, latest_video_client::LatestVideoClient},
    video::ChannelId,
};

/// With 100 callers on each: below the 1000 concurrent calls of a connection, above which the client itself would queue.
const CONNECTIONS: usize = 10;

/// Open connections to the server, which the callers share.
pub(super) struct Clients(Vec<Channel>);

impl Clients {
    pub(super) async fn connect(address: SocketAddr) -> Result<Self, tonic::transport::Error> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
            clients.push(endpoint.connect().await?);
        }
        Ok(Self(clients))
    }

    pub(super) fn connections(&self) -> usize {
        self.0.len()
    }
}

/// Callers, one after another at a given interval.
#[derive(Clone, Copy)]
pub(super) struct Crowd {
    pub(super) channel: ChannelId,
    pub(super) callers: usize,
    pub(super) deadline: Duration,
    pub(super) pace: Duration,
    pub(super) max_age: Option<Duration>,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) callers: usize,
    pub(super) answered: usize,
    /// Of those, stale answers.
    pub(super) stale: usize,
    /// Callers who came after the first answer, and got none.
    pub(super) failed_after_first_answer: usize,
    /// The number of callers with each error.
    pub(super) errors: BTreeMap<String, usize>,
    pub(super) waits: Vec<Duration>,
    /// Requests that the origin counted.
    pub(super) lookups: usize,
}

impl Counts {
    pub(super) fn failed_with(&self, reason: &str) -> usize {
        self.errors.get(reason).copied().unwrap_or(0)
    }
}

struct Call {
    began: Instant,
    ended: Instant,
    /// Whether the answer was stale, or the error.
    outcome: Result<bool, String>,
}

impl Crowd {
    pub(super) async fn call(&self, clients: &Clients, bar: &ProgressBar) -> Counts {
        let start = Instant::now();
        let mut calls = JoinSet::new();
        for (number, client) in (0..self.callers).zip(clients.0.iter().cycle()) {
            let client = LatestVideoClient::new(client.clone());
            let wait = self.pace * u32::try_from(number).unwrap_or(u32::MAX);
            let mut request = Request::new(GetLatestVideoRequest {
                channel_id: self.channel.to_string(),
                max_age: self.max_age.and_then(|age| age.try_into().ok()),
                ..GetLatestVideoRequest::default()
            });
            request.set_timeout(self.deadline);
            calls.spawn(call(client, request, start + wait));
        }
        let mut ended = Vec::with_capacity(self.callers);
        while let Some(joined) = calls.join_next().await {
            bar.inc(1);
            // A caller's task that panics is missing in the sum.
            ended.extend(joined.ok());
        }
        count(ended)
    }
}

async fn call(
    mut client: LatestVideoClient<Channel>,
    request: Request<GetLatestVideoRequest>,
    at: Instant,
) -> Call {
    tokio::time::sleep_until(at.into()).await;
    let began = Instant::now();
    let outcome = client.get_latest_video(request).await;
    let stale = |response: Response<GetLatestVideoResponse>| {
        response
            .into_inner()
            .freshness
            .is_some_and(|freshness| freshness.stale)
    };
    Call {
        began,
        ended: Instant::now(),
        outcome: outcome.map(stale).map_err(|status| failure(&status).reason),
    }
}

fn count(calls: Vec<Call>) -> Counts {
    let answers = calls.iter().filter(|call| call.outcome.is_ok());
    let first_answer = answers.map(|call| call.ended).min();
    let mut counts = Counts::default();
    for call in calls {
        counts.callers += 1;
        counts.waits.push(call.ended - call.began);
        match call.outcome {
            Ok(stale) => {
                counts.answered += 1;
                counts.stale += usize::from(stale);
            }
            Err(reason) => {
                if first_answer.is_some_and(|first| call.began > first) {
                    counts.failed_after_first_answer += 1;
                }
                *counts.errors.entry(reason).or_insert(0) += 1;
            }
        }
    }
    counts.waits.sort_unstable();
    counts
}
