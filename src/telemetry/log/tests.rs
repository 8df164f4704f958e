use std::io::Write;

use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// Collects what is written. Clones share it.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock())).expect("UTF-8")
    }
}

/// Logs what `act` does. Returns the output and the throttle.
fn logged(format: Format, colors: bool, act: impl FnOnce()) -> (Written, RepeatFilter, Dispatch) {
    let written = Written::default();
    let clone = written.clone();
    let (repeats, _) = RepeatFilter::new();
    let writer = BoxMakeWriter::new(move || clone.clone());
    let layers = vec![layer(format, writer, colors, repeats.clone())];
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(layers));
    tracing::dispatcher::with_default(&dispatch, act);
    (written, repeats, dispatch)
}

const ALL: [Format; 3] = [Format::Pretty, Format::Tree, Format::Json];

/// Characters that move a cursor, name a window, break a line or reverse it; and harmless ones.
const EVIL: &str = "a\u{1b}]0;owned\u{7}b\nc\rd\te\u{7f}f\u{85}g\u{9b}2Jh\u{2028}i\u{2029}j\u{202a}k\u{202e}l\u{2066}m\u{2069}n\u{200e}o\u{200f}p\u{61c}q\0ü€\"\\";

/// Logs EVIL in every way: as text, displayed, in a message, as an error with a cause, in spans.
fn tell_evil() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer {EVIL}")]
    struct Outer(#[source] io::Error);

    let call =
        tracing::info_span!("call", title = EVIL, shown = %EVIL, later = tracing::field::Empty, number = 7);
    let _call = call.enter();
    call.record("later", EVIL);
    tracing::info!(number = -7, title = EVIL, shown = %EVIL, debugged = ?EVIL, "told: {EVIL}");
    let error = Outer(io::Error::other(EVIL));
    tracing::warn!(error = &error as &dyn std::error::Error, "failed");
    tracing::error!(parent: None, fine = "a ü", %error, "alone");
}

#[test]
fn what_comes_from_outside_steers_no_log() {
    for format in ALL {
        for colors in [false, true] {
            let (written, ..) = logged(format, colors, tell_evil);
            let text = written.take();
            let lines: Vec<_> = text.lines().collect();
            // The tree format has a line for the beginning and the end of the span.
            let expected = if format == Format::Tree { 5 } else { 3 };
            assert_eq!(lines.len(), expected, "{format:?}: {text}");
            for (number, c) in text.chars().enumerate() {
                let is_formatting = c == '\n' || colors && c == '\u{1b}';
                assert!(
                    is_formatting || !crate::video::steers(c),
                    "{format:?}: {c:?} at {number} of {text}"
                );
            }
            assert!(!text.contains("\u{1b}]"), "{format:?}: {text}");
            // An event outside of spans is still outside.
            assert!(format != Format::Tree || !lines[3].starts_with('├'), "{text}");
            // Nothing is lost.
            for part in ["owned", "2Jh", "ü€", "202e", "number"] {
                assert!(text.contains(part), "{format:?}: no {part} in {text}");
            }
        }
    }
}

#[test]
fn as_json_a_line_is_json_with_its_numbers_and_spans() {
    let (written, ..) = logged(Format::Json, false, tell_evil);
    let text = written.take();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    assert_eq!(lines[0]["fields"]["number"], -7);
    assert_eq!(lines[0]["span"]["number"], 7);
    assert_eq!(lines[0]["span"]["name"], "call");
    let shown = lines[0]["fields"]["shown"].as_str().expect("a text");
    assert!(
        shown.starts_with("a\\u{1b}]0;owned\\u{7}b\\nc\\rd\\te"),
        "{shown}"
    );
    assert!(shown.ends_with("q\\u{0}ü€\"\\"), "{shown}");
    assert_eq!(lines[0]["span"]["later"], lines[0]["fields"]["title"]);
}

#[test]
fn what_is_harmless_is_told_as_it_is() {
    for format in ALL {
        let (written, ..) = logged(format, false, || {
            tracing::info!(title = "What is El Niño?", "« told » ✈️");
        });
        let text = written.take();
        assert!(
            text.contains("What is El Niño?") && text.contains("« told » ✈️"),
            "{text}"
        );
    }
}

/// One callsite that logs often.
fn repeat(count: u32) {
    for number in 0..count {
        tracing::warn!(number, "cannot accept\u{1b}");
    }
}

#[test]
fn what_repeats_is_told_with_a_count() {
    for format in ALL {
        let (written, repeats, dispatch) = logged(format, false, || {
            repeat(10_000);
            tracing::info!("something else");
        });
        let text = written.take();
        assert_eq!(text.lines().count(), 6, "{format:?}: {text}");
        assert!(text.contains("something else"), "{format:?}: {text}");
        tracing::dispatcher::with_default(&dispatch, || {
            repeats.report_due(Instant::now());
            assert_eq!(written.take(), "", "{format:?}: not yet");
            repeats.report_due(Instant::now() + WINDOW);
            repeats.report_due(Instant::now() + WINDOW);
        });
        let text = written.take();
        assert_eq!(text.lines().count(), 1, "{format:?}: {text}");
        assert!(
            text.contains("(and 9995 more like it in the last 10 s)"),
            "{format:?}: {text}"
        );
        assert!(
            text.contains("WARN") && text.contains("u{1b}"),
            "{format:?}: {text}"
        );
    }
}

#[test]
fn who_wants_to_see_all_sees_all() {
    let (written, ..) = logged(Format::Pretty, false, || {
        for number in 0..100 {
            tracing::debug!(number, "detail");
        }
    });
    assert_eq!(written.take().lines().count(), 100);
}

#[test]
fn what_is_left_is_told_at_the_end() {
    let (reporter, repeats) = Reporter::start().expect("a thread");
    let subscriber = tracing_subscriber::registry().with(vec![layer(
        Format::Pretty,
        BoxMakeWriter::new(io::sink),
        false,
        repeats.clone(),
    )]);
    tracing::subscriber::with_default(subscriber, || repeat(7));
    assert!(repeats.throttle.lock().next_due().is_some());
    drop(reporter);
    assert_eq!(repeats.throttle.lock().next_due(), None);
}

#[test]
fn a_text_without_end_is_cut() {
    for format in ALL {
        let long = "ü".repeat(1 << 20);
        let (written, ..) = logged(format, false, || {
            let _call = tracing::info_span!("call", title = long).entered();
            tracing::warn!(error = %long, title = long, "told: {long}");
        });
        let text = written.take();
        assert!(text.contains("üü… (2097152 bytes)"), "{format:?}");
        assert!(text.len() < 24 << 10, "{format:?}: {} bytes", text.len());
    }
}
