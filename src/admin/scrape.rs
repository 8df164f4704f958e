//! Renders the metrics as text, once for all concurrent scrapes.

use std::{fmt, sync::Arc, time::Instant};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{encoding::text, registry::Registry};
use prost::bytes::Bytes;
use tokio::sync::Mutex;

use crate::latest::Latest;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders the metrics. That takes about a millisecond, which concurrent scrapes should not spend one after the other.
pub(super) struct Scrape {
    latest: Arc<Latest>,
    registry: Registry,
    /// The last text. Locked while one is rendered; whoever waits shares the next one.
    last: Mutex<Option<Rendered>>,
}

struct Rendered {
    begun: Instant,
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

    /// The metrics, rendered after the call.
    pub(super) async fn metrics(&self) -> Response {
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
            Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}
