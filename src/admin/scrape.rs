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

/// Whether a request accepts OpenMetrics 1.0.0, and does not prefer the older format.
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).into_iter();
    let formats = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let (mut open_metrics, mut plain) = (0.0_f32, 0.0_f32);
    for format in formats {
        let mut parts = format.split(';').map(|part| part.trim().to_ascii_lowercase());
        let name = parts.next();
        let (mut weight, mut version) = (1.0, None);
        for part in parts {
            match part.split_once('=') {
                Some(("q", text)) => weight = text.parse().unwrap_or(weight),
                Some(("version", text)) => version = Some(text.trim_matches('"').to_owned()),
                _ => {}
            }
        }
        match name.as_deref() {
            Some("application/openmetrics-text") if version.is_none_or(|version| version == "1.0.0") => {
                open_metrics = open_metrics.max(weight);
            }
            Some("text/plain") => plain = plain.max(weight),
            _ => {}
        }
    }
    open_metrics > 0.0 && open_metrics >= plain
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
            "text/plain, application/openmetrics-text",
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
            "text/plain,application/openmetrics-text;q=0.1",
            "application/openmetrics-textual",
        ] {
            assert!(!accepts(accept), "{accept}");
        }
        assert!(!accepts_open_metrics(&HeaderMap::new()));
    }
}
