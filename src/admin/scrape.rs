//! Renders the metrics as text, once for all concurrent scrapes, in the format that is asked for.

mod plain;

use std::{fmt, sync::Arc, time::Instant};

use axum::{
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{encoding::text, registry::Registry};
use prost::bytes::Bytes;
use tokio::sync::Mutex;

use crate::latest::Latest;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const VARY: (HeaderName, &str) = (header::VARY, "accept");
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Renders the metrics. That takes about a millisecond, which concurrent scrapes should not spend one after the other.
pub(super) struct Scrape {
    latest: Arc<Latest>,
    registry: Registry,
    /// The last text. Locked while one is rendered; whoever waits shares the next one.
    last: Mutex<Option<Rendered>>,
}

struct Rendered {
    begun: Instant,
    /// In OpenMetrics' format.
    text: Result<Bytes, fmt::Error>,
}

impl Scrape {
    pub(super) fn new(latest: Arc<Latest>, registry: Registry) -> Self {
        Self {
            latest,
            registry,
            last: Mutex::default(),
        }
    }

    /// The metrics, rendered after the call: in OpenMetrics' format if the request accepts it, or else in Prometheus' older one.
    pub(super) async fn metrics(&self, headers: &HeaderMap) -> Response {
        let requested = Instant::now();
        let mut last = self.last.lock().await;
        let text = match &*last {
            Some(rendered) if rendered.begun > requested => rendered.text.clone(),
            _ => {
                let begun = Instant::now();
                self.latest.tidy().await;
                let mut text = String::new();
                let text = text::encode(&mut text, &self.registry).map(|()| text.into());
                last.insert(Rendered { begun, text }).text.clone()
            }
        };
        match text {
            Ok(text) if !accepts_open_metrics(headers) => {
                let text = plain::from_open_metrics(&String::from_utf8_lossy(&text));
                ([(header::CONTENT_TYPE, PLAIN), VARY], text).into_response()
            }
            Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS), VARY], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

/// Whether a request accepts OpenMetrics 1.0.0. Prometheus lists what it accepts in the order of its preference and with weights in the same
/// order, so other weights than zero need no comparison.
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).into_iter();
    let mut formats = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    formats.any(|format| {
        let mut parts = format.split(';').map(|part| part.trim().to_ascii_lowercase());
        let is_open_metrics = parts.next().as_deref() == Some("application/openmetrics-text");
        let is_ruled_out = |part: String| match part.split_once('=') {
            Some(("q", weight)) => weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0),
            Some(("version", version)) => version.trim_matches('"') != "1.0.0",
            _ => false,
        };
        is_open_metrics && !parts.any(is_ruled_out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        let accepts = |accept: &'static str| {
            let value = header::HeaderValue::from_static(accept);
            accepts_open_metrics(&HeaderMap::from_iter([(header::ACCEPT, value)]))
        };
        for accept in [
            "application/openmetrics-text; version=1.0.0",
            // Prometheus 2.42 and 3.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "text/plain;q=0.5,Application/OpenMetrics-Text; charset=utf-8; q=0.8",
        ] {
            assert!(accepts(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain;version=0.0.4",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0, text/plain",
            "application/openmetrics-textual",
        ] {
            assert!(!accepts(accept), "{accept}");
        }
        assert!(!accepts_open_metrics(&HeaderMap::new()));
    }
}
