//! The generated messages and services of `proto/`, whose comments are the API's reference.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

/// `plaque.v1`.
#[allow(missing_docs, reason = "documented in the proto")]
#[expect(clippy::pedantic, reason = "generated code, which a linter cannot improve")]
pub mod v1 {
    tonic::include_proto!("plaque.v1");
}

/// `plaque.store.v1`: what stores keep.
#[allow(missing_docs, reason = "documented in the proto")]
#[expect(clippy::pedantic, reason = "generated code, which a linter cannot improve")]
pub mod store {
    tonic::include_proto!("plaque.store.v1");
}

/// `grpc.health.v1`.
#[allow(missing_docs, reason = "documented in the proto")]
#[expect(clippy::pedantic, reason = "generated code, which a linter cannot improve")]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The encoded `FileDescriptorSet` of all that is served and what it imports, with comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptors, and those of error details, decoded when JSON is first asked for.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(DESCRIPTORS).ok()?;
    pool.decode_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .ok()?;
    Some(pool)
});

/// The canonical protobuf JSON of a message of `plaque.v1`, on one line.
///
/// `None` if the package has no message of that name.
#[must_use]
pub fn to_json(name: &str, message: &impl prost::Message) -> Option<String> {
    encoded_to_json(&format!("plaque.v1.{name}"), &message.encode_to_vec())
}

/// The canonical protobuf JSON of an encoded `google.rpc.Status`, on one line.
#[must_use]
pub fn status_to_json(encoded: &[u8]) -> Option<String> {
    encoded_to_json("google.rpc.Status", encoded)
}

fn encoded_to_json(full_name: &str, encoded: &[u8]) -> Option<String> {
    let descriptor = POOL.as_ref()?.get_message_by_name(full_name)?;
    let dynamic = DynamicMessage::decode(descriptor, encoded).ok()?;
    let mut json = serde_json::Serializer::new(Vec::new());
    dynamic
        .serialize_with_options(&mut json, &SerializeOptions::new())
        .ok()?;
    String::from_utf8(json.into_inner()).ok()
}
