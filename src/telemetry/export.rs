//! Exports spans over OTLP. An outage of the collector is logged once, and does not affect calls.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Uri;
use opentelemetry::{Key, KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::runtime::{self, Runtime};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Registry;

use super::SetupError;

/// How long the end of the program waits for the collector. A working one takes milliseconds.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

/// A text is not the address of a collector.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the address of an OpenTelemetry collector that speaks OTLP over gRPC, such as http://127.0.0.1:4317; {0}"
)]
pub struct BadEndpoint(&'static str);

/// Parses the address of a collector.
///
/// # Errors
///
/// If it is not an absolute `http` URL.
pub fn endpoint(text: &str) -> Result<String, BadEndpoint> {
    let uri: Uri = text.parse().map_err(|_| BadEndpoint("this is no URL"))?;
    match uri.scheme_str() {
        Some("http") => Ok(text.into()),
        Some("https") => Err(BadEndpoint(
            "https is left to a collector beside plaque, which passes spans on",
        )),
        _ => Err(BadEndpoint("this does not begin with http://")),
    }
}

/// Exports spans until it is dropped.
pub(super) struct Export {
    provider: SdkTracerProvider,
    /// Owns the connection to the collector. Separate from the serving threads and from the runtime of lookups, whose last spans are
    /// exported after it has ended. Ended by the drop.
    runtime: Option<Runtime>,
    outage: Outage,
}

impl Export {
    /// Starts to export to `endpoint`, and returns the layer that collects spans. The collector need not run yet.
    pub(super) fn start(
        endpoint: &str,
    ) -> Result<(Self, OpenTelemetryLayer<Registry, SdkTracer>), SetupError> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(SetupError::Thread)?;
        let outage = Outage::new(endpoint);
        let inner = {
            let _here = runtime.enter();
            OtlpExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()?
        };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            // Through a bounded queue to a thread of its own. If the queue is full, spans are dropped.
            .with_batch_exporter(OutageLogger {
                inner,
                outage: outage.clone(),
            })
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")))
            .with_context_activation(false)
            .with_level(false)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        let export = Self {
            provider,
            runtime: Some(runtime),
            outage,
        };
        Ok((export, layer))
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_LIMIT) {
            self.outage.began(&error);
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The resource attributes, unless the environment has others: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let named = Resource::builder().build();
    let name = named.get(&Key::from_static_str("service.name"));
    let is_given = name.is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let resource = Resource::builder().with_attribute(version);
    if is_given {
        resource.build()
    } else {
        resource.with_service_name(env!("CARGO_PKG_NAME")).build()
    }
}

/// Whether exports fail. Logs each change once.
#[derive(Clone, Debug)]
struct Outage {
    endpoint: Arc<str>,
    under_way: Arc<AtomicBool>,
}

impl Outage {
    fn new(endpoint: &str) -> Self {
        Self {
            endpoint: endpoint.into(),
            under_way: Arc::default(),
        }
    }

    fn began(&self, error: &dyn fmt::Display) {
        if !self.under_way.swap(true, Relaxed) {
            tracing::warn!(
                endpoint = %self.endpoint,
                %error,
                "traces cannot be exported, and are dropped until they can; does an OpenTelemetry collector listen there for OTLP over gRPC?"
            );
        }
    }

    fn ended(&self) {
        if self.under_way.swap(false, Relaxed) {
            tracing::info!(endpoint = %self.endpoint, "traces are exported again");
        }
    }
}

/// An exporter whose outages are logged.
#[derive(Debug)]
struct OutageLogger {
    inner: OtlpExporter,
    outage: Outage,
}

impl SpanExporter for OutageLogger {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.inner.export(batch).await;
        match &exported {
            Ok(()) => self.outage.ended(),
            Err(error) => self.outage.began(error),
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
