//! What a call is known by: its method, and how it ended.

use http::HeaderMap;
use tonic::{Code, Status};

/// A method that is served, or any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their paths say it")]
pub enum Method {
    GetLatestVideo,
    BatchGetLatestVideos,
    WatchLatestVideo,
    HealthCheck,
    HealthList,
    HealthWatch,
    Reflection,
    ReflectionAlpha,
    Other,
}

impl Method {
    /// All of them, in their order, with their paths; the one that nearly all calls are of first.
    const ALL: [(Self, &'static str); 9] = [
        (Self::GetLatestVideo, "/plaque.v1.LatestVideo/GetLatestVideo"),
        (
            Self::BatchGetLatestVideos,
            "/plaque.v1.LatestVideo/BatchGetLatestVideos",
        ),
        (Self::WatchLatestVideo, "/plaque.v1.LatestVideo/WatchLatestVideo"),
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
        // OpenTelemetry's name for what a caller could make up.
        (Self::Other, "/_OTHER"),
    ];

    /// How many there are.
    pub(super) const COUNT: usize = Self::ALL.len();

    /// The method that a call to `path` is of.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let found = Self::ALL.iter().find(|(_, known)| *known == path);
        found.map_or(Self::Other, |(method, _)| *method)
    }

    /// Its full name, as `plaque.v1.LatestVideo/GetLatestVideo`.
    #[must_use]
    pub fn name(self) -> &'static str {
        &Self::ALL[self as usize].1[1..]
    }

    /// Whether its calls stay open once they are answered.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(
            self,
            Self::WatchLatestVideo | Self::HealthWatch | Self::Reflection | Self::ReflectionAlpha
        )
    }

    /// Whether its calls ask how the server is. Those are never too many: a mesh that gets no answer takes the server for dead,
    /// gives its calls to the others, and then takes those for dead.
    #[must_use]
    pub fn is_health(self) -> bool {
        matches!(self, Self::HealthCheck | Self::HealthList | Self::HealthWatch)
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().map(|(method, _)| method)
    }
}

/// How a call ended: its status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended(Code);

/// As gRPC's specification writes them, in the order of their numbers.
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
    /// The caller was gone before its answer had gone out.
    pub const CANCELLED: Self = Self(Code::Cancelled);

    /// How many ways there are.
    pub(super) const COUNT: usize = NAMES.len();

    /// What `headers`, or trailers, say of it.
    #[must_use]
    pub fn told(headers: &HeaderMap) -> Option<Self> {
        let status = headers.get(Status::GRPC_STATUS)?;
        Some(Self(Code::from_bytes(status.as_bytes())))
    }

    /// The code's name, as `NOT_FOUND`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[self.number()]
    }

    /// Whether the server failed, as OpenTelemetry has it, and not its caller.
    #[must_use]
    pub fn is_our_fault(self) -> bool {
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
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_path() {
        for method in Method::all() {
            assert_eq!(Method::of(&format!("/{}", method.name())), method);
        }
        assert_eq!(Method::of("/plaque.v1.LatestVideo/GetLatestVide"), Method::Other);
        assert_eq!(Method::Other.name(), "_OTHER");
    }

    #[test]
    fn every_code_has_its_name() {
        for ended in Ended::all() {
            assert_eq!(
                format!("{:?}", ended.0).to_lowercase(),
                ended.name().replace('_', "").to_lowercase()
            );
        }
    }

    #[test]
    fn how_a_call_ended_is_in_its_status() {
        let mut headers = HeaderMap::new();
        assert_eq!(Ended::told(&headers), None);
        headers.insert(Status::GRPC_STATUS, "5".parse().expect("a value"));
        let told = Ended::told(&headers).expect("told");
        assert_eq!((told.name(), told.is_our_fault()), ("NOT_FOUND", false));
        headers.insert(Status::GRPC_STATUS, "99".parse().expect("a value"));
        let told = Ended::told(&headers).expect("told");
        assert_eq!((told.name(), told.is_our_fault()), ("UNKNOWN", true));
    }
}
