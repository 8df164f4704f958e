use tracing_chrome::ChromeLayerBuilder;

use super::*;

#[test]
fn a_panic_tells_in_which_spans_it_happened() {
    for format in [Format::Pretty, Format::Tree, Format::Json] {
        let filter = filter("info").expect("a level");
        let (_reporter, repeats) = Reporter::start().expect("a thread");
        let layers = vec![
            log(format, filter, repeats),
            ChromeLayerBuilder::new()
                .writer(io::sink())
                .build()
                .0
                .with_filter(own_spans())
                .boxed(),
        ];
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layers), || {
            assert_eq!(span_trace(), None);
            let _call = tracing::debug_span!("call", method = "get").entered();
            let _lookup = tracing::info_span!("lookup", feed = 7).entered();
            assert_eq!(
                span_trace().as_deref(),
                Some("lookup{feed=7} < call"),
                "{format:?}"
            );
        });
    }
}

#[test]
fn a_level_alone_is_for_plaques_own_code() {
    for (given, filter) in [
        ("debug", "coalesce=debug,plaque=debug,info"),
        (" TRACE ", "coalesce=trace,plaque=trace,info"),
        ("info", "info"),
        ("off", "off"),
        ("debug,h2=warn", "h2=warn,debug"),
        ("plaque=debug", "plaque=debug"),
    ] {
        let shown = super::filter(given).expect("a filter").to_string();
        let sorted = |text: &str| {
            let mut parts: Vec<_> = text.split(',').map(str::to_owned).collect();
            parts.sort_unstable();
            parts
        };
        assert_eq!(sorted(&shown), sorted(filter), "{given}");
    }
}
