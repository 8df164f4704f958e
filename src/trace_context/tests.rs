use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn is_accepted(traceparent: &str) -> bool {
    let value = HeaderValue::from_str(traceparent).expect("a header");
    let headers = HeaderMap::from_iter([(HeaderName::from_static(TRACEPARENT), value)]);
    caller(&headers).span().span_context().is_valid()
}

#[test]
fn a_trace_goes_on_if_its_name_is_whole() {
    for whole in [
        format!("00-{TRACE}-{PARENT}-01"),
        format!("00-{TRACE}-{PARENT}-ff"),
        format!("cc-{TRACE}-{PARENT}-01"),
        format!("cc-{TRACE}-{PARENT}-01-more"),
    ] {
        assert!(is_accepted(&whole), "{whole}");
    }
    for other in [
        String::new(),
        "00-1-2-1".into(),
        "00-+1-2-1".into(),
        format!("00-{TRACE}-{PARENT}-1"),
        format!("00-{TRACE}-{PARENT}-01-"),
        format!("00-{TRACE}-{PARENT}-01-more"),
        format!("cc-{TRACE}-{PARENT}-01more"),
        format!("ff-{TRACE}-{PARENT}-01"),
        format!("0-{TRACE}-{PARENT}-001"),
        format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!(" 00-{TRACE}-{PARENT}-01"),
    ] {
        assert!(!is_accepted(&other), "{other}");
    }
}
