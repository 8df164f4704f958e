//! The labels of a call in metrics and spans: its method and its status code.

use http::HeaderMap;
use tonic::{Code, Status};

/// A method of the server; [`Other`](Self::Other) stands for unknown ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their paths say it")]
pub enum Method {
    GetLatestVideo,
    BatchGetLatestVideos,
    WatchLatestVideo,
    ListUploads,
    ResolveChannel,
    HealthCheck,
    HealthList,
    HealthWatch,
    Reflection,
    ReflectionAlpha,
    LatestVideoAsJson,
    UploadsAsJson,
    Other,
}

impl Method {
    /// All methods in declaration order, with their paths. The most frequent comes first.
    const ALL: [(Self, &'static str); 13] = [
        (Self::GetLatestVideo, "/plaque.v1.LatestVideo/GetLatestVideo"),
        (
            Self::BatchGetLatestVideos,
            "/plaque.v1.LatestVideo/BatchGetLatestVideos",
        ),
        (Self::WatchLatestVideo, "/plaque.v1.LatestVideo/WatchLatestVideo"),
        (Self::ListUploads, "/plaque.v1.LatestVideo/ListUploads"),
        (Self::ResolveChannel, "/plaque.v1.LatestVideo/ResolveChannel"),
        (Self::HealthCheck, "/grpc.health.v1.Health/Check"),
        (Self::HealthList, "/grpc.health.v1.Health/List"),
        (Self::HealthWatch, "/grpc.health.v1.Health/Watch"),
        (
            Self::Reflection,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ),
        (
            Self::ReflectionAlpha,
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ),
        (Self::LatestVideoAsJson, "/v1/channels/{channel}/latest-video"),
        (Self::UploadsAsJson, "/v1/channels/{channel}/uploads"),
        // OpenTelemetry's name for unknown methods, of which callers can make up any number.
        (Self::Other, "/_OTHER"),
    ];

    /// The number of methods.
    pub(super) const COUNT: usize = Self::ALL.len();

    /// The method with the given path.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let found = Self::ALL.iter().find(|(_, known)| *known == path);
        found.map_or(Self::Other, |(method, _)| *method)
    }

    /// The full name, such as `plaque.v1.LatestVideo/GetLatestVideo`.
    #[must_use]
    pub fn name(self) -> &'static str {
        &Self::ALL[self as usize].1[1..]
    }

    /// How it is called, by OpenTelemetry's names.
    pub(super) fn system(self) -> &'static str {
        match self {
            Self::LatestVideoAsJson | Self::UploadsAsJson => "http",
            _ => "grpc",
        }
    }

    /// Whether its responses are streams.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(
            self,
            Self::WatchLatestVideo | Self::HealthWatch | Self::Reflection | Self::ReflectionAlpha
        )
    }

    /// Whether it is a health check. These are not limited: a mesh that gets no answer considers the server dead, sends its calls to other
    /// replicas, and then considers those dead.
    #[must_use]
    pub fn is_health(self) -> bool {
        matches!(self, Self::HealthCheck | Self::HealthList | Self::HealthWatch)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().map(|(method, _)| method)
    }
}

/// The status code with which a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended(Code);

/// The names in gRPC's specification, in the order of their numbers.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Ended {
    /// The caller left before the response was sent.
    pub const CANCELLED: Self = Self(Code::Cancelled);

    /// The number of status codes.
    pub(super) const COUNT: usize = NAMES.len();

    /// The status in response headers or trailers, if they have one.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let status = headers.get(Status::GRPC_STATUS)?;
        Some(Self(Code::from_bytes(status.as_bytes())))
    }

    pub(super) fn of(code: Code) -> Self {
        Self(code)
    }

    /// The name of the code, such as `NOT_FOUND`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[self.number()]
    }

    /// Whether OpenTelemetry counts the code as an error of the server.
    #[must_use]
    pub fn is_server_error(self) -> bool {
        matches!(
            self.0,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        )
    }

    pub(super) fn number(self) -> usize {
        self.0 as usize
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..).map(Code::from_i32).map(Self).take(Self::COUNT)
    }
}

#[cfg(test)]
mod tests;
