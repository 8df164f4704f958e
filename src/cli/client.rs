//! What the client subcommands share: their flags, the connection, and the meaning of errors.

mod channels;
pub(super) mod retry;
mod tls;

use std::{error::Error, io, time::Duration};

use clap::ValueEnum;
use http::{
    Uri,
    uri::{Authority, PathAndQuery},
};
use prost::Message as _;
use tokio::{
    runtime,
    sync::{AcquireError, Semaphore, SemaphorePermit},
    time::{Instant, error::Elapsed},
};
use tonic::{
    Code, Request, Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tonic_types::{StatusExt as _, pb};
use tower::{
    BoxError, Service, service_fn,
    util::{BoxCloneService, MapErr},
};

use self::channels::Channels;
use super::{
    InvalidFlags, Outcome,
    exit::{Exit, Failed},
    values,
};
use crate::{
    cause::innermost,
    proto::v1::{
        LookupFailure, LookupResult, ResolveChannelRequest, VideoKind,
        latest_video_client::LatestVideoClient, lookup_result::Outcome as Found,
    },
    video::ChannelName,
};

/// A client of a server, or of the service in this process.
pub(super) type Plaque =
    LatestVideoClient<BoxCloneService<http::Request<Body>, http::Response<Body>, BoxError>>;

/// A client that calls `service`.
pub(super) fn call_service<S>(service: S) -> Plaque
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error: Into<BoxError>,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static,
{
    LatestVideoClient::new(BoxCloneService::new(MapErr::new(service, Into::into)))
}

pub(super) fn block_on(client: impl Future<Output = Outcome>) -> Outcome {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(client);
    // A thread may be blocked in the system's resolver.
    runtime.shutdown_background();
    outcome
}

/// A watch may be silent for days: pings show whether the server is still there.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// The reason of a failure without a connection to the server.
pub(super) const CONNECTION_LOST: &str = "CONNECTION_LOST";

/// The advice if the server ends a connection over http before an answer.
const NEEDS_TLS: &str = "; is that the port for gRPC (3779 by default), and does it expect TLS? Then name it with https:// in --server";

/// The advice if it answers http with TLS.
const EXPECTS_TLS: &str = "the server expects TLS: name it with https:// in --server";

/// Names that are searched at one time: as many as a server searches.
pub(super) const NAMES_AT_ONCE: usize = 8;

/// The most calls that are begun or wait for their turn while the answer of an earlier one has yet to be printed.
pub(super) const AHEAD: usize = 1000;

/// Limits the calls in progress. The search for a name can take long, and keeps no ID waiting.
pub(super) struct Turns {
    names: Semaphore,
    ids: Semaphore,
}

impl Turns {
    /// Turns for so many IDs at one time.
    pub(super) fn new(ids: usize) -> Self {
        Self {
            names: Semaphore::new(NAMES_AT_ONCE),
            ids: Semaphore::new(ids),
        }
    }

    /// Waits for a turn, which lasts until the permit is dropped.
    pub(super) async fn wait(&self, name: &ChannelName) -> Result<SemaphorePermit<'_>, AcquireError> {
        match name {
            ChannelName::Id(_) => self.ids.acquire().await,
            _ => self.names.acquire().await,
        }
    }
}

/// The time limit of the answer to a ping: the default of gRPC's own clients.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Flags of every command that asks about channels.
#[derive(clap::Args)]
#[group(id = "client")]
pub(super) struct Args {
    /// Channels: IDs (UC and 22 more characters), handles (@name), or addresses of a channel or a video; - reads them from standard input,
    /// one a line, without blank lines and those that begin with #
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<Channels>,

    #[command(flatten)]
    pub(super) server: ServerArgs,

    /// Only uploads of this kind
    #[arg(long, env = "PLAQUE_KIND", default_value = "any")]
    kind: Kind,
}

/// Flags of every client: which server, and how long to wait for it.
#[derive(clap::Args)]
#[group(id = "connection")]
pub(super) struct ServerArgs {
    /// The server's address: HOST:PORT, or an http or https URL (https for TLS)
    #[arg(long = "server", env = "PLAQUE_SERVER", default_value = "http://127.0.0.1:3779", value_name = "ADDRESS", value_parser = server)]
    pub(super) address: Uri,

    #[command(flatten)]
    tls: tls::Args,

    /// The time limit of connecting, and of each answer with retries and the search for its channel by name; not of the whole command
    #[arg(long, env = "PLAQUE_TIMEOUT", default_value = "15s", value_name = "DURATION", value_parser = values::time_limit)]
    pub(super) timeout: Duration,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Any,
    Video,
    Short,
}

fn server(text: &str) -> Result<Uri, String> {
    let url = if text.contains(['@', '#']) {
        None
    } else if text.contains("://") {
        text.parse::<Uri>().ok()
    } else {
        let host = text.parse::<Authority>().ok();
        let host = host.filter(|host| host.port().is_some());
        host.and_then(|host| format!("http://{host}").parse().ok())
    };
    let url = url.filter(|url| matches!(url.scheme_str(), Some("http" | "https")));
    let url = url.filter(|url| {
        // gRPC knows neither users nor paths.
        let has_host = url.host().is_some_and(|host| !host.is_empty());
        has_host && matches!(url.path_and_query().map(PathAndQuery::as_str), None | Some("/"))
    });
    url.ok_or_else(|| {
        "expected an address such as 127.0.0.1:3779, http://127.0.0.1:3779 or https://plaque.example.org, without a user, a path or a query"
            .into()
    })
}

impl ServerArgs {
    /// Connects, or says what to do. If the connection is lost, the next call connects again.
    pub(super) async fn connect(&self) -> Result<Plaque, Failed> {
        Ok(call_service(self.channel().await?))
    }

    /// A connection for any service of the server.
    pub(super) async fn channel(&self) -> Result<Channel, Failed> {
        let endpoint = Endpoint::from(self.address.clone())
            .connect_timeout(self.timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        let connector = self.tls.connector(&self.address);
        let connector = connector.map_err(|message| Failed {
            message,
            exit: Exit::Usage,
        })?;
        let connected = match connector {
            Some(tls) => {
                let connector = service_fn(move |_: Uri| tls.clone().connect());
                endpoint.connect_with_connector(connector).await
            }
            None => endpoint.connect().await,
        };
        match connected {
            Ok(channel) => Ok(channel),
            Err(error) => Err(self.unreachable(innermost(&error))),
        }
    }

    /// Makes a call, with retries within the time limit since `began`.
    pub(super) async fn call<T>(
        &self,
        began: Instant,
        mut call: impl AsyncFnMut(Duration) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let called = retry::with_retries(began, self.timeout, async |left| {
            self.checked(call(left).await).await
        });
        called
            .await
            .map_err(|failed| failed.unwrap_or_else(|| self.late()))
    }

    /// The outcome of a call. If the server expects TLS and was called over http, the error says so, and that a retry does not help.
    pub(super) async fn checked<T>(&self, outcome: Result<T, Status>) -> Result<T, Status> {
        if let Err(status) = &outcome
            && let Some(cause) = retry::connection_error(status)
            && self.may_need_tls(cause)
            && tls::is_expected(&self.address).await
        {
            let cause = cause.to_string();
            let advice = EXPECTS_TLS;
            return Err(Status::from_error(tls::Refused { cause, advice }.into()));
        }
        outcome
    }

    /// The status of a call without an answer within the time limit.
    pub(super) fn late(&self) -> Status {
        let limit = humantime::format_duration(self.timeout);
        Status::deadline_exceeded(format!(
            "no answer from {} within {limit}; it may need a longer --timeout, or is that not the port for gRPC (3779 by default)?",
            self.address
        ))
    }

    /// The error that the server cannot be reached, with advice.
    pub(super) fn unreachable(&self, cause: &(dyn Error + 'static)) -> Failed {
        let (advice, exit) = self.advice(cause);
        Failed {
            message: format!("cannot reach {}: {}{advice}", self.address, self.described(cause)),
            exit,
        }
    }

    /// The cause of a failed connection as text. tokio's time-out does not tell the limit.
    fn described(&self, cause: &(dyn Error + 'static)) -> String {
        if cause.is::<Elapsed>() {
            format!("no answer within {}", humantime::format_duration(self.timeout))
        } else {
            cause.to_string()
        }
    }

    /// What to do about a failed connection, and whether it may work later.
    fn advice(&self, cause: &(dyn Error + 'static)) -> (&'static str, Exit) {
        if cause.is::<tls::Refused>() {
            ("", Exit::Failure)
        } else if self.may_need_tls(cause) {
            (NEEDS_TLS, Exit::TryAgain)
        } else {
            let advice = "; is `plaque serve` running there? Another server can be named with --server";
            (advice, Exit::TryAgain)
        }
    }

    /// The failure of a call on a connection that may have had no answer, with advice.
    pub(super) fn failure(&self, status: &Status) -> LookupFailure {
        let mut why = failure(status);
        if let Some(cause) = retry::connection_error(status) {
            let Failed { message, exit } = self.unreachable(cause);
            why.message = message;
            if exit == Exit::Failure {
                why.code = Code::FailedPrecondition.into();
            }
            if let Some(status) = &mut why.status {
                (status.code, status.message) = (why.code, why.message.clone());
            }
        }
        why
    }

    /// Whether a connection was made over http, and then lost.
    fn may_need_tls(&self, cause: &(dyn Error + 'static)) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        let was_made = cause
            .downcast_ref::<io::Error>()
            .is_none_or(|error| matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof));
        self.address.scheme_str() == Some("http") && was_made
    }
}

impl Args {
    /// The channels that are asked about; reads standard input if one of them is `-`.
    pub(super) fn channels(&self) -> Result<Vec<ChannelName>, InvalidFlags> {
        channels::all(&self.channels).map_err(InvalidFlags)
    }

    /// The ID of a channel, which the server finds unless it is in `name` itself: within the time limit since `began`.
    pub(super) async fn resolve(
        &self,
        client: &Plaque,
        name: &ChannelName,
        began: Instant,
    ) -> Result<String, Status> {
        if let ChannelName::Id(id) = name {
            return Ok(id.to_string());
        }
        let query = name.to_string();
        let resolved = self.server.call(began, async |left| {
            let mut request = Request::new(ResolveChannelRequest { query: query.clone() });
            request.set_timeout(left);
            client.clone().resolve_channel(request).await
        });
        match resolved.await {
            Ok(response) => Ok(response.into_inner().channel_id),
            Err(status) if status.code() == Code::Unimplemented => Err(Status::unimplemented(
                "this server is too old to find channels by name; give the channel's ID",
            )),
            Err(status) => Err(status),
        }
    }

    /// The requested kind in the API.
    pub(super) fn kind(&self) -> i32 {
        let kind = match self.kind {
            Kind::Any => VideoKind::Unspecified,
            Kind::Video => VideoKind::Video,
            Kind::Short => VideoKind::Short,
        };
        kind.into()
    }
}

/// The result of a channel that was not looked up.
pub(super) fn failed(channel_id: String, why: LookupFailure) -> LookupResult {
    LookupResult {
        channel_id,
        outcome: Some(Found::Failure(why)),
    }
}

/// A status as a message of the API.
pub(super) fn failure(status: &Status) -> LookupFailure {
    let details = status.get_error_details();
    // tonic's client reports its own time-out as CANCELLED, possibly before the server's status arrives.
    let gave_up = matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded);
    let (code, reason, message) = match (retry::connection_error(status), details.error_info()) {
        (Some(cause), _) => {
            let message = format!("no connection to the server: {cause}");
            (Code::Unavailable, CONNECTION_LOST, message)
        }
        (None, Some(info)) => (status.code(), info.reason.as_str(), status.message().into()),
        (None, None) if gave_up => (Code::DeadlineExceeded, "DEADLINE", status.message().into()),
        (None, None) => (
            status.code(),
            status.code().description(),
            status.message().into(),
        ),
    };
    LookupFailure {
        code: code.into(),
        reason: reason.into(),
        message: message.clone(),
        retry_after: details
            .retry_info()
            .and_then(|info| info.retry_delay?.try_into().ok()),
        // Not the status as it is: a proxy's may have details that cannot be written as JSON.
        status: pb::Status::decode(Status::with_error_details(code, message, details).details()).ok(),
    }
}
