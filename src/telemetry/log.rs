//! The log: in which format, and what every line passes. Whoever may cause one, a caller, the upstream or a store, can
//! neither flood it nor put more into it than text.

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

/// What is logged by `writer`, with or without colours.
pub(super) fn layer(format: Format, writer: BoxMakeWriter, colors: bool, repeats: Repeats) -> AnyLayer {
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

/// How often each line of the code has been told of late, and a thread that tells how often it was not.
#[derive(Clone)]
pub(super) struct Repeats {
    throttle: Arc<Mutex<Throttle<Identifier, Line>>>,
    wake: mpsc::Sender<Wake>,
}

/// A line, without its fields.
struct Line {
    level: Level,
    message: String,
}

enum Wake {
    /// Something is withheld, and to be told of when its window ends.
    Withheld,
    End,
}

impl Repeats {
    /// With what wakes [`tell`](Self::tell).
    fn new() -> (Self, mpsc::Receiver<Wake>) {
        #[expect(
            clippy::disallowed_methods,
            reason = "a message for each callsite and window at most"
        )]
        let (wake, woken) = mpsc::channel();
        let throttle = Arc::new(Mutex::new(Throttle::new()));
        (Self { throttle, wake }, woken)
    }

    /// Whether to tell of `event` at `now`.
    fn admit(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        // Who wants to see more wants to see all. And what tells of repeats is none.
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
            // Nobody hears of it at the very end.
            let _ = self.wake.send(Wake::Withheld);
        }
        verdict == Verdict::Tell
    }

    /// Tells of what is withheld when its time has come, until [`Wake::End`].
    fn tell(&self, woken: &mpsc::Receiver<Wake>) {
        loop {
            let due = self.throttle.lock().next_due();
            let heard = match due {
                Some(due) => woken.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => woken.recv().map_err(Into::into),
            };
            let is_over = !matches!(heard, Ok(Wake::Withheld) | Err(mpsc::RecvTimeoutError::Timeout));
            let now = Instant::now();
            self.tell_due(if is_over { now + WINDOW } else { now });
            if is_over {
                return;
            }
        }
    }

    fn tell_due(&self, now: Instant) {
        // Not under the lock: each is an event itself.
        let due = self.throttle.lock().due(now);
        for Withheld { count, sample } in due {
            let Line { level, message } = sample;
            let seconds = WINDOW.as_secs();
            let told = format_args!("{message} (and {count} more like it in the last {seconds} s)");
            match level {
                Level::ERROR => tracing::error!("{told}"),
                Level::WARN => tracing::warn!("{told}"),
                _ => tracing::info!("{told}"),
            }
        }
    }
}

/// The thread that tells of repeats. When it is dropped, what is left is told at once.
pub(super) struct Teller {
    wake: mpsc::Sender<Wake>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Teller {
    /// Starts it.
    pub(super) fn start() -> io::Result<(Self, Repeats)> {
        let (repeats, woken) = Repeats::new();
        let (wake, shared) = (repeats.wake.clone(), repeats.clone());
        let thread = thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.tell(&woken))?;
        let teller = Self {
            wake,
            thread: Some(thread),
        };
        Ok((teller, repeats))
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        // It is gone only if it panicked.
        let _ = self.wake.send(Wake::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The text of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

/// The layer of a format, which is told nothing too often and no text as it came.
struct Log {
    inner: AnyLayer,
    repeats: Repeats,
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
