//! Metrics of what somebody knows anyway: looked up when they are read, and not counted before.

use std::fmt::{self, Debug, Formatter};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::TypedMetric,
    registry::Registry,
};

/// The bounds of durations, in seconds: OpenTelemetry's for calls, and some below, since a hit takes microseconds.
pub const SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// A metric that `read` writes whenever it is asked for.
pub fn read(
    registry: &mut Registry,
    read: impl Fn(DescriptorEncoder) -> fmt::Result + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(Read(read)));
}

/// A metric of one value: a gauge or, if it never falls, a counter.
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

/// One for each value of a label.
pub fn family<M: EncodeMetric + TypedMetric, const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    metrics: impl Fn() -> [(&'static str, M); N] + Send + Sync + 'static,
) {
    read(registry, move |mut encoder| {
        let mut family = encoder.encode_descriptor(name, help, None, M::TYPE)?;
        for (of, metric) in metrics() {
            metric.encode(family.encode_family(&[(label, of)])?)?;
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
