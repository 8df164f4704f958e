//! The fuzz targets, which `fuzz/` calls: each feeds any bytes to what reads something from outside, and panics if something does not hold.
//! Where more than bytes is needed, the first bytes are that.
//!
//! Not part of the program: only tests and the feature `fuzzing` have it. A target stands in the `fuzzing` module of what it is for.

#[cfg(test)]
mod tests;

pub use crate::{
    grpc::fuzzing::{grpc_timeout, json_query},
    latest::fuzzing::resume_token,
    store::{codec::fuzzing::stored_entry, redis::fuzzing::redis_message},
    trace_context::fuzzing::traceparent,
    video::channel_name::fuzzing::channel_name,
    youtube::{data_api::fuzzing::data_api_answer, fuzzing::retry_after, pages::fuzzing::channel_page},
};
