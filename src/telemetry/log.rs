//! The log: its formats, and the throttling and escaping that every line passes. So no caller, upstream or store can flood it, or write
//! anything but text into it.

use std::{
    fmt::Write as _,
    io,
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use parking_lot::Mutex;
use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::Interest,
};
use tracing_subscriber::{Layer, fmt, fmt::writer::BoxMakeWriter, layer::Context, registry::LookupSpan};
use tracing_tree::HierarchicalLayer;

use super::{
    AnyLayer, Format,
    escape::escaped,
    throttle::{Throttle, Verdict, WINDOW, Withheld},
};

/// The layer that logs to `writer`, with or without colors.
pub(super) fn layer(format: Format, writer: BoxMakeWriter, colors: bool, repeats: RepeatFilter) -> AnyLayer {
    let lines = fmt::layer();
    let inner: AnyLayer = match format {
        Format::Pretty => lines
            .with_writer(writer)
            .with_ansi(colors)
            .with_target(false)
            .boxed(),
        Format::Tree => HierarchicalLayer::new(2)
            .with_writer(writer)
            .with_ansi(colors)
            .with_indent_lines(true)
            .with_bracketed_fields(true)
            .boxed(),
        Format::Json => lines.json().with_writer(writer).with_ansi(false).boxed(),
    };
    Log { inner, repeats }.boxed()
}

/// Throttles repeated lines by callsite, and logs how many were withheld.
#[derive(Clone)]
pub(super) struct RepeatFilter {
    throttle: Arc<Mutex<Throttle<Identifier, Line>>>,
    wake: mpsc::Sender<Wake>,
}

/// A line without its fields.
struct Line {
    level: Level,
    message: String,
}

enum Wake {
    /// A line was withheld, and is counted until the end of its window.
    Withheld,
    End,
}

impl RepeatFilter {
    /// Returns the throttle and the receiver of its messages for [`report_withheld`](Self::report_withheld).
    fn new() -> (Self, mpsc::Receiver<Wake>) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a message for each callsite and window at most"
        )]
        let (wake, woken) = mpsc::channel();
        let throttle = Arc::new(Mutex::new(Throttle::new()));
        (Self { throttle, wake }, woken)
    }

    /// Whether to log `event` at `now`.
    fn admit(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        // Levels below INFO are for those who want everything. The summaries of this module are not throttled.
        if *metadata.level() > Level::INFO || metadata.module_path() == Some(module_path!()) {
            return true;
        }
        let line = || {
            let mut message = Message(String::new());
            event.record(&mut message);
            Line {
                level: *metadata.level(),
                message: message.0,
            }
        };
        let verdict = self.throttle.lock().admit(metadata.callsite(), now, line);
        if verdict == Verdict::WithholdFirst {
            // Fails at the very end, when the thread is gone.
            let _ = self.wake.send(Wake::Withheld);
        }
        verdict == Verdict::Log
    }

    /// Logs withheld lines when their window ends, until [`Wake::End`].
    fn report_withheld(&self, woken: &mpsc::Receiver<Wake>) {
        loop {
            let due = self.throttle.lock().next_due();
            let received = match due {
                Some(due) => woken.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => woken.recv().map_err(Into::into),
            };
            let is_last = !matches!(
                received,
                Ok(Wake::Withheld) | Err(mpsc::RecvTimeoutError::Timeout)
            );
            let now = Instant::now();
            self.report_due(if is_last { now + WINDOW } else { now });
            if is_last {
                return;
            }
        }
    }

    fn report_due(&self, now: Instant) {
        // Outside of the lock: each summary is an event itself.
        let due = self.throttle.lock().due(now);
        for Withheld { count, sample } in due {
            let Line { level, message } = sample;
            let seconds = WINDOW.as_secs();
            let line = format_args!("{message} (and {count} more like it in the last {seconds} s)");
            match level {
                Level::ERROR => tracing::error!("{line}"),
                Level::WARN => tracing::warn!("{line}"),
                _ => tracing::info!("{line}"),
            }
        }
    }
}

/// The thread that logs summaries of withheld lines. Dropping it logs the remaining ones at once.
pub(super) struct Reporter {
    wake: mpsc::Sender<Wake>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reporter {
    pub(super) fn start() -> io::Result<(Self, RepeatFilter)> {
        let (repeats, woken) = RepeatFilter::new();
        let (wake, shared) = (repeats.wake.clone(), repeats.clone());
        let thread = thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.report_withheld(&woken))?;
        let reporter = Self {
            wake,
            thread: Some(thread),
        };
        Ok((reporter, repeats))
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // The thread is gone only if it panicked.
        let _ = self.wake.send(Wake::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

/// The layer of a format behind throttling and escaping.
struct Log {
    inner: AnyLayer,
    repeats: RepeatFilter,
}

impl<S> Layer<S> for Log
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    AnyLayer: Layer<S>,
{
    fn on_register_dispatch(&self, subscriber: &Dispatch) {
        Layer::<S>::on_register_dispatch(&self.inner, subscriber);
    }

    fn on_layer(&mut self, subscriber: &mut S) {
        self.inner.on_layer(subscriber);
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        Layer::<S>::register_callsite(&self.inner, metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>, context: Context<'_, S>) -> bool {
        self.inner.enabled(metadata, context)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(values) = escaped(|visit| attributes.record(visit)) else {
            return self.inner.on_new_span(attributes, id, context);
        };
        let metadata = attributes.metadata();
        values.with(metadata, |values| {
            let attributes = match attributes.parent() {
                Some(parent) => Attributes::child_of(parent.clone(), metadata, values),
                None if attributes.is_root() => Attributes::new_root(metadata, values),
                None => Attributes::new(metadata, values),
            };
            self.inner.on_new_span(&attributes, id, context);
        });
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(values) = escaped(|visit| record.record(visit)) else {
            return self.inner.on_record(id, record, context);
        };
        if let Some(metadata) = context.metadata(id) {
            values.with(metadata, |values| {
                self.inner.on_record(id, &Record::new(values), context);
            });
        }
    }

    fn on_follows_from(&self, id: &Id, follows: &Id, context: Context<'_, S>) {
        self.inner.on_follows_from(id, follows, context);
    }

    fn event_enabled(&self, event: &Event<'_>, context: Context<'_, S>) -> bool {
        self.inner.event_enabled(event, context)
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if !self.repeats.admit(event, Instant::now()) {
            return;
        }
        let Some(values) = escaped(|visit| event.record(visit)) else {
            return self.inner.on_event(event, context);
        };
        let metadata = event.metadata();
        values.with(metadata, |values| {
            let event = match event.parent() {
                None if event.is_contextual() => Event::new(metadata, values),
                parent => Event::new_child_of(parent.cloned(), metadata, values),
            };
            self.inner.on_event(&event, context);
        });
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.inner.on_enter(id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        self.inner.on_exit(id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.inner.on_close(id, context);
    }

    fn on_id_change(&self, old: &Id, new: &Id, context: Context<'_, S>) {
        self.inner.on_id_change(old, new, context);
    }
}

#[cfg(test)]
mod tests;
