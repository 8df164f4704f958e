//! The tonic service: protobuf in, protobuf out. The only place that knows gRPC's codes and details.

mod cache_status;
mod caller;
mod codec;
mod convert;
mod deadline;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod health;
mod json;
mod method;
mod status;
mod tally;

use std::{
    convert::Infallible,
    net::IpAddr,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, TryFutureExt as _, future::BoxFuture, stream};
use prost::bytes::Bytes;
use tonic::{Request, Response, Status, body::Body, server::Grpc, service::Routes};
use tower::{BoxError, service_fn};
use tracing::{Span, level_filters::LevelFilter};

pub use self::{
    cache_status::{CACHE_STATUS, cache_status},
    caller::{Callers, Peer},
    codec::encode,
    deadline::refuse_at_once,
    json::JsonService,
    method::{Ended, Method},
    status::{PUSHBACK, from as status},
    tally::{Tally, register},
};
use self::{
    codec::{AnswerCodec, BatchCodec, Looked, WatchCodec},
    deadline::{AnswerBy, Deadlines},
    health::Health,
};
use crate::{
    latest::{Answer, Latest, LookupError, Made, OVERLOAD_PAUSE, Reply},
    lifecycle::Stages,
    proto::{
        self,
        health::health_server::HealthServer,
        v1::{
            BatchGetLatestVideosRequest, GetLatestVideoRequest, WatchLatestVideoRequest,
            WatchLatestVideoResponse,
        },
    },
    upstream::Caller,
};

/// What calls may take of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls in progress, in the whole server.
    pub at_once: NonZeroUsize,
    /// How long a call may take whose caller allows it longer, or says nothing. Streams are open-ended.
    pub deadline: Duration,
    /// How long a watch may go on; by default until its caller or the server ends it.
    pub watch: Option<Duration>,
    /// The largest message that is read, in bytes. A batch of 100 channels has 2.6 kB.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            at_once: NonZeroUsize::MIN.saturating_add(99_999),
            deadline: Duration::from_secs(30),
            watch: Some(Duration::from_hours(24)),
            message_bytes: 16 << 10,
        }
    }
}

/// All that is served.
pub type Served = Deadlines<Services>;

/// `LatestVideo`, reflection (v1 and v1alpha) and health. What is answered is counted in `tally`.
///
/// # Errors
///
/// If the descriptors that the build made are broken.
pub fn serve(
    latest: Arc<Latest>,
    limits: Limits,
    callers: Arc<Callers>,
    stages: Stages,
    tally: Arc<Tally>,
) -> Result<Served, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            // The types of the error details, with which clients such as grpcurl can show them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let service = Arc::new(Service {
        latest,
        callers,
        longest_watch: limits.watch,
        tally,
    });
    let others =
        Routes::new(HealthServer::new(Health(stages)).max_decoding_message_size(limits.message_bytes))
            .add_service(
                reflection()
                    .build_v1()?
                    .max_decoding_message_size(limits.message_bytes),
            )
            .add_service(
                reflection()
                    .build_v1alpha()?
                    .max_decoding_message_size(limits.message_bytes),
            )
            .prepare();
    let services = Services {
        peer: Peer::default(),
        service,
        others,
        limits,
    };
    Ok(Deadlines::new(services, limits.deadline))
}

/// All services. Calls of `LatestVideo` do not go through a router, nor through generated code: that knows no other answers than generated
/// messages.
#[derive(Clone)]
pub struct Services {
    /// Whose calls these are. Part of the service, so that a call has it at no cost.
    peer: Peer,
    service: Arc<Service>,
    others: Routes,
    limits: Limits,
}

impl Served {
    /// The same for a new connection from `address`.
    #[must_use]
    pub fn for_peer(&self, address: Option<IpAddr>) -> Self {
        let mut served = self.clone();
        let services = served.inner_mut();
        services.peer = services.service.callers.peer(address);
        served
    }
}

impl<B> tower::Service<http::Request<B>> for Services
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError> + Send + Sync> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let service = Arc::clone(&self.service);
        if method == Method::GetLatestVideo {
            let (peer, longest) = (self.peer, self.limits.deadline);
            let mut grpc = Grpc::new(AnswerCodec).max_decoding_message_size(self.limits.message_bytes);
            return Box::pin(async move {
                // Told in the headers when tonic is done with them: it looks through all that it is given.
                let told = OnceLock::new();
                let get = service_fn(async |request: Request<_>| {
                    let caller = || {
                        service
                            .callers
                            .of_call(peer, request.metadata().as_ref(), longest)
                    };
                    let reply = service.get(request.get_ref(), &caller).await?;
                    let _ = told.set(reply.made);
                    answer(reply).map(Response::new)
                });
                let mut response = grpc.unary(get, request).await;
                let Some(made) = told.into_inner() else {
                    return Ok(status::explained(response));
                };
                cache_status::set(made, response.headers_mut());
                Ok(response)
            });
        }
        if method == Method::WatchLatestVideo {
            let peer = self.peer;
            let mut grpc = Grpc::new(WatchCodec).max_decoding_message_size(self.limits.message_bytes);
            return Box::pin(async move {
                let watch = service_fn(async |request: Request<_>| service.watch(request, peer));
                Ok(status::explained(grpc.server_streaming(watch, request).await))
            });
        }
        if method == Method::BatchGetLatestVideos {
            // Before the message is read: the caller's deadline includes that time.
            let answer_by = AnswerBy::new(request.headers(), self.limits.deadline);
            let peer = self.peer;
            let mut grpc = Grpc::new(BatchCodec).max_decoding_message_size(self.limits.message_bytes);
            return Box::pin(async move {
                let get = service_fn(|request| service.get_batch(request, peer, answer_by));
                Ok(status::explained(grpc.unary(get, request).await))
            });
        }
        Box::pin(self.others.call(request).map_ok(status::explained))
    }
}

/// `plaque.v1.LatestVideo`.
pub struct Service {
    latest: Arc<Latest>,
    callers: Arc<Callers>,
    longest_watch: Option<Duration>,
    tally: Arc<Tally>,
}

impl Service {
    /// What became of the question; a status if it was none.
    async fn get(
        &self,
        request: &GetLatestVideoRequest,
        caller: &impl Fn() -> Caller,
    ) -> Result<Reply, Status> {
        let query = convert::query(request).map_err(|error| status::from(&error, None))?;
        // The span is looked for only where it may be there: nearly all calls are hits. Not with `enabled!`, which makes layers
        // with a filter of their own lose what comes next.
        if LevelFilter::current() >= LevelFilter::DEBUG {
            Span::current().record("plaque.channel_id", query.channel.as_str());
        }
        let reply = self.latest.get_for(query, caller).await;
        self.tally.answered(&reply);
        Ok(reply)
    }

    async fn get_batch(
        &self,
        request: Request<BatchGetLatestVideosRequest>,
        peer: Peer,
        answer_by: AnswerBy,
    ) -> Result<Response<Vec<Looked>>, Status> {
        let (metadata, _, request) = request.into_parts();
        let queries = convert::queries(&request).map_err(|error| status::from(&error, None))?;
        let asked: Vec<_> = queries.iter().flatten().copied().collect();
        let caller = || self.callers.caller(peer, metadata.as_ref(), answer_by.at());
        let replies = self.latest.get_all_for(&asked, answer_by.left(), &caller).await;
        let mut replies = replies.into_iter();

        let (mut hits, mut forwarded) = (0, 0);
        let results = request.channel_ids.into_iter().zip(queries);
        let results = results.map(|(channel_id, query)| {
            // A reply for each query that was asked, in their order.
            let outcome = match query.map(|_| replies.next().flatten()) {
                Ok(Some(reply)) => {
                    self.tally.answered(&reply);
                    match reply.made {
                        Made::Hit { .. } => hits += 1,
                        Made::Forwarded { .. } => forwarded += 1,
                    }
                    reply
                        .outcome
                        .map_err(|error| status::failure(&error, reply.retry_after))
                }
                // Its lookup goes on.
                Ok(None) => {
                    forwarded += 1;
                    Err(status::failure(&LookupError::Deadline, None))
                }
                Err(error) => Err(status::failure(&error, None)),
            };
            Looked { channel_id, outcome }
        });
        let mut response = Response::new(results.collect());
        cache_status::set_batch(hits, forwarded, response.metadata_mut().as_mut());
        Ok(response)
    }

    fn watch(
        &self,
        request: Request<WatchLatestVideoRequest>,
        peer: Peer,
    ) -> Result<Response<WatchStream>, Status> {
        let asked = deadline::timeout(request.metadata().as_ref()).ok().flatten();
        let metadata = request.metadata().as_ref();
        let caller = self.callers.caller(peer, metadata, None);
        let query = convert::watch(&request.into_inner()).map_err(|error| status::from(&error, None))?;
        let watch = self.latest.watch_for(&query, &caller);
        let watch = watch.map_err(|error| status::from(&error, Some(OVERLOAD_PAUSE)))?;
        let events = watch.map(|event| match event {
            Ok(event) => Ok(convert::event(&event)),
            Err(error) => Err(status::from(&error, None)),
        });
        let events: WatchStream = match asked.into_iter().chain(self.longest_watch).min() {
            None => Box::pin(events),
            Some(limit) => {
                let over = stream::once(async { Err(status::from(&LookupError::WatchedLong, None)) });
                Box::pin(events.take_until(tokio::time::sleep(limit)).chain(over))
            }
        };
        let mut response = Response::new(events);
        cache_status::set_watch(response.metadata_mut().as_mut());
        Ok(response)
    }
}

fn answer(reply: Reply) -> Result<Answer, Status> {
    reply
        .outcome
        .map_err(|error| status::from(&error, reply.retry_after))
}

/// What happens to the watched channels, as it is sent.
type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchLatestVideoResponse, Status>> + Send>>;
