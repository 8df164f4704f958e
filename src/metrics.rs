//! Metrics of what somebody knows anyway: looked up when they are read, and not counted before.

use std::fmt::{self, Debug, Formatter};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
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

/// A gauge.
pub fn gauge<V: EncodeGaugeValue>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    value: impl Fn() -> V + Send + Sync + 'static,
) {
    read(registry, move |mut encoder| {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value()).encode(metric)
    });
}

/// A gauge for each value of a label.
pub fn gauges<V: EncodeGaugeValue, const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: impl Fn() -> [(&'static str, V); N] + Send + Sync + 'static,
) {
    read(registry, move |mut encoder| {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values() {
            ConstGauge::new(value).encode(metric.encode_family(&[(label, of)])?)?;
        }
        Ok(())
    });
}

/// A counter. Its value must never fall.
pub fn counter<V: EncodeCounterValue>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    value: impl Fn() -> V + Send + Sync + 'static,
) {
    read(registry, move |mut encoder| {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value()).encode(metric)
    });
}

/// A counter for each value of a label.
pub fn counters<V: EncodeCounterValue, const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: impl Fn() -> [(&'static str, V); N] + Send + Sync + 'static,
) {
    read(registry, move |mut encoder| {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (of, value) in values() {
            ConstCounter::new(value).encode(metric.encode_family(&[(label, of)])?)?;
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
