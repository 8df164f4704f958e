//! Registers metrics whose values are computed when they are read, so that they cost nothing before.

pub mod process;

use std::fmt::{self, Debug, Formatter};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::TypedMetric,
    registry::Registry,
};

/// Histogram buckets for durations, in seconds: OpenTelemetry's for calls, and some smaller ones, since a hit takes microseconds.
pub const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Registers a metric that `read` encodes whenever metrics are read.
pub fn read(
    registry: &mut Registry,
    read: impl Fn(DescriptorEncoder) -> fmt::Result + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(Read(read)));
}

/// Registers a metric with one value: a gauge, or a counter if it never decreases.
pub fn metric<M: EncodeMetric + TypedMetric>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    metric: impl Fn() -> M + Send + Sync + 'static,
) {
    read(registry, move |mut encoder| {
        metric().encode(encoder.encode_descriptor(name, help, None, M::TYPE)?)
    });
}

/// Registers a metric with one value for each value of `label`.
pub fn family<M: EncodeMetric + TypedMetric, const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    metrics: impl Fn() -> [(&'static str, M); N] + Send + Sync + 'static,
) {
    read(registry, move |mut encoder| {
        let mut family = encoder.encode_descriptor(name, help, None, M::TYPE)?;
        for (value, metric) in metrics() {
            metric.encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    });
}

struct Read<F>(F);

impl<F> Collector for Read<F>
where
    F: Fn(DescriptorEncoder) -> fmt::Result + Send + Sync + 'static,
{
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        (self.0)(encoder)
    }
}

impl<F> Debug for Read<F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Read")
    }
}
