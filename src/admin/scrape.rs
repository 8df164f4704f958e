//! The metrics as text, made once for all who ask at a time.

use std::{fmt, sync::Arc, time::Instant};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{encoding::text, registry::Registry};
use prost::bytes::Bytes;
use tokio::sync::Mutex;

use crate::latest::Latest;

/// What OpenMetrics calls itself.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Makes the text. That takes about a millisecond, which many who ask at once must not take one after the other.
pub(super) struct Scrape {
    latest: Arc<Latest>,
    registry: Registry,
    /// The last text. Held while one is made: whoever asks meanwhile waits for the next, which is for all of them.
    last: Mutex<Option<Made>>,
}

struct Made {
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

    /// The metrics as of some time after this was called.
    pub(super) async fn metrics(&self) -> Response {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let text = match &*last {
            Some(made) if made.begun > asked => made.text.clone(),
            _ => {
                let begun = Instant::now();
                self.latest.tidy().await;
                let mut text = String::new();
                let text = text::encode(&mut text, &self.registry).map(|()| text.into());
                last.insert(Made { begun, text }).text.clone()
            }
        };
        match text {
            Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}
