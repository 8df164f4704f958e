//! The generated messages and services of `proto/`, whose comments are the API's reference.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

/// `plaque.v1`.
#[allow(missing_docs, reason = "documented in the proto")]
#[expect(clippy::pedantic, reason = "generated code, which a linter cannot improve")]
pub mod v1 {
    tonic::include_proto!("plaque.v1");
}

/// `grpc.health.v1`.
#[allow(missing_docs, reason = "documented in the proto")]
#[expect(clippy::pedantic, reason = "generated code, which a linter cannot improve")]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The encoded `FileDescriptorSet` of all that is served and what it imports, with comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The descriptors, decoded when JSON is first asked for.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

/// The canonical protobuf JSON of a message of `plaque.v1`, on one line.
///
/// `None` if the package has no message of that name.
#[must_use]
pub fn to_json(name: &str, message: &impl prost::Message) -> Option<String> {
    let descriptor = POOL.as_ref()?.get_message_by_name(&format!("plaque.v1.{name}"))?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).ok()?;
    let mut json = serde_json::Serializer::new(Vec::new());
    dynamic
        .serialize_with_options(&mut json, &SerializeOptions::new())
        .ok()?;
    String::from_utf8(json.into_inner()).ok()
}
