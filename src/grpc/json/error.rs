//! Writes an error as the canonical protobuf JSON of its `google.rpc.Status`, for the reason that `answer` has; a test compares the results.

use super::writer::JsonWriter;
use crate::grpc::status::Report;

/// A `google.rpc.Status` as one line.
pub(super) fn to_json(report: &Report) -> Vec<u8> {
    let mut json = JsonWriter::default();
    json.0.push(b'{');
    json.value(r#""code":"#, itoa::Buffer::new().format(i32::from(report.code)));
    json.string(r#""message":""#, &[&report.message]);
    json.value(r#""details":["#, "");
    if let Some(Ok(delay)) = report.retry_after.map(prost_types::Duration::try_from) {
        detail(&mut json, "google.rpc.RetryInfo", |json| {
            json.plain_string(r#""retryDelay":""#, &[&delay.to_string()]);
        });
    }
    detail(&mut json, "google.rpc.ErrorInfo", |json| {
        json.plain_string(r#""reason":""#, &[report.reason]);
        json.plain_string(r#""domain":""#, &[Report::DOMAIN]);
    });
    if let Some(field) = report.field {
        detail(&mut json, "google.rpc.BadRequest", |json| {
            json.value(r#""fieldViolations":["#, "");
            json.object("{", |json| {
                json.plain_string(r#""field":""#, &[field]);
                json.string(r#""description":""#, &[&report.message]);
            });
            json.0.push(b']');
        });
    }
    json.0.extend_from_slice(b"]}\n");
    json.0
}

/// A `google.protobuf.Any` with a message of this type.
fn detail(json: &mut JsonWriter, name: &str, fields: impl FnOnce(&mut JsonWriter)) {
    json.object("{", |json| {
        json.plain_string(r#""@type":""#, &["type.googleapis.com/", name]);
        fields(json);
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{option, prelude::*};

    use super::*;
    use crate::{
        grpc::{CallError, RequestError},
        latest::LookupError,
        proto,
    };

    fn error() -> impl Strategy<Value = CallError> {
        prop_oneof![
            ".{0,300}".prop_map(|text| RequestError::UnknownParameter(text.into()).into()),
            ".{0,300}".prop_map(|text| RequestError::InvalidKind(text.into()).into()),
            Just(RequestError::InvalidMaxAge.into()),
            Just(LookupError::ShuttingDown.into()),
            Just(CallError::Deadline),
        ]
    }

    proptest! {
        #[test]
        fn an_error_is_written_as_its_message(error in error(), pause in option::of((0..1_u64 << 32, 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos)))) {
            let report = Report::new(&error, pause);
            let status = report.clone().into_status();
            let json = proto::status_to_json(status.details()).expect("JSON");
            prop_assert_eq!(String::from_utf8(to_json(&report)), Ok(json + "\n"));
        }
    }
}
